#!/usr/bin/env bash
# The whole way of a live platform, under its own load: the strategy's schema
# as written is adopted, gets the indexes of phases 1 and 2, form_responses
# becomes partitioned, form_completion_stats incremental.
#
#   bench/path.sh [option]...
#
#   --responses N  rows of form_responses, the rest in proportion (default 2000000)
#   --seconds N    of load: 30 before the path, the path, what is left after it
#                  (default 300)
#
# The load is 50 transactions a second: the platform's writes, the strategy's
# queries (bench/path_load.sh).  Printed: the time line, by 5 seconds; per step
# the worst that befell a client; per kind of transaction what it takes before
# the path, on it and after it; and what was asked beside what was reached.
#
# What counts as a stall, honestly:
# - Of a transaction that needs no index of the path (by key, or a write), and
#   of every other as soon as its phase is built: the latency as it is, from
#   when it was due, nothing subtracted.  So a busy processor counts against us.
# - Of a query whose index is not there yet (a scan of everything, slow before
#   and all the slower beside an index build): only what it waited for locks,
#   as the server logs it from 10 ms on.  Its latency is shown, in brackets.
#
# The server is a throwaway one in build/<version>/bench_path, with fsync off as
# all of ours: what a disk's flush takes is not in these figures.
set -euo pipefail
# shellcheck source=dev/lib.sh
. "$(dirname "$0")/../dev/lib.sh"
# shellcheck source=bench/figures.sh
. "$TREE/bench/figures.sh"
# shellcheck source=bench/path_load.sh
. "$TREE/bench/path_load.sh"
# shellcheck source=bench/path_report.sh
. "$TREE/bench/path_report.sh"

responses=2000000
seconds=300
before=30
limit_ms=100
# shellcheck disable=SC2034
all_parts=()
# shellcheck disable=SC2034
parts=(path)
pids=()
sampler=

clean_up() {
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    [ -z "$sampler" ] || kill "$sampler" 2>/dev/null || true
    "$TREE/dev/server.sh" stop --remove "$server" || true
    rm -rf "$work"
}

start_bench_server() {
    say 'building, starting a server'
    build_and_stage
    "$TREE/dev/server.sh" start --fresh --set shared_buffers=1GB --set max_wal_size=8GB --set timezone=UTC \
        --set log_lock_waits=on --set "log_line_prefix=%n %p %a " --set track_activity_query_size=200 "$server"
    eval "$("$TREE/dev/server.sh" env "$server")"
    ask -d postgres -c 'CREATE DATABASE bench'
    export PGDATABASE=bench PGAPPNAME=path
    ask -c 'CREATE EXTENSION pg_stat_statements'
    say "making $responses responses and what belongs to them"
    PGOPTIONS='-c fixture.responses=0' ask -f "$TREE/test/fixtures/strategy_schema.sql"
    PGOPTIONS="-c bench.responses=$responses" ask -f "$TREE/bench/path_data.sql"
    ask -c 'VACUUM ANALYZE' -c CHECKPOINT
    echo "PostgreSQL $(ask -c 'SHOW server_version'), $(nproc) cores, load average $(cut -d' ' -f1-3 /proc/loadavg), $responses responses," \
        "$(ask -c "SELECT pg_size_pretty(pg_total_relation_size('form_responses'))")"
}

# Who waits, for whom, looked at 20 times a second: the cause of a stall.
start_sampler() {
    (
        cd "$work"
        # shellcheck disable=SC2094
        PGAPPNAME=sampler exec psql -XAtq -d postgres >sample.out 2>&1 <<'SQL'
SELECT round(extract(epoch FROM clock_timestamp())::numeric, 3), a.application_name, round(extract(epoch FROM clock_timestamp() - a.query_start) * 1000),
       a.wait_event_type, a.wait_event, left(regexp_replace(a.query, '\s+', ' ', 'g'), 60),
       (SELECT string_agg(b.application_name || ' (' || b.backend_type || '): ' || left(regexp_replace(b.query, '\s+', ' ', 'g'), 80), '; ')
          FROM unnest(CASE WHEN a.wait_event_type = 'Lock' THEN pg_blocking_pids(a.pid) END) p (pid) JOIN pg_stat_activity b USING (pid))
  FROM pg_stat_activity a
 WHERE a.datname = 'bench' AND a.backend_type = 'client backend' AND a.state = 'active' AND a.application_name NOT IN ('path', 'sampler')
   AND (a.wait_event_type = 'Lock' OR clock_timestamp() - a.query_start > interval '30 ms')
\watch 0.05
SQL
    ) &
    sampler=$!
}

# What goes on from now on, by the clock that pgbench's logs have.
begin_step() { # name
    ! grep -l -E 'ERROR|aborted|FATAL' "$work"/*.out || die 'a client failed'
    load_runs || die "the load ended during the path: give it more --seconds than $seconds"
    echo "$(date +%s.%N) $1" >>"$work/steps"
    say "$1"
}

# A call on the path, and again while what it began is put off.
walk() { # step, sql, what tells that it is done
    begin_step "$1"
    while true; do
        ask -c 'SET client_min_messages = notice' -c "$2" >>"$work/path.log" 2>&1 || { tail -n 20 "$work/path.log" >&2; die "step $1 failed"; }
        [ "$(ask -c "$3")" != t ] || break
        load_runs || die "step $1 is not done at the end of the load: give it more --seconds than $seconds"
        sleep 1
    done
}

all_valid() { echo "SELECT bool_and(state = 'valid') FROM concertmaster.indexes WHERE phase = $1"; }

walk_path() {
    walk extension 'CREATE EXTENSION concertmaster' 'SELECT true'
    walk install 'SELECT concertmaster.install()' 'SELECT true'
    walk adopt "CALL concertmaster.run_job('adopt public')" \
        "SELECT count(*) = 0 FROM concertmaster.plan_install() WHERE action IN ('create', 'pending') AND object !~ '^index'"
    walk phase_1 'CALL concertmaster.build_indexes(1)' "$(all_valid 1)"
    walk phase_2 'CALL concertmaster.build_indexes(2)' "$(all_valid 2)"
    walk explain "SELECT * FROM concertmaster.explain_conversion('form_responses', 'submitted_at', '1 month')" 'SELECT true'
    walk convert "CALL concertmaster.convert_to_partitioned('form_responses', 'submitted_at', '1 month',
                       accept => '{unique_index_without_column,nullable_key,lookup_by_id}')" \
        "SELECT state = 'converted' FROM concertmaster.conversions"
    walk view "SELECT concertmaster.manage_matview('form_completion_stats', every => '15 minutes')" \
        "SELECT mode = 'incremental' FROM concertmaster.matviews"
    walk refresh "CALL concertmaster.run_job('refresh public.form_completion_stats')" 'SELECT pending < 1000 FROM concertmaster.matviews'
    begin_step after
}

# What was written, by the clients' own count, is there, once.
check_rows() {
    local kind
    for kind in submit submit_simple; do
        expect "rows of $kind" "SELECT count(*) FROM form_responses WHERE metadata @> '{\"client\": \"$kind\"}'" "$(done_of $kind)"
    done
    expect 'rows of start_run' "SELECT count(*) FROM workflow_runs WHERE trigger_data @> '{\"client\": \"start_run\"}'" "$(done_of start_run)"
    expect 'rows of steps' "SELECT count(*) FROM node_executions WHERE node_id LIKE 'new%'" $(($(done_of steps) * 3))
    expect 'rows of audit' "SELECT count(*) FROM audit_events WHERE action = 'looked at'" "$(done_of audit)"
    expect 'responses' 'SELECT count(DISTINCT id) FROM form_responses' $((responses + $(done_of submit) + $(done_of submit_simple)))
    expect 'responses twice' 'SELECT count(*) - count(DISTINCT id) FROM form_responses' 0
    expect 'form_responses partitioned' "SELECT relkind FROM pg_class WHERE oid = 'form_responses'::regclass" p
    expect 'indexes valid' "SELECT count(*) FROM concertmaster.indexes WHERE state = 'valid'" 12
    ask -c "SET client_min_messages = error" -c "CALL concertmaster.run_job('refresh public.form_completion_stats')"
    expect 'the view was refreshed' 'SELECT last_mode FROM concertmaster.matviews' incremental
    expect 'differing rows of the view' "SELECT count(*) FROM concertmaster.verify_matview('form_completion_stats')" 0
}

expect() { # what, sql, answer
    local answer
    answer=$(ask -c "$2")
    [ "$answer" = "$3" ] || die "$1: $answer, not $3"
}

main() {
    local started
    read_arguments 'responses seconds' "$@"
    find_server
    find_build
    server=$BUILD/bench_path
    work=$(mktemp -d)
    trap clean_up EXIT
    start_bench_server
    write_scripts
    started=$(date +%s)
    start_load "$seconds"
    start_sampler
    # The first moments, when caches are cold and plans are made, are no control.
    begin_step warm
    sleep 5
    begin_step before
    sleep $before
    walk_path
    [ $((started + seconds - $(date +%s))) -ge 20 ] || die "less than 20 seconds are left after the path: give it more --seconds than $seconds"
    wait "${pids[@]}"
    pids=()
    kill "$sampler"
    sampler=
    check_rows
    print_report
}

main "$@"
