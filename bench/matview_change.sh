# shellcheck shell=bash disable=SC2154,SC2034
# The change, late and history parts of bench/matview.sh.  Sourced, never run.
#
# Each of those compared keeps the same result: ours in a tracked view, core's
# in a view of the same query, the hand-written SQL in a table.  All three are
# brought up to date after each change, in turns, and must then be equal.

# --- change: the platform's own tables and view

platform_make() {
    say "making $responses responses to 200 forms over 30 days"
    # The jobs come later: rows are written faster without the indexes.
    ask -c 'ALTER SYSTEM SET concertmaster.enabled = off' -c 'SELECT pg_reload_conf()' >/dev/null
    ask <<SQL >/dev/null
SET client_min_messages = error;
SELECT concertmaster.install();
SELECT concertmaster.create_monthly_partition('form_responses', (now() - interval '31 days')::date);
INSERT INTO form_schemas (id, name) SELECT md5('form ' || n)::uuid, 'form ' || n FROM generate_series(0, 199) n;
INSERT INTO form_responses (id, form_schema_id, data, submitted_at)
SELECT gen_random_uuid(), md5('form ' || n % 200)::uuid,
       jsonb_build_object('status', CASE WHEN n % 3 > 0 THEN 'complete' ELSE 'partial' END,
                          'completion_time', (10 + n % 400)::text, 'q1', n % 5, 'q2', 'answer ' || n % 1000),
       date_trunc('day', now()) - interval '29 days' + (n / 200) * (interval '30 days' * 200 / $responses)
  FROM generate_series(0, $responses - 1) n
 WHERE date_trunc('day', now()) - interval '29 days' + (n / 200) * (interval '30 days' * 200 / $responses) < now();
SQL
    ask -c 'ALTER SYSTEM RESET concertmaster.enabled' -c 'SELECT pg_reload_conf()' >/dev/null
    PGOPTIONS='-c client_min_messages=error' ask -c 'CALL concertmaster.build_indexes(1)' -c 'CALL concertmaster.build_indexes(2)'
    ask -c 'VACUUM ANALYZE form_responses' -c 'VACUUM ANALYZE form_schemas'
    track form_completion_stats
    twins_make form_completion_stats 'form_schema_id, day'
}

# The same result in a view that core refreshes, and in a table.
twins_make() { # view, unique columns
    ask <<SQL >/dev/null
SELECT format('CREATE MATERIALIZED VIEW $1_core AS %s', rtrim(pg_get_viewdef('$1'), ';')) \gexec
CREATE UNIQUE INDEX ON $1_core ($2);
CREATE TABLE $1_hand AS SELECT * FROM $1;
CREATE UNIQUE INDEX ON $1_hand ($2);
SQL
    ask -c "VACUUM ANALYZE $1" -c "VACUUM ANALYZE $1_core" -c "VACUUM ANALYZE $1_hand"
}

# What is written: how many rows, into which form and which day back.
change_sql() { # rows, form expression of n, days back expression of n
    echo "INSERT INTO form_responses (id, form_schema_id, data, submitted_at)
          SELECT gen_random_uuid(), md5('form ' || $2)::uuid, '{\"status\": \"complete\", \"completion_time\": \"31\"}',
                 least(now(), date_trunc('day', now()) - make_interval(days => $3) + interval '1 hour')
            FROM generate_series(0, $1 - 1) n"
}

# The hand-written statements; with a query of the changed groups
# (form_schema_id, day), those that make them known, and their first run.
hand_sql() {
    [ -z "${1:-}" ] || echo "CREATE TEMP TABLE changed AS $1; ANALYZE changed;"
    echo "BEGIN;
          DELETE FROM form_completion_stats_hand s USING changed c WHERE (s.form_schema_id, s.day) = (c.form_schema_id, c.day);
          INSERT INTO form_completion_stats_hand
          SELECT s.* FROM changed c CROSS JOIN LATERAL (
          $(ask -c "SELECT regexp_replace(rtrim(pg_get_viewdef('form_completion_stats'), ';'), '(\s)GROUP BY',
              '\1  AND fr.form_schema_id = c.form_schema_id AND fr.submitted_at >= (c.day::timestamp AT TIME ZONE ''UTC'') AND fr.submitted_at < ((c.day + 1)::timestamp AT TIME ZONE ''UTC'') GROUP BY')")) s;
          COMMIT;"
}

# Bring all three up to date after a change, and note how long each took.
# Each session has done before what is timed, with the same groups, so that it
# has the pages of shared memory mapped.
change_round() { # name, sql of the change, query of its groups
    local refresh="SELECT concertmaster.refresh('form_completion_stats');"
    note "$1.ours" "$(time_script "$refresh" "$2; $refresh $2;")"
    note "$1.hand" "$(time_script "$(hand_sql)" "$(hand_sql "$3")")"
    note "$1.core" "$(time_script 'REFRESH MATERIALIZED VIEW CONCURRENTLY form_completion_stats_core;')"
}

require_equal() { # view
    local suffix differ
    for suffix in core hand; do
        differ=$(ask -c "SELECT count(*) FROM ((TABLE $1 EXCEPT ALL TABLE $1_$suffix) UNION ALL (TABLE $1_$suffix EXCEPT ALL TABLE $1)) x")
        [ "$differ" = 0 ] || die "$1 and $1_$suffix differ in $differ rows"
    done
}

bench_change() {
    local round name wal
    platform_make
    for ((round = 1; round <= rounds; round++)); do
        # After the refresh before it, so that nothing is left to do.
        ask -c "SELECT concertmaster.refresh('form_completion_stats')" >/dev/null
        wal=$(ask -c 'SELECT pg_current_wal_insert_lsn()')
        note nothing.ours "$(time_script "SELECT concertmaster.refresh('form_completion_stats');")"
        note nothing.wal "$(ask -c "SELECT pg_current_wal_insert_lsn() - '$wal'")"
        note nothing.core "$(time_script 'REFRESH MATERIALIZED VIEW CONCURRENTLY form_completion_stats_core;')"
        change_round one "$(change_sql 1 $round 0)" \
            "SELECT md5('form $round')::uuid AS form_schema_id, (now() AT TIME ZONE 'UTC')::date AS day"
        change_round scattered "$(change_sql 1000 'n % 100 * 2' 'n % 100 % 30')" \
            "SELECT md5('form ' || n * 2)::uuid AS form_schema_id, (now() AT TIME ZONE 'UTC')::date - n % 30 AS day FROM generate_series(0, 99) n"
        change_round day "$(change_sql 1000 'n % 100 * 2' 5)" \
            "SELECT md5('form ' || n * 2)::uuid AS form_schema_id, (now() AT TIME ZONE 'UTC')::date - 5 AS day FROM generate_series(0, 99) n"
        require_equal form_completion_stats
    done
    heading "refresh of form_completion_stats, ms ($rounds rounds; nothing changed: $(median nothing.wal) bytes of WAL)"
    row '' ours 'by hand' ratio CONCURRENTLY ratio
    row 'nothing changed' "$(short "$(median nothing.ours)")" - - \
        "$(short "$(median nothing.core)")" "$(ratio "$(median nothing.core)" "$(median nothing.ours)")"
    change_row '1 row, 1 group' one
    change_row '1,000 rows, 100 groups' scattered
    change_row 'the same in one day' day
}

change_row() { # label, name
    row "$1" "$(short "$(median "$2.ours")")" \
        "$(short "$(median "$2.hand")")" "$(ratio "$(median "$2.hand")" "$(median "$2.ours")")" \
        "$(short "$(median "$2.core")")" "$(ratio "$(median "$2.core")" "$(median "$2.ours")")"
}

# --- late and history: a narrow table of so many days, partitioned by month

days_make() { # table, rows, days
    say "making $2 rows over $3 days"
    ask <<SQL >/dev/null
SET client_min_messages = error;
CREATE TABLE $1 (id bigint GENERATED ALWAYS AS IDENTITY, form_id integer NOT NULL, at timestamptz NOT NULL, seconds integer)
PARTITION BY RANGE (at);
SELECT format('CREATE TABLE $1_%s PARTITION OF $1 FOR VALUES FROM (%L) TO (%L)', to_char(m, 'YYYY_MM'), m, m + interval '1 month')
  FROM generate_series(date_trunc('month', now() - interval '$3 days'), date_trunc('month', now()), interval '1 month') m \gexec
INSERT INTO $1 (form_id, at, seconds)
SELECT n % 200, date_trunc('day', now()) - interval '$(($3 - 1)) days' + (n / 200) * (interval '$(($3 - 1)) days' * 200 / $2), n % 400
  FROM generate_series(0, $2 - 1) n;
CREATE INDEX ON $1 (form_id, at);
CREATE MATERIALIZED VIEW $1_stats AS
SELECT form_id, (at AT TIME ZONE 'UTC')::date AS day, count(*) AS n, avg(seconds) AS seconds, max(seconds) AS longest
  FROM $1 GROUP BY 1, 2;
CREATE UNIQUE INDEX ON $1_stats (form_id, day);
SQL
    ask -c "VACUUM ANALYZE $1" -c "VACUUM ANALYZE $1_stats"
    track "$1_stats"
}

days_sql() { # table, rows, form expression of n, days back expression of n
    echo "INSERT INTO $1 (form_id, at, seconds)
            SELECT $3, date_trunc('day', now()) - make_interval(days => $4) + interval '1 minute', 7 FROM generate_series(0, $2 - 1) n"
}

# Milliseconds to refresh after a change; arguments as of days_sql.
days_refresh() {
    local refresh="SELECT concertmaster.refresh('$1_stats');"
    time_script "$refresh" "$(days_sql "$@"); $refresh $(days_sql "$@");"
}

bench_late() {
    local round
    days_make months "$responses" 300
    for ((round = 1; round <= rounds; round++)); do
        note late.day "$(days_refresh months 10 "n + $round" 5)"
        note late.months "$(days_refresh months 10 "n + $round" 'n * 29')"
    done
    heading "refresh after ten late rows, ms ($responses rows over 300 days, $rounds rounds)"
    row '' 'one day' 'ten months' 'months by day'
    row '10 groups' "$(short "$(median late.day)")" "$(short "$(median late.months)")" \
        "$(ratio "$(median late.months)" "$(median late.day)")"
}

bench_history() {
    local round size
    days_make short_history "$responses" 30
    days_make long_history $((responses * 4)) 120
    for ((round = 1; round <= rounds; round++)); do
        for size in short long; do
            note "history.$size.one" "$(days_refresh "${size}_history" 1 "$round" 0)"
            note "history.$size.many" "$(days_refresh "${size}_history" 1000 'n % 100 * 2' 'n % 25')"
        done
    done
    heading "refresh as history grows, ms ($rounds rounds)"
    row '' "$responses" "$((responses * 4))" 'long by short'
    for size in one many; do
        row "$([ $size = one ] && echo '1 row, 1 group' || echo '1,000 rows, 100 groups')" \
            "$(short "$(median history.short.$size)")" "$(short "$(median history.long.$size)")" \
            "$(ratio "$(median history.long.$size)" "$(median history.short.$size)")"
    done
}
