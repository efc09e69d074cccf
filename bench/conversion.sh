#!/usr/bin/env bash
# How long writers and readers of a live table wait while it is converted to a
# partitioned one, beside what they wait when nothing happens.
#
#   bench/conversion.sh [option]...
#
#   --rounds N   conversions, each of a table of its own (default 3)
#   --rows N     rows of a table (default 2000000)
#   --writers N  clients that write, in prepared mode; as many read (default 2)
#
# Figures are medians of the rounds, and the worst of all.  A round fails if a
# transaction of a client fails, or a row is lost or there twice.  Makes a
# throwaway server in build/<version>/bench_conversion and removes it.
set -euo pipefail
# shellcheck source=dev/lib.sh
. "$(dirname "$0")/../dev/lib.sh"
# shellcheck source=bench/figures.sh
. "$TREE/bench/figures.sh"

rounds=3
rows=2000000
writers=2
# shellcheck disable=SC2034
all_parts=()
# shellcheck disable=SC2034
parts=(conversion)

clean_up() {
    "$TREE/dev/server.sh" stop --remove "$server" || true
    rm -rf "$work"
}

start_bench_server() {
    say 'building, starting a server'
    build_and_stage
    "$TREE/dev/server.sh" start --fresh --set shared_buffers=1GB --set max_wal_size=8GB --set timezone=UTC "$server"
    eval "$("$TREE/dev/server.sh" env "$server")"
    ask -d postgres -c 'CREATE DATABASE bench'
    export PGDATABASE=bench
    ask -c 'CREATE EXTENSION concertmaster'
    ask -c 'CREATE TABLE forms (id integer PRIMARY KEY, name text)' -c "INSERT INTO forms SELECT n, 'form ' || n FROM generate_series(0, 99) n"
    echo "PostgreSQL $(ask -c 'SHOW server_version'), $(nproc) cores, $rows rows, $writers writers and $writers readers"
}

# A table as people have them, with a view and a managed materialized view.
make_table() { # name
    say "making $1"
    ask <<SQL >/dev/null
SET client_min_messages = error;
CREATE TABLE $1 (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, form_id integer NOT NULL REFERENCES forms,
                 client integer, data jsonb, submitted_at timestamptz NOT NULL DEFAULT now());
INSERT INTO $1 (form_id, data, submitted_at)
SELECT n % 100, jsonb_build_object('status', 'complete', 'n', n), now() - n * interval '10 seconds' FROM generate_series(1, $rows) n;
CREATE INDEX $1_form ON $1 (form_id, submitted_at);
CREATE INDEX $1_data ON $1 USING gin (data jsonb_path_ops);
CREATE VIEW $1_recent AS SELECT * FROM $1 WHERE submitted_at > now() - interval '1 hour';
CREATE MATERIALIZED VIEW $1_days AS
SELECT form_id, (submitted_at AT TIME ZONE 'UTC')::date AS day, count(*) AS n FROM $1 GROUP BY 1, 2;
CREATE UNIQUE INDEX ON $1_days (form_id, day);
SELECT concertmaster.manage_matview('$1_days', every => NULL);
SQL
    ask -c "VACUUM ANALYZE $1"
    printf '%s\n' '\set form random(0, 99)' "INSERT INTO $1 (form_id, client, data) VALUES (:form, :client_id + 1, '{\"status\": \"partial\"}');" >"$work/write.sql"
    printf '%s\n' '\set form random(0, 99)' "SELECT count(*) FROM $1 WHERE form_id = :form AND submitted_at > now() - interval '10 minutes';" >"$work/read.sql"
}

# Load for so many seconds; the process ids are waited for.
start_load() { # name, seconds
    local kind
    for kind in write read; do
        (cd "$work" && rm -f "$1.$kind".* &&
            exec pgbench -n -M prepared -c "$writers" -R 400 -T "$2" -l --log-prefix="$1.$kind" -f "$kind.sql" >"$1.$kind.out" 2>&1) &
    done
}

# The longest that a client waited, in milliseconds; an error if one failed.
longest() { # name, kind
    ! grep -q -E 'ERROR|aborted' "$work/$1.$2.out" || die "a client failed: $(cat "$work/$1.$2.out")"
    cat "$work/$1.$2".[0-9]* | awk '$3 > max { max = $3 } END { print max / 1000 }'
}

bench_conversion() {
    local round kind table
    for ((round = 1; round <= rounds; round++)); do
        table=answers_$round
        make_table $table
        say "round $round"
        start_load quiet 10
        wait
        start_load busy 20
        sleep 3
        note took "$(PGOPTIONS='-c client_min_messages=error' time_call $table)"
        wait
        for kind in write read; do
            note "quiet.$kind" "$(longest quiet $kind)"
            note "busy.$kind" "$(longest busy $kind)"
        done
        [ "$(ask -c "SELECT state FROM concertmaster.conversions WHERE table_name = '$table'::regclass")" = converted ] || die "$table is not converted"
        [ "$(ask -c "SELECT count(*) - count(DISTINCT id) FROM $table")" = 0 ] || die 'an id is there twice'
        note written "$(ask -c "SELECT count(*) FROM $table WHERE client > 0")"
        [ "$(tail -n 1 "$work/figure.written")" = "$(cat "$work"/quiet.write.[0-9]* "$work"/busy.write.[0-9]* | wc -l)" ] || die 'rows were lost'
    done
    heading "longest wait, ms ($rounds conversions, which took $(short "$(median took)") s)"
    row '' 'quiet, median' 'worst' 'converting' 'worst'
    for kind in write read; do
        row "$([ $kind = write ] && echo writers || echo readers)" "$(short "$(median quiet.$kind)")" "$(short "$(greatest quiet.$kind)")" \
            "$(short "$(median busy.$kind)")" "$(short "$(greatest busy.$kind)")"
    done
}

# Seconds that the conversion of a table takes.
time_call() { # table
    local start
    start=$(date +%s.%N)
    ask -c "CALL concertmaster.convert_to_partitioned('$1', 'submitted_at', '1 month', accept => '{unique_index_without_column}')" >/dev/null
    awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { print b - a }'
}

read_arguments 'rounds rows writers' "$@"
find_server
find_build
server=$BUILD/bench_conversion
work=$(mktemp -d)
trap clean_up EXIT
start_bench_server
bench_conversion
