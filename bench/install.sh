#!/usr/bin/env bash
# What install() costs a busy database that holds the strategy's schema: how
# long install() and each of its jobs take on a million rows, and the longest
# that a writer (100 transactions a second) and a reader meanwhile waited.
#
#   bench/install.sh [responses] [seconds]
#       1000000 form responses and a tenth as many runs; 60 seconds of load, in
#       which the jobs must get done
#
# Makes a throwaway server in build/<version>/bench-install and removes it.
# Exit status 1 if the writer waited more than 100 ms, or failed once.
set -euo pipefail
# shellcheck source=dev/lib.sh
. "$(dirname "$0")/../dev/lib.sh"

responses=${1:-1000000}
seconds=${2:-60}
limit_ms=100
find_server
find_build
server=$BUILD/bench-install
work=$(mktemp -d)
pids=()

clean_up() {
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    "$TREE/dev/server.sh" stop --remove "$server"
    rm -rf "$work"
}
trap clean_up EXIT

ask() { psql -XAtq -v ON_ERROR_STOP=1 "$@"; }

# Latency counts from the time at which a transaction was due, so that what
# queues up behind a stall is seen too.
start_load() { # seconds
    (cd "$work" && pgbench -n -c 4 -R 100 -T "$1" -l --log-prefix=writer -f writer.sql >writer.out 2>&1) &
    pids+=($!)
    (cd "$work" && pgbench -n -c 2 -R 50 -T "$1" -l --log-prefix=reader -f reader.sql >reader.out 2>&1) &
    pids+=($!)
}

finish_load() {
    wait "${pids[@]}"
    pids=()
}

# The longest latency of a log in milliseconds, and where 99.9 % are below.
longest() { cat "$work/$1".* | awk '{ print $3 / 1000 }' | sort -g | awk '{ v[NR] = $1 } END { printf "%.1f ms (99.9 %%: %.1f ms, %d transactions)", v[NR], v[int(NR * 0.999)], NR }'; }
longest_ms() { cat "$work/$1".* | awk '$3 > m { m = $3 } END { printf "%d", m / 1000 }'; }

cat >"$work/writer.sql" <<'END'
\set form random(1, 20)
\set workflow random(1, 100)
BEGIN;
INSERT INTO workflow_runs (id, workflow_id, status, started_at)
VALUES (gen_random_uuid(), md5('workflow ' || :workflow)::uuid, 'running', now());
INSERT INTO form_responses (id, form_schema_id, data, submitted_at)
VALUES (gen_random_uuid(), md5('form ' || :form)::uuid, '{"status": "complete", "completion_time": 12}', now());
UPDATE workflows SET name = name WHERE id = md5('workflow ' || :workflow)::uuid;
COMMIT;
END
cat >"$work/reader.sql" <<'END'
\set n random(1, 10000)
SELECT r.id, w.name FROM workflow_runs r JOIN workflows w ON w.id = r.workflow_id WHERE r.id = md5('run ' || :n)::uuid;
SELECT f.id, s.name FROM form_responses f JOIN form_schemas s ON s.id = f.form_schema_id WHERE f.id = md5('response ' || :n)::uuid;
END

say "building, starting a server, making $responses form responses"
build_and_stage
"$TREE/dev/server.sh" start --fresh --set shared_buffers=256MB --set max_wal_size=4GB "$server"
eval "$("$TREE/dev/server.sh" env "$server")"
ask -d postgres -c 'CREATE DATABASE bench'
export PGDATABASE=bench
PGOPTIONS="-c fixture.responses=$responses" ask -f "$TREE/test/fixtures/strategy_schema.sql"
ask -c 'VACUUM ANALYZE' -c 'CHECKPOINT' -c 'CREATE EXTENSION concertmaster'

say 'ten seconds of load alone, for comparison'
start_load 10
finish_load
echo "   longest writer: $(longest writer)"
echo "   longest reader: $(longest reader)"
rm -f "$work"/writer.[0-9]* "$work"/reader.[0-9]*

say 'install() and its jobs under load'
start_load "$seconds"
sleep 3
before=$(date +%s%N)
ask -c 'SELECT concertmaster.install()' >"$work/install.out"
echo "   install(): $((($(date +%s%N) - before) / 1000000)) ms"

# Jobs run by themselves; done when nothing is left and all is built and filled.
done_sql="SELECT NOT EXISTS (SELECT FROM concertmaster.plan_install() WHERE action IN ('create', 'pending'))
  AND NOT EXISTS (SELECT FROM concertmaster.indexes WHERE state <> 'valid')
  AND (SELECT relispopulated FROM pg_class WHERE relname = 'form_completion_stats')
  AND NOT EXISTS (SELECT FROM concertmaster.job_run WHERE status = 'running')"
until [ "$(ask -c "$done_sql")" = t ]; do
    sleep 0.5
    kill -0 "${pids[0]}" 2>/dev/null || die "the jobs did not finish in $seconds s"
done
echo "   all jobs done after $((($(date +%s%N) - before) / 1000000)) ms"
finish_load
ask -F '   ' -c "SELECT '  ', j.name, r.status, round(1000 * extract(epoch FROM r.end_time - r.start_time)) || ' ms', r.message
                    FROM concertmaster.job_run r JOIN concertmaster.job j USING (job_id) ORDER BY run_id"
echo "   longest writer: $(longest writer)"
echo "   longest reader: $(longest reader)"
if grep -i 'error' "$work/writer.out" "$work/reader.out"; then die 'a transaction failed'; fi
[ "$(longest_ms writer)" -le "$limit_ms" ] || die "the writer waited more than $limit_ms ms"
