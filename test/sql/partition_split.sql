-- Many rows in a default partition: when it is split, and when it is not, with the reason
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
-- (nobody but the calls below shall roll the sets)
ALTER SYSTEM SET concertmaster.enabled = off;
SELECT pg_reload_conf();
DROP SCHEMA IF EXISTS partition_split CASCADE;
CREATE SCHEMA partition_split;
SET search_path = partition_split;
\set SHOW_CONTEXT never
CREATE ROLE regress_split_owner;
GRANT USAGE, CREATE ON SCHEMA partition_split TO regress_split_owner;

SET ROLE regress_split_owner;
CREATE TABLE t (n bigint, v text) PARTITION BY RANGE (n);
CREATE TABLE t_now PARTITION OF t FOR VALUES FROM (100000) TO (110000);
INSERT INTO t VALUES (100000, 'now');
CREATE TABLE rest PARTITION OF t DEFAULT;
CREATE FUNCTION reason() RETURNS TABLE (partition name, action text, rows bigint, detail text) LANGUAGE sql
    SET search_path = partition_split AS
    $$SELECT p.partition, p.action, p.rows_to_move, regexp_replace(p.detail, 'about \d+ kB', 'about N kB') FROM concertmaster.plan_partitions('t') p
       WHERE p.rows_to_move > 0 ORDER BY 1$$;
-- two pieces that are too large to be drained, one that is not, a row that stays
INSERT INTO t VALUES (99999999, 'far');
INSERT INTO t SELECT i, 'row ' || i FROM generate_series(60000, 61999) i;
INSERT INTO t SELECT i, 'row ' || i FROM generate_series(80000, 81999) i;
INSERT INTO t SELECT i, 'row ' || i FROM generate_series(40000, 40009) i;
SELECT count(*) FROM concertmaster.create_partition_set('t', width => 10000, ahead => 0);

-- 1. nothing tells the rows apart: what is small is drained, the rest waits with the reason
CALL concertmaster.roll_partitions('t');
SELECT * FROM reason();
SELECT deferred FROM concertmaster.partition_sets WHERE table_name = 't';
SELECT tableoid::regclass, count(*) FROM t GROUP BY 1 ORDER BY 1;

-- (which keeps nothing from retiring, and not one in each pass)
CREATE TABLE o (n bigint, v text) PARTITION BY RANGE (n);
CREATE TABLE o_0 PARTITION OF o FOR VALUES FROM (0) TO (10000);
CREATE TABLE o_1 PARTITION OF o FOR VALUES FROM (10000) TO (20000);
CREATE TABLE o_2 PARTITION OF o FOR VALUES FROM (20000) TO (30000);
CREATE TABLE o_now PARTITION OF o FOR VALUES FROM (100000) TO (110000);
CREATE TABLE o_rest PARTITION OF o DEFAULT;
INSERT INTO o SELECT i, 'row ' || i FROM generate_series(60000, 61999) i UNION ALL VALUES (100000, 'now'), (99999999, 'far');
SELECT count(*) FROM concertmaster.create_partition_set('o', width => 10000, ahead => 0, retention_width => 50000);
CALL concertmaster.roll_partitions('o');
SELECT deferred FROM concertmaster.partition_sets WHERE table_name = 'o';
SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'o'::regclass ORDER BY 1;
SELECT concertmaster.forget_partition_set('o');
DROP TABLE o, o_0, o_1, o_2;

-- 2. and so it is with other obstacles, each with its own reason
CREATE UNIQUE INDEX partly ON rest (n) WHERE v IS NOT NULL;
SELECT DISTINCT detail FROM reason();
ALTER TABLE t ADD CONSTRAINT t_key UNIQUE (n) DEFERRABLE;
ALTER TABLE t ALTER n SET NOT NULL;
SELECT DISTINCT detail FROM reason();
ALTER TABLE t DROP CONSTRAINT t_key;
ALTER TABLE t ADD CONSTRAINT t_key PRIMARY KEY (n);
SELECT DISTINCT detail FROM reason();
CREATE TABLE referring (n bigint REFERENCES t);
SELECT DISTINCT detail FROM reason();
DROP TABLE referring;
CREATE TABLE "r 1" (v text PRIMARY KEY);
INSERT INTO "r 1" SELECT v FROM t;
ALTER TABLE t ADD CONSTRAINT "to r" FOREIGN KEY (v) REFERENCES "r 1";
SELECT DISTINCT detail FROM reason();
ALTER TABLE t DROP CONSTRAINT "to r";
-- (one that logs for views is no obstacle: of many partitions each has its own)
CREATE TRIGGER a_log AFTER INSERT OR UPDATE OR DELETE ON rest FOR EACH ROW EXECUTE FUNCTION concertmaster.log_changes();
SELECT * FROM reason();
CREATE TRIGGER own BEFORE UPDATE ON rest FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
SELECT DISTINCT detail FROM reason();
DROP TRIGGER a_log ON rest;
DROP TRIGGER own ON rest;
CREATE VIEW of_rest AS SELECT n FROM rest;
SELECT DISTINCT detail FROM reason();
DROP VIEW of_rest;
ALTER TABLE rest ENABLE ROW LEVEL SECURITY;
SELECT DISTINCT detail FROM reason();
ALTER TABLE rest DISABLE ROW LEVEL SECURITY;
RESET ROLE;
SET client_min_messages = error;
CREATE PUBLICATION regress_split_all FOR ALL TABLES;
SELECT DISTINCT detail FROM reason();
DROP PUBLICATION regress_split_all;
CREATE PUBLICATION regress_split_one FOR TABLE t;
SELECT DISTINCT detail FROM reason();
ALTER PUBLICATION regress_split_one SET (publish_via_partition_root);
SELECT DISTINCT detail FROM reason();
DROP PUBLICATION regress_split_one;
SET client_min_messages = warning;
SET ROLE regress_split_owner;

-- 3. once nothing is in the way it is done, with privileges, comment and index of its own
GRANT SELECT ON rest TO PUBLIC;
ALTER TABLE rest REPLICA IDENTITY FULL;
COMMENT ON TABLE rest IS 'what stays';
CALL concertmaster.roll_partitions('t');
SELECT * FROM reason();
SELECT tableoid::regclass, count(*) FROM t GROUP BY 1 ORDER BY 1;
SELECT relowner::regrole, relacl IS NOT NULL AS granted, relreplident, obj_description(oid, 'pg_class') FROM pg_class WHERE oid = 'rest'::regclass;
SELECT indexdef FROM pg_indexes WHERE schemaname = 'partition_split' AND tablename = 'rest' ORDER BY 1;
SELECT deferred FROM concertmaster.partition_sets WHERE table_name = 't';
SELECT relname FROM pg_class WHERE relnamespace = 'partition_split'::regnamespace AND relkind IN ('r', 'p') ORDER BY 1;

-- 4. the trigger is nobody's but the workers'
CREATE TABLE mine (n bigint);
CREATE TRIGGER mine AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION concertmaster._partition_capture('public', 'theirs');

-- 5. what a crash left of a split goes with its rows, trigger and all; also when the set is forgotten
RESET ROLE;
CREATE TRIGGER concertmaster_split AFTER INSERT OR UPDATE OR DELETE ON rest FOR EACH ROW
    EXECUTE FUNCTION concertmaster._partition_capture('partition_split', 't_log');
ALTER TABLE rest ENABLE ALWAYS TRIGGER concertmaster_split;
SET ROLE regress_split_owner;
-- (writers go on without a log, and with one that does not fit any more)
INSERT INTO t VALUES (99999998, 'far');
CREATE TABLE t_log (concertmaster_number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, concertmaster_gone boolean, n text, v text);
COMMENT ON TABLE t_log IS 'concertmaster: splitting the default partition of partition_split.t';
INSERT INTO t VALUES (99999997, 'far');
UPDATE t SET v = 'further' WHERE n = 99999997;
DELETE FROM t WHERE n = 99999998;
SELECT * FROM t_log ORDER BY 1;
SELECT concertmaster.forget_partition_set('t');
SELECT to_regclass('t_log'), (SELECT count(*) FROM pg_trigger WHERE tgrelid = 'rest'::regclass) AS triggers;

RESET ROLE;
DROP SCHEMA partition_split CASCADE;
DROP ROLE regress_split_owner;
ALTER SYSTEM RESET concertmaster.enabled;
SELECT pg_reload_conf();
