-- Partition sets by every kind of key: numbers, time since 1970, uuids of version 7
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
-- (nobody but the calls below shall roll the sets)
ALTER SYSTEM SET concertmaster.enabled = off;
SELECT pg_reload_conf();
DROP SCHEMA IF EXISTS partition_keys CASCADE;
RESET client_min_messages;
CREATE SCHEMA partition_keys;
SET search_path = partition_keys;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
\set SHOW_CONTEXT never

-- neighbours meet to the letter of their bounds, whatever the key; one row: it is so
CREATE FUNCTION meet(parent regclass) RETURNS boolean LANGUAGE sql AS $$
    SELECT bool_and(low = coalesce(previous, low))
      FROM (SELECT low, lag(high) OVER (ORDER BY length(low), low) AS previous
              FROM (SELECT substring(pg_get_expr(c.relpartbound, c.oid) FROM 'FROM \((.*)\) TO') AS low,
                           substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \((.*)\)') AS high
                      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = parent) b) o
$$;

-- 1. numbers: how far the rows have come stands for now
CREATE TABLE numbers (id bigint PRIMARY KEY, v text) PARTITION BY RANGE (id);
SELECT partition, action, bounds, range_from, range_to FROM concertmaster.create_partition_set('numbers', width => 1000, ahead => 2);
INSERT INTO numbers SELECT g FROM generate_series(1, 2500) g;
SELECT partition, action, bounds FROM concertmaster.plan_partitions('numbers') WHERE action <> 'kept';
SELECT period, width, ahead, partitions, first_bound, runway FROM concertmaster.partition_sets WHERE table_name = 'numbers';
SET client_min_messages = warning;
CALL concertmaster.roll_partitions('numbers');
RESET client_min_messages;
SELECT partitions, values_left FROM concertmaster.partition_sets WHERE table_name = 'numbers';
SELECT partition, range_from, state, bounds FROM concertmaster.partitions WHERE table_name = 'numbers' ORDER BY partition;
SELECT meet('numbers');
-- what lies 1,500 behind the newest retires
SELECT partition, action FROM concertmaster.alter_partition_set('numbers', retention_width => 1400, retention_keep => false) WHERE action <> 'kept';
SELECT partition, action FROM concertmaster.plan_partitions('numbers') WHERE action <> 'kept';
SET client_min_messages = warning;
CALL concertmaster.roll_partitions('numbers');
RESET client_min_messages;
SELECT count(*), min(id) FROM numbers;
-- an end that the type has, negative numbers, a start
CREATE TABLE small (id smallint NOT NULL) PARTITION BY RANGE (id);
SELECT partition, action, bounds FROM concertmaster.create_partition_set('small', width => 30000, ahead => 9, start_value => -32768);
INSERT INTO small VALUES (-32768), (-1), (0), (32767);
SELECT partition, action, bounds FROM concertmaster.plan_partitions('small');
SELECT tableoid::regclass::text, id FROM small ORDER BY id;
-- a row of a default partition that is as low as the type goes
CREATE TABLE lowest (id smallint NOT NULL) PARTITION BY RANGE (id);
CREATE TABLE lowest_0 PARTITION OF lowest FOR VALUES FROM (0) TO (30000);
CREATE TABLE lowest_rest PARTITION OF lowest DEFAULT;
INSERT INTO lowest VALUES (0), (-1), (-32768);
SELECT partition, action, bounds FROM concertmaster.create_partition_set('lowest', width => 30000, ahead => 0);
SELECT partition, action, bounds, rows_to_move FROM concertmaster.plan_partitions('lowest');
SET client_min_messages = warning;
CALL concertmaster.roll_partitions('lowest');
RESET client_min_messages;
SELECT tableoid::regclass::text, id FROM lowest ORDER BY id;

-- 2. time since 1970
CREATE TABLE epoch_s (at integer NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE epoch_ms (at bigint NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE epoch_ns (at bigint NOT NULL) PARTITION BY RANGE (at);
SELECT count(*) > 8, bool_and(action = 'created') FROM concertmaster.create_partition_set('epoch_s', '1 month', start_at => '2026-01-15', timezone => 'Europe/Berlin', epoch => 'seconds');
SELECT count(*) > 8 FROM concertmaster.create_partition_set('epoch_ms', '1 month', start_at => '2026-01-15', epoch => 'milliseconds');
SELECT count(*) FROM concertmaster.create_partition_set('epoch_ns', '1 day', ahead => 1, start_at => now() - interval '2 days', epoch => 'nanoseconds');
SELECT partition, bounds, range_from, range_to FROM concertmaster.partitions
 WHERE schema_name = 'partition_keys' AND partition IN ('epoch_s_2026_03', 'epoch_s_2026_04', 'epoch_ms_2026_02') ORDER BY 1;
SELECT meet('epoch_s') AND meet('epoch_ms') AND meet('epoch_ns') AS meet;
INSERT INTO epoch_s SELECT extract(epoch FROM now());
INSERT INTO epoch_ms SELECT extract(epoch FROM now()) * 1000;
INSERT INTO epoch_ns SELECT extract(epoch FROM now())::bigint * 1000000000;
SELECT partitions = 1 + 4 + extract(year FROM age(date_trunc('month', now()), '2026-01-01')) * 12 + extract(month FROM age(date_trunc('month', now()), '2026-01-01')) AS as_many
  FROM concertmaster.partition_sets WHERE table_name = 'epoch_ms';

-- 3. uuids of version 7
CREATE TABLE ids (id uuid PRIMARY KEY DEFAULT concertmaster.uuid_v7(), v integer) PARTITION BY RANGE (id);
SELECT count(*) > 5 FROM concertmaster.create_partition_set('ids', '1 month', start_at => '2026-01-15');
INSERT INTO ids SELECT FROM generate_series(1, 100);
SELECT count(*) FROM ids WHERE tableoid = ('partition_keys.ids_' || to_char(now(), 'YYYY_MM'))::regclass;
SELECT partition, bounds, range_from, range_to FROM concertmaster.partitions WHERE table_name = 'ids' AND partition = 'ids_2026_02';
SELECT meet('ids');
-- a bound that is finer than a millisecond is met to the last bit
CREATE TABLE fine (id uuid NOT NULL) PARTITION BY RANGE (id);
CREATE TABLE fine_old PARTITION OF fine FOR VALUES FROM ('018b0000-0000-7000-8000-000000000000') TO ('018c2f3b-9d00-7abc-8def-0123456789ab');
SELECT count(*) > 1 FROM concertmaster.create_partition_set('fine', '1 month', start_at => '2023-11-01');
SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = (SELECT min(inhrelid) FROM pg_inherits WHERE inhparent = 'fine'::regclass AND inhrelid <> 'fine_old'::regclass
   AND pg_get_expr((SELECT relpartbound FROM pg_class WHERE oid = inhrelid), inhrelid) ~ 'FROM \(''018c2f3b');
SELECT meet('fine');
-- all that the identifiers of one plan name is scanned
SELECT id AS one FROM ids LIMIT 1 \gset
CREATE FUNCTION scans(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE plan json; BEGIN
    EXECUTE 'EXPLAIN (FORMAT JSON) ' || query INTO plan;
    RETURN (SELECT count(*) FROM regexp_matches(plan::text, '"Relation Name"', 'g'));
END $$;
SELECT scans(format('SELECT FROM ids WHERE id = %L', :'one'));

-- 4. a date key is no clock: bounds by the calendar of the set's zone
CREATE TABLE days (d date NOT NULL) PARTITION BY RANGE (d);
SELECT count(*) FROM concertmaster.create_partition_set('days', '1 week', ahead => 1, start_at => now() - interval '2 weeks');
SELECT bool_and(extract(isodow FROM range_from) = 1) AS mondays, meet('days') FROM concertmaster.partitions WHERE table_name = 'days';

-- 5. refusals
SELECT concertmaster.create_partition_set('numbers', '1 month');
SELECT concertmaster.create_partition_set('numbers', ahead => 3);
SELECT concertmaster.create_partition_set('numbers', width => 0);
SELECT concertmaster.create_partition_set('numbers', width => 10, retention => '1 day');
SELECT concertmaster.create_partition_set('numbers', width => 10, retention_width => -1);
SELECT concertmaster.create_partition_set('numbers', '1 month', epoch => 'weeks');
SELECT concertmaster.create_partition_set('days', width => 10);
SELECT concertmaster.create_partition_set('days', '1 month', epoch => 'seconds');
SELECT concertmaster.create_partition_set('days', '1 month', retention => '-1 day');
SELECT concertmaster.create_partition_set('days', '1 month', retention => '2000 years');
SELECT concertmaster.create_partition_set('days', '1 month', retention_schema => 'no_such_schema');
SELECT concertmaster.create_partition_set('days', '1 month', retention_keep => NULL);
SELECT concertmaster.create_monthly_partition('numbers', '2026-01-01');
CREATE TABLE texts (t text NOT NULL) PARTITION BY RANGE (t);
SELECT concertmaster.create_partition_set('texts', '1 month');
-- the key's type changes under a set: said so, and the others go on
CREATE TABLE changing (k integer NOT NULL) PARTITION BY RANGE (k);
SELECT count(*) FROM concertmaster.create_partition_set('changing', width => 10, ahead => 0);
DROP TABLE changing;
CREATE TABLE changing (k date NOT NULL) PARTITION BY RANGE (k);
SELECT concertmaster.plan_partitions('changing');

SET client_min_messages = warning;
SELECT count(concertmaster.forget_partition_set(format('%I.%I', schema_name, table_name)::regclass)) FROM concertmaster.partition_sets WHERE schema_name = 'partition_keys';
DROP SCHEMA partition_keys CASCADE;
ALTER SYSTEM RESET concertmaster.enabled;
SELECT pg_reload_conf();
