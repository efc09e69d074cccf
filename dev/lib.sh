# shellcheck shell=bash
# What the scripts of this folder share: messages, which server, which folder,
# which user, building and staging.  Sourced, never run; leaves nothing behind.
#
# PG_CONFIG   the server to use (default: pg_config of the PATH)
# RUN_USER    who runs servers when we are root (default: postgres)
# CM_BUILD    where everything is made (default: build/ in the tree)

TREE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
RUN_USER=${RUN_USER:-postgres}
export LC_ALL=C.UTF-8

say() { printf '== %s\n' "$*"; }
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

am_root() { [ "$(id -u)" -eq 0 ]; }

# Run a command as the user that servers run as.  HOME must not be root's.
as_run_user() {
    if am_root; then
        runuser -u "$RUN_USER" -- env HOME=/tmp PSQLRC=/dev/null "$@"
    else
        "$@"
    fi
}

# Give a folder to the user that servers run as.
give_to_run_user() {
    if am_root; then chown -R "$RUN_USER" "$@"; fi
}

# Set what follows from PG_CONFIG.  PG_CONFIG must name a server with PGXS.
find_server() {
    PG_CONFIG=$(command -v "${PG_CONFIG:-pg_config}") ||
        die "no pg_config: run dev/preflight.sh, or set PG_CONFIG"
    export PG_CONFIG
    PG_MAJOR=$("$PG_CONFIG" --version | sed 's/^[^0-9]*\([0-9]*\).*/\1/')
    BINDIR=$("$PG_CONFIG" --bindir)
    PGXS_DIR=$(dirname "$("$PG_CONFIG" --pgxs)")/../..
    PGXS_DIR=$(cd "$PGXS_DIR" && pwd)
    PATH=$BINDIR:$PATH
    export PATH
}

# Set BUILD, the folder of this tree for this server version.  A tree that the
# servers' user cannot enter (one under /root, say) is built outside itself.
find_build() {
    local root=${CM_BUILD:-$TREE/build}
    mkdir -p "$root"
    if ! (cd / && as_run_user test -x "$root" -a -r "$root"); then
        [ -z "${CM_BUILD:-}" ] ||
            die "user $RUN_USER cannot enter $root: choose another CM_BUILD"
        root=/var/tmp/concertmaster-$(printf '%s' "$TREE" | cksum | cut -d' ' -f1)
        echo "User $RUN_USER cannot enter $TREE, so everything is made in $root" \
            "(set CM_BUILD to choose another folder)." >&2
        mkdir -p "$root"
        [ -O "$root" ] || die "$root belongs to somebody else: set CM_BUILD"
        chmod 755 "$root"
    fi
    # For the scripts that we call: they need not find out, or say so, again.
    export CM_BUILD=$root
    BUILD=$root/$PG_MAJOR
    STAGE=$BUILD/stage
    mkdir -p "$BUILD"
}

# Copy the sources aside, with their times so that make compiles only changes.
copy_sources() {
    mkdir -p "$BUILD/src/src"
    find "$BUILD/src" -name '*.[ch]' -delete
    rm -rf "$BUILD/src/sql"
    (cd "$TREE" && tar -cf - --exclude='*.o' --exclude='*.so' --exclude='*.bc' \
        Makefile concertmaster.control src sql) | tar -xf - -C "$BUILD/src"
}

# Whether the server knows a setting.
server_knows() {
    "$BINDIR/postgres" --describe-config | cut -f1 | grep -x "$1" >/dev/null
}

# Build and put the result in STAGE, from where servers read it.  A server
# that cannot be pointed at a folder gets a plain installation.
build_and_stage() {
    copy_sources
    rm -f "$BUILD"/src/concertmaster--*.sql
    make_quietly -j2 all
    rm -rf "$STAGE"
    make_quietly install DESTDIR="$STAGE"
    if ! server_knows extension_destdir && ! server_knows extension_control_path; then
        say "this server reads extensions only from its own folders: installing there"
        make_quietly install
    fi
}

make_quietly() {
    local log=$BUILD/make.log
    # Variables given to an outer make (make demo DATA=...) are not for this one.
    if ! env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL make -C "$BUILD/src" --no-print-directory PG_CONFIG="$PG_CONFIG" \
        with_llvm=no "$@" >"$log" 2>&1; then
        cat "$log" >&2
        die "make $* failed for PostgreSQL $PG_MAJOR"
    fi
}
