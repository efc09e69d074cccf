-- What one role can do to the planned indexes of another: nothing.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
CREATE ROLE regress_perm_alice;
CREATE ROLE regress_perm_mallory;
CREATE SCHEMA perm_index_test;
CREATE SCHEMA perm_index_other;
GRANT USAGE, CREATE ON SCHEMA perm_index_test, perm_index_other TO regress_perm_alice, regress_perm_mallory;
RESET client_min_messages;
\set VERBOSITY terse

SET ROLE regress_perm_alice;
CREATE TABLE perm_index_test.t (a integer, secret text);
CREATE TABLE perm_index_test.moved (a integer, secret text);
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition, purpose)
VALUES (301, 'perm_index_test', 't', 't_a', '(a)', 'secret purpose'),
       (301, 'perm_index_test', 'moved', 'moved_a', '(a)', 'secret purpose');
SELECT index_name, state FROM concertmaster.indexes WHERE schema_name = 'perm_index_test' ORDER BY 1;
-- the table itself is closed: rows are seen in the view, removed by unplan_index()
SELECT count(*) FROM concertmaster.index_plan;
UPDATE concertmaster.index_plan SET phase = 302 WHERE index_name = 't_a';
DELETE FROM concertmaster.index_plan WHERE index_name = 't_a';
TRUNCATE concertmaster.index_plan;
BEGIN;
LOCK TABLE concertmaster.index_plan IN ACCESS EXCLUSIVE MODE;
ROLLBACK;
BEGIN;
LOCK TABLE concertmaster.index_plan IN SHARE MODE;
ROLLBACK;

-- a function in WHERE sees no row that the view hides
SET ROLE regress_perm_mallory;
CREATE FUNCTION perm_index_test.peek(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
BEGIN
    RAISE WARNING 'peeked: %', $1;
    RETURN true;
END $$;
SELECT count(*) FROM concertmaster.indexes WHERE perm_index_test.peek(purpose);
RESET ROLE;
SELECT relname, reloptions FROM pg_class
 WHERE relnamespace = 'concertmaster'::regnamespace AND relkind = 'v'
   AND pg_get_viewdef(oid) ~ 'pg_has_role|_sees_job|_running_jobs'
   AND relname <> 'recommended_settings' -- hides no row
   AND NOT coalesce(reloptions, '{}') && '{security_barrier=true,security_barrier=on}';

-- a row stays its table's, whoever takes the name that the table had
SET ROLE regress_perm_alice;
ALTER TABLE perm_index_test.t RENAME TO t2;
ALTER TABLE perm_index_test.moved SET SCHEMA perm_index_other;
SET ROLE regress_perm_mallory;
CREATE TABLE perm_index_test.t (a integer);
CREATE TABLE perm_index_test.moved (a integer);
SELECT concertmaster.unplan_index('perm_index_test', 't_a');
SELECT concertmaster.unplan_index('perm_index_test', 'moved_a');
-- not even with the privileges that a superuser might grant
RESET ROLE;
BEGIN;
GRANT SELECT, INSERT, UPDATE, DELETE ON concertmaster.index_plan TO regress_perm_mallory;
SET ROLE regress_perm_mallory;
SAVEPOINT a;
UPDATE concertmaster.index_plan SET definition = '(a DESC)' WHERE index_name = 't_a';
ROLLBACK TO a;
DELETE FROM concertmaster.index_plan WHERE index_name = 'moved_a';
ROLLBACK TO a;
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition)
VALUES (301, 'perm_index_test', 't', 't_b', '(a DESC)');
UPDATE concertmaster.index_plan SET table_name = 't2' WHERE index_name = 't_b';
ROLLBACK;
-- (under the names of before or of now: a worker can be the first to follow)
SELECT index_name, definition FROM concertmaster.index_plan
 WHERE schema_name IN ('perm_index_test', 'perm_index_other') ORDER BY 1;
SET ROLE regress_perm_mallory;
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition)
VALUES (301, 'perm_index_test', 't', 't_mallory', '(a)');
RESET ROLE;
SELECT schema_name, table_name, index_name FROM concertmaster.index_plan
 WHERE schema_name IN ('perm_index_test', 'perm_index_other') ORDER BY 3;

-- a build looks where the tables are now, and builds each role's own
SET ROLE regress_perm_alice;
ALTER TABLE perm_index_test.t2 RENAME TO t3;
SET client_min_messages = warning;
CALL concertmaster.build_indexes(301);
RESET client_min_messages;
RESET ROLE;
SELECT i.indrelid::regclass AS "table", i.indexrelid::regclass AS index FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
 WHERE c.relnamespace IN ('perm_index_test'::regnamespace, 'perm_index_other'::regnamespace) ORDER BY 2;

-- the row can be taken back by the owner, and the index stays
SET ROLE regress_perm_mallory;
SELECT concertmaster.unplan_index('perm_index_test', 't_a');
\echo :LAST_ERROR_SQLSTATE
SELECT concertmaster.unplan_index('perm_index_test', 't_none');
\echo :LAST_ERROR_SQLSTATE
SELECT concertmaster.unplan_index('perm_index_test', NULL) IS NULL AS strict;
SET ROLE regress_perm_alice;
SELECT concertmaster.unplan_index('perm_index_test', 't_a');
SELECT index_name, state FROM concertmaster.indexes WHERE schema_name = 'perm_index_test' ORDER BY 1;
RESET ROLE;
SELECT to_regclass('perm_index_test.t_a') IS NOT NULL AS index_stays;

-- builds of others are nobody's business: see _index_progress() in index_writer.spec

SET client_min_messages = warning;
DELETE FROM concertmaster.job WHERE owner IN ('regress_perm_alice', 'regress_perm_mallory');
DELETE FROM concertmaster.index_plan WHERE schema_name IN ('perm_index_test', 'perm_index_other');
DROP SCHEMA perm_index_test, perm_index_other CASCADE;
DROP ROLE regress_perm_alice, regress_perm_mallory;
