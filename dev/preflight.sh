#!/usr/bin/env bash
# Is everything here that building, testing and the demo need?
#
#   dev/preflight.sh [build|test|chroots]
#
# build: compiler, server and headers (enough for make demo); test (default):
# also what the tests run with; chroots: also what dev/chroot.sh makes chroots
# with.  Says in one line each what is missing and how it is got; root, or whoever
# may use sudo without a password, gets it installed from Debian.  Else it ends
# with an error.  PG_CONFIG names a server that is there already.  Leaves
# behind the packages and nothing else: no cluster is made or started.
set -euo pipefail
# shellcheck source=dev/lib.sh
. "$(dirname "$0")/lib.sh"

packages=()

# need <what> <package> <command...>: note the package if the command fails.
need() {
    local what=$1 package=$2
    shift 2
    if ! "$@" >/dev/null 2>&1; then
        echo "missing: $what (apt-get install $package)"
        case " ${packages[*]} " in
            *" $package "*) ;;
            *) packages+=("$package") ;;
        esac
    fi
}

has_perl_module() { perl -M"$1" -e 1; }
has_universal_ctags() { ctags --version | grep Universal; }
has_extension() { [ -e "$("$pg_config" --sharedir)/extension/$1.control" ]; }
has_server_binaries() { [ -x "$("$pg_config" --bindir)/initdb" ] && [ -x "$("$pg_config" --bindir)/postgres" ]; }
# Debian's client package brings PGXS, but not the headers that it needs.
has_pgxs() { [ -s "$("$pg_config" --pgxs)" ] && [ -e "$("$pg_config" --includedir-server)/postgres.h" ]; }
has_test_perl() { [ -e "$(dirname "$("$pg_config" --pgxs)")/../../src/test/perl/PostgreSQL/Test/Cluster.pm" ]; }

# The major version to use: that of pg_config, else the one Debian brings.
major_version() {
    if has_pgxs 2>/dev/null; then
        "$pg_config" --version | sed 's/^[^0-9]*\([0-9]*\).*/\1/'
        return
    fi
    case ${PG_CONFIG:-pg_config} in
        pg_config) ;;
        /usr/lib/postgresql/*/bin/pg_config)
            echo "$PG_CONFIG" | cut -d/ -f5
            return
            ;;
        *) die "PG_CONFIG=$PG_CONFIG is no pg_config of a server with its headers" ;;
    esac
    command -v apt-cache >/dev/null ||
        die "no PostgreSQL server here, and no apt-get to get one: set PG_CONFIG"
    apt_update >&2
    apt-cache depends postgresql | sed -n 's/.*Depends: postgresql-\([0-9]*\)$/\1/p' | head -n 1
}

updated=no
apt_update() {
    if [ "$updated" = no ] && am_root; then
        say "reading Debian's package lists"
        apt-get update -qq || die "apt-get update failed"
        updated=yes
    fi
}

look() {
    local level=$1 major=$2
    need "a PostgreSQL $major server" "postgresql-$major" has_server_binaries
    need "PostgreSQL $major headers (PGXS)" "postgresql-server-dev-$major" has_pgxs
    need "a C compiler" gcc command -v gcc
    need "libc headers" libc6-dev test -e /usr/include/stdlib.h
    need "make" make command -v make
    need "perl with its core modules" perl has_perl_module JSON::PP
    [ "$level" != build ] || return 0
    need "pgTAP" "postgresql-$major-pgtap" has_extension pgtap
    need "pg_prove" libtap-parser-sourcehandler-pgtap-perl command -v pg_prove
    need "Perl's IPC::Run" libipc-run-perl has_perl_module IPC::Run
    need "pg_cron" "postgresql-$major-cron" has_extension pg_cron
    need "pg_partman" "postgresql-$major-partman" has_extension pg_partman
    need "PgBouncer" pgbouncer command -v pgbouncer
    need "Universal Ctags" universal-ctags has_universal_ctags
    need "ShellCheck" shellcheck command -v shellcheck
    need "PostgreSQL's test modules" "postgresql-server-dev-$major" has_test_perl
    [ "$level" != test ] || return 0
    need "debootstrap" debootstrap command -v debootstrap
    need "unshare" util-linux command -v unshare
}

# Install without a new cluster and without starting any service.
install_packages() {
    local drop_in=/etc/postgresql-common/createcluster.d/concertmaster-preflight.conf
    apt_update
    say "installing ${packages[*]}"
    mkdir -p "${drop_in%/*}"
    echo 'create_main_cluster = false' >"$drop_in"
    # shellcheck disable=SC2064
    trap "rm -f $drop_in" EXIT
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq \
        --no-install-recommends -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold \
        "${packages[@]}" </dev/null >"$log" 2>&1 ||
        { tail -n 30 "$log" >&2; die "apt-get install failed"; }
    rm -f "$drop_in"
    case " ${packages[*]} " in
        *" pgbouncer "*) systemctl disable --now pgbouncer >/dev/null 2>&1 || true ;;
    esac
}

main() {
    local level=${1:-test} major
    case $level in build | test | chroots) ;; *) die "no such level: $level" ;; esac
    pg_config=${PG_CONFIG:-pg_config}
    major=$(major_version)
    [ -n "$major" ] || die "could not find out which PostgreSQL version to use: set PG_CONFIG"
    if ! has_pgxs 2>/dev/null; then
        pg_config=/usr/lib/postgresql/$major/bin/pg_config
    fi
    look "$level" "$major"
    [ ${#packages[@]} -gt 0 ] || return 0
    if ! am_root; then
        if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
            say "installing as root through sudo"
            exec sudo ${PG_CONFIG:+PG_CONFIG="$PG_CONFIG"} "$0" "$level"
        fi
        die "as root, run: apt-get install ${packages[*]}"
    fi
    command -v apt-get >/dev/null || die "no apt-get here: get the above your own way"
    log=$(mktemp)
    install_packages
    rm -f "$log"
    packages=()
    look "$level" "$major"
    [ ${#packages[@]} -eq 0 ] || die "still missing after the installation: ${packages[*]}"
}

main "$@"
