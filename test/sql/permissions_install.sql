--
-- What install(), plan_install() and uninstall() must not let others do:
-- attacks of roles without rights on callers with many.
--
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_permissions;
CREATE DATABASE regress_permissions;
CREATE ROLE regress_mallory;
CREATE ROLE regress_alice;
CREATE ROLE regress_app;
GRANT CREATE ON DATABASE regress_permissions TO regress_mallory;
SELECT current_database() AS main \gset
\c regress_permissions
SET client_min_messages = warning;
CREATE EXTENSION concertmaster;
-- No job runs here but when it is called: the launcher leaves them to pg_cron.
INSERT INTO concertmaster.armed (datid, driver) SELECT oid, 'pg_cron' FROM pg_database WHERE datname = current_database();
CREATE FUNCTION public.mallory_is_superuser() RETURNS boolean LANGUAGE sql AS
$$ SELECT rolsuper FROM pg_roles WHERE rolname = 'regress_mallory' $$;
-- What each attack runs; it does its work where it runs as a superuser.
CREATE FUNCTION public.attack() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
        EXECUTE 'ALTER ROLE regress_mallory SUPERUSER';
    END IF;
END $$;

--
-- A schema named cron that is not pg_cron's
--
SET ROLE regress_mallory;
CREATE SCHEMA cron;
CREATE FUNCTION cron.evil() RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM public.attack(); RETURN current_user; END $$;
CREATE VIEW cron.job AS SELECT 1::bigint AS jobid, 'x'::text AS jobname, true AS active, current_database() AS database,
    current_user::text AS username, 'refresh form_completion_stats ' || cron.evil() AS command;
SELECT count(*) > 0 AS planned FROM concertmaster.plan_install('public');
RESET ROLE;
SELECT count(*) > 0 AS planned FROM concertmaster.plan_install('public');
SELECT mallory_is_superuser();
DROP SCHEMA cron CASCADE;

--
-- Tables with columns of types that cast themselves
--
SET ROLE regress_mallory;
CREATE SCHEMA plat;
CREATE TYPE plat.k AS (u uuid);
CREATE FUNCTION plat.k2u(plat.k) RETURNS uuid LANGUAGE plpgsql AS $$ BEGIN PERFORM public.attack(); RETURN ($1).u; END $$;
CREATE CAST (plat.k AS uuid) WITH FUNCTION plat.k2u(plat.k) AS IMPLICIT;
CREATE TABLE plat.form_schemas (id plat.k, name text);
CREATE TABLE plat.form_responses (form_schema_id uuid, submitted_at timestamptz DEFAULT now(), data jsonb);
CREATE TABLE plat.workflows (id plat.k PRIMARY KEY, name text);
INSERT INTO plat.form_schemas VALUES (ROW('00000000-0000-0000-0000-000000000001')::plat.k, 'f');
INSERT INTO plat.form_responses VALUES ('00000000-0000-0000-0000-000000000001', now(), '{}');
RESET ROLE;
SELECT object, action, detail FROM concertmaster.install('plat') WHERE object ~ '^(materialized|job refresh|constraint .*fkey)';
-- If there is a view, this is what its job would do.
SELECT format('REFRESH MATERIALIZED VIEW %s', oid::regclass) FROM pg_class WHERE relname = 'form_completion_stats' AND relkind = 'm' \gexec
SELECT mallory_is_superuser();
ALTER ROLE regress_mallory NOSUPERUSER;
SELECT count(*) > 0 AS something FROM concertmaster.uninstall();
DROP SCHEMA plat CASCADE;
INSERT INTO concertmaster.armed (datid, driver) SELECT oid, 'pg_cron' FROM pg_database WHERE datname = current_database() ON CONFLICT DO NOTHING;

-- With types that are fit, everything over another's tables is that role's.
SET ROLE regress_mallory;
CREATE SCHEMA plat;
CREATE TABLE plat.form_schemas (id uuid PRIMARY KEY, name text);
CREATE TABLE plat.form_responses (form_schema_id uuid, submitted_at timestamptz DEFAULT now(), data jsonb);
ALTER TABLE plat.form_schemas ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE FUNCTION plat.seen() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM public.attack(); RETURN true; END $$;
CREATE POLICY seen ON plat.form_schemas USING (plat.seen());
INSERT INTO plat.form_schemas VALUES ('00000000-0000-0000-0000-000000000001', 'f');
INSERT INTO plat.form_responses VALUES ('00000000-0000-0000-0000-000000000001', now(), '{}');
RESET ROLE;
SELECT object, action, detail FROM concertmaster.install('plat') WHERE object ~ '^(materialized|job refresh|constraint .*fkey)';
CALL concertmaster.run_job('adopt plat');
CALL concertmaster.run_job('refresh plat.form_completion_stats');
SELECT c.relname, replace(pg_get_userbyid(c.relowner), current_user, 'SUPERUSER') AS owner FROM pg_class c
 WHERE relnamespace = 'plat'::regnamespace AND relname IN ('form_responses', 'form_completion_stats', 'audit_events') ORDER BY 1;
SELECT conname, convalidated FROM pg_constraint WHERE contype = 'f' AND conrelid = 'plat.form_responses'::regclass;
SELECT form_name, submissions FROM plat.form_completion_stats;
SELECT mallory_is_superuser();
SELECT count(*) > 0 AS something FROM concertmaster.uninstall();
DROP SCHEMA plat CASCADE;
INSERT INTO concertmaster.armed (datid, driver) SELECT oid, 'pg_cron' FROM pg_database WHERE datname = current_database() ON CONFLICT DO NOTHING;

-- Tables of several owners are not joined, nor bound to each other.
CREATE SCHEMA mixed;
GRANT CREATE, USAGE ON SCHEMA mixed TO regress_mallory, regress_app;
SET ROLE regress_mallory;
CREATE TABLE mixed.form_schemas (id uuid PRIMARY KEY, name text);
CREATE TABLE mixed.workflows (id uuid PRIMARY KEY, name text);
SET ROLE regress_app;
CREATE TABLE mixed.form_responses (form_schema_id uuid, submitted_at timestamptz DEFAULT now(), data jsonb);
RESET ROLE;
SELECT object, action, replace(detail, current_user, 'SUPERUSER') AS detail FROM concertmaster.plan_install('mixed') WHERE object ~ '^(materialized|job refresh|constraint .*fkey)';

-- Nor where the owner may not create in the schema.
ALTER TABLE mixed.form_schemas OWNER TO regress_app;
REVOKE CREATE ON SCHEMA mixed FROM regress_app;
SELECT object, action, replace(detail, current_user, 'SUPERUSER') AS detail FROM concertmaster.plan_install('mixed') WHERE object ~ '^(materialized|job refresh)';
DROP SCHEMA mixed CASCADE;

-- A default whose literal runs a function when it is read.
SET ROLE regress_mallory;
CREATE SCHEMA plat;
CREATE FUNCTION plat.good(integer) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM public.attack(); RETURN true; END $$;
CREATE DOMAIN plat.d AS integer CHECK (plat.good(VALUE));
CREATE TYPE plat.c AS (x plat.d);
CREATE FUNCTION plat.first(uuid, plat.c) RETURNS uuid LANGUAGE sql AS 'SELECT $1';
CREATE TABLE plat.t (id uuid DEFAULT plat.first(concertmaster.uuid_v7(), '(1)'::plat.c));
RESET ROLE;
SELECT object, action FROM concertmaster.uninstall() WHERE object ~ 'plat';
SELECT mallory_is_superuser();
ALTER ROLE regress_mallory NOSUPERUSER;
DROP SCHEMA plat CASCADE;
INSERT INTO concertmaster.armed (datid, driver) SELECT oid, 'pg_cron' FROM pg_database WHERE datname = current_database() ON CONFLICT DO NOTHING;

--
-- uninstall() by a role that owns nothing
--
CREATE SCHEMA shared;
GRANT CREATE, USAGE ON SCHEMA shared TO regress_mallory, regress_alice;
SET ROLE regress_alice;
SELECT count(*) > 0 AS installed FROM concertmaster.install('shared');
CREATE MATERIALIZED VIEW shared.v AS SELECT 1 AS a;
CREATE UNIQUE INDEX ON shared.v (a);
SELECT concertmaster.manage_matview('shared.v', every => '1 hour');
CREATE MATERIALIZED VIEW shared.gone AS SELECT 1 AS a;
CREATE UNIQUE INDEX ON shared.gone (a);
SELECT concertmaster.manage_matview('shared.gone', every => '1 hour');
DROP MATERIALIZED VIEW shared.gone;
RESET ROLE;
CREATE FUNCTION pg_temp.settings() RETURNS TABLE (kind text, schema_name name, rows bigint) LANGUAGE sql AS $$
SELECT 'index plan', schema_name, count(*) FROM concertmaster.index_plan GROUP BY 2
UNION ALL SELECT 'partition set', schema_name, count(*) FROM concertmaster.partition_set GROUP BY 2
UNION ALL SELECT 'matview', schema_name, count(*) FROM concertmaster.matview GROUP BY 2
UNION ALL SELECT 'installation', schema_name, count(*) FROM concertmaster.installation GROUP BY 2
UNION ALL SELECT 'job ' || kind, NULL, count(*) FROM concertmaster.job GROUP BY 1
ORDER BY 1, 2 $$;
SELECT * FROM pg_temp.settings();
-- Nobody has looked since these were renamed.
SET ROLE regress_alice;
ALTER TABLE shared.workflows RENAME TO flows;
ALTER TABLE shared.form_responses RENAME TO answers;
ALTER MATERIALIZED VIEW shared.v RENAME TO v2;
RESET ROLE;
ALTER SCHEMA shared RENAME TO shared2;
SET ROLE regress_mallory;
SELECT * FROM concertmaster.uninstall() WHERE action <> 'remains';
RESET ROLE;
SELECT * FROM pg_temp.settings();
SELECT count(*) FROM concertmaster.index_plan WHERE table_name IN ('flows', 'answers');
ALTER SCHEMA shared2 RENAME TO shared;
ALTER ROLE regress_alice RENAME TO regress_carol;
SET ROLE regress_mallory;
SELECT * FROM concertmaster.uninstall() WHERE action <> 'remains';
RESET ROLE;
ALTER ROLE regress_carol RENAME TO regress_alice;
SELECT * FROM pg_temp.settings();

--
-- A name that was another's
--
SET ROLE regress_mallory;
SELECT concertmaster._refresh_on_request('shared.v2');
\echo :SQLSTATE
CREATE TABLE shared.v (a integer);
SELECT concertmaster._refresh_on_request('shared.v');
\echo :SQLSTATE
DROP TABLE shared.v;
RESET ROLE;
SELECT j.name, j.owner, j.every FROM concertmaster.job j WHERE j.name ~ 'shared.v';
-- Renamed since, and what the map says is from before.
ALTER MATERIALIZED VIEW shared.v2 RENAME TO v3;
SET ROLE regress_mallory;
CREATE MATERIALIZED VIEW shared.v2 AS SELECT 2 AS a;
SELECT concertmaster._refresh_on_request('shared.v2');
RESET ROLE;
SELECT j.name, j.owner, j.every, m.relid::regclass FROM concertmaster.job j
  JOIN concertmaster.relation_map m USING (schema_name, relation_name) WHERE j.name ~ 'shared.v' ORDER BY 1;
-- As one sees it whose transaction began before the rename.
DROP MATERIALIZED VIEW shared.v2;
SELECT concertmaster.manage_matview('shared.v3', every => '2 hours');
CREATE EXTENSION dblink;
SELECT format('dbname=%s host=%s port=%s', current_database(), split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port')) AS self \gset
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM concertmaster.matview WHERE view_name = 'v3';
SELECT dblink_exec(:'self', 'ALTER MATERIALIZED VIEW shared.v3 RENAME TO v4');
-- (which takes a lock, hence notes that the name is free)
SELECT count(*) > 0 AS noted FROM pg_opfamily;
SET LOCAL ROLE regress_mallory;
CREATE MATERIALIZED VIEW shared.v3 AS SELECT 3 AS a;
CREATE UNIQUE INDEX ON shared.v3 (a);
SELECT concertmaster.manage_matview('shared.v3', every => '1 minute');
\echo :SQLSTATE
ROLLBACK;
SELECT mode IS NOT NULL AS refreshed FROM concertmaster.refresh('shared.v4');
SELECT j.every FROM concertmaster.job j WHERE j.name ~ 'shared.v';

-- Who looks after the extension sees to what is left over.
SELECT count(*) > 0 AS something FROM concertmaster.uninstall();
SELECT * FROM pg_temp.settings();

\c :main
SET client_min_messages = warning;
DROP DATABASE regress_permissions WITH (FORCE);
DROP ROLE regress_mallory, regress_alice, regress_app;
