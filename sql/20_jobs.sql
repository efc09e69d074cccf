/*
 * Jobs: the doors to run, request, pause and see them.
 */

CREATE PROCEDURE concertmaster.run_job(name text)
LANGUAGE c AS 'MODULE_PATHNAME', 'cm_run_job';
COMMENT ON PROCEDURE concertmaster.run_job(text) IS 'runs the named job now in a background worker, also if it is paused, shows its progress and waits for its end; outside a transaction block; for members of the job''s owner; raises the error of the run with its SQLSTATE, 42704 for an unknown job, 42501 for somebody else''s, 53000 if no worker can be started, 25001 inside a transaction block';
