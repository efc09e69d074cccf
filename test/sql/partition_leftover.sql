-- Tables that were to become partitions and did not; partitions whose
-- attaching locks other tables
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
DROP SCHEMA IF EXISTS partition_leftover CASCADE;
CREATE SCHEMA partition_leftover;
SET search_path = partition_leftover;
\set SHOW_CONTEXT never
CREATE ROLE regress_leftover_owner;
CREATE ROLE regress_leftover_other;
GRANT USAGE, CREATE ON SCHEMA partition_leftover TO regress_leftover_owner, regress_leftover_other;

SET ROLE regress_leftover_owner;
CREATE TABLE t (at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE "T 2" (at date NOT NULL) PARTITION BY RANGE (at);
SELECT count(*) FROM concertmaster.create_partition_set('t', '1 month', ahead => 1);
SELECT count(*) FROM concertmaster.create_partition_set('"T 2"', '1 month', ahead => 1);
CREATE VIEW strays AS
    SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'partition_leftover'::regnamespace AND c.relkind = 'r' AND NOT c.relispartition ORDER BY 1;
-- A table as a crash leaves it.
CREATE FUNCTION leave(name text, parent text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TABLE partition_leftover.%I (at date)', name);
    EXECUTE format('COMMENT ON TABLE partition_leftover.%I IS %L', name, 'concertmaster: becoming a partition of ' || parent);
END $$;
GRANT SELECT ON strays TO PUBLIC;

-- 1. the next roll removes it; what is not ours or not empty stays
SELECT leave('t_1999_01', 'partition_leftover.t'), leave('t_of_another', 'partition_leftover.t'), leave('t_full', 'partition_leftover.t'),
       leave('T 2_1999_01', 'partition_leftover."T 2"');
INSERT INTO t_full VALUES ('1999-01-01');
CREATE TABLE plain (at date);
RESET ROLE;
ALTER TABLE t_of_another OWNER TO regress_leftover_other;
SET ROLE regress_leftover_owner;
CALL concertmaster.roll_partitions('t');
SELECT * FROM strays;

-- 2. so does whoever forgets the set, however the session reads its strings
SET standard_conforming_strings = off;
SELECT leave('t_1999_02', 'partition_leftover.t');
SELECT concertmaster.forget_partition_set('t');
SELECT * FROM strays;
SELECT count(*) AS kept FROM pg_inherits WHERE inhparent = 't'::regclass;
-- also of a table that is gone
DROP TABLE "T 2";
SELECT concertmaster.forget_partition_set('partition_leftover."T 2"');
SELECT * FROM strays;

-- 3. one partition at a time where each locks a default partition, or a table at the other end of a foreign key
CREATE TABLE r (id integer PRIMARY KEY);
CREATE TABLE referring (at date NOT NULL, r_id integer REFERENCES r) PARTITION BY RANGE (at);
CREATE TABLE with_default (at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE rest PARTITION OF with_default DEFAULT;
RESET client_min_messages;
BEGIN;
SELECT action, count(*), bool_and(range_from <= now() AND now() < range_to) AS present FROM concertmaster.create_partition_set('referring', '1 month', ahead => 3) GROUP BY 1 ORDER BY 1;
SELECT action, count(*), bool_and(range_from <= now() AND now() < range_to) AS present FROM concertmaster.create_partition_set('with_default', '1 month', ahead => 3) GROUP BY 1 ORDER BY 1;
SELECT name, next_run <= now() AS due FROM concertmaster.jobs WHERE name ~ 'partition_leftover' ORDER BY 1;
COMMIT;
SET client_min_messages = warning;
CALL concertmaster.roll_partitions();
SELECT table_name, partitions FROM concertmaster.partition_sets WHERE schema_name = 'partition_leftover' ORDER BY 1;
-- nobody else waits for tables that are made in the same transaction
BEGIN;
CREATE TABLE r2 (id integer PRIMARY KEY);
CREATE TABLE referring2 (at date NOT NULL, r_id integer REFERENCES r2) PARTITION BY RANGE (at);
CREATE TABLE rest2 PARTITION OF referring2 DEFAULT;
SAVEPOINT s;
SELECT action, count(*) FROM concertmaster.create_partition_set('referring2', '1 month', ahead => 3) GROUP BY 1 ORDER BY 1;
COMMIT;
SELECT concertmaster.forget_partition_set('referring'), concertmaster.forget_partition_set('with_default'), concertmaster.forget_partition_set('referring2');

RESET ROLE;
DROP SCHEMA partition_leftover CASCADE;
DROP ROLE regress_leftover_owner, regress_leftover_other;
