# shellcheck shell=bash disable=SC2154,SC2034
# The lookup part of bench/partition.sh.  Sourced, never run.
#
# The same rows, with ids of version 7 made as of the rows' own times, in a
# plain table and in 36 monthly partitions, by the column "at" or by the id
# itself.  One client looks for 10 ids in turn by a prepared statement with the
# id as its parameter; a figure is the median latency.

LOOKUP_ROWS=5000   # in a month

lookup_make() {
    ask -v rows=$LOOKUP_ROWS <<'SQL'
CREATE FUNCTION milliseconds(at timestamptz) RETURNS text IMMUTABLE LANGUAGE sql AS $$
    SELECT lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0') $$;
CREATE FUNCTION first_of(at timestamptz) RETURNS uuid IMMUTABLE LANGUAGE sql AS $$
    SELECT rpad(milliseconds(at), 32, '0')::uuid $$;
CREATE FUNCTION v7(at timestamptz, tail text) RETURNS uuid IMMUTABLE LANGUAGE sql AS $$
    SELECT (milliseconds(at) || '7' || substr(tail, 14, 3) || '8' || substr(tail, 18, 15))::uuid $$;
CREATE FUNCTION month(n int) RETURNS timestamptz STABLE LANGUAGE sql AS $$
    SELECT date_trunc('month', now()) + (n - 35) * interval '1 month' $$;
CREATE TABLE lookup_plain (id uuid PRIMARY KEY, at timestamptz NOT NULL, payload text);
CREATE TABLE lookup_at (id uuid, at timestamptz, payload text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE lookup_id (id uuid PRIMARY KEY, at timestamptz NOT NULL, payload text) PARTITION BY RANGE (id);
SELECT format('CREATE TABLE lookup_at_%s PARTITION OF lookup_at FOR VALUES FROM (%L) TO (%L);',
              n, month(n), month(n + 1)) ||
       format('CREATE TABLE lookup_id_%s PARTITION OF lookup_id FOR VALUES FROM (%L) TO (%L);',
              n, first_of(month(n)), first_of(month(n + 1)))
  FROM generate_series(0, 35) n
\gexec
INSERT INTO lookup_plain
SELECT v7(at, replace(gen_random_uuid()::text, '-', '')), at, 'x'
  FROM (SELECT month(n) + i * (month(n + 1) - month(n)) / :rows AS at
          FROM generate_series(0, 35) n, generate_series(0, :rows - 1) i) t;
INSERT INTO lookup_at SELECT * FROM lookup_plain;
INSERT INTO lookup_id SELECT * FROM lookup_plain;
VACUUM ANALYZE;
SQL
}

lookup_query() {
    case $1 in
        plain) echo 'SELECT at FROM lookup_plain WHERE id = :id' ;;
        every) echo 'SELECT at FROM lookup_at WHERE id = :id' ;;
        range) echo "SELECT at FROM lookup_at WHERE id = :id AND at >= concertmaster.uuid_v7_time(:id) AND at < concertmaster.uuid_v7_time(:id) + interval '1 second'" ;;
        by_id) echo 'SELECT at FROM lookup_id WHERE id = :id' ;;
    esac
}

# Median latency in microseconds.
lookup_time() { # variant
    local -a arguments=()
    local n=0 id
    while read -r id; do
        n=$((n + 1))
        lookup_query "$1" | sed "s/:id/:id$n/g" >"$work/lookup_$n.sql"
        arguments+=(-D "id$n=$id" -f "$work/lookup_$n.sql")
    done <"$work/lookup_ids"
    rm -f "$work"/lookup.[0-9]*
    (cd "$work" && pgbench -n -M prepared -c 1 -T 2 -l --log-prefix=lookup "${arguments[@]}" >lookup.out 2>&1) ||
        die "pgbench failed: $(tail -n 3 "$work/lookup.out")"
    cat "$work"/lookup.[0-9]* | awk '{ print $3 }' | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

bench_lookup() {
    local round variant
    lookup_make
    ask -c 'SELECT id FROM lookup_plain ORDER BY md5(id::text) LIMIT 10' >"$work/lookup_ids"
    for ((round = 1; round <= rounds; round++)); do
        for variant in plain every range by_id; do note "lookup.$variant" "$(lookup_time $variant)"; done
    done
    heading "lookup: one row of $((36 * LOOKUP_ROWS)) by its id, 36 partitions (median of $rounds)"
    row '' 'p50 us' 'by plain'
    lookup_row plain 'plain table'
    lookup_row every 'key (id, at), by id'
    lookup_row range '  and time of the id'
    lookup_row by_id 'key and range: id'
}

lookup_row() { row "$2" "$(short "$(median "lookup.$1")")" "$(ratio "$(median "lookup.$1")" "$(median lookup.plain)")"; }
