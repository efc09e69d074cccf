#!/usr/bin/env bash
# A throwaway PostgreSQL server in a folder, on a Unix socket only.
#
#   dev/server.sh start [--fresh] [--no-preload] [--set name=value]... [folder]
#   dev/server.sh stop [--remove] [folder]
#   dev/server.sh psql [folder] [psql arguments]
#   dev/server.sh status [folder]
#   dev/server.sh env [folder]      PGHOST, PGPORT, PGUSER as lines for eval
#   dev/server.sh stage             build the extension and stage it
#   dev/server.sh conf [--no-preload]   the settings that let a server find it
#
# The folder (default: build/<version>/server) holds data/, log and the socket;
# a path too long for a socket puts that in a folder of /tmp.  stop --remove
# takes all of it away.  Nothing outside is touched.  Run by root, the server
# runs as RUN_USER (postgres); otherwise as ourselves.
set -euo pipefail
# shellcheck source=dev/lib.sh
. "$(dirname "$0")/lib.sh"

# The settings of every server of ours: tests, TAP clusters, demo.
print_conf() {
    local preload=$1
    if server_knows extension_destdir; then
        echo "extension_destdir = '$STAGE'"
        echo "dynamic_library_path = '$STAGE$("$PG_CONFIG" --pkglibdir):\$libdir'"
    elif server_knows extension_control_path; then
        echo "extension_control_path = '$STAGE$("$PG_CONFIG" --sharedir):\$system'"
        echo "dynamic_library_path = '$STAGE$("$PG_CONFIG" --pkglibdir):\$libdir'"
    fi
    echo "shared_preload_libraries = '$preload'"
    cat <<'END'
fsync = off
max_connections = 60
max_worker_processes = 32
max_prepared_transactions = 10
log_line_prefix = '%m [%p] %b %d '
END
}

# Where the socket of a folder's server is; decided once and written down.
socket_dir() {
    local dir=$1
    if [ ! -s "$dir/socket_dir" ]; then
        local sock=$dir/socket
        if [ ${#sock} -gt 85 ]; then sock=$(mktemp -d /tmp/concertmaster.XXXXXX); fi
        mkdir -p "$sock"
        give_to_run_user "$sock"
        chmod 755 "$sock"
        echo "$sock" >"$dir/socket_dir"
    fi
    cat "$dir/socket_dir"
}

make_cluster() {
    local dir=$1
    mkdir -p "$dir/data"
    give_to_run_user "$dir"
    as_run_user "$BINDIR/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 \
        --no-locale --no-sync >"$dir/initdb.log" 2>&1 ||
        { cat "$dir/initdb.log" >&2; die "initdb failed"; }
    echo "include 'concertmaster.conf'" >>"$dir/data/postgresql.conf"
}

running() { [ -d "$1/data" ] && as_run_user "$BINDIR/pg_ctl" -D "$1/data" status >/dev/null 2>&1; }

start() {
    local fresh=no preload='concertmaster,pg_stat_statements' dir=$BUILD/server
    local -a extra=()
    while [ $# -gt 0 ]; do
        case $1 in
            --fresh) fresh=yes ;;
            --no-preload) preload='' ;;
            --set) shift; extra+=("${1%%=*} = '${1#*=}'") ;;
            -*) die "no such option: $1" ;;
            *) dir=$1 ;;
        esac
        shift
    done
    [ "$fresh" = no ] || remove "$dir"
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    cd "$dir"
    ! running "$dir" || stop "$dir"
    [ -d "$STAGE" ] || build_and_stage
    [ -s "$dir/data/PG_VERSION" ] || make_cluster "$dir"
    {
        print_conf "$preload"
        echo "listen_addresses = ''"
        echo "unix_socket_directories = '$(socket_dir "$dir")'"
        [ ${#extra[@]} -eq 0 ] || printf '%s\n' "${extra[@]}"
    } >"$dir/data/concertmaster.conf"
    as_run_user "$BINDIR/pg_ctl" -D "$dir/data" -l "$dir/log" -w -s start ||
        { tail -n 20 "$dir/log" >&2; die "the server did not start; its log is $dir/log"; }
}

stop() {
    local dir=${1:-$BUILD/server}
    if running "$dir"; then
        # Where we are now is no place for the server's user, perhaps; the folder may be a relative one.
        dir=$(cd "$dir" && pwd)
        (cd "$dir" && as_run_user "$BINDIR/pg_ctl" -D "$dir/data" -m fast -w -s stop) ||
            (cd "$dir" && as_run_user "$BINDIR/pg_ctl" -D "$dir/data" -m immediate -w -s stop)
    fi
}

# Take the folder away, but only one that start has made.
remove() {
    local dir=$1
    [ -e "$dir/data" ] || [ -e "$dir/socket_dir" ] || return 0
    stop "$dir"
    case $(cat "$dir/socket_dir" 2>/dev/null) in
        /tmp/concertmaster.*) rm -rf "$(cat "$dir/socket_dir")" ;;
    esac
    rm -rf "$dir"
}

print_env() {
    local dir=${1:-$BUILD/server}
    [ -s "$dir/socket_dir" ] || die "no server in $dir: dev/server.sh start"
    echo "export PGHOST='$(cat "$dir/socket_dir")' PGPORT=5432 PGUSER=postgres"
}

run_psql() {
    local dir=$BUILD/server
    if [ $# -gt 0 ] && [ -d "$1" ]; then dir=$1; shift; fi
    eval "$(print_env "$dir")"
    exec "$BINDIR/psql" "$@"
}

status() {
    local dir=${1:-$BUILD/server}
    if ! running "$dir"; then
        echo "no server is running in $dir"
        return 1
    fi
    echo "PostgreSQL $PG_MAJOR is running in $dir; connect with:"
    echo "  $BINDIR/psql -h $(cat "$dir/socket_dir") -U postgres"
}

main() {
    local command=${1:-}
    [ $# -eq 0 ] || shift
    find_server
    find_build
    case $command in
        start) start "$@" ;;
        stop)
            if [ "${1:-}" = --remove ]; then remove "${2:-$BUILD/server}"; else stop "$@"; fi
            ;;
        psql) run_psql "$@" ;;
        status) status "$@" ;;
        env) print_env "$@" ;;
        stage) build_and_stage ;;
        conf)
            if [ "${1:-}" = --no-preload ]; then print_conf ''; else
                print_conf 'concertmaster,pg_stat_statements'
            fi
            ;;
        *) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 2 ;;
    esac
}

main "$@"
