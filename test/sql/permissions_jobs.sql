-- What one role can do to the jobs of another: nothing.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
CREATE ROLE regress_perm_alice;
CREATE ROLE regress_perm_mallory;
CREATE SCHEMA perm_jobs_test;
CREATE SCHEMA "perm jobs" AUTHORIZATION regress_perm_mallory;
GRANT USAGE, CREATE ON SCHEMA perm_jobs_test TO regress_perm_alice, regress_perm_mallory;
RESET client_min_messages;
\set VERBOSITY terse

-- install() makes jobs of the caller's own where another role has the name
BEGIN;
DELETE FROM concertmaster.job;
INSERT INTO concertmaster.job (name, kind, phase, owner, every)
VALUES ('build phase 1', 'build', 1, 'regress_perm_alice', '1 day');
INSERT INTO concertmaster.job (name, kind, schema_name, owner)
VALUES ('adopt "perm jobs"', 'adopt', 'perm jobs', 'regress_perm_alice');
SET ROLE regress_perm_mallory;
CREATE TABLE "perm jobs".workflows (id uuid PRIMARY KEY, definition jsonb);
SELECT count(*) > 0 AS installed FROM concertmaster.install('perm jobs');
RESET ROLE;
SELECT name, owner, every FROM concertmaster.job WHERE kind IN ('build', 'adopt') ORDER BY name COLLATE "C";
-- again, by the same role and by one that can act for all
SET ROLE regress_perm_mallory;
SELECT count(*) > 0 AS installed FROM concertmaster.install('perm jobs');
RESET ROLE;
SELECT name, owner, every FROM concertmaster.job WHERE kind IN ('build', 'adopt') ORDER BY name COLLATE "C";
ROLLBACK;

-- a job of a relation is not taken over through a name that the relation had
BEGIN;
SET ROLE regress_perm_alice;
CREATE MATERIALIZED VIEW perm_jobs_test.m AS SELECT 1 AS a;
CREATE UNIQUE INDEX ON perm_jobs_test.m (a);
SELECT concertmaster.manage_matview('perm_jobs_test.m', interval '1 day');
ALTER MATERIALIZED VIEW perm_jobs_test.m RENAME TO m2;
SET ROLE regress_perm_mallory;
CREATE MATERIALIZED VIEW perm_jobs_test.m AS SELECT 1 AS a;
CREATE UNIQUE INDEX ON perm_jobs_test.m (a);
SELECT concertmaster.manage_matview('perm_jobs_test.m', interval '2 days');
RESET ROLE;
SELECT name, owner, every FROM concertmaster.job WHERE schema_name = 'perm_jobs_test' ORDER BY name;
ROLLBACK;

-- a job whose row is another role's is refused, whatever led to it
BEGIN;
SET ROLE regress_perm_mallory;
CREATE MATERIALIZED VIEW perm_jobs_test.m AS SELECT 1 AS a;
CREATE UNIQUE INDEX ON perm_jobs_test.m (a);
RESET ROLE;
INSERT INTO concertmaster.job (name, kind, schema_name, relation_name, owner)
VALUES ('refresh perm_jobs_test.m', 'refresh', 'perm_jobs_test', 'other', 'regress_perm_alice');
SET ROLE regress_perm_mallory;
SELECT concertmaster.manage_matview('perm_jobs_test.m', interval '2 days');
ROLLBACK;
\echo :LAST_ERROR_SQLSTATE

-- no row of another role's is seen by a function in WHERE
SET ROLE regress_perm_alice;
CREATE MATERIALIZED VIEW perm_jobs_test.m AS SELECT 1 AS a;
CREATE UNIQUE INDEX ON perm_jobs_test.m (a);
SELECT concertmaster.manage_matview('perm_jobs_test.m', interval '1 day');
CREATE TABLE perm_jobs_test.p (at timestamptz) PARTITION BY RANGE (at);
SELECT count(*) > 0 AS made FROM concertmaster.create_partition_set('perm_jobs_test.p', interval '1 month');
SET ROLE regress_perm_mallory;
CREATE FUNCTION perm_jobs_test.peek(name) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
BEGIN
    IF $1 IN ('p', 'm') THEN
        RAISE WARNING 'peeked: %', $1;
    END IF;
    RETURN true;
END $$;
SELECT count(*) FROM concertmaster.matviews WHERE perm_jobs_test.peek(view_name);
SELECT count(*) FROM concertmaster.partition_sets WHERE perm_jobs_test.peek(table_name);
SELECT count(*) FROM concertmaster.partitions WHERE perm_jobs_test.peek(table_name);
SELECT count(*) FROM concertmaster.jobs WHERE perm_jobs_test.peek(replace(name, 'refresh perm_jobs_test.', '')::name);
RESET ROLE;

-- the owner of the extension prunes, whatever name it has now
SET client_min_messages = warning;
UPDATE concertmaster.job SET owner = 'regress_perm_nobody' WHERE kind = 'prune';
CALL concertmaster.run_job('prune');
SELECT owner <> 'regress_perm_nobody' AS corrected FROM concertmaster.job WHERE kind = 'prune';

-- a role that is renamed keeps its jobs, and whoever takes the name gets none
SET ROLE regress_perm_alice;
CREATE TABLE perm_jobs_test.t (a integer);
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition)
VALUES (302, 'perm_jobs_test', 't', 't_a', '(a)');
CALL concertmaster.build_indexes(302);
RESET ROLE;
ALTER ROLE regress_perm_alice RENAME TO regress_perm_alicia;
CREATE ROLE regress_perm_alice;
SET ROLE regress_perm_alice;
CALL concertmaster.run_job('build phase 302');
SET ROLE regress_perm_alicia;
CALL concertmaster.run_job('build phase 302');
SELECT name, owner, last_status FROM concertmaster.jobs WHERE name = 'build phase 302';
RESET ROLE;

DELETE FROM concertmaster.job WHERE schema_name = 'perm_jobs_test' OR name = 'build phase 302';
DELETE FROM concertmaster.index_plan WHERE schema_name = 'perm_jobs_test';
DELETE FROM concertmaster.matview WHERE schema_name = 'perm_jobs_test';
DELETE FROM concertmaster.partition_set WHERE schema_name = 'perm_jobs_test';
DROP SCHEMA perm_jobs_test, "perm jobs" CASCADE;
DROP ROLE regress_perm_alice, regress_perm_alicia, regress_perm_mallory;
