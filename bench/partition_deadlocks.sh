# shellcheck shell=bash disable=SC2154,SC2034
# The deadlocks part of bench/partition.sh.  Sourced, never run.
#
# One set with the last two months, the present one and, half of the passes, a
# default partition.  Each pass makes the next month and drops the month before
# last, beside 2 writers, and 2 readers that read the whole set, 100
# transactions a second each kind.  Between passes wind_back() brings back the
# month before last and drops the next one; it locks the table first, so that a
# deadlock cannot be its own.
#
# pg_partman gets a twentieth of the passes; the strategy's function has none.
#   deadlocks   of the database, by pg_stat_database
#   failed      passes that ended with an error
#   put off     passes that ended in time without having got all their locks;
#               the next pass does what they left
#   load        transactions of the load that failed

deadlocks_make() { # contender, default
    ask -c "$(table_sql dead)"
    case $1 in
        ours)
            local retention=''
            [ "$retires" = no ] || retention=", retention => interval '1 month', retention_keep => false"
            ask -c "SELECT count(*) FROM concertmaster.create_partition_set('dead', '1 month', ahead => 1,
                       start_at => date_trunc('month', now()) - interval '2 months'$retention)" \
                -c "SELECT concertmaster.pause_job('roll public.dead')" >/dev/null
            [ "$2" = without ] || ask -c 'CREATE TABLE dead_default PARTITION OF dead DEFAULT'
            ;;
        partman)
            ask -c "$(partman_manage dead 2 1)" \
                -c "UPDATE partman.part_config SET retention = '1 month', retention_keep_table = false WHERE parent_table = 'public.dead'" >/dev/null
            [ "$2" = with ] || ask -c 'DROP TABLE dead_default'
            ;;
    esac
    ask <<'SQL'
CREATE OR REPLACE PROCEDURE wind_back(suffix text) LANGUAGE plpgsql AS $$
DECLARE
    part record;
    present timestamptz := date_trunc('month', now());
    past timestamptz := present - interval '2 months';
    has_past boolean := false;
BEGIN
    LOCK TABLE dead IN ACCESS EXCLUSIVE MODE;
    FOR part IN SELECT c.oid::regclass AS name,
                       (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''([^'']*)'))[1]::timestamptz AS at
                  FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE inhparent = 'dead'::regclass
    LOOP
        IF part.at > present THEN
            EXECUTE format('DROP TABLE %s', part.name);
        END IF;
        has_past := has_past OR part.at IS NOT DISTINCT FROM past;
    END LOOP;
    IF NOT has_past THEN
        EXECUTE format('CREATE TABLE %I PARTITION OF dead FOR VALUES FROM (%L) TO (%L)',
                       'dead_p' || to_char(past, suffix), past, past + interval '1 month');
        INSERT INTO dead (at) VALUES (past);
    END IF;
END $$;
SQL
}

deadlocks_drop() {
    PGOPTIONS='-c client_min_messages=error' ask -c "SELECT concertmaster.forget_partition_set('public.dead') FROM concertmaster.partition_sets
             WHERE table_name = 'dead'" -c 'DROP TABLE dead CASCADE' >/dev/null
    [ "$partman_version" = 'not there' ] || PGOPTIONS='-c client_min_messages=error' ask \
        -c "DELETE FROM partman.part_config WHERE parent_table = 'public.dead'" \
        -c 'DROP TABLE IF EXISTS partman.template_public_dead'
}

deadlocks_count() { ask -c 'SELECT pg_stat_force_next_flush()' -c "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()" | tail -n 1; }

# The load, until deadlocks_end_load() ends its connections.
deadlocks_load() { # kind
    (cd "$work" && exec pgbench -n -c 2 -R 100 -T 3600 -f "dead_$1.sql" >"dead_$1.out" 2>&1) &
    pids+=($!)
}

deadlocks_run() { # contender, default, passes
    local figure=deadlocks.$1.$2 suffix=YYYY_MM before begun call n
    deadlocks_make "$1" "$2"
    before=$(deadlocks_count)
    deadlocks_load writer
    deadlocks_load reader
    case $1 in
        ours) call="CALL concertmaster.roll_partitions('dead');" ;;
        partman)
            call="SELECT partman.run_maintenance('public.dead', p_analyze => false);"
            # It knows partitions by their names.
            suffix=$(ask -c "SELECT datetime_string FROM partman.part_config WHERE parent_table = 'public.dead'")
            ;;
    esac
    begun=$EPOCHREALTIME
    for ((n = 0; n < $3; n++)); do
        printf "CALL wind_back('%s');\n\\\\echo pass\n%s\n\\\\echo\n" "$suffix" "$call"
    done | PGOPTIONS='-c client_min_messages=warning' psql -XAtq >"$work/dead.log" 2>&1 || true
    note "$figure.seconds" "$(awk -v a="$begun" -v b="$EPOCHREALTIME" 'BEGIN { print b - a }')"
    # Between "pass" and an empty line speaks the pass, elsewhere wind_back().
    note "$figure.failed" "$(awk '/^pass$/ { on = 1 } /^$/ { on = 0 } on && /ERROR:/ { n++ } END { print n + 0 }' "$work/dead.log")"
    note "$figure.put_off" "$(grep -c 'was put off' "$work/dead.log" || true)"
    grep -m 1 'ERROR:' "$work/dead.log" | sed 's/^/  first error: /' >>"$work/dead.errors" || true
    deadlocks_end_load
    note "$figure.load" "$(cat "$work"/dead_writer.out "$work"/dead_reader.out | grep 'ERROR:' | grep -vc 'terminating connection' || true)"
    note "$figure.deadlocks" $(($(deadlocks_count) - before))
    deadlocks_drop
}

deadlocks_end_load() {
    local pid
    ask -c "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'pgbench'" >/dev/null
    for pid in "${pids[@]}"; do wait "$pid" || true; done
    pids=()
}

bench_deadlocks() {
    local mode contender number
    echo "INSERT INTO dead (at) VALUES (now());" >"$work/dead_writer.sql"
    echo "SELECT count(*) FROM dead;" >"$work/dead_reader.sql"
    : >"$work/dead.errors"
    heading 'deadlocks: passes that make one partition and retire one, under load'
    row '' 'passes' 'deadlocks' 'per 1,000' 'failed' 'put off' 'load failed' 's a pass'
    row 'target' '' '0' '0' '0' '' '0' ''
    for mode in without with; do
        for contender in "${passers[@]}"; do
            number=$((passes / 2))
            [ "$contender" = ours ] || number=$(((passes + 39) / 40))
            deadlocks_run "$contender" "$mode" "$number"
            deadlocks_row "$contender" "$mode" "$number"
        done
    done
    sort -u "$work/dead.errors"
}

deadlocks_row() { # contender, default, passes
    local figure=deadlocks.$1.$2 found
    found=$(median "$figure.deadlocks")
    row "$(name_of "$1")$([ "$2" = without ] || echo ' + default')" "$3" "$found" $((found * 1000 / $3)) \
        "$(median "$figure.failed")" "$(median "$figure.put_off")" "$(median "$figure.load")" \
        "$(short "$(awk -v s="$(median "$figure.seconds")" -v n="$3" 'BEGIN { print s / n }')")"
}
