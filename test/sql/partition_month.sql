-- create_monthly_partition(): the strategy's function, without its faults
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
DROP SCHEMA IF EXISTS partition_month, "Odd Schema" CASCADE;
RESET client_min_messages;
CREATE SCHEMA partition_month;
SET search_path = partition_month;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
\set SHOW_CONTEXT never

CREATE FUNCTION leaves(parent regclass) RETURNS TABLE (leaf name, bounds text)
LANGUAGE sql AS $$
    SELECT c.relname, pg_get_expr(c.relpartbound, c.oid)
      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = parent ORDER BY 1
$$;

-- 1. the three types of key, any day of the month
CREATE TABLE by_date (at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE by_timestamp (at timestamp NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE by_timestamptz (at timestamptz NOT NULL) PARTITION BY RANGE (at);
SELECT concertmaster.create_monthly_partition('by_date', '2025-01-31');
SELECT concertmaster.create_monthly_partition('by_timestamp', '2024-02-29');
SELECT concertmaster.create_monthly_partition('by_timestamptz', '2025-12-15');
SELECT * FROM leaves('by_date') UNION ALL SELECT * FROM leaves('by_timestamp') UNION ALL SELECT * FROM leaves('by_timestamptz');
-- neighbours meet
SELECT concertmaster.create_monthly_partition('by_timestamptz', '2026-01-01');
SELECT concertmaster.create_monthly_partition(start_date => '2025-11-30', table_name => 'partition_month.by_timestamptz');
SELECT * FROM leaves('by_timestamptz');
INSERT INTO by_timestamptz VALUES ('2025-11-01 00:00Z'), ('2025-11-30 23:59:59.999999Z'), ('2025-12-01 00:00Z'), ('2026-01-31 23:59:59Z');
SELECT tableoid::regclass::text, count(*) FROM by_timestamptz GROUP BY 1 ORDER BY 1;

-- 2. idempotent, also under another name and with rows
SELECT concertmaster.create_monthly_partition('by_timestamptz', '2025-12-01');
ALTER TABLE by_date_2025_01 RENAME TO january;
SELECT concertmaster.create_monthly_partition('by_date', '2025-01-01');
SELECT * FROM leaves('by_date');

-- 3. months are the session's outside a set, the set's inside
SET timezone = 'Europe/Berlin';
CREATE TABLE berlin (at timestamptz NOT NULL) PARTITION BY RANGE (at);
SELECT concertmaster.create_monthly_partition('berlin', '2025-03-10');
SELECT concertmaster.create_monthly_partition('berlin', '2025-10-10');
SET timezone = 'UTC';
SELECT * FROM leaves('berlin');
SELECT count(*) > 0 FROM concertmaster.create_partition_set('berlin', '1 month', timezone => 'Europe/Berlin');
SELECT concertmaster.create_monthly_partition('berlin', '2025-04-01');
SELECT * FROM leaves('berlin') WHERE leaf < 'berlin_2026';
SELECT concertmaster.forget_partition_set('berlin');

-- 4. names: quotes, capitals, dots, a schema that needs quotes, 63 bytes
CREATE SCHEMA "Odd Schema";
CREATE TABLE "Odd Schema"."Form ""Responses"".x" ("Submitted At" timestamptz NOT NULL) PARTITION BY RANGE ("Submitted At");
SELECT concertmaster.create_monthly_partition('"Odd Schema"."Form ""Responses"".x"', '2025-01-15');
SELECT * FROM leaves('"Odd Schema"."Form ""Responses"".x"');
SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE relname = 'Form "Responses".x_2025_01';
-- to the letter, as the strategy's format('%I') took it
CREATE TABLE "Mixed Case" (at date NOT NULL) PARTITION BY RANGE (at);
SELECT concertmaster.create_monthly_partition('Mixed Case', '2025-01-15');
SELECT * FROM leaves('"Mixed Case"');
-- long names keep apart
CREATE TABLE a23456789_123456789_123456789_123456789_123456789_123456789_abc (at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE a23456789_123456789_123456789_123456789_123456789_123456789_abd (at date NOT NULL) PARTITION BY RANGE (at);
SELECT concertmaster.create_monthly_partition('a23456789_123456789_123456789_123456789_123456789_123456789_abc', '2025-01-15');
SELECT concertmaster.create_monthly_partition('a23456789_123456789_123456789_123456789_123456789_123456789_abd', '2025-01-15');
SELECT leaf, length(leaf::text) FROM leaves('a23456789_123456789_123456789_123456789_123456789_123456789_abc')
UNION ALL
SELECT leaf, length(leaf::text) FROM leaves('a23456789_123456789_123456789_123456789_123456789_123456789_abd');
CREATE TABLE "ääääääääääääääääääääääääääääääh" (at date NOT NULL) PARTITION BY RANGE (at);
SELECT concertmaster.create_monthly_partition('ääääääääääääääääääääääääääääääh', '2025-01-15');
SELECT leaf, octet_length(leaf::text) <= 63 AS fits FROM leaves('"ääääääääääääääääääääääääääääääh"');

-- 5. the new leaf is like its siblings
CREATE ROLE regress_partition_reader;
CREATE ROLE regress_partition_other;
CREATE TABLE customs (
    id bigint GENERATED ALWAYS AS IDENTITY,
    at timestamptz NOT NULL DEFAULT now(),
    amount integer CHECK (amount > 0),
    twice integer GENERATED ALWAYS AS (amount * 2) STORED,
    note text COLLATE "C",
    CONSTRAINT customs_pk PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE INDEX customs_amount ON customs (amount) WHERE amount > 10;
GRANT SELECT ON customs TO regress_partition_reader;
SELECT concertmaster.create_monthly_partition('customs', '2025-01-01');
-- from the parent while there is no sibling
SELECT has_table_privilege('regress_partition_reader', 'customs_2025_01', 'SELECT'),
       has_table_privilege('regress_partition_other', 'customs_2025_01', 'SELECT');
GRANT INSERT ON customs_2025_01 TO regress_partition_other WITH GRANT OPTION;
GRANT UPDATE (note) ON customs_2025_01 TO PUBLIC;
REVOKE DELETE ON customs_2025_01 FROM CURRENT_USER;
ALTER TABLE customs_2025_01 SET (fillfactor = 71, autovacuum_enabled = false, toast.autovacuum_enabled = false);
ALTER TABLE customs_2025_01 REPLICA IDENTITY USING INDEX customs_2025_01_pkey;
ALTER TABLE customs_2025_01 ALTER COLUMN note SET (n_distinct = -0.25);
ALTER DEFAULT PRIVILEGES IN SCHEMA partition_month GRANT ALL ON TABLES TO PUBLIC;
SELECT concertmaster.create_monthly_partition('customs', '2025-02-01');
ALTER DEFAULT PRIVILEGES IN SCHEMA partition_month REVOKE ALL ON TABLES FROM PUBLIC;
SELECT has_table_privilege('regress_partition_reader', 'customs_2025_02', 'SELECT') AS reader_selects,
       has_table_privilege('regress_partition_other', 'customs_2025_02', 'INSERT WITH GRANT OPTION') AS other_grants,
       has_table_privilege('regress_partition_other', 'customs_2025_02', 'SELECT') AS other_selects,
       has_column_privilege('regress_partition_reader', 'customs_2025_02', 'note', 'UPDATE') AS note_updates,
       has_column_privilege('regress_partition_reader', 'customs_2025_02', 'amount', 'UPDATE') AS amount_updates,
       (SELECT bool_or(privilege_type = 'DELETE') FROM pg_class c, aclexplode(c.relacl) WHERE c.relname = 'customs_2025_02') AS anyone_deletes;
SELECT a.reloptions = b.reloptions AS reloptions, ta.reloptions = tb.reloptions AS toast, a.relreplident, a.relowner = b.relowner AS owner
  FROM pg_class a JOIN pg_class ta ON ta.oid = a.reltoastrelid, pg_class b JOIN pg_class tb ON tb.oid = b.reltoastrelid
 WHERE a.relname = 'customs_2025_02' AND b.relname = 'customs_2025_01' AND a.relnamespace = b.relnamespace;
SELECT indexrelid::regclass::text, indisreplident, (SELECT inhparent::regclass FROM pg_inherits WHERE inhrelid = indexrelid) AS under
  FROM pg_index WHERE indrelid = 'customs_2025_02'::regclass ORDER BY 1;
SELECT option FROM pg_attribute, unnest(attoptions) AS option WHERE option LIKE 'n_distinct%' AND attrelid = 'customs_2025_02'::regclass AND attname = 'note';
SELECT conname, contype FROM pg_constraint WHERE conrelid = 'customs_2025_02'::regclass AND contype IN ('c', 'p') ORDER BY 1;
SELECT obj_description('customs_2025_02'::regclass, 'pg_class') IS NULL AS unmarked;
INSERT INTO customs (at, amount) VALUES ('2025-02-03', 20) RETURNING tableoid::regclass, id, twice;
INSERT INTO customs (at, amount) VALUES ('2025-02-03', 0);
-- replica identity full, unlogged
ALTER TABLE customs_2025_02 REPLICA IDENTITY FULL;
ALTER TABLE customs_2025_02 SET UNLOGGED;
SELECT concertmaster.create_monthly_partition('customs', '2025-03-01');
SELECT relreplident, relpersistence FROM pg_class WHERE oid = 'customs_2025_03'::regclass;

-- 6. a foreign key from the set, row triggers, a default partition
CREATE TABLE target (id integer PRIMARY KEY);
INSERT INTO target VALUES (1);
CREATE TABLE pointing (at date NOT NULL, target_id integer REFERENCES target, seen text) PARTITION BY RANGE (at);
CREATE TABLE pointing_rest PARTITION OF pointing DEFAULT;
CREATE FUNCTION mark() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.seen := TG_TABLE_NAME; RETURN NEW; END $$;
CREATE TRIGGER mark BEFORE INSERT ON pointing FOR EACH ROW EXECUTE FUNCTION mark();
SELECT concertmaster.create_monthly_partition('pointing', '2025-01-01');
INSERT INTO pointing VALUES ('2025-01-02', 1), ('2025-02-02', 1);
INSERT INTO pointing VALUES ('2025-01-02', 2);
SELECT tableoid::regclass, * FROM pointing ORDER BY at;
-- a row of that month sits in the default partition
SELECT concertmaster.create_monthly_partition('pointing', '2025-02-01');
SELECT to_regclass('pointing_2025_02') IS NULL AS nothing_left;
SELECT concertmaster.create_monthly_partition('pointing', '2025-03-01');
SELECT * FROM leaves('pointing');

-- and a table that references the set
ALTER TABLE by_timestamp ADD PRIMARY KEY (at);
CREATE TABLE referencing (at timestamp REFERENCES by_timestamp);
SELECT concertmaster.create_monthly_partition('by_timestamp', '2024-03-01');
INSERT INTO by_timestamp VALUES ('2024-03-03');
INSERT INTO referencing VALUES ('2024-03-03');
\set VERBOSITY sqlstate
DELETE FROM by_timestamp;
\set VERBOSITY default
TRUNCATE referencing, by_timestamp;
-- many indexes take longer than the shortest deadline, which is not for them
CREATE TABLE many_indexes (at date NOT NULL, a integer, b text) PARTITION BY RANGE (at);
SELECT format('CREATE INDEX ON many_indexes (a, b, (a + %s))', i) FROM generate_series(1, 40) i \gexec
CREATE INDEX unfinished ON ONLY many_indexes (b);
SET concertmaster.ddl_deadline = '5ms';
SELECT concertmaster.create_monthly_partition('many_indexes', '2025-01-01');
RESET concertmaster.ddl_deadline;
SELECT count(*) FROM pg_index WHERE indrelid = 'many_indexes_2025_01'::regclass AND indisvalid;

-- 7. refusals
CREATE TABLE plain (at date);
CREATE TABLE by_list (at date) PARTITION BY LIST (at);
CREATE TABLE by_hash (at date) PARTITION BY HASH (at);
CREATE TABLE by_two (at date, b integer) PARTITION BY RANGE (at, b);
CREATE TABLE by_expression (at timestamp) PARTITION BY RANGE ((at::date));
CREATE TABLE by_integer (at integer) PARTITION BY RANGE (at);
CREATE TEMP TABLE by_temp (at date) PARTITION BY RANGE (at);
CREATE VIEW looking AS SELECT * FROM plain;
SELECT concertmaster.create_monthly_partition('no_such_table', '2025-01-01');
\echo :SQLSTATE
SELECT concertmaster.create_monthly_partition('no_such_schema.t', '2025-01-01');
\echo :SQLSTATE
SELECT concertmaster.create_monthly_partition('', '2025-01-01');
\echo :SQLSTATE
SELECT concertmaster.create_monthly_partition('a"b', '2025-01-01');
\echo :SQLSTATE
SELECT concertmaster.create_monthly_partition('plain', '2025-01-01');
\echo :SQLSTATE
SELECT concertmaster.create_monthly_partition('looking', '2025-01-01');
\echo :SQLSTATE
SELECT concertmaster.create_monthly_partition('customs_amount', '2025-01-01');
\echo :SQLSTATE
SELECT concertmaster.create_monthly_partition('by_list', '2025-01-01');
\echo :SQLSTATE
SELECT concertmaster.create_monthly_partition('by_hash', '2025-01-01');
\echo :SQLSTATE
SELECT concertmaster.create_monthly_partition('by_two', '2025-01-01');
\echo :SQLSTATE
SELECT concertmaster.create_monthly_partition('by_expression', '2025-01-01');
\echo :SQLSTATE
SELECT concertmaster.create_monthly_partition('by_integer', '2025-01-01');
\echo :SQLSTATE
SELECT concertmaster.create_monthly_partition('by_temp', '2025-01-01');
\echo :SQLSTATE
SELECT concertmaster.create_monthly_partition('by_date', 'infinity');
\echo :SQLSTATE
SELECT concertmaster.create_monthly_partition('by_date', '0044-03-15 BC');
\echo :SQLSTATE
SELECT concertmaster.create_monthly_partition('by_date', NULL) IS NULL AS strict;
-- ranges that overlap: part of the month, more than the month
CREATE TABLE half PARTITION OF by_date FOR VALUES FROM ('2025-05-10') TO ('2025-05-20');
SELECT concertmaster.create_monthly_partition('by_date', '2025-05-01');
\echo :SQLSTATE
CREATE TABLE year_2027 PARTITION OF by_date FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');
SELECT concertmaster.create_monthly_partition('by_date', '2027-05-01');
\echo :SQLSTATE
CREATE TABLE early PARTITION OF by_date FOR VALUES FROM (MINVALUE) TO ('2000-01-01');
SELECT concertmaster.create_monthly_partition('by_date', '1999-12-01');
\echo :SQLSTATE
-- a name that is taken
CREATE TABLE by_date_2025_07 (unrelated text);
SELECT concertmaster.create_monthly_partition('by_date', '2025-07-01');
\echo :SQLSTATE
SELECT attname FROM pg_attribute WHERE attrelid = 'by_date_2025_07'::regclass AND attnum > 0;
-- what a crash between the two steps leaves behind is made anew
CREATE TABLE by_date_2025_08 (at date, left_over text);
COMMENT ON TABLE by_date_2025_08 IS 'concertmaster: becoming a partition of partition_month.by_date';
SELECT concertmaster.create_monthly_partition('by_date', '2025-08-01');
\echo :SQLSTATE
SELECT * FROM leaves('by_date');
-- but not if there are rows in it
CREATE TABLE by_date_2025_09 (at date);
COMMENT ON TABLE by_date_2025_09 IS 'concertmaster: becoming a partition of partition_month.by_date';
INSERT INTO by_date_2025_09 VALUES ('2025-09-09');
SELECT concertmaster.create_monthly_partition('by_date', '2025-09-01');
\echo :SQLSTATE
SELECT count(*) FROM by_date_2025_09;

-- 8. only the owner; leaves belong to the table's owner, whoever calls
CREATE ROLE regress_partition_owner;
GRANT USAGE, CREATE ON SCHEMA partition_month TO regress_partition_owner;
GRANT USAGE ON SCHEMA partition_month TO regress_partition_other;
CREATE TABLE owned (at date NOT NULL) PARTITION BY RANGE (at);
ALTER TABLE owned OWNER TO regress_partition_owner;
SELECT concertmaster.create_monthly_partition('owned', '2025-01-01');
\echo :SQLSTATE
SELECT relowner::regrole FROM pg_class WHERE oid = 'owned_2025_01'::regclass;
SET ROLE regress_partition_owner;
SELECT concertmaster.create_monthly_partition('owned', '2025-02-01');
\echo :SQLSTATE
SELECT current_user, current_setting('search_path');
SET ROLE regress_partition_other;
SELECT concertmaster.create_monthly_partition('owned', '2025-03-01');
\echo :SQLSTATE
RESET ROLE;
REVOKE CREATE ON SCHEMA partition_month FROM regress_partition_owner;
SELECT concertmaster.create_monthly_partition('owned', '2025-03-01');
\echo :SQLSTATE
SELECT * FROM leaves('owned');

-- 9. the caller's transaction decides
BEGIN;
SELECT concertmaster.create_monthly_partition('by_timestamp', '2030-01-01');
\echo :SQLSTATE
ROLLBACK;
BEGIN READ ONLY;
SELECT concertmaster.create_monthly_partition('by_timestamp', '2030-01-01');
\echo :SQLSTATE
ROLLBACK;
SELECT * FROM leaves('by_timestamp');

SET client_min_messages = warning;
DROP SCHEMA partition_month, "Odd Schema" CASCADE;
DROP ROLE regress_partition_reader, regress_partition_other, regress_partition_owner;
