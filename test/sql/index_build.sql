-- build_indexes() on tables, partitioned tables and materialized views.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
CREATE SCHEMA index_build_test;
SET search_path = index_build_test;

CREATE PROCEDURE plan(phase integer, table_name name, index_name name, definition text,
                     is_unique boolean DEFAULT false, hot_window interval DEFAULT NULL)
LANGUAGE sql AS $$
    INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition, is_unique, hot_window)
    VALUES (phase, 'index_build_test', table_name, index_name, definition, is_unique, hot_window)
$$;
-- how planned indexes stand, without what differs from run to run
CREATE VIEW stand AS
    SELECT phase AS ph, index_name, state, percent_done AS pct, size_bytes > 0 AS sized, scans,
           adopted_index AS adopted, sqlstate, message, detail
      FROM concertmaster.indexes WHERE schema_name = 'index_build_test';
-- what there is in truth
CREATE VIEW truth AS
    SELECT x.indrelid::regclass::text AS on_table, x.indexrelid::regclass::text AS index, x.indisvalid AS valid,
           (SELECT h.inhparent::regclass::text FROM pg_inherits h WHERE h.inhrelid = x.indexrelid) AS attached_to,
           substring(pg_get_indexdef(x.indexrelid) FROM ' USING .*') AS definition
      FROM pg_index x JOIN pg_class c ON c.oid = x.indrelid
     WHERE c.relnamespace = 'index_build_test'::regnamespace
     ORDER BY 1, 2;

-- empty and filled tables, odd names
CREATE TABLE empty_table (id integer, name text);
CREATE TABLE filled (id integer, name text, data jsonb);
INSERT INTO filled SELECT g, 'n' || g % 10, jsonb_build_object('k', g % 5) FROM generate_series(1, 1000) g;
CREATE TABLE "Odd ""Table" ("Odd Column" text);
INSERT INTO "Odd ""Table" VALUES ('x');
CREATE MATERIALIZED VIEW matview AS SELECT id, name FROM filled;
CALL plan(201, 'empty_table', 'empty_name', '(name, id DESC)');
CALL plan(201, 'filled', 'filled_name', '(lower(name)) WHERE id > 10');
CALL plan(201, 'filled', 'filled_data', 'USING gin (data)');
CALL plan(201, 'filled', 'filled_unique', '(id)', true);
CALL plan(201, 'Odd "Table', 'Odd "Index', '("Odd Column" text_pattern_ops)');
CALL plan(201, 'matview', 'matview_id', '(id) INCLUDE (name)');
CALL plan(202, 'filled', repeat('n', 63), '(name)');
SELECT * FROM stand;
CALL concertmaster.build_indexes(201);
SELECT * FROM stand;
SELECT * FROM truth;
-- a second time there is nothing to do; without a phase, all are built
CALL concertmaster.build_indexes();
SELECT * FROM stand;
DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_build_test';
-- the plan is gone, the indexes stay
SELECT count(*) FROM truth;
SELECT count(*) FROM concertmaster.index_state WHERE schema_name = 'index_build_test';

-- equivalent indexes under other names are adopted, however they are spelled
CREATE TABLE adopt (id integer, name varchar(20), at timestamptz, data jsonb);
INSERT INTO adopt SELECT g, 'n' || g, 'epoch', '{}' FROM generate_series(1, 100) g;
CREATE INDEX theirs_1 ON adopt (name, at DESC NULLS FIRST) WHERE name = 'a' OR name = 'b';
CREATE INDEX theirs_2 ON adopt USING gin (data jsonb_ops) WITH (fastupdate = off);
CREATE INDEX theirs_3 ON adopt ((upper(name)), id) INCLUDE (at);
CREATE UNIQUE INDEX theirs_4 ON adopt (id);
ALTER TABLE adopt ADD PRIMARY KEY (id, name);
CALL plan(203, 'adopt', 'ours_1', $$(name, at DESC) WHERE ((name)::text = 'a'::text) OR name = ('b')$$);
CALL plan(203, 'adopt', 'ours_2', 'USING gin (data)');
CALL plan(203, 'adopt', 'ours_3', '(upper(name), id) INCLUDE (at)');
CALL plan(203, 'adopt', 'ours_4', '(id)', true);
CALL plan(203, 'adopt', 'ours_5', '(id, name)', true);
CALL concertmaster.build_indexes(203);
SELECT * FROM stand;
SELECT count(*) FROM truth WHERE on_table = 'adopt';
-- and when one goes away, ours is built; a renamed one of ours still serves
DROP INDEX theirs_2;
ALTER INDEX theirs_3 RENAME TO theirs_3_renamed;
SELECT * FROM stand WHERE index_name IN ('ours_2', 'ours_3');
CALL concertmaster.build_indexes(203);
SELECT * FROM stand WHERE index_name IN ('ours_2', 'ours_3');
DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_build_test';

-- those that differ in anything are not
CREATE TABLE differ (id integer, name text, at timestamptz, data jsonb);
INSERT INTO differ SELECT g, 'n' || g, 'epoch', '{}' FROM generate_series(1, 100) g;
CREATE INDEX d_order ON differ (name, at);
CREATE INDEX d_opclass ON differ (name text_pattern_ops, at DESC);
CREATE INDEX d_collation ON differ (name COLLATE "POSIX", at DESC);
CREATE INDEX d_include ON differ (name, at DESC) INCLUDE (id);
CREATE INDEX d_predicate ON differ (name, at DESC) WHERE id > 0;
CREATE UNIQUE INDEX d_unique ON differ (name, at DESC);
CREATE INDEX d_expression ON differ (upper(name), at DESC);
CREATE INDEX d_method ON differ USING brin (name, at);
CREATE INDEX d_options ON differ USING gin (data jsonb_path_ops);
ALTER TABLE differ ADD CONSTRAINT d_deferrable UNIQUE (id) DEFERRABLE;
CALL plan(204, 'differ', 'own', '(name, at DESC)');
CALL plan(204, 'differ', 'own_data', 'USING gin (data)');
CALL plan(204, 'differ', 'own_unique', '(id)', true);
CALL concertmaster.build_indexes(204);
SELECT * FROM stand;
DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_build_test';

-- the name is taken by something else: said, and left alone
CREATE TABLE taken (id integer, name text);
INSERT INTO taken SELECT g, 'n' FROM generate_series(1, 100) g;
CREATE INDEX taken_index ON taken (id DESC);
CREATE INDEX taken_elsewhere ON filled (id, name);
CREATE SEQUENCE taken_sequence;
CALL plan(205, 'taken', 'taken_index', '(id)');
CALL plan(205, 'taken', 'taken_elsewhere', '(id)');
CALL plan(205, 'taken', 'taken_sequence', '(name)');
CALL plan(205, 'taken', 'taken_not', '(name, id)');
CALL concertmaster.build_indexes(205);
SELECT * FROM stand;
SELECT * FROM truth WHERE on_table = 'taken';
-- once it is out of the way, the planned one is built
DROP INDEX taken_index;
UPDATE concertmaster.index_plan SET definition = '(id, name)' WHERE index_name = 'taken_elsewhere';
DELETE FROM concertmaster.index_plan WHERE index_name = 'taken_sequence';
CALL concertmaster.build_indexes(205);
SELECT * FROM stand;
DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_build_test';

-- failures: all others are built, nothing invalid stays, the state says why
CREATE TABLE fails (id integer, name text);
INSERT INTO fails VALUES (1, 'a'), (1, 'b'), (0, (SELECT string_agg(md5(g::text), '') FROM generate_series(1, 3000) g));
CALL plan(206, 'fails', 'fails_division', '((1 / id))');
CALL plan(206, 'fails', 'fails_length', '(name)');
CALL plan(206, 'fails', 'fails_unique', '(id)', true);
CALL plan(206, 'fails', 'works', '(left(name, 100))');
CALL plan(206, 'fails', 'works_too', 'USING hash (name)');
\set SHOW_CONTEXT never
CALL concertmaster.build_indexes(206);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM stand;
SELECT * FROM truth WHERE on_table = 'fails';
DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_build_test';

-- the build itself finds values that are too long, whatever compression makes
-- of them; it gives up before writers maintain the index, so they go on
CREATE TABLE too_long (definition jsonb);
INSERT INTO too_long SELECT jsonb_build_object('flat', repeat('f', 10000),
                                               'long', (SELECT string_agg(md5(g::text), '') FROM generate_series(1, 200) g));
CALL plan(209, 'too_long', 'long_flat', $$((definition->>'flat'))$$);
CALL plan(209, 'too_long', 'long_long', $$((definition->>'long'))$$);
CALL plan(209, 'too_long', 'long_hash', $$USING hash ((definition->>'long'))$$);
CALL concertmaster.build_indexes(209);
INSERT INTO too_long SELECT * FROM too_long;
SELECT index_name, state, sqlstate, hint FROM concertmaster.indexes WHERE table_name = 'too_long';
SELECT * FROM truth WHERE on_table = 'too_long';
DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_build_test';

-- a leftover of an interrupted build, by its name, is replaced; others are not
CREATE TABLE leftover (id integer, name text);
INSERT INTO leftover VALUES (1, 'a'), (1, 'b');
CREATE UNIQUE INDEX CONCURRENTLY left_1 ON leftover (id);
CREATE UNIQUE INDEX CONCURRENTLY left_theirs ON leftover (id);
UPDATE leftover SET id = 2 WHERE name = 'b';
CREATE INDEX left_2 ON leftover (name);
UPDATE pg_index SET indisvalid = false, indisready = false, indislive = false WHERE indexrelid = 'left_2'::regclass;
CALL plan(207, 'leftover', 'left_1', '(id)', true);
CALL plan(207, 'leftover', 'left_2', '(name)');
SELECT index_name, state FROM stand;
CALL concertmaster.build_indexes(207);
SELECT * FROM stand;
SELECT * FROM truth WHERE on_table = 'leftover';
DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_build_test';

-- a table that is gone
CREATE TABLE gone (id integer);
CALL plan(208, 'gone', 'gone_id', '(id)');
DROP TABLE gone;
\set VERBOSITY default
CALL concertmaster.build_indexes(208);
\set VERBOSITY terse
SELECT * FROM stand;
DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_build_test';

DELETE FROM concertmaster.job WHERE phase BETWEEN 201 AND 209;
DROP SCHEMA index_build_test CASCADE;
