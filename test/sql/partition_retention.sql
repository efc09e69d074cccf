-- Retention: what retires, what never does, what is said about it; and rows of a default partition
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
-- (nobody but the calls below shall roll the sets)
ALTER SYSTEM SET concertmaster.enabled = off;
SELECT pg_reload_conf();
DROP SCHEMA IF EXISTS partition_retention, partition_archive CASCADE;
RESET client_min_messages;
CREATE SCHEMA partition_retention;
CREATE SCHEMA partition_archive;
SET search_path = partition_retention;
SET timezone = 'UTC';
\set SHOW_CONTEXT never

-- n months ago, as the end of a name
CREATE FUNCTION month(n integer) RETURNS text LANGUAGE sql AS $$ SELECT to_char(date_trunc('month', now()) - n * interval '1 month', '_YYYY_MM') $$;
-- the plan, with months by their distance from the present one
CREATE FUNCTION plan(parent regclass) RETURNS TABLE (months_ago integer, action text, rows_to_move bigint, detail text) LANGUAGE sql AS $$
    SELECT (extract(year FROM now()) * 12 + extract(month FROM now()) - extract(year FROM range_from) * 12 - extract(month FROM range_from))::integer,
           action, rows_to_move, detail
      FROM concertmaster.plan_partitions(parent) WHERE action <> 'kept' OR detail IS NOT NULL ORDER BY 1 DESC
$$;
-- its own tables, with months likewise
CREATE VIEW tables AS
    SELECT n.nspname AS schema, c.relispartition AS attached,
           count(*), string_agg(CASE WHEN c.relname ~ '\d{4}_\d\d$' THEN left(c.relname, -8) ELSE c.relname END, ' ' ORDER BY c.relname) AS names
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname ~ 'partition_(retention|archive)' AND c.relkind = 'r' GROUP BY 1, 2 ORDER BY 1, 2;

-- 1. kept as tables; moved to a schema; dropped
CREATE TABLE t (id bigint, at timestamptz NOT NULL, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
SELECT count(*) FROM concertmaster.create_partition_set('t', '1 month', ahead => 0, start_at => date_trunc('month', now()) - interval '6 months');
INSERT INTO t SELECT g, date_trunc('month', now()) - g * interval '1 month' FROM generate_series(0, 6) g;
SELECT concertmaster.pause_job('roll partition_retention.t');
SET client_min_messages = warning;
SELECT count(*) FROM concertmaster.alter_partition_set('t', retention => '5 months');
SELECT * FROM plan('t');
CALL concertmaster.roll_partitions('t');
SELECT * FROM tables;
SELECT count(*), min(id), max(id) FROM t;
SELECT count(*) FROM concertmaster.alter_partition_set('t', retention => '4 months', retention_schema => 'partition_archive');
SELECT * FROM plan('t');
CALL concertmaster.roll_partitions('t');
SELECT * FROM tables;
SELECT count(*) FROM concertmaster.alter_partition_set('t', retention => '3 months', retention_keep => false);
SELECT * FROM plan('t');
CALL concertmaster.roll_partitions('t');
SELECT * FROM tables;
SELECT count(*), min(id), max(id) FROM t;
-- the schema is taken back, retention is switched off; nothing retires
SELECT count(*) FROM concertmaster.alter_partition_set('t', retention => '0', retention_schema => '', start_at => now());
SELECT retention, retention_keep, retention_schema FROM concertmaster.partition_sets WHERE table_name = 't';
SELECT * FROM plan('t');

-- 2. never the last partition, never one that reaches into the window
CREATE TABLE last (at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE last_old PARTITION OF last FOR VALUES FROM ('2001-01-01') TO ('2002-01-01');
CREATE TABLE last_newer PARTITION OF last FOR VALUES FROM ('2002-01-01') TO ('2003-01-01');
CREATE TABLE last_wide PARTITION OF last FOR VALUES FROM ('2003-01-01') TO (MAXVALUE);
SELECT partition, action FROM concertmaster.create_partition_set('last', '1 year', ahead => 0, retention => '2 years', retention_keep => false);
SELECT partition, action FROM concertmaster.plan_partitions('last');
CALL concertmaster.roll_partitions('last');
SELECT partition, state FROM concertmaster.partitions WHERE table_name = 'last';
DROP TABLE last;
CREATE TABLE lonely (at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE lonely_one PARTITION OF lonely FOR VALUES FROM ('2001-01-01') TO ('2002-01-01');
INSERT INTO concertmaster.partition_set (schema_name, table_name, period, ahead, start_at, retention) VALUES ('partition_retention', 'lonely', '1 year', 0, '9000-01-01', '1 year');
SELECT partition, action FROM concertmaster.plan_partitions('lonely') WHERE range_to < now();
DELETE FROM concertmaster.partition_set WHERE table_name = 'lonely';

-- 3. what foreign keys reference is kept, with the count, until they do not
CREATE TABLE p (id integer, at date NOT NULL, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
SELECT count(*) FROM concertmaster.create_partition_set('p', '1 month', ahead => 0, start_at => date_trunc('month', now()) - interval '3 months');
SELECT concertmaster.pause_job('roll partition_retention.p');
INSERT INTO p SELECT g, date_trunc('month', now()) - g * interval '1 month' FROM generate_series(0, 3) g;
CREATE TABLE c (p_id integer, p_at date, FOREIGN KEY (p_id, p_at) REFERENCES p);
INSERT INTO c SELECT id, at FROM p WHERE id = 3 UNION ALL SELECT id, at FROM p WHERE id = 3;
SELECT count(*) FROM concertmaster.alter_partition_set('p', retention => '1 month', retention_keep => false);
SELECT * FROM plan('p');
CALL concertmaster.roll_partitions('p');
SELECT count(*), min(id), max(id) FROM p;
SELECT kept_back, deferred, last_error FROM concertmaster.partition_sets WHERE table_name = 'p';
SELECT state, detail, since IS NOT NULL AS since FROM concertmaster.partitions WHERE table_name = 'p' AND state <> 'attached';
DELETE FROM c;
CALL concertmaster.roll_partitions('p');
SELECT count(*), min(id), max(id) FROM p;
SELECT kept_back FROM concertmaster.partition_sets WHERE table_name = 'p';

-- 4. beside a default partition
CREATE TABLE d (id integer GENERATED ALWAYS AS IDENTITY, at timestamptz NOT NULL, twice integer GENERATED ALWAYS AS (7 * 2) STORED, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE d_rest PARTITION OF d DEFAULT;
CREATE TABLE log (what text);
CREATE FUNCTION noticed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO partition_retention.log VALUES (TG_OP || ' ' || TG_TABLE_NAME); RETURN NULL; END $$;
CREATE TRIGGER noticed AFTER INSERT OR DELETE ON d FOR EACH ROW EXECUTE FUNCTION noticed();
INSERT INTO d (at, v) SELECT date_trunc('month', now()) - g * interval '1 month', 'month ' || g FROM generate_series(0, 4) g;
INSERT INTO d (at, v) VALUES (now() + interval '900 days', 'absurd'), ('1970-01-01', 'old');
SELECT action, rows_to_move, count(*) FROM concertmaster.create_partition_set('d', '1 month', ahead => 1, retention => '2 months', retention_keep => false) GROUP BY 1, 2 ORDER BY 1, 2;
SELECT concertmaster.pause_job('roll partition_retention.d');
DELETE FROM log;
SELECT * FROM plan('d');
CALL concertmaster.roll_partitions('d');
-- nothing is made for the absurd one, and what is older than the retention stays where it is
SELECT tableoid::regclass::text = 'd' || month(extract(month FROM age(date_trunc('month', now()), at))::integer) AS in_its_own, twice, v FROM d WHERE tableoid <> 'd_rest'::regclass ORDER BY id;
SELECT v FROM d_rest ORDER BY at;
SELECT default_rows, deferred, last_error FROM concertmaster.partition_sets WHERE table_name = 'd';
-- a row that moves was not deleted
SELECT count(*) FROM log;
SELECT count(*) FROM pg_trigger g JOIN pg_inherits i ON i.inhrelid = g.tgrelid WHERE i.inhparent = 'd'::regclass AND tgname = 'noticed';
-- retiring beside a default partition
SELECT count(*) FROM concertmaster.alter_partition_set('d', retention => '1 month');
SELECT * FROM plan('d');
CALL concertmaster.roll_partitions('d');
SELECT v FROM d ORDER BY at;
-- many rows in one gap: the default partition becomes a partition itself, no row is moved
CREATE TABLE r (id integer, at date NOT NULL, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE r_rest PARTITION OF r DEFAULT;
CREATE INDEX ON r (at);
INSERT INTO r SELECT g, date_trunc('month', now()) FROM generate_series(1, 5000) g;
SELECT pg_relation_filenode('r_rest') AS filenode \gset
SELECT action, rows_to_move, count(*) FROM concertmaster.create_partition_set('r', '1 month', ahead => 1) GROUP BY 1, 2 ORDER BY 1, 2;
SELECT * FROM plan('r');
CALL concertmaster.roll_partitions('r');
SELECT count(*), bool_and(pg_relation_filenode(tableoid::regclass) = :filenode) AS same_file, bool_and(tableoid::regclass::text = 'r' || month(0)) AS named FROM r;
SELECT is_default, count(*), bool_or(partition = 'r_rest') AS rest FROM concertmaster.partitions WHERE table_name = 'r' GROUP BY 1 ORDER BY 1;
SELECT count(*) FROM r_rest;
SELECT bool_and(x.indisvalid) AS valid, bool_and(EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = x.indexrelid)) AS attached, count(*) = 2 * count(DISTINCT x.indrelid) AS two_each
  FROM pg_inherits i JOIN pg_index x ON x.indrelid = i.inhrelid WHERE i.inhparent = 'r'::regclass;
SELECT count(*) FROM pg_constraint c WHERE c.connamespace = 'partition_retention'::regnamespace AND conname ~ 'proof';
SELECT * FROM plan('r');

-- a row from long ago gets its own partition, and none are made between; a set that slept is continued
CREATE TABLE g (at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE g_rest PARTITION OF g DEFAULT;
INSERT INTO g VALUES (now() - interval '400 days');
SELECT action, count(*) FROM concertmaster.create_partition_set('g', '1 month', ahead => 0) GROUP BY 1 ORDER BY 1;
CALL concertmaster.roll_partitions('g');
CALL concertmaster.roll_partitions('g');
SELECT count(*), count(*) FILTER (WHERE is_default) AS defaults FROM concertmaster.partitions WHERE table_name = 'g';
SELECT count(*) FROM g_rest;
CREATE TABLE s (at date NOT NULL) PARTITION BY RANGE (at);
SELECT concertmaster.create_monthly_partition('s', (now() - interval '1 year')::date);
SELECT action, count(*) FROM concertmaster.create_partition_set('s', '1 month', ahead => 0) GROUP BY 1 ORDER BY 1;

-- 5. what is broken says so and stops no other set
CREATE ROLE regress_retention_owner;
GRANT ALL ON SCHEMA partition_retention TO regress_retention_owner;
CREATE TABLE o (at date NOT NULL) PARTITION BY RANGE (at);
ALTER TABLE o OWNER TO regress_retention_owner;
SET ROLE regress_retention_owner;
SELECT count(*) FROM concertmaster.create_partition_set('o', '1 month', ahead => 0, start_at => date_trunc('month', now()) - interval '3 months');
SELECT count(*) FROM concertmaster.alter_partition_set('o', retention => '1 month', retention_schema => 'partition_archive');
\set VERBOSITY terse
CALL concertmaster.roll_partitions('o');
\set VERBOSITY default
SELECT partitions, failures > 0 AS failed, sqlstate, last_error FROM concertmaster.partition_sets WHERE table_name = 'o';
SELECT state FROM concertmaster.partitions WHERE table_name = 'o' AND state <> 'attached';
RESET ROLE;
GRANT ALL ON SCHEMA partition_archive TO regress_retention_owner;
CALL concertmaster.roll_partitions('o');
SELECT partitions, failures, sqlstate, last_error FROM concertmaster.partition_sets WHERE table_name = 'o';
SELECT * FROM tables WHERE schema = 'partition_archive';
-- what cannot be made is no reason to keep what has had its time
CREATE TABLE x (at date NOT NULL) PARTITION BY RANGE (at);
SELECT count(*) FROM concertmaster.create_partition_set('x', '1 month', ahead => 0, start_at => date_trunc('month', now()) - interval '3 months');
DO $$ BEGIN EXECUTE format('CREATE TABLE %I (at date)', 'x' || partition_retention.month(-1)); END $$;
UPDATE concertmaster.partition_set SET ahead = 1, retention = '1 month' WHERE table_name = 'x';
\set VERBOSITY sqlstate
CALL concertmaster.roll_partitions('x');
\set VERBOSITY default
SELECT partitions, sqlstate, failures FROM concertmaster.partition_sets WHERE table_name = 'x';
SELECT count(*) FROM concertmaster.partition_state;

SELECT count(concertmaster.forget_partition_set(format('%I.%I', schema_name, table_name)::text)) FROM concertmaster.partition_sets WHERE schema_name = 'partition_retention';
DROP SCHEMA partition_retention, partition_archive CASCADE;
DROP ROLE regress_retention_owner;
ALTER SYSTEM RESET concertmaster.enabled;
SELECT pg_reload_conf();
