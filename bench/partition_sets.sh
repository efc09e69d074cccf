# shellcheck shell=bash disable=SC2154,SC2034
# The idle and more parts of bench/partition.sh.  Sourced, never run.
#
# Each of those compared has sets of 36 monthly partitions of its own, side by
# side in one database: 31 months back, the present one and 4 ahead, with one
# row, and a retention of 36 months, so that nothing retires.  Ours rolls with
# roll_partitions(), pg_partman with run_maintenance_proc(), each over all of
# its sets; the strategy's function knows no pass and is called for each table.
#
# Locks are sampled every 5 ms, in a pass of their own for each of those
# compared, since sampling takes time: the greatest number that one process
# held at once.

sets_made=no
month=4        # months ahead that all sets have

run_generated() { ask "$@" | PGOPTIONS='-c client_min_messages=error' ask -f - >/dev/null; }

sets_make() {
    local contender prefix
    [ "$sets_made" = no ] || return 0
    sets_made=yes
    say "making $sets sets of 36 partitions for each"
    for contender in "${contenders[@]}"; do
        prefix=set_${contender}_
        ask -c "SELECT format(\$q\$$(table_sql %1\$s)\$q\$, '$prefix' || i) FROM generate_series(1, $sets) i" | ask -f -
        "sets_make_$contender" "$prefix"
        run_generated -c "SELECT format('INSERT INTO %s (at) VALUES (now());', '$prefix' || i) FROM generate_series(1, $sets) i"
    done
    ask -c ANALYZE -c CHECKPOINT
}

sets_make_ours() {
    local retention=''
    [ "$retires" = no ] || retention=", retention => interval '36 months'"
    run_generated -c "SELECT format(\$q\$SELECT count(*) FROM concertmaster.create_partition_set('%s', '1 month', ahead => 4,
        start_at => date_trunc('month', now()) - interval '31 months'$retention);\$q\$, '$1' || i) FROM generate_series(1, $sets) i"
}

sets_make_partman() {
    run_generated -c "SELECT format(\$q\$$(partman_manage %1\$s 31 4)
        DROP TABLE %1\$s_default; UPDATE partman.part_config SET retention = '36 months' WHERE parent_table = 'public.%1\$s';\$q\$,
        '$1' || i) FROM generate_series(1, $sets) i"
}

sets_make_strategy() {
    run_generated -c "SELECT format(\$q\$SELECT create_monthly_partition('%s', (date_trunc('month', now()) + %s * interval '1 month')::date);\$q\$,
        '$1' || i, n) FROM generate_series(1, $sets) i, generate_series(-31, 4) n"
}

# The pass of each, as SQL.
sets_pass() {
    case $1 in
        ours) echo 'CALL concertmaster.roll_partitions();' ;;
        partman) echo 'CALL partman.run_maintenance_proc();' ;;
    esac
}

# What has the next pass make the month that is so far ahead.
sets_want() { # contender, month
    case $1 in
        ours) ask -c "UPDATE concertmaster.partition_set SET ahead = $2 WHERE table_name LIKE 'set\_%'" ;;
        partman) ask -c "UPDATE partman.part_config SET premake = $2 WHERE parent_table LIKE 'public.set\_%'" ;;
    esac
}

# The strategy's calls for that month, one transaction each.
sets_calls() {
    ask -c "SELECT format(\$q\$SELECT create_monthly_partition('set_strategy_%s', (date_trunc('month', now()) + interval '$1 months')::date);\$q\$, i)
              FROM generate_series(1, $sets) i"
}

# Milliseconds to make that month for all sets.
sets_time_more() { # contender, month
    local begun
    sets_want "$1" "$2"
    if [ "$1" = strategy ]; then
        sets_calls "$2" >"$work/calls.sql"
        begun=$EPOCHREALTIME
        ask -f "$work/calls.sql" >/dev/null
        awk -v a="$begun" -v b="$EPOCHREALTIME" 'BEGIN { print 1000 * (b - a) }'
    else
        sets_pass "$1" | time_sql
    fi
    sets_check "$1" "$2"
}

# Nothing is worth a figure that did not come about.
sets_check() { # contender, month
    local found
    found=$(ask -c "SELECT count(*) FROM pg_inherits WHERE inhparent::regclass::text ~ '^set_$1_[0-9]+\$'")
    [ "$found" = $((sets * (32 + $2))) ] || die "$1 has $found partitions, not $((sets * (32 + $2)))"
}

bench_idle() {
    local round contender ours
    sets_make
    # The first pass fills caches.
    for contender in "${passers[@]}"; do sets_pass "$contender" | time_sql >/dev/null; done
    for ((round = 1; round <= rounds; round++)); do
        for contender in "${passers[@]}"; do
            note "idle.$contender" "$(sets_pass "$contender" | time_sql)"
            sets_check "$contender" "$month"
        done
    done
    heading "idle: a pass with nothing to do over $sets sets of $((32 + month)) partitions (median of $rounds)"
    row '' 'ms' 'ms a set' 'by ours'
    row 'target' '<= 100' '' ''
    ours=$(median idle.ours)
    for contender in "${passers[@]}"; do
        row "$(name_of "$contender")" "$(short "$(median "idle.$contender")")" \
            "$(short "$(awk -v a="$(median "idle.$contender")" -v n="$sets" 'BEGIN { print a / n }')")" \
            "$(ratio "$(median "idle.$contender")" "$ours")"
    done
}

# The greatest number of locks that a process held while that month was made.
sets_locks() { # contender, month
    PGAPPNAME=sampler psql -XAtq >"$work/locks" <<'SQL' &
SELECT count(*) FROM pg_locks WHERE granted AND pid <> pg_backend_pid() AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) GROUP BY pid
\watch 0.005
SQL
    local sampler=$!
    pids+=("$sampler")
    until [ "$(ask -c "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sampler'")" = 1 ]; do sleep 0.02; done
    sets_time_more "$1" "$2" >/dev/null
    kill "$sampler"
    wait "$sampler" 2>/dev/null || true
    pids=()
    grep -xE '[0-9]+' "$work/locks" | sort -g | tail -n 1
}

bench_more() {
    local round contender locks ours_locks=0
    sets_make
    for ((round = 1; round <= rounds; round++)); do
        month=$((month + 1))
        for contender in "${contenders[@]}"; do note "more.$contender" "$(sets_time_more "$contender" $month)"; done
    done
    month=$((month + 1))
    heading "more: one more partition for each of $sets sets of 36 (median of $rounds)"
    row '' 'ms' 'ms a set' 'by ours' 'locks at once' 'by ours'
    row 'target' '' '' '' '< 60' ''
    for contender in "${contenders[@]}"; do
        locks=$(sets_locks "$contender" $month)
        [ "$contender" != ours ] || ours_locks=$locks
        row "$(name_of "$contender")" "$(short "$(median "more.$contender")")" \
            "$(short "$(awk -v a="$(median "more.$contender")" -v n="$sets" 'BEGIN { print a / n }')")" \
            "$(ratio "$(median "more.$contender")" "$(median more.ours)")" \
            "$locks" "$(ratio "$locks" "$ours_locks")"
    done
}
