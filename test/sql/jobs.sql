-- The doors of the job room, with their errors, and who sees what.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
CREATE SCHEMA job_test;
CREATE ROLE regress_job_owner;
CREATE ROLE regress_job_other;
CREATE ROLE regress_job_monitor IN ROLE pg_monitor;
GRANT USAGE, CREATE ON SCHEMA job_test TO regress_job_owner, regress_job_monitor;
RESET client_min_messages;

-- Jobs that run on request only, made as the rooms make them.
CREATE FUNCTION job_test.make_job(view name, query text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('SET ROLE regress_job_owner; CREATE MATERIALIZED VIEW job_test.%I AS %s WITH NO DATA; RESET ROLE', view, query);
    INSERT INTO concertmaster.matview (schema_name, view_name, every, allow_blocking) VALUES ('job_test', view, '1 day', true);
    INSERT INTO concertmaster.job (name, kind, schema_name, relation_name, owner)
    VALUES (format('refresh job_test.%I', view), 'refresh', 'job_test', view, 'regress_job_owner');
END $$;
SELECT job_test.make_job('good', 'SELECT 1 AS a'), job_test.make_job('bad', 'SELECT 1 / (random() * 0)::integer AS a'),
       job_test.make_job('Quoted "name"', 'SELECT 1 AS a'), job_test.make_job(repeat('n', 63)::name, 'SELECT 1 AS a');

CREATE VIEW job_test.seen AS
SELECT name, kind, owner, status <> 'running' AS idle, paused, pid, every, next_run, last_status, runs, failures, failures_in_row, last_sqlstate, last_error
  FROM concertmaster.jobs WHERE name LIKE '%job_test%' ORDER BY name COLLATE "C";
SELECT * FROM job_test.seen;

-- run_job
SET client_min_messages = warning;
CALL concertmaster.run_job('refresh job_test.good');
SELECT a FROM job_test.good;
CALL concertmaster.run_job('refresh job_test.bad');
\echo :LAST_ERROR_SQLSTATE
CALL concertmaster.run_job('refresh job_test."Quoted ""name"""');
CALL concertmaster.run_job('refresh job_test.' || repeat('n', 63));
RESET client_min_messages;
SELECT * FROM job_test.seen;
SELECT name, kind, status, end_time >= start_time AS ended, round(duration_ms::numeric) IS NOT NULL AS timed, sqlstate, regexp_replace(message, '^refreshed .*', 'refreshed') AS message, detail, hint
  FROM concertmaster.job_runs WHERE name IN ('refresh job_test.bad', 'refresh job_test.good') ORDER BY run_id;

-- run_job, refused
CALL concertmaster.run_job('no such job');
\echo :LAST_ERROR_SQLSTATE
CALL concertmaster.run_job(NULL);
\echo :LAST_ERROR_SQLSTATE
BEGIN;
CALL concertmaster.run_job('refresh job_test.good');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
DO $$ BEGIN CALL concertmaster.run_job('no such job'); END $$;
CREATE FUNCTION job_test.in_function() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CALL concertmaster.run_job('refresh job_test.good'); END $$;
SELECT job_test.in_function();
SET ROLE regress_job_other;
CALL concertmaster.run_job('refresh job_test.good');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;

-- run_job by the owner, and what it runs as
SELECT job_test.make_job('whoami', 'SELECT current_user::text AS who, current_schemas(true)::text AS path');
SET ROLE regress_job_owner;
SET search_path = job_test, public;
SET client_min_messages = warning;
CALL concertmaster.run_job('refresh job_test.whoami');
RESET client_min_messages;
RESET search_path;
SELECT who FROM job_test.whoami;
RESET ROLE;

-- pause_job, resume_job, request_job
SELECT concertmaster.pause_job('refresh job_test.good');
SELECT status IN ('paused', 'unarmed') AS not_started, paused FROM concertmaster.jobs WHERE name = 'refresh job_test.good';
SET client_min_messages = error;
SELECT concertmaster.request_job('refresh job_test.good');
SELECT next_run <= clock_timestamp() AS due FROM concertmaster.jobs WHERE name = 'refresh job_test.good';
CALL concertmaster.run_job('refresh job_test.good');
SELECT next_run IS NULL AS served, runs FROM concertmaster.jobs WHERE name = 'refresh job_test.good';
SELECT concertmaster.resume_job('refresh job_test.good');
SELECT paused FROM concertmaster.jobs WHERE name = 'refresh job_test.good';
RESET client_min_messages;
SELECT concertmaster.pause_job(NULL) IS NULL AS strict;
SELECT concertmaster.pause_job('no such job');
\echo :LAST_ERROR_SQLSTATE
SELECT concertmaster.resume_job('no such job');
SELECT concertmaster.request_job('no such job');
SET ROLE regress_job_other;
SELECT concertmaster.pause_job('refresh job_test.good');
\echo :LAST_ERROR_SQLSTATE
SELECT concertmaster.resume_job('refresh job_test.good');
SELECT concertmaster.request_job('refresh job_test.good');
SELECT concertmaster.start_launcher();
\echo :LAST_ERROR_SQLSTATE
SELECT concertmaster.use_pg_cron(true);
\echo :LAST_ERROR_SQLSTATE
SET client_min_messages = error;
SELECT concertmaster.run_due_jobs();
RESET client_min_messages;
RESET ROLE;

-- Who sees what
SELECT count(*) FROM job_test.seen;
SET ROLE regress_job_owner;
SELECT count(*) AS owner_sees FROM concertmaster.jobs WHERE name LIKE '%job_test%';
SELECT count(*) > 0 AS owner_sees_runs FROM concertmaster.job_runs WHERE name LIKE '%job_test%';
SELECT count(*) AS owner_sees_others FROM concertmaster.jobs WHERE NOT pg_has_role(owner, 'USAGE');
SET ROLE regress_job_other;
SELECT count(*) AS other_sees FROM concertmaster.jobs;
SELECT count(*) AS other_sees_runs FROM concertmaster.job_runs;
SELECT count(*) AS other_sees_progress FROM concertmaster.progress_jobs;
SELECT count(*) FROM concertmaster.job;
SELECT concertmaster._next_run('1 day', NULL, 'UTC', NULL, now());
SET ROLE regress_job_monitor;
SELECT count(*) AS monitor_sees FROM concertmaster.jobs WHERE name LIKE '%job_test%';
RESET ROLE;

-- A relation that is renamed and changes hands
ALTER MATERIALIZED VIEW job_test.good RENAME TO better;
ALTER MATERIALIZED VIEW job_test.better OWNER TO regress_job_monitor;
SET client_min_messages = warning;
CALL concertmaster.run_job('refresh job_test.good');
SELECT name, owner, last_status FROM concertmaster.jobs WHERE name ~ 'job_test.(good|better)';
RESET client_min_messages;

-- Times: whole periods after start_at, or after the last time on the grid
SET timezone = 'UTC';
CREATE FUNCTION job_test.next(every interval, start_at text, zone text, anchor text, now text) RETURNS timestamptz LANGUAGE sql AS
'SELECT concertmaster._next_run(every, start_at::timestamptz, zone, anchor::timestamptz, now::timestamptz)';
SELECT job_test.next('1 s', NULL, 'UTC', '2025-01-01 00:00:00.5', '2025-01-01 00:00:10.7') AS seconds,
       job_test.next('15 min', '2025-01-01 00:00', 'UTC', '2025-05-05 05:05', '2025-06-01 10:15') AS aligned,
       job_test.next('15 min', '2025-06-01 11:00', 'UTC', NULL, '2025-06-01 10:15') AS first,
       job_test.next('1 h', NULL, 'UTC', NULL, '2025-06-01 10:15') AS no_anchor,
       job_test.next('1 s', '1990-01-01', 'UTC', NULL, '2025-06-01 10:15:00.000001') AS long_ago;
SELECT job_test.next('1 day', '2025-03-01 02:30+01', 'Europe/Berlin', NULL, '2025-03-28 12:00') AS before_change,
       job_test.next('1 day', '2025-03-01 02:30+01', 'Europe/Berlin', NULL, '2025-03-29 12:00') AS in_gap,
       job_test.next('1 day', '2025-03-01 02:30+01', 'Europe/Berlin', NULL, '2025-03-30 12:00') AS after_change,
       job_test.next('24 h', '2025-03-01 02:30+01', 'Europe/Berlin', NULL, '2025-03-30 12:00') AS hours;
SELECT job_test.next('1 month', '2025-01-31 00:00', 'UTC', NULL, '2025-02-01') AS february,
       job_test.next('1 month', '2025-01-31 00:00', 'UTC', NULL, '2025-02-28') AS march,
       job_test.next('1 month', '1970-01-01 00:00', 'Asia/Tokyo', NULL, '2025-02-28') AS tokyo,
       job_test.next('1 month 1 day 1 h', '2025-01-01 00:00', 'UTC', NULL, '2025-03-02') AS mixed,
       job_test.next('1 year', '1600-02-29 00:00', 'UTC', NULL, '2025-02-28') AS leap;
RESET timezone;

DELETE FROM concertmaster.matview WHERE schema_name = 'job_test';
DELETE FROM concertmaster.job WHERE schema_name = 'job_test';
SET client_min_messages = warning;
DROP SCHEMA job_test CASCADE;
DROP ROLE regress_job_owner, regress_job_other, regress_job_monitor;
