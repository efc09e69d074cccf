#!/usr/bin/env bash
# The demo: a throwaway server with the extension, data, and everything to look at.
#
#   dev/demo.sh start [folder]   make demo [DATA=folder]
#   dev/demo.sh stop             make demo-stop
#
# start replaces a demo that is there.  folder holds workflows.csv,
# form_schemas.csv and form_responses.csv, to be loaded instead of made-up data;
# DEMO_RESPONSES says how many answers to make up (default 200000).
#
# All of it is in build/demo of the tree (or of CM_BUILD): sources, stage, data
# and socket.  stop takes it away.  No other server is touched.
set -euo pipefail
# shellcheck source=dev/lib.sh
. "$(dirname "$0")/lib.sh"

data=''
RESPONSES=${DEMO_RESPONSES:-200000}
steps=0
started=${EPOCHREALTIME/[.,]/}

seconds_since() { awk -v a="$1" -v b="${EPOCHREALTIME/[.,]/}" 'BEGIN { printf "%.1f s", (b - a) / 1e6 }'; }

# Say what happens now; and, before that, how long the last step took.
step() {
    step_done
    steps=$((steps + 1))
    printf '\n%d  %s\n' "$steps" "$1"
    step_started=${EPOCHREALTIME/[.,]/}
}

step_done() { [ "$steps" -eq 0 ] || printf '   done in %s\n' "$(seconds_since "$step_started")"; }

indent() { sed -u 's/^\(psql:[^ ]* \)\?\(NOTICE:  \)\?/   /; s/[[:space:]]*$//'; }

ask() { "$BINDIR/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }
show() { ask -P pager=off -P linestyle=unicode -P footer=off -P null=- "$@" 2>&1 | indent; }

# Where the demo is: its own build folder, so that tests do not change it under its feet.
find_demo() {
    find_server
    find_build
    rmdir "$STAGE" "$BUILD" 2>/dev/null || true
    DEMO=$CM_BUILD/demo
    export CM_BUILD=$DEMO
}

check_data() {
    local name
    [ -d "$1" ] || die "no such folder: $1"
    for name in workflows form_schemas form_responses; do
        [ -r "$1/$name.csv" ] || die "$1/$name.csv is missing; make demo DATA=folder wants workflows.csv, form_schemas.csv and form_responses.csv"
    done
}

start_cluster() {
    mkdir -p "$DEMO"
    echo "$PG_CONFIG" >"$DEMO/pg_config"
    "$TREE/dev/server.sh" start --set shared_buffers=256MB --set max_wal_size=4GB \
        --set track_io_timing=on --set pg_stat_statements.track=all --set log_min_duration_statement=100
    eval "$("$TREE/dev/server.sh" env)"
    "$BINDIR/createdb" demo
    export PGDATABASE=demo
}

load_folder() {
    local name
    ask -f "$TREE/demo/input.sql"
    for name in workflows form_schemas form_responses; do
        ask -c "COPY demo_input.$name FROM STDIN (FORMAT csv, HEADER MATCH)" <"$1/$name.csv"
    done
    ask -f "$TREE/demo/load.sql"
}

load_data() {
    if [ -n "$data" ]; then load_folder "$data"; else
        ask -v responses="$RESPONSES" -f "$TREE/demo/generate.sql" >/dev/null
    fi
    show -f "$TREE/demo/loaded.sql"
}

# Have the workers roll every set and refresh every view, and wait until they have.
await_jobs() {
    local since left last='' deadline=$((SECONDS + 120))
    since=$(ask -At -c 'SELECT clock_timestamp()')
    ask -c "SELECT concertmaster.request_job(name) FROM concertmaster.jobs WHERE kind IN ('roll', 'refresh')" >/dev/null
    while :; do
        left=$(ask -At -v since="$since" -f "$TREE/demo/unfinished.sql")
        [ -n "$left" ] || break
        if [ "$left" != "$last" ]; then printf '   waiting for: %s\n' "${left//$'\n'/, }"; fi
        last=$left
        [ $SECONDS -lt $deadline ] || die "not done within two minutes; see concertmaster.jobs"
        sleep 0.1
    done
    ask -c "SELECT concertmaster.resume_job(name) FROM concertmaster.jobs WHERE kind = 'build'" >/dev/null
    show -f "$TREE/demo/runs.sql"
}

print_way_in() {
    local host
    host=$(ask -At -c 'SHOW unix_socket_directories')
    cat <<END
The server keeps running.  Look around:

   $BINDIR/psql -h $host -U postgres demo

$(indent <"$TREE/demo/try.sql")

make demo-stop takes it all away.
END
}

start() {
    data=${1:-}
    [[ $RESPONSES =~ ^[1-9][0-9]{0,8}$ ]] || die "DEMO_RESPONSES must be a number of answers, not \"$RESPONSES\""
    if [ -n "$data" ]; then
        check_data "$data"
        data=$(cd "$data" && pwd)
    fi
    echo "concertmaster: one PostgreSQL database becomes a workflow-and-forms platform that runs itself."

    step "Looking for what is needed"
    "$TREE/dev/preflight.sh" build | indent
    find_demo
    [ -e "$("$PG_CONFIG" --sharedir)/extension/pg_stat_statements.control" ] ||
        die "this server lacks pg_stat_statements, which comes with PostgreSQL's contrib modules: install them"
    if [ -e "$DEMO" ]; then
        echo "   replacing the demo that is there"
        remove_server
    fi
    trap 'echo "The demo broke off.  Its server log: $CM_BUILD/$PG_MAJOR/server/log; make demo-stop takes away what is there." >&2' ERR
    set -E

    step "Building the extension for $("$PG_CONFIG" --version)"
    "$TREE/dev/server.sh" stage
    step "Starting a server of its own, on a Unix socket"
    start_cluster
    step "CREATE EXTENSION concertmaster; SELECT concertmaster.install();"
    show -f "$TREE/demo/install.sql"
    if [ -n "$data" ]; then step "Loading the files of $data"; else
        step "Making up $RESPONSES answers to forms, with the workflows and runs behind them"
    fi
    load_data
    step "Asking some questions, without indexes yet"
    ask -v column=before -f "$TREE/demo/measure.sql"
    step "CALL concertmaster.build_indexes(1), then (2): online, by background workers"
    show -c 'CALL concertmaster.build_indexes(1)'
    show -c 'CALL concertmaster.build_indexes(2)'
    step "Letting the workers roll partitions and refresh the view"
    await_jobs
    step "The same questions with indexes and the refreshed view"
    ask -v column=after -f "$TREE/demo/measure.sql"
    show -f "$TREE/demo/compare.sql"
    step_done
    printf '\nThis is what there is now, after %s:\n\n' "$(seconds_since "$started")"
    show -f "$TREE/demo/show.sql"
    print_way_in
}

# Stop the server with the programs that it was started with, and take its data away.
remove_server() {
    local made_with
    made_with=$(cat "$DEMO/pg_config" 2>/dev/null || true)
    [ -z "$made_with" ] || PG_CONFIG=$made_with "$TREE/dev/server.sh" stop --remove
}

stop() {
    find_demo
    if [ ! -e "$DEMO" ]; then
        echo "There is no demo."
        return
    fi
    remove_server
    rm -rf "$DEMO"
    rmdir "${DEMO%/demo}" 2>/dev/null || true
    echo "The demo is gone."
}

case ${1:-} in
    start) start "${2:-}" ;;
    stop) stop ;;
    *) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 2 ;;
esac
