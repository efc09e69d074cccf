# shellcheck shell=bash disable=SC2154,SC2034
# The stall part of bench/partition.sh.  Sourced, never run.
#
# The load: 2 writers insert through the parent, 100 rows a second together,
# and 2 readers count the last second's rows, which the planner prunes by
# now(), also 100 times a second.  A transaction's latency is the time from
# its first command to its end, without the time for which pgbench had to let
# it wait for its turn.  The long reader counts the whole table and keeps its
# transaction open.
#
# The window: from the beginning of the roll to its end, at least until the
# long reader's; every transaction that overlaps it counts.
#   longest  greatest latency of one transaction, in ms; median and greatest of
#            the rounds
#   share    of what is above 10 ms in each latency, the sum over all
#            transactions, as a share of the window times the number of clients:
#            the part of its time for which a client stood still
#   done     seconds until all 6 changes were made, the long reader included
# The control is the same load and reader without a roll.
#
# Three tables: without a default partition, with an empty one, and with a
# large one, of 1,000,000 rows ten years old, which no contender moves.
#
# Who rolls how: ours CALLs roll_partitions() until all is done, the set's own
# job paused; pg_partman runs run_maintenance(); the strategy's function is
# called 4 times, and as it retires nothing, the 2 oldest are dropped, each in
# a transaction of its own.

STALL_CLIENTS=2
STALL_FLOOR_MS=10

# A table with the present month and 6 before it, and what makes its next pass
# add 4 and retire 2.
stall_make() { # contender, default: with, without or large
    ask -c "SELECT concertmaster.forget_partition_set('public.stall') FROM concertmaster.partition_sets
             WHERE table_name = 'stall'" >/dev/null
    PGOPTIONS='-c client_min_messages=error' ask -c 'DROP TABLE IF EXISTS stall CASCADE'
    drop_retired
    ask -c "$(table_sql stall)"
    "stall_make_$1" "$2"
    [ "$2" != large ] ||
        ask -c "INSERT INTO stall_default (at) SELECT now() - interval '10 years' - n * interval '1 second' FROM generate_series(1, 1000000) n"
    ask -c "INSERT INTO stall (at) SELECT date_trunc('month', now()) - n % 7 * interval '1 month' FROM generate_series(1, 1400) n" \
        -c 'ANALYZE stall'
}

# Tables that were partitions once.
drop_retired() {
    ask -c "SELECT format('DROP TABLE %s;', oid::regclass) FROM pg_class
             WHERE relkind = 'r' AND relname ~ '^stall_' AND NOT relispartition" | ask -f -
}

stall_make_ours() {
    ask -c "SELECT count(*) FROM concertmaster.create_partition_set('stall', '1 month', ahead => 0,
               start_at => date_trunc('month', now()) - interval '6 months')" \
        -c "SELECT concertmaster.pause_job('roll public.stall')" \
        -c "UPDATE concertmaster.partition_set SET ahead = 4, retention = interval '4 months' WHERE table_name = 'stall'" >/dev/null
    [ "$1" = without ] || ask -c 'CREATE TABLE stall_default PARTITION OF stall DEFAULT'
}

# One month ahead is the least that pg_partman makes.
stall_make_partman() {
    PGOPTIONS='-c client_min_messages=error' ask -c "DELETE FROM partman.part_config WHERE parent_table = 'public.stall'" \
        -c 'DROP TABLE IF EXISTS partman.template_public_stall'
    ask -c "$(partman_manage stall 6 1)" \
        -c "UPDATE partman.part_config SET premake = 5, retention = '4 months' WHERE parent_table = 'public.stall'" >/dev/null
    [ "$1" != without ] || ask -c 'DROP TABLE stall_default'
}

stall_make_strategy() {
    ask -c "SELECT count(create_monthly_partition('stall', (date_trunc('month', now()) - n * interval '1 month')::date))
              FROM generate_series(0, 6) n" >/dev/null
    [ "$1" = without ] || ask -c 'CREATE TABLE stall_default PARTITION OF stall DEFAULT'
}

stall_make_control() { stall_make_strategy "$1"; }

# How many changes are still to be made by ours.
stall_left() {
    ask -c "WITH bound AS (SELECT (regexp_match(pg_get_expr(relpartbound, c.oid), 'FROM \(''([^'']*)'))[1]::timestamptz AS at
                             FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
                            WHERE inhparent = 'stall'::regclass AND NOT inhdetachpending)
            SELECT 4 - count(*) FILTER (WHERE at > now()) +
                   CASE '$retires' WHEN 'yes' THEN count(*) FILTER (WHERE at < date_trunc('month', now()) - interval '4 months') ELSE 0 END
              FROM bound"
}

stall_roll_ours() {
    local give_up=$((SECONDS + reader + 5))
    until [ "$(stall_left)" = 0 ]; do
        PGOPTIONS='-c client_min_messages=error' ask -c "CALL concertmaster.roll_partitions('stall')" || true
        [ $SECONDS -lt $give_up ] || { echo '  concertmaster did not get done'; break; }
        sleep 0.05
    done
}

stall_roll_partman() { ask -c "SELECT partman.run_maintenance('public.stall', p_analyze => false)" >/dev/null; }

stall_roll_strategy() {
    local n
    for n in 1 2 3 4; do
        ask -c "SELECT create_monthly_partition('stall', (date_trunc('month', now()) + interval '$n months')::date)" >/dev/null
    done
    for n in 6 5; do
        ask -c "DROP TABLE stall_$(ask -c "SELECT to_char(now() - interval '$n months', 'YYYY_MM')")"
    done
}

stall_roll_control() { sleep 1; }

stall_load() { # writer or reader, seconds
    (cd "$work" && exec pgbench -n -M prepared -c $STALL_CLIENTS -R 100 -T "$2" -l --log-prefix="$1" -f "$1.sql" >"$1.out" 2>&1) &
    pids+=($!)
}

# Note longest and share of writers or readers in the window.
stall_measure() { # writer or reader, figure, from, to
    local longest share
    read -r longest share < <(cat "$work/$1".[0-9]* | awk -v from="$3" -v to="$4" -v clients=$STALL_CLIENTS -v floor=$STALL_FLOOR_MS '
        { own = ($3 - $7) / 1000; end = $5 + $6 / 1e6 }
        end < from || end - own / 1000 > to { next }
        own > max { max = own }
        own > floor { sum += own - floor }
        END { print max + 0, sum / 10 / clients / (to - from) }')
    note "$2.longest" "$longest"
    note "$2.share" "$share"
}

# One round of one contender.
stall_run() { # contender, default
    local figure=stall.$1.$2 seconds=$((reader + 2)) reader begun ended reader_ended
    if [ "$1" = control ]; then seconds=4; fi
    stall_make "$1" "$2"
    rm -f "$work"/writer.[0-9]* "$work"/reader.[0-9]*
    stall_load writer "$seconds"
    stall_load reader "$seconds"
    sleep 0.6
    PGAPPNAME=long_reader ask -c BEGIN -c 'SELECT count(*) FROM stall' -c "SELECT pg_sleep($((seconds - 2)))" -c COMMIT >/dev/null &
    reader=$!
    until [ "$(ask -c "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'long_reader' AND wait_event = 'PgSleep'")" = 1 ]; do sleep 0.02; done
    sleep 0.2
    begun=$EPOCHREALTIME
    "stall_roll_$1"
    ended=$EPOCHREALTIME
    wait "$reader"
    reader_ended=$EPOCHREALTIME
    wait "${pids[@]}" || die "the load failed: $(grep -hi error "$work"/writer.out "$work"/reader.out | head -n 1)"
    pids=()
    note "$figure.done" "$(awk -v a="$begun" -v b="$ended" 'BEGIN { print b - a }')"
    ended=$(printf '%s\n' "$ended" "$reader_ended" | sort -g | tail -n 1)
    stall_measure writer "$figure.writer" "$begun" "$ended"
    stall_measure reader "$figure.reader" "$begun" "$ended"
}

stall_row() { # contender, default
    local figure=stall.$1.$2 ours=stall.ours.$2 who done=-
    local -a values=()
    for who in writer reader; do
        values+=("$(short "$(median "$figure.$who.longest")") / $(short "$(greatest "$figure.$who.longest")")")
        values+=("$(short "$(median "$figure.$who.share")")")
    done
    if [ "$1" != control ]; then done=$(short "$(median "$figure.done")"); fi
    row "$(name_of "$1")" "${values[@]}" "$done"
    case $1 in control | ours) return ;; esac
    values=()
    for who in writer.longest writer.share reader.longest reader.share "done"; do
        values+=("$(ratio "$(median "$figure.$who")" "$(median "$ours.$who")")")
    done
    row '  by ours' "${values[@]}"
}

bench_stall() {
    local mode round contender
    local -A title=([without]='without a' [with]='with an empty' [large]='with a large')
    cat >"$work/writer.sql" <<'SQL'
INSERT INTO stall (payload) VALUES ('x');
SQL
    cat >"$work/reader.sql" <<'SQL'
SELECT count(*) FROM stall WHERE at >= now() - interval '1 second';
SQL
    for mode in without with large; do
        for ((round = 1; round <= rounds; round++)); do
            for contender in control "${contenders[@]}"; do stall_run "$contender" "$mode"; done
        done
        heading "stall, ${title[$mode]} default partition: 4 added, 2 retired, a reader of $reader s (median of $rounds)"
        row '' 'writer ms/max' 'share %' 'reader ms/max' 'share %' 'done s'
        row 'target' '<= 70' '<= 1' '<= 70' '<= 1' ''
        for contender in control "${contenders[@]}"; do stall_row "$contender" "$mode"; done
    done
}
