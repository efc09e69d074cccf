-- build_indexes() on partitioned tables.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
CREATE SCHEMA index_part_test;
SET search_path = index_part_test;
SET timezone = 'UTC';
\set SHOW_CONTEXT never

CREATE PROCEDURE plan(phase integer, table_name name, index_name name, definition text,
                     is_unique boolean DEFAULT false, hot_window interval DEFAULT NULL)
LANGUAGE sql AS $$
    INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition, is_unique, hot_window)
    VALUES (phase, 'index_part_test', table_name, index_name, definition, is_unique, hot_window)
$$;
CREATE VIEW stand AS
    SELECT phase AS ph, index_name, state, percent_done AS pct, size_bytes > 0 AS sized,
           adopted_index AS adopted, sqlstate, message, detail
      FROM concertmaster.indexes WHERE schema_name = 'index_part_test';
CREATE VIEW truth AS
    SELECT x.indrelid::regclass::text AS on_table, x.indexrelid::regclass::text AS index, x.indisvalid AS valid,
           (SELECT h.inhparent::regclass::text FROM pg_inherits h WHERE h.inhrelid = x.indexrelid) AS attached_to
      FROM pg_index x JOIN pg_class c ON c.oid = x.indrelid
     WHERE c.relnamespace = 'index_part_test'::regnamespace
     ORDER BY 1, 2;

-- a tree: leaves with and without rows, a level below, other column order, a default
CREATE TABLE tree (id integer, at timestamptz NOT NULL, name text) PARTITION BY RANGE (at);
CREATE TABLE tree_2020 PARTITION OF tree FOR VALUES FROM ('2020-01-01') TO ('2021-01-01') PARTITION BY LIST (name);
CREATE TABLE tree_2020_a PARTITION OF tree_2020 FOR VALUES IN ('a');
CREATE TABLE tree_2020_rest PARTITION OF tree_2020 DEFAULT;
CREATE TABLE tree_2021 (gone text, name text, id integer, at timestamptz NOT NULL);
ALTER TABLE tree_2021 DROP COLUMN gone;
ALTER TABLE tree ATTACH PARTITION tree_2021 FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
CREATE TABLE tree_default PARTITION OF tree DEFAULT;
INSERT INTO tree
SELECT g, '2020-01-01'::timestamptz + g * interval '1 day', CASE g % 2 WHEN 0 THEN 'a' ELSE 'b' END
  FROM generate_series(1, 700) g;

-- one leaf has an equivalent index already
CREATE INDEX theirs ON tree_2021 (lower(name), id DESC) WHERE id > 0;
CALL plan(301, 'tree', 'tree_name', '(lower(name), id DESC) WHERE id > 0');
CALL plan(301, 'tree', 'tree_unique', '(id, at, name)', true);
CALL plan(301, 'tree', rpad('tree_', 63, 'long'), '(id)');
SELECT * FROM stand;
CALL concertmaster.build_indexes(301);
SELECT * FROM stand;
SELECT * FROM truth;

-- a partition attached later gets them from the parent, and nothing is to do
CREATE TABLE tree_2022 PARTITION OF tree FOR VALUES FROM ('2022-01-01') TO ('2023-01-01');
CALL concertmaster.build_indexes(301);
SELECT * FROM stand;
SELECT count(*), bool_and(valid) FROM truth WHERE on_table = 'tree_2022';
DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_part_test';

-- an equivalent index of the whole tree is adopted
CREATE INDEX theirs_all ON tree (at, id);
CALL plan(302, 'tree', 'tree_at', '(at, id)');
CALL concertmaster.build_indexes(302);
SELECT * FROM stand;
DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_part_test';

-- a build that stopped anywhere is finished
CREATE INDEX tree_half ON ONLY tree (name);
CREATE INDEX tree_2020_tree_half ON ONLY tree_2020 (name);
ALTER INDEX tree_half ATTACH PARTITION tree_2020_tree_half;
CREATE INDEX tree_2020_a_tree_half ON tree_2020_a (name);
ALTER INDEX tree_2020_tree_half ATTACH PARTITION tree_2020_a_tree_half;
CREATE INDEX tree_2021_tree_half ON tree_2021 (name);
CREATE INDEX tree_default_tree_half ON tree_default (name);
UPDATE pg_index SET indisvalid = false WHERE indexrelid IN ('tree_default_tree_half'::regclass, 'tree_2020_a_tree_half'::regclass);
CALL plan(303, 'tree', 'tree_half', '(name)');
SELECT * FROM stand;
CALL concertmaster.build_indexes(303);
SELECT * FROM stand;
SELECT * FROM truth WHERE index ~ 'half';
DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_part_test';

-- conflicts at the root and at a leaf
CREATE SEQUENCE taken_root;
CREATE SEQUENCE tree_2021_taken_leaf;
CALL plan(304, 'tree', 'taken_root', '(id, name)');
CALL plan(304, 'tree', 'taken_leaf', '(name, at)');
CALL concertmaster.build_indexes(304);
SELECT * FROM stand;
-- the conflict gone, the tree is finished
DROP SEQUENCE taken_root, tree_2021_taken_leaf;
CALL concertmaster.build_indexes(304);
SELECT * FROM stand;
DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_part_test';

-- a partitioned table without partitions
CREATE TABLE bare (id integer, at date) PARTITION BY RANGE (at);
CALL plan(305, 'bare', 'bare_id', '(id)');
CALL concertmaster.build_indexes(305);
SELECT * FROM stand;
DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_part_test';

-- unique without the partition key is refused by the server, and leaves nothing
CALL plan(306, 'tree', 'tree_refused', '(id)', true);
CALL concertmaster.build_indexes(306);
SELECT * FROM stand;
SELECT count(*) FROM truth WHERE index ~ 'refused';
DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_part_test';

-- a duplicate in one leaf: nothing invalid there, the others are built all the same
CREATE TABLE dup (id integer, k integer) PARTITION BY LIST (k);
CREATE TABLE dup_1 PARTITION OF dup FOR VALUES IN (1);
CREATE TABLE dup_2 PARTITION OF dup FOR VALUES IN (2);
CREATE TABLE dup_3 PARTITION OF dup FOR VALUES IN (3);
INSERT INTO dup VALUES (1, 1), (2, 2), (2, 2), (3, 3);
CALL plan(307, 'dup', 'dup_unique', '(id, k)', true);
CALL concertmaster.build_indexes(307);
SELECT * FROM stand;
SELECT * FROM truth WHERE on_table ~ 'dup';
DELETE FROM dup WHERE k = 2;
CALL concertmaster.build_indexes(307);
SELECT * FROM stand;
DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_part_test';

-- an attached index that is not valid is rebuilt in place; what a REINDEX of it
-- left is removed, now or by an earlier crash, and nothing else is
CREATE TABLE redo (id integer, k integer) PARTITION BY LIST (k);
CREATE TABLE redo_1 PARTITION OF redo FOR VALUES IN (1);
CREATE TABLE redo_rest PARTITION OF redo DEFAULT PARTITION BY LIST (k);
CREATE TABLE redo_2 PARTITION OF redo_rest FOR VALUES IN (2);
INSERT INTO redo VALUES (1, 1), (2, 2), (2, 2);
CREATE UNIQUE INDEX redo_unique ON ONLY redo (id, k);
CREATE UNIQUE INDEX redo_rest_redo_unique ON ONLY redo_rest (id, k);
CREATE UNIQUE INDEX CONCURRENTLY redo_2_redo_unique ON redo_2 (id, k);
ALTER INDEX redo_rest_redo_unique ATTACH PARTITION redo_2_redo_unique;
ALTER INDEX redo_unique ATTACH PARTITION redo_rest_redo_unique;
REINDEX INDEX CONCURRENTLY redo_2_redo_unique;
REINDEX INDEX CONCURRENTLY redo_2_redo_unique;
ALTER INDEX redo_2_redo_unique_ccnew RENAME TO redo_2_redo_unique_ccold;
UPDATE pg_index SET indisready = false, indislive = false WHERE indexrelid = 'redo_2_redo_unique_ccold'::regclass;
REINDEX INDEX CONCURRENTLY redo_2_redo_unique;
CREATE UNIQUE INDEX CONCURRENTLY redo_2_theirs ON redo_2 (id, k);
CREATE UNIQUE INDEX CONCURRENTLY redo_2_redo_unique_ccnew2 ON redo_2 (k, id);
CREATE INDEX redo_2_redo_unique_ccnew3 ON redo_2 (id, k);
CALL plan(310, 'redo', 'redo_unique', '(id, k)', true);
SELECT index FROM truth WHERE on_table = 'redo_2';
CALL concertmaster.build_indexes(310);
CALL concertmaster.build_indexes(310);
SELECT * FROM truth WHERE on_table ~ 'redo';
DELETE FROM redo WHERE k = 2;
CALL concertmaster.build_indexes(310);
SELECT * FROM stand;
SELECT * FROM truth WHERE on_table ~ 'redo';
-- so is what is left beside an index that is valid already
INSERT INTO redo VALUES (2, 2);
REINDEX INDEX CONCURRENTLY redo_2_redo_unique;
CREATE UNIQUE INDEX redo_2_redo_unique_ccold ON redo_2 (id, k);
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'redo_2_redo_unique_ccold'::regclass;
UPDATE pg_index SET indisvalid = false WHERE indexrelid IN ('redo_unique'::regclass, 'redo_rest_redo_unique'::regclass);
CALL concertmaster.build_indexes(310);
SELECT * FROM truth WHERE on_table ~ 'redo';
DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_part_test';

-- foreign partitions go without, as with CREATE INDEX; a unique index is refused
-- before anything is made
CREATE FOREIGN DATA WRAPPER regress_index_fdw;
CREATE SERVER regress_index_server FOREIGN DATA WRAPPER regress_index_fdw;
CREATE TABLE far (id integer, k integer) PARTITION BY LIST (k);
CREATE TABLE far_1 PARTITION OF far FOR VALUES IN (1);
CREATE TABLE far_rest PARTITION OF far DEFAULT PARTITION BY LIST (k);
CREATE FOREIGN TABLE far_2 PARTITION OF far_rest FOR VALUES IN (2) SERVER regress_index_server;
INSERT INTO far VALUES (1, 1);
CALL plan(311, 'far', 'far_id', '(id)');
CALL plan(312, 'far', 'far_unique', '(id, k)', true);
CALL concertmaster.build_indexes(311);
CALL concertmaster.build_indexes(312);
SELECT * FROM stand;
SELECT * FROM truth WHERE on_table ~ '^far';
DROP FOREIGN TABLE far_2;
CALL concertmaster.build_indexes(312);
SELECT * FROM truth WHERE on_table ~ '^far' AND index ~ 'unique';
DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_part_test';
DROP SERVER regress_index_server;
DROP FOREIGN DATA WRAPPER regress_index_fdw;

-- hot window: no parent index, only partitions that end inside it
CREATE TABLE hot (id integer, at timestamptz NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE hot_2001 PARTITION OF hot FOR VALUES FROM ('2001-01-01') TO ('2002-01-01');
CREATE TABLE hot_sub PARTITION OF hot FOR VALUES FROM ('2002-01-01') TO ('infinity') PARTITION BY RANGE (at);
CREATE TABLE hot_sub_cold PARTITION OF hot_sub FOR VALUES FROM ('2002-01-01') TO ('2003-01-01');
CREATE TABLE hot_sub_now PARTITION OF hot_sub FOR VALUES FROM ('2003-01-01') TO ('9000-01-01');
CREATE TABLE hot_sub_later PARTITION OF hot_sub FOR VALUES FROM ('9000-01-01') TO (MAXVALUE);
CREATE TABLE hot_default PARTITION OF hot DEFAULT;
INSERT INTO hot SELECT g, timestamptz '2001-06-01' + g * interval '1 year' FROM generate_series(0, 10) g;
CREATE INDEX hot_theirs ON hot_default (id);
CREATE TABLE hot_plain (id integer, at date);
CREATE TABLE hot_date (id integer, at date) PARTITION BY RANGE (at);
CREATE TABLE hot_date_cold PARTITION OF hot_date FOR VALUES FROM ('2001-01-01') TO ('2002-01-01');
CREATE TABLE hot_date_now PARTITION OF hot_date FOR VALUES FROM ('2002-01-01') TO ('9000-01-01');
CREATE TABLE hot_stamp (id integer, at timestamp) PARTITION BY RANGE (at);
CREATE TABLE hot_stamp_cold PARTITION OF hot_stamp FOR VALUES FROM (MINVALUE) TO ('2002-01-01');
CREATE TABLE hot_stamp_now PARTITION OF hot_stamp FOR VALUES FROM ('2002-01-01') TO ('infinity');
CALL plan(308, 'hot', 'hot_id', '(id)', hot_window => '90 days');
CALL plan(308, 'hot_plain', 'hot_plain_id', '(id)', hot_window => '90 days');
CALL plan(308, 'hot_date', 'hot_date_id', '(id)', hot_window => '90 days');
CALL plan(308, 'hot_stamp', 'hot_stamp_id', '(id)', hot_window => '90 days');
CALL concertmaster.build_indexes(308);
SELECT * FROM stand;
SELECT * FROM truth WHERE on_table ~ '^hot';
-- the job looks daily for partitions that have come into the window
SELECT every FROM concertmaster.job WHERE name = 'build phase 308';
DROP INDEX hot_sub_now_hot_id;
SELECT index_name, state, pct FROM stand WHERE index_name = 'hot_id';
CALL concertmaster.run_job('build phase 308');
SELECT index_name, state, pct FROM stand WHERE index_name = 'hot_id';
DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_part_test';

-- leaves of other owners, and a role that owns only some tables of a phase
CREATE ROLE regress_index_root;
CREATE ROLE regress_index_leaf;
GRANT ALL ON SCHEMA index_part_test TO regress_index_root, regress_index_leaf;
CREATE TABLE owned (id integer, k integer) PARTITION BY LIST (k);
CREATE TABLE owned_1 PARTITION OF owned FOR VALUES IN (1);
INSERT INTO owned VALUES (1, 1);
ALTER TABLE owned OWNER TO regress_index_root;
ALTER TABLE owned_1 OWNER TO regress_index_leaf;
CALL plan(309, 'owned', 'owned_id', '(id)');
CALL plan(309, 'bare', 'bare_at', '(at)');
SET ROLE regress_index_root;
CALL concertmaster.build_indexes(309);
RESET ROLE;
SELECT * FROM stand;
SELECT c.relname, c.relowner::regrole FROM pg_class c WHERE c.relname LIKE 'owned%' ORDER BY 1;
SELECT name, owner FROM concertmaster.job WHERE phase = 309 ORDER BY 1;
-- a superuser takes the job over, the other one gets another
CALL concertmaster.build_indexes(309);
SET ROLE regress_index_root;
CALL concertmaster.build_indexes(309);
RESET ROLE;
SELECT name, owner FROM concertmaster.job WHERE phase = 309 ORDER BY 1;

DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_part_test';
DELETE FROM concertmaster.job WHERE phase BETWEEN 301 AND 312;
DROP SCHEMA index_part_test CASCADE;
DROP ROLE regress_index_root, regress_index_leaf;
