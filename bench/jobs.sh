#!/usr/bin/env bash
# The scheduler's figures, on a throwaway server.
#
#   bench/jobs.sh [seconds]     (default 60 for each of the three parts)
#
# 1. Jitter of a job that runs every second, in milliseconds: how late each
#    run starts after its time, and how far the gap between two starts is from
#    a second; p50, p99 and worst.
# 2. The same with 20 such jobs and 8 workers.
# 3. CPU of the launcher, in per cent of one core, with every worker slot
#    taken by a long run and a hundred jobs due.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
server=$PWD/build/bench_jobs

dev/server.sh start --fresh --set concertmaster.max_workers=8 "$server" >/dev/null
trap 'dev/server.sh stop --remove "$server" >/dev/null' EXIT
eval "$(dev/server.sh env "$server")"
export PGDATABASE=postgres
ask() { psql -XAtq -v ON_ERROR_STOP=1 "$@"; }

make_jobs() { # name, number, query, period
    ask <<SQL
DO \$\$
BEGIN
    FOR i IN 1 .. $2 LOOP
        EXECUTE format('CREATE MATERIALIZED VIEW $1%s AS $3', i);
        EXECUTE format('CREATE UNIQUE INDEX ON $1%s (a)', i);
        PERFORM concertmaster.manage_matview(('$1' || i)::regclass, interval '$4');
    END LOOP;
END \$\$;
SQL
}

jitter() {
    ask <<'SQL'
WITH run AS (
    SELECT job_id, extract(epoch FROM r.start_time - s.scheduled)::float8 AS off,
           extract(epoch FROM r.start_time - lag(r.start_time) OVER (PARTITION BY job_id ORDER BY run_id))::float8 AS gap
      FROM concertmaster.job_run r
      JOIN concertmaster.job_state s USING (job_id)
      JOIN concertmaster.job j USING (job_id)
     WHERE j.kind = 'refresh' AND r.status = 'succeeded'
       AND r.start_time > (SELECT min(start_time) + interval '3 seconds' FROM concertmaster.job_run)),
figure AS (
    SELECT 'late' AS what, 1000 * (off - floor(off)) AS ms FROM run
    UNION ALL SELECT 'gap off by', 1000 * abs(gap - 1) FROM run WHERE gap IS NOT NULL)
SELECT format('%s runs', (SELECT count(*) FROM run)) || string_agg(format('; %s p50 %s, p99 %s, worst %s', what, p50, p99, worst), '' ORDER BY what DESC)
  FROM (SELECT what, round(percentile_cont(0.5) WITHIN GROUP (ORDER BY ms)::numeric, 1) AS p50,
               round(percentile_cont(0.99) WITHIN GROUP (ORDER BY ms)::numeric, 1) AS p99,
               round(max(ms)::numeric, 1) AS worst
          FROM figure GROUP BY what) t;
SQL
}

cpu_ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }

echo "PostgreSQL $(ask -c 'SHOW server_version'), $(nproc) cores"
ask -c 'CREATE EXTENSION concertmaster'

make_jobs one 1 'SELECT 1 AS a' '1 second'
sleep "$seconds"
echo "1 job every second, $seconds s: $(jitter)"

make_jobs many 19 'SELECT 1 AS a' '1 second'
ask -c 'TRUNCATE concertmaster.job_run'
sleep "$seconds"
echo "20 jobs every second, $seconds s: $(jitter)"

ask -c "SELECT count(concertmaster.pause_job(name)) FROM concertmaster.jobs" >/dev/null
# Slow from the first refresh on: the views are made before the nap begins.
ask -c 'CREATE TABLE nap (seconds float8)'
make_jobs slow 8 'SELECT pg_sleep(seconds)::text AS a FROM nap' '1 hour'
ask -c 'INSERT INTO nap VALUES (3600)'
ask -c "SELECT count(concertmaster.request_job(name)) FROM concertmaster.jobs WHERE name LIKE '%slow%'" >/dev/null
until [ "$(ask -c 'SELECT count(*) FROM concertmaster.progress_jobs')" = 8 ]; do sleep 0.1; done
make_jobs due 80 'SELECT 1 AS a' '1 second'
ask -c "SELECT count(concertmaster.resume_job(name)) FROM concertmaster.jobs" >/dev/null
launcher=$(ask -c "SELECT pid FROM pg_stat_activity WHERE backend_type = 'concertmaster launcher'")
before=$(cpu_ticks "$launcher")
sleep "$seconds"
after=$(cpu_ticks "$launcher")
echo "launcher with 8 of 8 workers busy and $(ask -c 'SELECT count(*) FROM concertmaster.jobs WHERE next_run < now()') jobs due:" \
    "$(awk -v t=$((after - before)) -v hz="$(getconf CLK_TCK)" -v s="$seconds" 'BEGIN { printf "%.2f", 100 * t / hz / s }') % CPU"
ask -c 'SELECT count(pg_terminate_backend(pid)) FROM concertmaster.progress_jobs' >/dev/null
