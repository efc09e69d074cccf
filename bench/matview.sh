#!/usr/bin/env bash
# What it costs to keep a materialized view fresh, beside REFRESH CONCURRENTLY
# and beside hand-written SQL for the same groups, all in one run; and what
# the logging costs those who write.
#
#   bench/matview.sh [option]... [change|late|history|write|readers]...
#
#   change      form_completion_stats over 30 days of 200 forms: nothing
#               changed; one response in one group; 1,000 in 100 groups all
#               over the 30 days; 1,000 in 100 groups of one day
#   late        ten rows in one day, beside one late row in each of ten months
#   history     the same change with four times the days
#   write       CPU time of writers with and without a tracked view
#   readers     latency of readers of the view while it is refreshed, and not
#
#   --rounds N     rounds of all (default 5)
#   --responses N  rows of change, late and history (default 5000000)
#
# Those compared take turns, and a figure is the median of the rounds.  A ratio
# is the figure of that row by ours: above 1 ours is better.  "by hand" is the
# best that can be written for known groups: DELETE, then INSERT of one LATERAL
# query per group, on a plain table with the same unique index.
#
# Makes a throwaway server in build/<version>/bench_matview and removes it.  Its
# autovacuum is off, so that nothing else runs, and its shared buffers hold the
# tables, as those of a server for them would.
set -euo pipefail
# shellcheck source=dev/lib.sh
. "$(dirname "$0")/../dev/lib.sh"
# shellcheck source=bench/figures.sh
. "$TREE/bench/figures.sh"
# shellcheck source=bench/matview_change.sh
. "$TREE/bench/matview_change.sh"
# shellcheck source=bench/matview_load.sh
. "$TREE/bench/matview_load.sh"

rounds=5
responses=5000000
all_parts=(change late history write readers)
parts=()

clean_up() {
    "$TREE/dev/server.sh" stop --remove "$server" || true
    rm -rf "$work"
}

start_bench_server() {
    say 'building, starting a server'
    build_and_stage
    "$TREE/dev/server.sh" start --fresh --set shared_buffers=2GB --set max_wal_size=8GB --set autovacuum=off \
        --set timezone=UTC --set work_mem=64MB "$server"
    eval "$("$TREE/dev/server.sh" env "$server")"
    ask -d postgres -c 'CREATE DATABASE bench'
    export PGDATABASE=bench
    ask -c 'CREATE EXTENSION concertmaster'
    echo "PostgreSQL $(ask -c 'SHOW server_version'), $(nproc) cores, $responses rows"
}

# Have a view tracked and filled, and from then on refreshed by nobody but us.
track() { # view
    ask -c "SELECT concertmaster.manage_matview('$1', every => NULL)" >/dev/null
    PGOPTIONS='-c client_min_messages=error' ask -c "CALL concertmaster.run_job('refresh public.$1')"
    [ "$(ask -c "SELECT mode FROM concertmaster.matviews WHERE view_name = '$1'")" = incremental ] ||
        die "view $1 is not incremental: $(ask -c "SELECT reason FROM concertmaster.matviews WHERE view_name = '$1'")"
}

# Milliseconds of statements, given as one script, in a session that has done
# them before: what is timed is not the session's start.
time_script() { # sql, sql before it
    ask <<SQL
\o /dev/null
${2:-$1}
\o
SELECT clock_timestamp() AS t \gset
\o /dev/null
$1
\o
SELECT extract(epoch FROM clock_timestamp() - :'t') * 1000;
SQL
}

main() {
    local part started=$SECONDS
    read_arguments "rounds responses" "$@"
    find_server
    find_build
    work=$(mktemp -d)
    server=$BUILD/bench_matview
    trap clean_up EXIT
    start_bench_server
    for part in "${parts[@]}"; do
        "bench_$part"
    done
    printf '\n%d s\n' $((SECONDS - started))
}

main "$@"
