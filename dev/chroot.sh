#!/usr/bin/env bash
# The test suite on another PostgreSQL version, in a cached Debian chroot:
# 17 in trixie, 18 in forky, each with its security suite.
#
#   dev/chroot.sh 17|18                       make or reuse the chroot, test all
#   dev/chroot.sh 17|18 -- regress [name...]  arguments for dev/test.sh
#   dev/chroot.sh 17|18 -- bench conversion --rounds 1    bench/conversion.sh
#   dev/chroot.sh 17|18 --prepare             only make the chroot
#   dev/chroot.sh 17|18 --remake              away with it, and make it anew
#   dev/chroot.sh 17|18 --shell               a shell in it, in a copy of the tree
#
# Needs root, debootstrap and deb.debian.org.  Leaves behind the chroot in
# $CONCERTMASTER_CACHE (default ~/.cache/concertmaster)/chroot-NN and, when a
# test failed, its outputs in build/chroot-NN/.  Mounts and processes live in
# namespaces of their own and end with the script, however it ends.  Several
# trees can use one chroot at a time.
set -euo pipefail
# shellcheck source=dev/lib.sh
. "$(dirname "$0")/lib.sh"

MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
SECURITY=${DEBIAN_SECURITY_MIRROR:-http://deb.debian.org/debian-security}
CACHE=${CONCERTMASTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/concertmaster}

# Run a command inside, with /proc, /dev/shm and a pid 1 of its own.
inside() { # folder inside, command...
    local -a own=(--mount)
    # Where we are in a chroot ourselves, / is no mount to be made private.
    mountpoint -q / || own+=(--propagation unchanged)
    # This bash stays as pid 1, so that orphans are reaped.
    # shellcheck disable=SC2016
    unshare "${own[@]}" --pid --fork --kill-child bash -c '
        mount -t proc proc "$1/proc" || exit 125
        mkdir -p "$1/dev/shm"
        mount -t tmpfs -o mode=1777 tmpfs "$1/dev/shm" || exit 125
        root=$1 folder=$2; shift 2
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
            TERM="${TERM:-dumb}" PG_TEST_TIMEOUT_DEFAULT="${PG_TEST_TIMEOUT_DEFAULT:-180}" \
            chroot "$root" sh -c "cd \"\$0\" && exec \"\$@\"" "$folder" "$@"
        status=$?
        umount -l "$root/dev/shm" "$root/proc"
        exit $status' chroot "$ROOT" "$@"
}

# The base system.  A marker inside tells a whole one from a half-made one.
make_base() {
    [ ! -e "$ROOT/etc/concertmaster-base" ] || return 0
    if [ -e "$ROOT" ]; then
        say "removing a half-made chroot"
        remove_chroot
    fi
    local -a script=()
    # A debootstrap older than the release: any newer suite is made like sid.
    [ -e "/usr/share/debootstrap/scripts/$SUITE" ] || script=(/usr/share/debootstrap/scripts/sid)
    say "making a Debian $SUITE chroot in $ROOT (some minutes, once)"
    mkdir -p "$CACHE"
    debootstrap --variant=minbase --include=ca-certificates "$SUITE" "$ROOT" "$MIRROR" \
        "${script[@]}" >"$CACHE/debootstrap-$MAJOR.log" 2>&1 ||
        { tail -n 20 "$CACHE/debootstrap-$MAJOR.log" >&2; die "debootstrap failed"; }
    date +%F >"$ROOT/etc/concertmaster-base"
}

# Package sources with the security suite, and no daemon ever started.
set_up_apt() {
    printf 'deb %s %s main\ndeb %s %s-security main\n' \
        "$MIRROR" "$SUITE" "$SECURITY" "$SUITE" >"$ROOT/etc/apt/sources.list"
    printf '#!/bin/sh\nexit 101\n' >"$ROOT/usr/sbin/policy-rc.d"
    chmod 755 "$ROOT/usr/sbin/policy-rc.d"
    cp -L /etc/resolv.conf "$ROOT/etc/resolv.conf" 2>/dev/null || true
}

# Testing's lists are valid for a week only.  From a mirror that is older, say
# so and take them all the same: a test chroot needs no fresher packages, and
# apt still checks the signatures.
update_lists() {
    local log=$CACHE/update-$MAJOR.log
    if inside / apt-get update -q </dev/null >"$log" 2>&1; then return 0; fi
    if grep -q 'is expired' "$log"; then
        say "the mirror's lists for $SUITE have expired: using them in this chroot nevertheless"
        echo 'Acquire::Check-Valid-Until "false";' >"$ROOT/etc/apt/apt.conf.d/90expired-lists"
        if inside / apt-get update -q </dev/null >"$log" 2>&1; then return 0; fi
    fi
    tail -n 20 "$log" >&2
    die "apt-get update in the chroot failed"
}

# The same preflight as anywhere, so that the list of packages is in one place.
install_needed() {
    local marker=$ROOT/etc/concertmaster-upgraded
    set_up_apt
    # An installation that was interrupted is ended first.
    inside / dpkg --configure -a </dev/null >/dev/null
    if [ ! -e "$marker" ]; then
        say "bringing the chroot up to date"
        update_lists
        inside / env DEBIAN_FRONTEND=noninteractive apt-get upgrade -y -qq \
            </dev/null >"$CACHE/upgrade-$MAJOR.log" 2>&1 ||
            { tail -n 20 "$CACHE/upgrade-$MAJOR.log" >&2; die "upgrade in the chroot failed"; }
        touch "$marker"
    fi
    copy_tree
    inside "$COPY" dev/preflight.sh test </dev/null
    remove_copy
}

prepare() {
    make_base
    install_needed
}

copy_tree() {
    COPY=/srv/concertmaster-$$
    mkdir -p "$ROOT$COPY"
    tar -C "$TREE" -cf - --exclude=./build --exclude=./.git --exclude='*.o' \
        --exclude='*.so' --exclude='*.bc' . | tar -xf - --no-same-owner -C "$ROOT$COPY"
    chmod 755 "$ROOT$COPY"
}

remove_copy() { [ -z "${COPY:-}" ] || rm -rf "${ROOT:?}$COPY"; }

# Nothing can be mounted there but what debootstrap left when it was killed.
remove_chroot() {
    local point
    while read -r point; do umount -l "$point"; done < <(
        awk -v root="$ROOT/" 'index($2, root) == 1 { print $2 }' /proc/mounts | sort -r)
    rm -rf --one-file-system "$ROOT"
}

bring_outputs() {
    local to=$TREE/build/chroot-$MAJOR
    rm -rf "$to"
    mkdir -p "$to"
    tar -C "$ROOT$COPY/build/$MAJOR" -cf - --exclude='*_data' --exclude=data \
        --exclude=src --exclude=stage --exclude=socket . 2>/dev/null |
        tar -xf - --no-same-owner -C "$to" || true
    echo "   outputs brought to $to" >&2
}

run_tests() {
    copy_tree
    local status=0
    if [ "${1:-}" = bench ]; then
        [ -x "$TREE/bench/${2:-}.sh" ] || die "no such benchmark: ${2:-}"
        inside "$COPY" "bench/$2.sh" "${@:3}" </dev/null
        return
    fi
    inside "$COPY" dev/test.sh "$@" </dev/null || status=$?
    [ "$status" -eq 0 ] || bring_outputs
    return "$status"
}

main() {
    MAJOR=${1:-}
    case $MAJOR in
        17) SUITE=trixie ;;
        18) SUITE=forky ;;
        *) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 2 ;;
    esac
    shift
    am_root || die "chroots need root: run it through sudo"
    ROOT=$CACHE/chroot-$MAJOR
    "$TREE/dev/preflight.sh" chroots
    mkdir -p "$CACHE"
    trap remove_copy EXIT
    exec 8>"$CACHE/chroot-$MAJOR.lock"
    flock -n 8 || { say "somebody else is preparing this chroot: waiting"; flock 8; }
    if [ "${1:-}" = --remake ]; then remove_chroot; fi
    prepare
    flock -u 8
    exec 8>&-
    case ${1:-} in
        --prepare | --remake) say "the chroot for PostgreSQL $MAJOR is ready in $ROOT" ;;
        --shell) copy_tree; inside "$COPY" bash ;;
        --) shift; run_tests "$@" ;;
        '') run_tests ;;
        *) die "no such option: $1" ;;
    esac
}

main "$@"
