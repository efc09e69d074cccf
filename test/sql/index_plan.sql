-- Rows of index_plan: who can insert what.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
CREATE ROLE regress_index_owner;
CREATE ROLE regress_index_other;
CREATE SCHEMA index_plan_test AUTHORIZATION regress_index_owner;
SET search_path = index_plan_test;
SET ROLE regress_index_owner;

CREATE TABLE t (id integer, status text, "Mixed Case" text, data jsonb, at timestamptz);
CREATE TABLE "Quoted ""Table" (id integer);
CREATE VIEW v AS SELECT 1 AS id;
CREATE TEMP TABLE temporary (id integer);
CREATE FUNCTION calm(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower($1)';
CREATE FUNCTION moody(text) RETURNS text LANGUAGE plpgsql VOLATILE AS 'BEGIN RETURN lower($1); END';

-- a short way to try one definition on table t
CREATE PROCEDURE try(definition text, is_unique boolean DEFAULT false) LANGUAGE plpgsql AS $$
DECLARE
    state text; message text; detail text; hint text;
BEGIN
    INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, is_unique, definition)
    VALUES (101, 'index_plan_test', 't', 'tried', is_unique, definition);
    RAISE INFO 'accepted: %', definition;
    PERFORM concertmaster.unplan_index('index_plan_test', 'tried');
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
        detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RAISE INFO E'% %\n  detail: %\n  hint: %', state, message, detail, hint;
END
$$;

-- all that an index can be
CALL try('(status)');
CALL try('(status DESC NULLS LAST, id) INCLUDE (at) WITH (fillfactor = 70) WHERE id > 0');
CALL try('USING gin (data jsonb_path_ops)');
CALL try('(("Mixed Case" || status) COLLATE "C" text_pattern_ops)');
CALL try('(index_plan_test.calm(status))');
CALL try('(id)', true);
CALL try('(id) NULLS NOT DISTINCT', true);
CALL try('USING hash (status);');

-- and what it cannot
CALL try('(status');
CALL try('');
CALL try('(status); DROP TABLE t');
CALL try('(status); CREATE INDEX other ON t (id)');
CALL try('(missing)');
CALL try('(id) INCLUDE (missing)');
CALL try('(id) INCLUDE (lower(status))');
CALL try('(lower(status)) WHERE at > now()');
CALL try('(index_plan_test.moody(status))');
CALL try('(calm(status))');
CALL try('(status nonsense_ops)');
CALL try('USING nonsense (status)');
CALL try('USING gin (status)');
CALL try('USING gin (data DESC)');
CALL try('USING hash (id, status)');
CALL try('USING gin (data) INCLUDE (id)');
CALL try('USING hash (id)', true);
CALL try('(data) WHERE id');
CALL try('(id) WHERE id IN (SELECT id FROM index_plan_test.t)');

-- the error points into the statement that would be run
\set VERBOSITY default
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition)
VALUES (101, 'index_plan_test', 't', 'pointed', '(id) WHRE id > 0');
\set VERBOSITY terse

-- tables
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition)
VALUES (101, 'index_plan_test', 'none', 'x', '(id)');
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition)
VALUES (101, 'no schema', 'none', 'x', '(id)');
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition)
VALUES (101, 'index_plan_test', 'v', 'x', '(id)');
DO $$
DECLARE
    temp_schema text := (SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema());
BEGIN
    INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition)
    VALUES (101, temp_schema, 'temporary', 'x', '(id)');
END $$;
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition)
VALUES (0, 'index_plan_test', 't', 'x', '(id)');
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition)
VALUES (101, 'index_plan_test', 't', 'x', NULL);
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition)
VALUES (101, 'index_plan_test', 't', '', '(id)');
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition, hot_window)
VALUES (101, 'index_plan_test', 't', 'x', '(id)', '-1 day');

-- names are taken as they are
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition)
VALUES (101, 'index_plan_test', 'Quoted "Table', 'An "Index" of Case', '(id)'),
       (101, 'index_plan_test', 't', repeat('n', 63), '(id)'),
       (102, 'index_plan_test', 't', 'mixed', '("Mixed Case")');

-- others can neither add, change nor remove
RESET ROLE;
GRANT USAGE ON SCHEMA index_plan_test TO regress_index_other;
SET ROLE regress_index_other;
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition)
VALUES (101, 'index_plan_test', 't', 'x', '(id)');
UPDATE concertmaster.index_plan SET phase = 103 WHERE index_name = 'mixed';
DELETE FROM concertmaster.index_plan WHERE index_name = 'mixed';
SELECT concertmaster.unplan_index('index_plan_test', 'mixed');
TRUNCATE concertmaster.index_plan;
SELECT count(*) FROM concertmaster.indexes WHERE schema_name = 'index_plan_test';
SELECT * FROM concertmaster.index_state;
CALL concertmaster.build_indexes(101);
SELECT * FROM concertmaster._bundled_indexes('public');

-- nor can the owner, given the privilege, give a row to a table of somebody else
RESET ROLE;
CREATE TABLE not_yours (id integer);
GRANT SELECT, UPDATE ON concertmaster.index_plan TO regress_index_owner;
SET ROLE regress_index_owner;
UPDATE concertmaster.index_plan SET table_name = 'not_yours' WHERE index_name = 'mixed';
UPDATE concertmaster.index_plan SET definition = '(missing)' WHERE index_name = 'mixed';
UPDATE concertmaster.index_plan SET phase = 103 WHERE index_name = 'mixed';
RESET ROLE;
REVOKE SELECT, UPDATE ON concertmaster.index_plan FROM regress_index_owner;
SET ROLE regress_index_owner;
SELECT phase, table_name, index_name, state, percent_done, size_bytes, scans, adopted_index, last_run, message
  FROM concertmaster.indexes WHERE schema_name = 'index_plan_test';

-- a monitor sees all, but may not change anything
RESET ROLE;
GRANT pg_monitor TO regress_index_other;
SET ROLE regress_index_other;
SELECT count(*) FROM concertmaster.indexes WHERE schema_name = 'index_plan_test';
SELECT concertmaster.unplan_index('index_plan_test', 'mixed');
RESET ROLE;

-- a superuser's COPY, as in a restore, is checked for syntax alone
COPY concertmaster.index_plan (phase, schema_name, table_name, index_name, definition) FROM stdin;
104	index_plan_test	not_there_yet	restored	(missing)
\.
COPY concertmaster.index_plan (phase, schema_name, table_name, index_name, definition) FROM stdin;
104	index_plan_test	not_there_yet	broken	(missing
\.
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition)
VALUES (104, 'index_plan_test', 't', 'x', '(missing)');
-- without its table, a row can be tidied up by whoever could make the table
SET ROLE regress_index_other;
SELECT concertmaster.unplan_index('index_plan_test', 'restored');
SET ROLE regress_index_owner;
SELECT concertmaster.unplan_index('index_plan_test', 'restored');

-- a table that is renamed or moved takes its rows along
ALTER TABLE t RENAME TO renamed;
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition)
VALUES (105, 'index_plan_test', 'renamed', 'after_rename', '(id)');
SELECT DISTINCT table_name FROM concertmaster.indexes WHERE schema_name = 'index_plan_test' ORDER BY 1;

-- the trigger is no function to be called
SELECT concertmaster._index_plan_check();
CREATE TRIGGER borrowed AFTER INSERT ON renamed FOR EACH ROW EXECUTE FUNCTION concertmaster._index_plan_check();
INSERT INTO renamed (id) VALUES (1);

-- errors of the procedure
BEGIN;
CALL concertmaster.build_indexes(101);
ROLLBACK;
\set VERBOSITY default
CALL concertmaster.build_indexes(-1);
\set VERBOSITY terse
RESET ROLE;

DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_plan_test';
DROP SCHEMA index_plan_test CASCADE;
DROP TABLE pg_temp.temporary;
DROP ROLE regress_index_owner, regress_index_other;
