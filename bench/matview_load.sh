# shellcheck shell=bash disable=SC2154,SC2034
# The write and readers parts of bench/matview.sh.  Sourced, never run.
#
# CPU time is that of the writing backend alone, as the kernel's scheduler
# counts it (the first number of /proc/self/schedstat, in nanoseconds), read
# before and after.  A tracked and an untracked table of the same make are
# written to in pairs, and a round gives the ratio of its pair: the tables grow,
# and the time of a round with them.  A pending list of a GIN index is emptied
# before each, or whoever comes in its way would pay for all.

# Microseconds of CPU per row of a script that writes so many rows.
cpu_of() { # sql, rows
    ask <<SQL
\o /dev/null
SET synchronous_commit = off;
SELECT count(gin_clean_pending_list(c.oid)) FROM pg_class c JOIN pg_am a ON a.oid = c.relam AND a.amname = 'gin' WHERE c.relkind = 'i';
\o
SELECT split_part(pg_read_file('/proc/self/schedstat'), ' ', 1) AS before \gset
\o /dev/null
$1
\o
SELECT round((split_part(pg_read_file('/proc/self/schedstat'), ' ', 1)::numeric - :before) / 1000 / $2, 3);
SQL
}

# A table like form_responses with the bundled indexes, or with its key alone.
write_make() { # table, full or key
    ask <<SQL >/dev/null
SET client_min_messages = error;
CREATE TABLE $1 (LIKE form_responses INCLUDING DEFAULTS) PARTITION BY RANGE (submitted_at);
ALTER TABLE $1 ADD PRIMARY KEY (id, submitted_at);
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

# One pair of each kind of write.  Who comes first changes from round to round.
write_round() { # kind, round
    local table what rows=200000 single=3000
    local -a tables=("tracked_$1" "plain_$1")
    local -A cost
    [ $(($2 % 2)) = 1 ] || tables=("plain_$1" "tracked_$1")
    for what in copy single; do
        for table in "${tables[@]}"; do
            sed "s/INTO responses/INTO $table/" "$work/single.sql" >"$work/single_$table.sql"
            if [ $what = copy ]; then
                cost[$table]=$(cpu_of "\\copy $table (form_schema_id, data, submitted_at) FROM '$work/rows.copy'" $rows)
            else
                cost[$table]=$(cpu_of "\\i $work/single_$table.sql" $single)
            fi
            note "$table.$what" "${cost[$table]}"
        done
        note "pair_$1.$what" "$(awk -v a="${cost[tracked_$1]}" -v b="${cost[plain_$1]}" 'BEGIN { printf "%.2f", (a / b - 1) * 100 }')"
    done
}

bench_write() {
    local round kind what
    [ "$(ask -c "SELECT to_regclass('form_responses') IS NULL")" = f ] || ask -c 'SELECT concertmaster.install()' >/dev/null
    say 'making what is written'
    # Without the id, whose default makes a new one each time.
    ask -c "COPY ($(rows_sql 200000)) TO STDOUT" >"$work/rows.copy"
    ask -c "SELECT format('INSERT INTO responses (form_schema_id, data, submitted_at) VALUES (%L, %L, %L);', form, data, at)
              FROM ($(rows_sql 3000)) x (form, data, at)" >"$work/single.sql"
    for kind in full key; do
        write_make "tracked_$kind" $kind
        write_make "plain_$kind" $kind
        ask -c "ALTER TABLE tracked_$kind ALTER id SET DEFAULT gen_random_uuid()" -c "ALTER TABLE plain_$kind ALTER id SET DEFAULT gen_random_uuid()"
        track "tracked_${kind}_stats"
        for ((round = 1; round <= rounds; round++)); do
            say "writing with $kind indexes, round $round"
            write_round $kind $round
        done
    done
    heading "CPU time of the writer per row, microseconds ($rounds rounds)"
    row '' 'not tracked' 'tracked' 'pairs: more by'
    for kind in full key; do
        for what in single copy; do
            row "$([ $what = single ] && echo 'single rows' || echo 'COPY of 200,000'), $([ $kind = full ] && echo 'bundled indexes' || echo 'key only')" \
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
