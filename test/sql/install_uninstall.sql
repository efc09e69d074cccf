--
-- uninstall(), and DROP EXTENSION before, after and without it.  In a database
-- of its own, because both are about a whole database.
--
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_install;
CREATE DATABASE regress_install;
SELECT current_database() AS main \gset
\c regress_install
SET client_min_messages = warning;
CREATE ROLE regress_install_user;
CREATE EXTENSION concertmaster;
SELECT count(*) > 0 AS installed FROM concertmaster.install();
CALL concertmaster.build_indexes();
INSERT INTO workflows (name) VALUES ('w') RETURNING id AS workflow \gset
INSERT INTO workflow_runs (workflow_id) VALUES (:'workflow') RETURNING id AS run \gset
INSERT INTO node_executions (workflow_run_id, node_id) VALUES (:'run', 'n');
INSERT INTO form_schemas (name) VALUES ('f') RETURNING id AS form \gset
INSERT INTO form_responses (form_schema_id, data) VALUES (:'form', '{"status": "complete"}');
INSERT INTO audit_events (entity_type, action) VALUES ('workflow', 'made');
REFRESH MATERIALIZED VIEW form_completion_stats;
CALL concertmaster.run_job('refresh public.form_completion_stats');

-- Tables of the users' own that use what we give.
CREATE TABLE own (
    id uuid PRIMARY KEY DEFAULT concertmaster.uuid_v7(),
    label text DEFAULT 'no ' || concertmaster.uuid_v7()::text,
    made timestamptz GENERATED ALWAYS AS (concertmaster.uuid_v7_time(id)) STORED,
    changed timestamptz);
CREATE TRIGGER follow BEFORE UPDATE ON own FOR EACH ROW EXECUTE FUNCTION concertmaster.set_updated_at('changed');
CREATE VIEW new_key AS SELECT concertmaster.uuid_v7() AS id;
CREATE VIEW my_jobs AS SELECT name FROM concertmaster.job;
CREATE TABLE concertmaster.misplaced (a integer);
CREATE SCHEMA theirs AUTHORIZATION regress_install_user;
CREATE TABLE theirs.t (id uuid DEFAULT concertmaster.uuid_v7());
ALTER TABLE theirs.t OWNER TO regress_install_user;
INSERT INTO own DEFAULT VALUES;

CREATE FUNCTION pg_temp.counts() RETURNS text LANGUAGE sql AS $$
SELECT concat_ws(' ', (SELECT count(*) FROM workflows), (SELECT count(*) FROM workflow_runs),
    (SELECT count(*) FROM node_executions), (SELECT count(*) FROM form_schemas),
    (SELECT count(*) FROM form_responses), (SELECT count(*) FROM audit_events),
    (SELECT count(*) FROM own), (SELECT count(*) FROM form_completion_stats),
    (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'i', 'I', 'm'))) $$;
SELECT pg_temp.counts() AS before \gset

-- Without uninstall(): refused, and why.
DO $$
DECLARE why text;
BEGIN
    DROP EXTENSION concertmaster;
EXCEPTION WHEN dependent_objects_still_exist THEN
    GET STACKED DIAGNOSTICS why = PG_EXCEPTION_DETAIL;
    RAISE WARNING E'%\n%', SQLERRM, (SELECT string_agg(line, E'\n' ORDER BY line COLLATE "C") FROM regexp_split_to_table(regexp_replace(why, 'concertmaster_log_\d+', 'concertmaster_log_N', 'g'), '\n') AS line
        WHERE line !~ '_\d\d\d\d_\d\d');
END $$;

-- With CASCADE: no table and no row is lost.
BEGIN;
DROP VIEW new_key, my_jobs;
DROP TABLE concertmaster.misplaced;
ALTER TABLE own DROP COLUMN made;
DROP EXTENSION concertmaster CASCADE;
SELECT pg_temp.counts() = :'before' AS nothing_lost;
INSERT INTO workflows (id, name) VALUES (gen_random_uuid(), 'after');
UPDATE workflow_runs SET status = 'running';
REFRESH MATERIALIZED VIEW CONCURRENTLY form_completion_stats;
ROLLBACK;

-- Another role can hand back only what is its own.
SET ROLE regress_install_user;
SELECT * FROM concertmaster.uninstall() WHERE object ~ 'theirs' OR action <> 'remains';
RESET ROLE;

-- In a transaction it can be thought over.
BEGIN;
SELECT count(*) > 10 AS many FROM concertmaster.uninstall();
ROLLBACK;
SELECT count(*) > 0 AS jobs_still_there FROM concertmaster.job;

SELECT regexp_replace(object, '_log_\d+ ', '_log_N ') AS object, action, detail FROM concertmaster.uninstall();
DROP VIEW new_key, my_jobs;
DROP TABLE concertmaster.misplaced;
ALTER TABLE own DROP COLUMN made;
SELECT regexp_replace(object, '_log_\d+ ', '_log_N ') AS object, action, detail FROM concertmaster.uninstall();
SELECT pg_temp.counts() = :'before' AS nothing_lost;
SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal;
SELECT DISTINCT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE pg_get_expr(adbin, adrelid) ~ 'uuid' ORDER BY 1;
DROP EXTENSION concertmaster;

-- Life goes on.
SELECT pg_temp.counts() = :'before' AS nothing_lost;
INSERT INTO workflows (name) VALUES ('after');
INSERT INTO node_executions (workflow_run_id, node_id) VALUES (:'run', 'm');
UPDATE node_executions SET status = 'completed';
INSERT INTO own DEFAULT VALUES;
REFRESH MATERIALIZED VIEW CONCURRENTLY form_completion_stats;

-- And it can come back, to the tables that it left.
CREATE EXTENSION concertmaster;
SELECT object, action FROM concertmaster.plan_install() WHERE action = 'pending' AND object !~ '^index';
SELECT object, action, detail FROM concertmaster.plan_install() WHERE object ~ '^(partition|mat)';

\c :main
SET client_min_messages = warning;
DROP DATABASE regress_install WITH (FORCE);
DROP ROLE regress_install_user;
