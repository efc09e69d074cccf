# shellcheck shell=bash disable=SC2154,SC2034
# The write and readers parts of bench/matview.sh.  Sourced, never run.
#
# CPU time is that of the writing backend alone, as the kernel's scheduler
# counts it (the first number of /proc/self/schedstat, in nanoseconds).  One
# session writes to a tracked and an untracked table of the same make by turns,
# 100 single rows or one COPY at a time, so that both have the same machine.
# The tables grow: a figure is the median of turns, the ratio that of pairs.  A
# pending list of a GIN index is emptied before each round, or whoever comes in
# its way would pay for all.  synchronous_commit is on, as it is by default.

# Nanoseconds of CPU that each of some scripts takes, a line each.
cpu_of() { # file...
    {
        echo "\\o /dev/null"
        echo "SELECT count(gin_clean_pending_list(c.oid)) FROM pg_class c JOIN pg_am a ON a.oid = c.relam AND a.amname = 'gin' WHERE c.relkind = 'i';"
        for file in "$@"; do
            printf '%s\n' '\o' "SELECT split_part(pg_read_file('/proc/self/schedstat'), ' ', 1) AS before \gset" '\o /dev/null' \
                "\\i $file" '\o' "SELECT split_part(pg_read_file('/proc/self/schedstat'), ' ', 1)::bigint - :before;" '\o /dev/null'
        done
    } >"$work/turns.sql"
    ask -f "$work/turns.sql"
}

# A table like form_responses as it is installed, with its indexes and foreign
# key, or with its primary key alone.
write_make() { # table, full or key
    ask <<SQL >/dev/null
SET client_min_messages = error;
CREATE TABLE $1 (LIKE form_responses INCLUDING DEFAULTS) PARTITION BY RANGE (submitted_at);
ALTER TABLE $1 ADD PRIMARY KEY (id, submitted_at);
SELECT 'ALTER TABLE $1 ADD ' || pg_get_constraintdef(oid) FROM pg_constraint
 WHERE '$2' = 'full' AND conrelid = 'form_responses'::regclass AND contype = 'f' \gexec
SELECT count(*) FROM concertmaster.create_partition_set('$1', '1 month');
SELECT format('CREATE INDEX ON $1 %s', definition) FROM concertmaster.index_plan
 WHERE '$2' = 'full' AND table_name = 'form_responses' AND hot_window IS NULL AND NOT is_unique \gexec
CREATE MATERIALIZED VIEW $1_stats AS
SELECT form_schema_id, (submitted_at AT TIME ZONE 'UTC')::date AS day, count(*) AS n,
       count(*) FILTER (WHERE data ->> 'status' = 'complete') AS completed
  FROM $1 GROUP BY 1, 2;
CREATE UNIQUE INDEX ON $1_stats (form_schema_id, day);
SQL
}

rows_sql() { # rows
    echo "SELECT md5('form ' || n % 200)::uuid,
                 jsonb_build_object('status', 'complete', 'completion_time', n % 400, 'q1', n % 5, 'q2', 'answer ' || n),
                 now() FROM generate_series(1, $1) n"
}

# Turns of one kind of write, and their figures.  Who comes first changes.
write_turns() { # kind, copy or single, turns, rows of a turn
    local turn
    local -a files=()
    for ((turn = 0; turn < $3; turn++)); do
        if [ $((turn % 2)) = 0 ]; then
            files+=("$work/$2.tracked_$1.$turn.sql" "$work/$2.plain_$1.$turn.sql")
        else
            files+=("$work/$2.plain_$1.$turn.sql" "$work/$2.tracked_$1.$turn.sql")
        fi
    done
    cpu_of "${files[@]}" | awk -v rows="$4" -v name="$work/figure" -v what="$1.$2" '
        NR % 2 { first = $1; next }
        {
            tracked = (NR % 4 == 2 ? first : $1) / 1000 / rows
            plain = (NR % 4 == 2 ? $1 : first) / 1000 / rows
            print tracked >> (name ".tracked_" what)
            print plain >> (name ".plain_" what)
            print (tracked / plain - 1) * 100 >> (name ".pair_" what)
        }'
}

# What a turn writes: another one does other rows.
write_scripts() { # table
    local turn
    for ((turn = 0; turn < 2; turn++)); do
        echo "\\copy $1 (form_schema_id, data, submitted_at) FROM '$work/rows.copy'" >"$work/copy.$1.$turn.sql"
    done
    for ((turn = 0; turn < 30; turn++)); do
        sed -n "$((turn * 100 + 1)),$((turn * 100 + 100))s/INTO responses/INTO $1/p" "$work/single.sql" >"$work/single.$1.$turn.sql"
    done
}

bench_write() {
    local round kind what table
    [ "$(ask -c "SELECT to_regclass('form_responses') IS NULL")" = f ] || ask -c 'SELECT concertmaster.install()' >/dev/null
    say 'making what is written'
    # Without the id, whose default makes a new one each time.
    ask -c "COPY ($(rows_sql 200000)) TO STDOUT" >"$work/rows.copy"
    ask -c "SELECT format('INSERT INTO responses (form_schema_id, data, submitted_at) VALUES (%L, %L, %L);', form, data, at)
              FROM ($(rows_sql 3000)) x (form, data, at)" >"$work/single.sql"
    ask -c "INSERT INTO form_schemas (id, name, version, schema)
            SELECT md5('form ' || n)::uuid, 'form ' || n, 1, '{}' FROM generate_series(0, 199) n"
    for kind in full key; do
        for table in "tracked_$kind" "plain_$kind"; do
            write_make "$table" $kind
            ask -c "ALTER TABLE $table ALTER id SET DEFAULT gen_random_uuid()"
            write_scripts "$table"
        done
        track "tracked_${kind}_stats"
        for ((round = 1; round <= rounds; round++)); do
            say "writing with $kind indexes, round $round"
            write_turns $kind single 30 100
            write_turns $kind copy 2 200000
        done
    done
    heading "CPU time of the writer per row, microseconds ($rounds rounds)"
    row '' 'not tracked' 'tracked' 'pairs: more by'
    for kind in full key; do
        for what in single copy; do
            row "$([ $what = single ] && echo 'single rows' || echo 'COPY of 200,000'), $([ $kind = full ] && echo 'as installed' || echo 'key only')" \
                "$(short "$(median plain_$kind.$what)")" "$(short "$(median tracked_$kind.$what)")" \
                "$(median pair_$kind.$what | awk '{ printf "%.1f %%", $1 }')"
        done
    done
}

# Milliseconds within which 99 % of reads of the view were answered.
readers_p99() { # name
    (cd "$work" && rm -f "$1".* && pgbench -n -c 1 -T 10 -l --log-prefix="$1" -f reader.sql >/dev/null 2>&1)
    cat "$work/$1".* | awk '{ print $3 / 1000 }' | sort -g | awk '{ v[NR] = $1 } END { print v[int(NR * 0.99)] }'
}

# The same while something is refreshed over and over.
readers_beside() { # name, table
    local writer
    while true; do
        days_refresh "$2" 100 'n * 2' 'n % 25' >/dev/null
    done &
    writer=$!
    note "readers.$1" "$(readers_p99 "$1")"
    kill $writer
    wait $writer 2>/dev/null || true
}

# Beside a refresh of another view readers share the machine, not the view.
bench_readers() {
    local round
    for table in short_history other_history; do
        [ -n "$(ask -c "SELECT to_regclass('$table')")" ] || days_make $table "$responses" 30
    done
    printf '%s\n' '\set form random(0, 199)' 'SELECT * FROM short_history_stats WHERE form_id = :form;' '\sleep 2 ms' >"$work/reader.sql"
    for ((round = 1; round <= rounds; round++)); do
        note readers.idle "$(readers_p99 idle)"
        readers_beside other other_history
        readers_beside busy short_history
    done
    heading "99 % of reads of the view within, ms ($rounds rounds)"
    row '' 'no refresh' 'of another' 'of this view' 'by no refresh' 'by another'
    row 'refreshed all the time' "$(short "$(median readers.idle)")" "$(short "$(median readers.other)")" \
        "$(short "$(median readers.busy)")" "$(ratio "$(median readers.busy)" "$(median readers.idle)")" \
        "$(ratio "$(median readers.busy)" "$(median readers.other)")"
}
