--
-- install() over the strategy's schema as it was written: nothing that is
-- there changes before the job, and no row ever.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set fixture :abs_srcdir '/fixtures/strategy_schema.sql'
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
CREATE SCHEMA install_adopt;
SET search_path = install_adopt;
\set ECHO none
\i :fixture
\set ECHO all
RESET search_path;
-- The job shall run when it is called, not before.
SELECT count(*) AS jobs_before FROM concertmaster.job WHERE kind = 'adopt';

CREATE FUNCTION pg_temp.rows_as_stored() RETURNS text LANGUAGE sql AS $$
SELECT md5(string_agg(r, '' ORDER BY r)) FROM (
    SELECT 'w' || ctid || xmin || id FROM install_adopt.workflows
    UNION ALL SELECT 'r' || ctid || xmin || id FROM install_adopt.workflow_runs
    UNION ALL SELECT 's' || ctid || xmin || id FROM install_adopt.form_schemas
    UNION ALL SELECT 'f' || ctid || xmin || id FROM install_adopt.form_responses) x (r) $$;
SELECT pg_temp.rows_as_stored() AS rows_before \gset

SELECT object, action, lock FROM concertmaster.plan_install('install_adopt');
SELECT object, detail FROM concertmaster.plan_install('install_adopt') WHERE action IN ('exists', 'remains');

-- In one transaction, to see the locks: none that anybody waits for.
BEGIN;
SELECT object, action, detail FROM concertmaster.install('install_adopt') WHERE object ~ '^(job|materialized|table)';
SELECT c.relname, array_agg(DISTINCT l.mode ORDER BY l.mode) AS modes
  FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
 WHERE l.pid = pg_backend_pid() AND c.relnamespace = 'install_adopt'::regnamespace
   AND c.relname ~ '^(workflow|form_(schemas|responses))' AND c.relkind IN ('r', 'p')
 GROUP BY c.relname ORDER BY c.relname;
SELECT relispopulated FROM pg_class WHERE oid = 'install_adopt.form_completion_stats'::regclass;
SELECT concertmaster.pause_job('adopt install_adopt');
COMMIT;
SELECT count(*) FILTER (WHERE object !~ '^index') AS pending FROM concertmaster.plan_install('install_adopt') WHERE action = 'pending';

-- The job does it, and leaves nothing to do.
CALL concertmaster.run_job('adopt install_adopt');
SELECT object, action FROM concertmaster.plan_install('install_adopt') WHERE action NOT IN ('exists', 'remains');
SELECT pg_temp.rows_as_stored() = :'rows_before' AS rows_untouched;
SELECT count(*) AS runs, count(created_at) AS times_made_up FROM install_adopt.workflow_runs;

-- What it did works, with the types that were there.
INSERT INTO install_adopt.workflow_runs (status) VALUES ('resting') RETURNING created_at = now() AS created, updated_at = now() AS updated;
INSERT INTO install_adopt.form_responses DEFAULT VALUES RETURNING submitted_at = now()::timestamp AS submitted;
BEGIN;
UPDATE install_adopt.workflows SET name = name WHERE name = 'workflow 1';
SELECT updated_at = now()::timestamp AS follows, created_at < now() AS stays FROM install_adopt.workflows WHERE name = 'workflow 1';
COMMIT;
SELECT pg_get_viewdef('install_adopt.form_completion_stats') ~ 'submitted_at\)::date' AS days_as_they_stand;
REFRESH MATERIALIZED VIEW install_adopt.form_completion_stats;
REFRESH MATERIALIZED VIEW CONCURRENTLY install_adopt.form_completion_stats;
SELECT count(*) > 0 AS filled, sum(malformed_completion_times) > 0 AS malformed FROM install_adopt.form_completion_stats;

-- A foreign key is added back, but not over rows that break it.
ALTER TABLE install_adopt.workflow_runs DROP CONSTRAINT workflow_runs_workflow_id_fkey;
ALTER TABLE install_adopt.form_responses DROP CONSTRAINT form_responses_form_schema_id_fkey;
INSERT INTO install_adopt.workflow_runs (workflow_id) VALUES ('00000000-0000-0000-0000-000000000000');
CALL concertmaster.run_job('adopt install_adopt');
SELECT conrelid::regclass, conname, convalidated FROM pg_constraint
 WHERE connamespace = 'install_adopt'::regnamespace AND contype = 'f' ORDER BY 2;
SELECT last_status FROM concertmaster.job_state JOIN concertmaster.job USING (job_id) WHERE name = 'adopt install_adopt';
SELECT r.message FROM concertmaster.job_run r JOIN concertmaster.job USING (job_id)
 WHERE name = 'adopt install_adopt' ORDER BY run_id DESC LIMIT 1;

-- A view that is there keeps its definition and gets the index it lacks.
DROP MATERIALIZED VIEW install_adopt.form_completion_stats;
CREATE MATERIALIZED VIEW install_adopt.form_completion_stats AS
SELECT fr.form_schema_id, fs.name AS form_name, date_trunc('day', fr.submitted_at) AS day, count(*) AS submissions
  FROM install_adopt.form_responses fr JOIN install_adopt.form_schemas fs ON fr.form_schema_id = fs.id
 GROUP BY 1, 2, 3;
SELECT object, action, lock, detail FROM concertmaster.plan_install('install_adopt') WHERE object ~ 'form_completion_stats';
SELECT count(*) > 0 AS installed FROM concertmaster.install('install_adopt');
CALL concertmaster.run_job('adopt install_adopt');
REFRESH MATERIALIZED VIEW CONCURRENTLY install_adopt.form_completion_stats;
SELECT object, action FROM concertmaster.plan_install('install_adopt') WHERE object ~ 'form_completion_stats';

-- Once uninstalled, the job has nothing to do.
SELECT count(*) > 0 AS something FROM concertmaster.uninstall();
SELECT count(*) AS jobs_after FROM concertmaster.job;
DROP SCHEMA install_adopt CASCADE;
