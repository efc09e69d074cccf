/*
 * Jobs: the doors to run, request, pause and see them.
 *
 * All functions are for everybody: each checks that the caller is a member of
 * the role that the job acts for.  The views show a role its own jobs, and
 * members of pg_monitor all.
 */

CREATE PROCEDURE concertmaster.run_job(name text)
LANGUAGE c AS 'MODULE_PATHNAME', 'cm_run_job';
COMMENT ON PROCEDURE concertmaster.run_job(text) IS 'runs the job of this name now in a background worker, paused or not, shows its progress as notices and waits for its end, after that of a run of it that is going on; a role waits for max_workers such runs at a time; raises the run''s own error with its SQLSTATE; 42704 no such job, 42501 not a member of the job''s owner, 25001 inside a transaction block, 25006 on a standby, 53000 no background worker free';

CREATE FUNCTION concertmaster.request_job(name text) RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cm_request_job';
COMMENT ON FUNCTION concertmaster.request_job(text) IS 'makes the job of this name due now and returns at once; a run that is going on is followed by another; 42704 no such job, 42501 not a member of the job''s owner, 25006 on a standby; warns if nothing will start it';

CREATE FUNCTION concertmaster.pause_job(name text) RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cm_pause_job';
COMMENT ON FUNCTION concertmaster.pause_job(text) IS 'the job of this name is not started by itself any longer; a run that is going on is finished; 42704 no such job, 42501 not a member of the job''s owner, 25006 on a standby';

CREATE FUNCTION concertmaster.resume_job(name text) RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cm_resume_job';
COMMENT ON FUNCTION concertmaster.resume_job(text) IS 'ends the pause of the job of this name; what it missed is made up by one run; 42704 no such job, 42501 not a member of the job''s owner, 25006 on a standby';

CREATE FUNCTION concertmaster.resume_all() RETURNS bigint
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cm_resume_all';
COMMENT ON FUNCTION concertmaster.resume_all() IS 'lets the jobs of a restored or copied database run again, and ends the pause of every job that the caller may act for; returns the number of these jobs; 42501 in a restored or copied database for others than members of the extension''s owner, 25006 on a standby';

CREATE FUNCTION concertmaster.start_launcher() RETURNS boolean
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cm_start_launcher';
COMMENT ON FUNCTION concertmaster.start_launcher() IS 'starts the launcher in a server that does not preload the library, until its next restart; false if it is running already; for members of the extension''s owner (42501), 25006 on a standby, 53000 no background worker free';

CREATE FUNCTION concertmaster.run_due_jobs() RETURNS integer
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cm_run_due_jobs';
COMMENT ON FUNCTION concertmaster.run_due_jobs() IS 'starts a background worker for each due job that the caller may act for, oldest first, and returns their number without waiting; says how many were put off because no worker was free; 25006 on a standby; for pg_cron, see use_pg_cron';

CREATE FUNCTION concertmaster.use_pg_cron("on" boolean) RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cm_use_pg_cron';
COMMENT ON FUNCTION concertmaster.use_pg_cron(boolean) IS 'true: pg_cron drives the jobs of this database, by one line named concertmaster that calls run_due_jobs() every minute; false: the launcher drives them; 55000 if pg_cron is not installed in this database, 22023 if a job has a period under a minute, for members of the extension''s owner (42501), 25006 on a standby';

CREATE FUNCTION concertmaster._running_jobs(
    OUT job_id bigint, OUT pid integer, OUT start_time timestamptz,
    OUT activity text, OUT done bigint, OUT total bigint)
RETURNS SETOF record
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cm_running_jobs';
COMMENT ON FUNCTION concertmaster._running_jobs() IS 'workers that run jobs of this database now, from shared memory, as far as the caller may know; what progress_jobs shows';

CREATE FUNCTION concertmaster._next_run(
    every interval, start_at timestamptz, timezone text, anchor timestamptz, now timestamptz)
RETURNS timestamptz
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cm_next_run';
REVOKE ALL ON FUNCTION concertmaster._next_run(interval, timestamptz, text, timestamptz, timestamptz) FROM PUBLIC;  -- for tests
COMMENT ON FUNCTION concertmaster._next_run(interval, timestamptz, text, timestamptz, timestamptz) IS 'first time after now on the grid of start_at, or else anchor, plus whole periods; for tests';

CREATE FUNCTION concertmaster._sees_job(owner name) RETURNS boolean
LANGUAGE sql STABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
    SELECT pg_catalog.pg_has_role('pg_monitor', 'USAGE')
        OR EXISTS (SELECT FROM pg_catalog.pg_roles r
                    WHERE r.rolname = $1 AND pg_catalog.pg_has_role(r.oid, 'USAGE'));
END;
COMMENT ON FUNCTION concertmaster._sees_job(name) IS 'whether the current user may see what belongs to the role of this name: members of it, and of pg_monitor';

CREATE VIEW concertmaster.jobs WITH (security_barrier) AS
SELECT j.job_id, j.name, j.kind, j.owner,
       CASE WHEN r.pid IS NOT NULL THEN 'running'
            WHEN a.datid IS NULL THEN 'unarmed'
            WHEN j.paused THEN 'paused'
            WHEN s.failures_in_row > 0 THEN 'failing'
            WHEN s.last_status = 'deferred' THEN 'deferred'
            WHEN s.next_run IS NULL THEN 'on request'
            ELSE 'scheduled' END AS status,
       r.pid, j.every, j.start_at, j.timezone, j.paused,
       s.next_run, s.last_run, s.last_success, s.last_status,
       s.last_duration AS last_duration_ms,
       coalesce(s.runs, 0) AS runs, coalesce(s.failures, 0) AS failures,
       coalesce(s.failures_in_row, 0) AS failures_in_row, s.first_failure,
       s.last_sqlstate, s.last_error
  FROM concertmaster.job j
  LEFT JOIN concertmaster.job_state s USING (job_id)
  LEFT JOIN concertmaster._running_jobs() r USING (job_id)
  LEFT JOIN (SELECT a.datid FROM concertmaster.armed a JOIN pg_catalog.pg_database d ON d.oid = a.datid
              WHERE d.datname = pg_catalog.current_database()) a ON true
 WHERE concertmaster._sees_job(j.owner);
GRANT SELECT ON concertmaster.jobs TO PUBLIC;
COMMENT ON VIEW concertmaster.jobs IS 'one row per job that the current user may see';
COMMENT ON COLUMN concertmaster.jobs.job_id IS 'number of the job';
COMMENT ON COLUMN concertmaster.jobs.name IS 'unique name, to be given to run_job() and the others';
COMMENT ON COLUMN concertmaster.jobs.kind IS 'refresh, roll, build, adopt, prune or convert';
COMMENT ON COLUMN concertmaster.jobs.owner IS 'role that the job acts for';
COMMENT ON COLUMN concertmaster.jobs.status IS 'running; unarmed: the database was restored or copied, see resume_all(); paused; failing: the last run failed, the next try is at next_run; deferred: put off, the next try is at next_run; scheduled; on request';
COMMENT ON COLUMN concertmaster.jobs.pid IS 'worker that runs it now';
COMMENT ON COLUMN concertmaster.jobs.every IS 'period; NULL: only on request';
COMMENT ON COLUMN concertmaster.jobs.start_at IS 'runs fall on start_at plus whole periods; NULL: on whole periods after its first run';
COMMENT ON COLUMN concertmaster.jobs.timezone IS 'time zone in which periods of days and months are counted';
COMMENT ON COLUMN concertmaster.jobs.paused IS 'true: paused by pause_job()';
COMMENT ON COLUMN concertmaster.jobs.next_run IS 'when it is due; NULL: only on request';
COMMENT ON COLUMN concertmaster.jobs.last_run IS 'start of the last run';
COMMENT ON COLUMN concertmaster.jobs.last_success IS 'end of the last run that succeeded';
COMMENT ON COLUMN concertmaster.jobs.last_status IS 'status of the last run, as in job_runs';
COMMENT ON COLUMN concertmaster.jobs.last_duration_ms IS 'time that the last finished run took, in milliseconds';
COMMENT ON COLUMN concertmaster.jobs.runs IS 'number of runs started';
COMMENT ON COLUMN concertmaster.jobs.failures IS 'number of runs that failed or crashed';
COMMENT ON COLUMN concertmaster.jobs.failures_in_row IS 'failures since the last success';
COMMENT ON COLUMN concertmaster.jobs.first_failure IS 'when the present row of failures began';
COMMENT ON COLUMN concertmaster.jobs.last_sqlstate IS 'SQLSTATE of the last failure, NULL after a success or a crash';
COMMENT ON COLUMN concertmaster.jobs.last_error IS 'text of the last failure, NULL after a success';

CREATE VIEW concertmaster.job_runs WITH (security_barrier) AS
SELECT r.run_id, j.job_id, j.name, j.kind, r.status, r.pid, r.start_time, r.end_time,
       pg_catalog.date_part('epoch', r.end_time - r.start_time) * 1000.0 AS duration_ms,
       r.sqlstate, r.message, r.detail, r.hint
  FROM concertmaster.job_run r
  JOIN concertmaster.job j USING (job_id)
 WHERE concertmaster._sees_job(j.owner);
GRANT SELECT ON concertmaster.job_runs TO PUBLIC;
COMMENT ON VIEW concertmaster.job_runs IS 'history of the jobs that the current user may see, kept within concertmaster.history_runs and history_age';
COMMENT ON COLUMN concertmaster.job_runs.run_id IS 'number of the run';
COMMENT ON COLUMN concertmaster.job_runs.job_id IS 'number of the job';
COMMENT ON COLUMN concertmaster.job_runs.name IS 'name of the job';
COMMENT ON COLUMN concertmaster.job_runs.kind IS 'kind of the job';
COMMENT ON COLUMN concertmaster.job_runs.status IS 'running, succeeded, failed, deferred (put off, nothing is half done) or crashed (the worker died)';
COMMENT ON COLUMN concertmaster.job_runs.pid IS 'worker that ran it';
COMMENT ON COLUMN concertmaster.job_runs.start_time IS 'when it started';
COMMENT ON COLUMN concertmaster.job_runs.end_time IS 'when it ended, or, of a crashed one, when that was noticed';
COMMENT ON COLUMN concertmaster.job_runs.duration_ms IS 'from start to end, in milliseconds';
COMMENT ON COLUMN concertmaster.job_runs.sqlstate IS 'SQLSTATE of the failure';
COMMENT ON COLUMN concertmaster.job_runs.message IS 'what was done, or why it failed or was put off';
COMMENT ON COLUMN concertmaster.job_runs.detail IS 'detail of the failure';
COMMENT ON COLUMN concertmaster.job_runs.hint IS 'what to do about the failure';

CREATE VIEW concertmaster.progress_jobs WITH (security_barrier) AS
SELECT r.pid, j.job_id, j.name, j.kind, r.start_time, r.activity, r.done, r.total,
       round(100.0 * r.done / nullif(r.total, 0), 1) AS percent
  FROM concertmaster._running_jobs() r
  JOIN concertmaster.job j USING (job_id);
GRANT SELECT ON concertmaster.progress_jobs TO PUBLIC;
COMMENT ON VIEW concertmaster.progress_jobs IS 'one row per job of this database that runs now and that the current user may see';
COMMENT ON COLUMN concertmaster.progress_jobs.pid IS 'worker that runs it';
COMMENT ON COLUMN concertmaster.progress_jobs.job_id IS 'number of the job';
COMMENT ON COLUMN concertmaster.progress_jobs.name IS 'name of the job';
COMMENT ON COLUMN concertmaster.progress_jobs.kind IS 'kind of the job';
COMMENT ON COLUMN concertmaster.progress_jobs.start_time IS 'when the run started';
COMMENT ON COLUMN concertmaster.progress_jobs.activity IS 'what it is doing';
COMMENT ON COLUMN concertmaster.progress_jobs.done IS 'steps or blocks done; NULL: not counted';
COMMENT ON COLUMN concertmaster.progress_jobs.total IS 'steps or blocks in all; NULL: not counted';
COMMENT ON COLUMN concertmaster.progress_jobs.percent IS 'done of total, in per cent; NULL: not counted';
