-- Names change hands: settings, jobs and plans follow the relations.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
DROP SCHEMA IF EXISTS rename_v, rename_a, rename_b, rename_a2, rename_b2 CASCADE;
RESET client_min_messages;
CREATE SCHEMA rename_v;
SET search_path = rename_v;
\set SHOW_CONTEXT never

-- A door that brings the names in step before it looks at anything.
CREATE MATERIALIZED VIEW touched AS SELECT 1 AS id;
CREATE UNIQUE INDEX ON touched (id);
CREATE FUNCTION reconcile() RETURNS text LANGUAGE sql AS $$
    SELECT concertmaster.manage_matview('rename_v.touched', NULL)
$$;

-- What is kept of each name, and whether the map tells the truth about it.
CREATE VIEW kept AS
    SELECT 'job' AS kept_in, schema_name, relation_name, name AS object, owner, every::text AS setting FROM concertmaster.job WHERE relation_name IS NOT NULL
     UNION ALL SELECT 'matview', schema_name, view_name, NULL, NULL, every::text FROM concertmaster.matview
     UNION ALL SELECT 'matview_state', schema_name, view_name, NULL, NULL, last_mode FROM concertmaster.matview_state
     UNION ALL SELECT 'partition_set', schema_name, table_name, NULL, NULL, period::text FROM concertmaster.partition_set
     UNION ALL SELECT 'partition_set_state', schema_name, table_name, NULL, NULL, failures::text FROM concertmaster.partition_set_state
     UNION ALL SELECT 'index_plan', schema_name, table_name, index_name, NULL, definition FROM concertmaster.index_plan
     UNION ALL SELECT 'index_state', schema_name, NULL, index_name, NULL, message FROM concertmaster.index_state;
CREATE FUNCTION kept() RETURNS TABLE (kept_in text, relation text, object text, setting text) LANGUAGE sql AS $$
    SELECT kept_in, concat_ws('.', schema_name, relation_name), object, setting FROM rename_v.kept
     WHERE schema_name ~ '^rename' AND relation_name IS DISTINCT FROM 'touched' ORDER BY 1, 2, 3
$$;
CREATE VIEW wrong_map AS
    SELECT v.schema_name, v.relation_name FROM concertmaster.managed_names v
     WHERE v.schema_name ~ '^rename' AND v.relid IS DISTINCT FROM to_regclass(format('%I.%I', v.schema_name, v.relation_name));

-- 1. two managed views, one takes the other's place: it keeps its own settings
CREATE MATERIALIZED VIEW b1 AS SELECT 1 AS id;
CREATE UNIQUE INDEX ON b1 (id);
CREATE MATERIALIZED VIEW b1_new AS SELECT 2 AS id;
CREATE UNIQUE INDEX ON b1_new (id);
SELECT concertmaster.manage_matview('b1', '1 hour'), concertmaster.manage_matview('b1_new', '2 hours');
INSERT INTO concertmaster.matview_state (schema_name, view_name, last_mode) VALUES ('rename_v', 'b1', 'old'), ('rename_v', 'b1_new', 'new');
BEGIN;
DROP MATERIALIZED VIEW b1;
ALTER MATERIALIZED VIEW b1_new RENAME TO b1;
COMMIT;
SELECT reconcile();
SELECT * FROM kept();
SELECT * FROM wrong_map;
SELECT view_name, every, next_run IS NOT NULL AS scheduled FROM concertmaster.matviews WHERE schema_name = 'rename_v' AND view_name ~ '^b1';
SET client_min_messages = warning;
CALL concertmaster.run_job('refresh rename_v.b1');
RESET client_min_messages;
SELECT concertmaster.unmanage_matview('b1');
SELECT count(*) FROM kept();

-- the new one was never managed: the name keeps what it had
SELECT concertmaster.manage_matview('b1', '3 hours');
CREATE MATERIALIZED VIEW b2 AS SELECT 3 AS id;
CREATE UNIQUE INDEX ON b2 (id);
BEGIN;
DROP MATERIALIZED VIEW b1;
ALTER MATERIALIZED VIEW b2 RENAME TO b1;
COMMIT;
SELECT reconcile();
SELECT * FROM kept();
SELECT * FROM wrong_map;

-- the old one is long gone and was never forgotten
DROP MATERIALIZED VIEW b1;
SELECT reconcile();
CREATE MATERIALIZED VIEW b3 AS SELECT 4 AS id;
CREATE UNIQUE INDEX ON b3 (id);
SELECT concertmaster.manage_matview('b3', '4 hours');
ALTER MATERIALIZED VIEW b3 RENAME TO b1;
SELECT reconcile();
SELECT * FROM kept();
SELECT * FROM wrong_map;
SELECT concertmaster.unmanage_matview('b1');

-- 2. two partition sets
SET client_min_messages = warning;
CREATE TABLE t (at timestamptz NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE t_new (at timestamptz NOT NULL) PARTITION BY RANGE (at);
SELECT count(*) FROM concertmaster.create_partition_set('t', '1 month', ahead => 0);
SELECT count(*) FROM concertmaster.create_partition_set('t_new', '1 year', ahead => 0);
INSERT INTO concertmaster.partition_set_state (schema_name, table_name, failures) VALUES ('rename_v', 't', 1), ('rename_v', 't_new', 2)
    ON CONFLICT (schema_name, table_name) DO UPDATE SET failures = EXCLUDED.failures;
BEGIN;
DROP TABLE t;
ALTER TABLE t_new RENAME TO t;
COMMIT;
SELECT * FROM concertmaster.alter_partition_set('t', ahead => 0) WHERE action <> 'kept';
SELECT * FROM kept();
SELECT * FROM wrong_map;
SELECT concertmaster.forget_partition_set('t');
RESET client_min_messages;

-- 3. two that exchange their names, and three in a ring
CREATE MATERIALIZED VIEW a AS SELECT 1 AS id;
CREATE UNIQUE INDEX ON a (id);
CREATE MATERIALIZED VIEW b AS SELECT 2 AS id;
CREATE UNIQUE INDEX ON b (id);
CREATE MATERIALIZED VIEW c AS SELECT 3 AS id;
CREATE UNIQUE INDEX ON c (id);
SELECT concertmaster.manage_matview('a', '1 hour'), concertmaster.manage_matview('b', '2 hours'), concertmaster.manage_matview('c', '3 hours');
BEGIN;
ALTER MATERIALIZED VIEW a RENAME TO x;
ALTER MATERIALIZED VIEW b RENAME TO a;
ALTER MATERIALIZED VIEW x RENAME TO b;
COMMIT;
SELECT reconcile();
SELECT * FROM kept();
SELECT * FROM wrong_map;
BEGIN;
ALTER MATERIALIZED VIEW a RENAME TO x;
ALTER MATERIALIZED VIEW c RENAME TO a;
ALTER MATERIALIZED VIEW b RENAME TO c;
ALTER MATERIALIZED VIEW x RENAME TO b;
COMMIT;
SELECT reconcile();
SELECT relation, setting FROM kept() WHERE kept_in = 'matview';
SELECT * FROM wrong_map;
-- a worker does it too, whatever its job
ALTER MATERIALIZED VIEW a RENAME TO "A of ""them""";
SET client_min_messages = warning;
CALL concertmaster.run_job('refresh rename_v.touched');
RESET client_min_messages;
SELECT relation, object, setting FROM kept() WHERE setting ~ '3 hours';
SELECT concertmaster.unmanage_matview('b'), concertmaster.unmanage_matview('c'), concertmaster.unmanage_matview('"A of ""them"""');

-- 4. plans in two schemas that are renamed at once, their indexes of the same names
CREATE SCHEMA rename_a;
CREATE SCHEMA rename_b;
CREATE TABLE rename_a.t (x integer);
CREATE TABLE rename_b.t (x integer);
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition) VALUES
    (9, 'rename_a', 't', 't_x', '(x)'), (9, 'rename_b', 't', 't_x', '(x DESC)');
INSERT INTO concertmaster.index_state (schema_name, index_name, message) VALUES ('rename_a', 't_x', 'of a'), ('rename_b', 't_x', 'of b');
SELECT reconcile();
ALTER SCHEMA rename_a RENAME TO rename_a2;
ALTER SCHEMA rename_b RENAME TO rename_b2;
SELECT reconcile();
SELECT * FROM kept();
SELECT * FROM wrong_map;
-- exchanged
ALTER SCHEMA rename_a2 RENAME TO rename_x;
ALTER SCHEMA rename_b2 RENAME TO rename_a2;
ALTER SCHEMA rename_x RENAME TO rename_b2;
SELECT reconcile();
SELECT * FROM kept();
SELECT * FROM wrong_map;

-- 5. SET SCHEMA; in the new schema a plan for another table has the index's name: that one stays
ALTER TABLE rename_a2.t RENAME TO moved;
SET client_min_messages = error;
ALTER TABLE rename_a2.moved SET SCHEMA rename_b2;
SELECT reconcile();
RESET client_min_messages;
SELECT * FROM kept();
SELECT * FROM wrong_map;
-- a plan of a table that is gone gives way
CREATE TABLE rename_a2.gone (y integer);
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition) VALUES
    (9, 'rename_b2', 'moved', 'moved_x', '(x, x)'), (9, 'rename_a2', 'gone', 'moved_x', '(y)');
SELECT reconcile();
DROP TABLE rename_a2.gone;
ALTER TABLE rename_b2.moved SET SCHEMA rename_a2;
SELECT reconcile();
SELECT * FROM kept();
SELECT * FROM wrong_map;
DELETE FROM concertmaster.index_plan WHERE schema_name ~ '^rename';

-- 6. everything of one relation moves together; a new owner is followed
CREATE ROLE regress_rename_owner;
GRANT USAGE, CREATE ON SCHEMA rename_a2 TO regress_rename_owner;
SET client_min_messages = warning;
CREATE TABLE s (at timestamptz NOT NULL) PARTITION BY RANGE (at);
SELECT count(*) FROM concertmaster.create_partition_set('s', '1 month', ahead => 0);
RESET client_min_messages;
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition) VALUES (9, 'rename_v', 's', 's_at', '(at)');
ALTER TABLE s SET SCHEMA rename_a2;
ALTER TABLE rename_a2.s RENAME TO s2;
ALTER TABLE rename_a2.s2 OWNER TO regress_rename_owner;
SELECT reconcile();
SELECT * FROM kept() WHERE kept_in <> 'partition_set_state';
SELECT * FROM wrong_map;
SELECT name, owner FROM concertmaster.job WHERE schema_name = 'rename_a2';
SET ROLE regress_rename_owner;
SELECT concertmaster.forget_partition_set('rename_a2.s2');
RESET ROLE;
DELETE FROM concertmaster.index_plan WHERE schema_name ~ '^rename';

SELECT concertmaster.unmanage_matview('touched');
SELECT count(*) FROM kept();
SET client_min_messages = warning;
DROP SCHEMA rename_v, rename_a2, rename_b2 CASCADE;
DROP ROLE regress_rename_owner;
