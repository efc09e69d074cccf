-- which sets roll_partitions() leaves out: what a pass notes of a set with nothing to do
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
DROP SCHEMA IF EXISTS partition_idle CASCADE;
CREATE SCHEMA partition_idle;
SET search_path = partition_idle, public;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
\set SHOW_CONTEXT never
CREATE VIEW notes AS
    SELECT s.table_name, t.idle_until IS NOT NULL AS noted, t.idle_mark IS NOT NULL AS marked,
           t.idle_until > now() AS holds, t.idle_until = date_trunc('month', now()) + interval '1 month' AS for_the_month
      FROM concertmaster.partition_set s LEFT JOIN concertmaster.partition_set_state t USING (schema_name, table_name)
     WHERE s.schema_name = 'partition_idle' ORDER BY 1;

-- 1. noted by a pass with nothing left to do, until the period is over
CREATE TABLE t (id integer, at timestamptz NOT NULL) PARTITION BY RANGE (at);
SELECT count(*) FROM concertmaster.create_partition_set('t', '1 month');
CALL concertmaster.roll_partitions('t');
SELECT * FROM notes;
SET client_min_messages = notice;
CALL concertmaster.roll_partitions();

-- 2. a partition that goes, settings that change: there is something to do again
DO $$ BEGIN EXECUTE format('DROP TABLE t_%s', to_char(now() + interval '2 months', 'YYYY_MM')); END $$;
SET client_min_messages = warning;
CALL concertmaster.roll_partitions();
SELECT count(*) FROM concertmaster.partitions WHERE table_name = 't';
UPDATE concertmaster.partition_set SET ahead = 5 WHERE table_name = 't';
CALL concertmaster.roll_partitions();
SELECT count(*) FROM concertmaster.partitions WHERE table_name = 't';
SELECT count(*) FROM concertmaster.alter_partition_set('t', ahead => 6);
CALL concertmaster.roll_partitions();
SELECT count(*) FROM concertmaster.partitions WHERE table_name = 't';
SELECT * FROM notes;

-- 3. a partition more, or the time is over: a pass finds nothing to do, and notes it anew
CREATE TABLE early PARTITION OF t FOR VALUES FROM ('2001-01-01') TO ('2002-01-01');
CALL concertmaster.roll_partitions();
SET client_min_messages = notice;
CALL concertmaster.roll_partitions();
SET client_min_messages = warning;
UPDATE concertmaster.partition_set_state SET idle_until = now() WHERE table_name = 't';
CALL concertmaster.roll_partitions();
SELECT * FROM notes;

-- 4. a retention in other units than the period: not beyond the day on which the next one retires
SELECT count(*) FROM concertmaster.alter_partition_set('t', retention => '40 days', retention_keep => false);
CALL concertmaster.roll_partitions('t');
DO $$ BEGIN EXECUTE format('CREATE TABLE before_us PARTITION OF t FOR VALUES FROM (MINVALUE) TO (%L)', now() - interval '40 days' + interval '2 hours'); END $$;
CALL concertmaster.roll_partitions('t');
SELECT n.holds, s.idle_until <= p.first_end + interval '40 days' AS in_time, p.first_end < now() AS has_past
  FROM notes n, concertmaster.partition_set_state s, (SELECT min(range_to) AS first_end FROM concertmaster.partitions WHERE table_name = 't') p
 WHERE n.table_name = 't' AND s.table_name = 't';

-- 5. nothing is noted where rows decide
CREATE TABLE rest PARTITION OF t DEFAULT;
CALL concertmaster.roll_partitions('t');
CREATE TABLE numbers (id bigint NOT NULL) PARTITION BY RANGE (id);
SELECT count(*) FROM concertmaster.create_partition_set('numbers', width => 1000);
CALL concertmaster.roll_partitions('numbers');
SELECT * FROM notes;
SET client_min_messages = notice;
CALL concertmaster.roll_partitions();
SET client_min_messages = warning;

SELECT concertmaster.forget_partition_set('t'), concertmaster.forget_partition_set('numbers');
DROP SCHEMA partition_idle CASCADE;
