--
-- install() in a schema of one's own: what it refuses, what it makes, that it
-- can be called again.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
RESET client_min_messages;
CREATE ROLE regress_install_owner;
CREATE ROLE regress_install_other;
CREATE SCHEMA "My ""Schema";
GRANT CREATE, USAGE ON SCHEMA "My ""Schema" TO regress_install_owner, regress_install_other;
CREATE SCHEMA install_closed;
CREATE SCHEMA install_taken;

--
-- Refusals, of the plan and of the act
--
SELECT * FROM concertmaster.plan_install('install_nowhere');
\echo :SQLSTATE
SELECT * FROM concertmaster.install('install_nowhere');
\echo :SQLSTATE
SELECT * FROM concertmaster.install(NULL);
\echo :SQLSTATE
SELECT * FROM concertmaster.install('pg_catalog');
\echo :SQLSTATE
SELECT * FROM concertmaster.install('information_schema');
SELECT * FROM concertmaster.install('concertmaster');
SET ROLE regress_install_owner;
SELECT * FROM concertmaster.install('install_closed');
\echo :SQLSTATE
RESET ROLE;

-- A name taken by something else: the plan says so, the act refuses whole.
CREATE VIEW install_taken.workflow_runs AS SELECT 1 AS id;
CREATE SEQUENCE install_taken.form_completion_stats;
SELECT object, action, detail FROM concertmaster.plan_install('install_taken') WHERE action = 'conflict';
SELECT * FROM concertmaster.install('install_taken');
\echo :SQLSTATE
DROP VIEW install_taken.workflow_runs;
SELECT * FROM concertmaster.install('install_taken');
SELECT relname, relkind FROM pg_class WHERE relnamespace = 'install_taken'::regnamespace;

-- An index's name that is planned for another table is left to its owner.
CREATE TABLE install_taken.mine (a integer);
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition)
VALUES (9, 'install_taken', 'mine', 'idx_workflow_type', '(a)');
SELECT action, detail FROM concertmaster.plan_install('install_taken') WHERE object ~ 'idx_workflow_type';
SELECT concertmaster.unplan_index('install_taken', 'idx_workflow_type');
SELECT action, detail FROM concertmaster.plan_install('install_taken') WHERE object ~ 'idx_workflow_type';
DROP TABLE install_taken.mine;

--
-- The plan does nothing
--
SET ROLE regress_install_owner;
-- (and neither plan nor view depends on how the session reads its strings)
SET standard_conforming_strings = off;
SELECT step, object, action, lock FROM concertmaster.plan_install('My "Schema');
SELECT statement FROM concertmaster.plan_install('My "Schema') WHERE object LIKE 'table %workflow_runs';
SELECT count(*) FROM pg_class WHERE relnamespace = '"My ""Schema"'::regnamespace;

--
-- The act: what was planned, owned by the caller
--
SELECT * FROM concertmaster.install('My "Schema');
RESET ROLE;
SELECT relkind, count(*) > 0 AS there, bool_and(pg_get_userbyid(relowner) = 'regress_install_owner') AS owned
  FROM pg_class WHERE relnamespace = '"My ""Schema"'::regnamespace GROUP BY relkind ORDER BY relkind;
SELECT schema_name FROM concertmaster.installation;

-- Nothing is a member of the extension.
SELECT count(*) FROM pg_depend d JOIN pg_class c ON c.oid = d.objid
 WHERE d.deptype = 'e' AND d.classid = 'pg_class'::regclass AND c.relnamespace = '"My ""Schema"'::regnamespace;

-- Again: all is there.
SET ROLE regress_install_owner;
SELECT * FROM concertmaster.install('My "Schema');
SELECT count(*) FILTER (WHERE action <> 'exists') AS to_do FROM concertmaster.plan_install('My "Schema');

-- For another role it is somebody else's.
SET ROLE regress_install_other;
SELECT * FROM concertmaster.install('My "Schema');
SET ROLE regress_install_owner;

--
-- How the tables behave
--
SET search_path = 'My "Schema';
INSERT INTO workflows (name, definition) VALUES ('w', '{"type": "manual"}') RETURNING id AS workflow \gset
INSERT INTO workflow_runs (workflow_id) VALUES (:'workflow') RETURNING id AS run \gset
SELECT status, started_at IS NULL AS not_started, created_at = updated_at AS fresh,
       concertmaster.uuid_v7_time(id) BETWEEN created_at - interval '1 minute' AND created_at + interval '1 minute' AS key_tells_time
  FROM workflow_runs;
INSERT INTO workflow_runs (workflow_id) VALUES ('00000000-0000-0000-0000-000000000000');
\set VERBOSITY terse
INSERT INTO workflow_runs (workflow_id, status) VALUES (:'workflow', 'resting');
\set VERBOSITY default
BEGIN;
UPDATE workflows SET name = 'v';
UPDATE workflow_runs SET status = 'running', started_at = now();
SELECT w.updated_at = now() AS workflow, r.updated_at = now() AS run, r.created_at < now() AS older
  FROM workflows w, workflow_runs r;
COMMIT;

-- A pending node has no started_at; no UPDATE moves it to another partition.
INSERT INTO node_executions (workflow_run_id, node_id) VALUES (:'run', 'first');
SELECT status, started_at, created_at IS NOT NULL AS has_created_at FROM node_executions;
UPDATE node_executions SET status = 'failed', error = repeat('long ', 20000), created_at = created_at;
\set VERBOSITY terse
SELECT set_config('install.leaf', tableoid::regclass::text, false) IS NOT NULL AS leaf FROM node_executions;
DO $$
BEGIN
    UPDATE node_executions SET created_at = created_at + interval '1 month';
EXCEPTION WHEN integrity_constraint_violation THEN
    RAISE NOTICE '%', replace(SQLERRM, replace(split_part(current_setting('install.leaf'), '.', -1), '"', ''), 'LEAF');
END $$;
INSERT INTO node_executions (workflow_run_id, node_id, created_at) VALUES (:'run', 'first', NULL);
\set VERBOSITY default

INSERT INTO audit_events (entity_type, entity_id, action) VALUES ('workflow', :'workflow', 'renamed');
SELECT entity_type, action, actor FROM audit_events;

--
-- The view: whole days of UTC, malformed times counted apart
--
INSERT INTO form_schemas (name) VALUES ('f') RETURNING id AS form \gset
BEGIN;
-- Days before the present month have no partition here: make the data fit.
CREATE TEMP TABLE answer (days integer, at time, data jsonb);
INSERT INTO answer VALUES
    (0, '00:00', '{"status": "complete", "completion_time": 10}'),
    (0, '00:00', '{"status": "complete", "completion_time": "20"}'),
    (0, '00:00', '{"status": "draft", "completion_time": " +30 "}'),
    (0, '00:00', '{"status": "complete"}'),
    (0, '00:00', '{"status": "complete", "completion_time": null}'),
    (0, '00:00', '{"status": "complete", "completion_time": "soon"}'),
    (0, '00:00', '{"status": "complete", "completion_time": 1.5}'),
    (0, '00:00', '{"status": "complete", "completion_time": ""}'),
    (0, '00:00', '{"status": "complete", "completion_time": {"a": 1}}'),
    (0, '00:00', '{"status": "complete", "completion_time": 2147483648}'),
    (0, '00:00', '{"status": "complete", "completion_time": 99999999999999999999999999}'),
    (0, '00:00', '{"status": "Complete", "completion_time": "-2147483649"}'),
    (0, '00:00', '["status"]'),
    (0, '00:00', NULL),
    (1, '00:00', '{"status": "complete", "completion_time": 2147483647}'),
    (1, '23:59:59.999', '{"status": "complete", "completion_time": "-2147483648"}');
INSERT INTO form_responses (form_schema_id, data, submitted_at)
SELECT :'form', data, ((now() AT TIME ZONE 'UTC')::date + days + at) AT TIME ZONE 'UTC' FROM answer;
SET LOCAL timezone = 'Pacific/Kiritimati';
REFRESH MATERIALIZED VIEW form_completion_stats;
CREATE TEMP TABLE first_fill AS TABLE form_completion_stats;
SELECT form_name, day - (now() AT TIME ZONE 'UTC')::date AS day, submissions, completed, avg_completion_time, malformed_completion_times
  FROM form_completion_stats ORDER BY day;
SET LOCAL timezone = 'Pacific/Pago_Pago';
REFRESH MATERIALIZED VIEW form_completion_stats;
SELECT count(*) AS differences FROM ((TABLE form_completion_stats EXCEPT TABLE first_fill) UNION ALL (TABLE first_fill EXCEPT TABLE form_completion_stats)) d;
COMMIT;
REFRESH MATERIALIZED VIEW CONCURRENTLY form_completion_stats;
DROP TABLE answer, first_fill;
RESET search_path;

-- It calls no function of ours.
RESET ROLE;
SELECT count(*) FROM pg_depend d JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
  JOIN pg_proc p ON d.refclassid = 'pg_proc'::regclass AND p.oid = d.refobjid
 WHERE r.ev_class = '"My ""Schema".form_completion_stats'::regclass AND p.pronamespace = 'concertmaster'::regnamespace;

--
-- What got lost is pending: a job puts it back
--
SET ROLE regress_install_owner;
SET search_path = 'My "Schema';
ALTER TABLE workflows DROP COLUMN created_by, ALTER COLUMN id DROP DEFAULT;
ALTER TABLE workflow_runs DROP CONSTRAINT workflow_runs_workflow_id_fkey, DROP CONSTRAINT workflow_runs_status_check;
ALTER TABLE form_responses DROP CONSTRAINT form_responses_form_schema_id_fkey;
ALTER TABLE form_schemas ALTER COLUMN version TYPE text, DROP CONSTRAINT form_schemas_pkey CASCADE;
ALTER TABLE audit_events ALTER COLUMN action DROP NOT NULL;
DROP TRIGGER concertmaster_updated_at ON workflows;
DROP TRIGGER concertmaster_created_at ON node_executions;
RESET search_path;
SELECT object, action, lock, detail FROM concertmaster.plan_install('My "Schema')
 WHERE action <> 'exists' OR detail NOT LIKE 'in index_plan%';
SELECT statement FROM concertmaster.plan_install('My "Schema') WHERE action = 'pending';
SELECT object, action FROM concertmaster.install('My "Schema') WHERE action NOT IN ('exists', 'remains');
SET client_min_messages = warning;
CALL concertmaster.run_job('adopt "My ""Schema"');
RESET client_min_messages;
SELECT object, action FROM concertmaster.plan_install('My "Schema') WHERE action NOT IN ('exists', 'remains');
-- (those that log for the materialized view are made by its job)
SELECT tgrelid::regclass, tgname FROM pg_trigger
 WHERE tgparentid = 0 AND NOT tgisinternal AND tgname !~ '^concertmaster_log_' AND tgrelid IN (SELECT oid FROM pg_class WHERE relnamespace = '"My ""Schema"'::regnamespace)
 ORDER BY 1, 2;

-- A schema named cron is not pg_cron: nothing of it is run.
RESET ROLE;
CREATE SCHEMA cron;
CREATE FUNCTION cron.boom() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'run as %', current_user; END $$;
CREATE VIEW cron.job AS SELECT 1::bigint AS jobid, cron.boom() AS jobname, true AS active, current_database() AS database, 'refresh form_completion_stats' AS command;
SELECT count(*) > 0 AS not_run FROM concertmaster.plan_install('install_closed');
DROP VIEW cron.job;
DROP FUNCTION cron.boom;
DROP SCHEMA cron;

RESET ROLE;
SET client_min_messages = warning;
-- (a worker that builds an index would wait for this transaction, and it for the worker)
ALTER SYSTEM SET concertmaster.enabled = off;
SELECT pg_reload_conf();
DO $$ BEGIN
    WHILE EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'concertmaster worker') LOOP
        COMMIT;
        PERFORM pg_sleep(0.02);
    END LOOP;
END $$;
SELECT count(*) > 0 AS something FROM concertmaster.uninstall();
DROP SCHEMA "My ""Schema", install_closed, install_taken CASCADE;
DROP ROLE regress_install_owner, regress_install_other;
ALTER SYSTEM RESET concertmaster.enabled;
SELECT pg_reload_conf();
