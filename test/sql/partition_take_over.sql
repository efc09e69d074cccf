-- create_partition_set() on what was made by hand: any name, any width, any kind of leaf; forget_partition_set()
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
-- (nobody but the calls below shall roll the sets)
ALTER SYSTEM SET concertmaster.enabled = off;
SELECT pg_reload_conf();
DROP SCHEMA IF EXISTS partition_take_over, "Elsewhere ""x""", attic, regress_take_over_other CASCADE;
CREATE EXTENSION IF NOT EXISTS file_fdw;
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
CREATE ROLE regress_take_over;
CREATE ROLE regress_take_over_other;
CREATE SCHEMA partition_take_over AUTHORIZATION regress_take_over;
CREATE SCHEMA "Elsewhere ""x""" AUTHORIZATION regress_take_over;
CREATE SCHEMA attic AUTHORIZATION regress_take_over;
CREATE SCHEMA regress_take_over_other AUTHORIZATION regress_take_over_other;
SET search_path = partition_take_over;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
\set SHOW_CONTEXT never

-- Years before this one, so that no date is in the output.
CREATE FUNCTION year(n integer) RETURNS timestamptz LANGUAGE sql STABLE AS $$ SELECT date_trunc('year', now()) + n * interval '1 year' $$;
CREATE FUNCTION leaf(parent regclass, name text, low timestamptz, high timestamptz, more text DEFAULT '') RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TABLE %s PARTITION OF %s FOR VALUES FROM (%s) TO (%s) %s', name, parent,
                   CASE WHEN low = '-infinity' THEN 'MINVALUE' ELSE quote_literal(low) END,
                   CASE WHEN high = 'infinity' THEN 'MAXVALUE' ELSE quote_literal(high) END, more);
END $$;
CREATE FUNCTION foreign_leaf(parent regclass, name text, low timestamptz, high timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE FOREIGN TABLE %s PARTITION OF %s FOR VALUES FROM (%L) TO (%L) SERVER files OPTIONS (filename ''/dev/null'', format ''csv'')',
                   name, parent, low, high);
END $$;
-- Everything that a partition is, for comparing.
CREATE VIEW everything AS
    SELECT i.inhparent::regclass AS parent, i.inhrelid, i.inhseqno, i.inhdetachpending, c.relname, c.relnamespace, c.relowner, c.relkind, c.relacl,
           c.reloptions, pg_get_expr(c.relpartbound, c.oid) AS bounds, obj_description(c.oid, 'pg_class') AS comment,
           (SELECT array_agg(pg_get_constraintdef(k.oid) ORDER BY k.conname) FROM pg_constraint k WHERE k.conrelid = c.oid) AS constraints
      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relkind IN ('r', 'f', 'p');
CREATE VIEW leaves AS
    SELECT table_name, partition_schema, partition, bounds, range_from, range_to, state,
           range_from - lag(range_to) OVER (PARTITION BY table_name ORDER BY range_from) AS gap
      FROM concertmaster.partitions WHERE schema_name = 'partition_take_over' AND NOT is_default;
CREATE VIEW sets AS
    SELECT table_name, partitions, runway, deferred IS NULL AS through, failures, sqlstate, last_error
      FROM concertmaster.partition_sets WHERE schema_name = 'partition_take_over' ORDER BY table_name;
GRANT ALL ON ALL TABLES IN SCHEMA partition_take_over TO PUBLIC;

-- 1. a set made by hand: the past, a year, quarters, months, a gap, odd widths, what is far ahead
SET ROLE regress_take_over;
CREATE TABLE hand (id bigint, at timestamptz NOT NULL) PARTITION BY RANGE (at);
SELECT leaf('hand', '"The Beginning"', '-infinity', year(-5));
SELECT leaf('hand', 'a_year', year(-5), year(-4));
SELECT leaf('hand', '"Q ''1"', year(-4), year(-4) + interval '3 months');
SELECT leaf('hand', '"Elsewhere ""x""".q2', year(-4) + interval '3 months', year(-4) + interval '6 months');
SELECT leaf('hand', 'q4', year(-4) + interval '9 months', year(-3));
RESET ROLE;
SELECT foreign_leaf('hand', 'q3', year(-4) + interval '6 months', year(-4) + interval '9 months');
ALTER FOREIGN TABLE q3 OWNER TO regress_take_over;
ALTER TABLE q4 OWNER TO regress_take_over_other;
SET ROLE regress_take_over;
SELECT count(leaf('hand', 'm' || m, year(-3) + (m - 1) * interval '1 month', year(-3) + m * interval '1 month')) FROM generate_series(1, 12) m WHERE m NOT BETWEEN 3 AND 5;
SELECT leaf('hand', 'by_id', year(-2), year(-1), 'PARTITION BY RANGE (id)');
CREATE TABLE by_id_low PARTITION OF by_id FOR VALUES FROM (MINVALUE) TO (1000);
CREATE TABLE by_id_rest PARTITION OF by_id DEFAULT;
SELECT leaf('hand', 'ten_days', year(-1), year(-1) + interval '10 days');
SELECT leaf('hand', 'others', year(-1) + interval '10 days', year(0));
SELECT leaf('hand', 'so_far', year(0), date_trunc('month', now()) + interval '1 month');
SELECT leaf('hand', 'far_ahead', year(20), year(21));
INSERT INTO hand SELECT i, t FROM generate_series(year(-6), year(-4) + interval '5 months', interval '1 month') WITH ORDINALITY AS x (t, i);
INSERT INTO hand SELECT i * 100, t FROM generate_series(year(-2), year(0), interval '15 days') WITH ORDINALITY AS x (t, i);
SELECT count(*) AS rows FROM hand \gset
CREATE TABLE before AS SELECT * FROM everything WHERE parent = 'hand'::regclass OR parent = 'by_id'::regclass;
-- taken over: what is there is kept, what comes next is made
SELECT action, count(*) FROM concertmaster.create_partition_set('hand', '1 month', ahead => 3) GROUP BY 1 ORDER BY 1;
SELECT count(*), min(range_from) = date_trunc('month', now()) + interval '1 month' AS where_it_ended, bool_and(partition = 'hand_' || to_char(range_from, 'YYYY_MM')) AS named
  FROM leaves WHERE table_name = 'hand' AND range_from > now() AND partition <> 'far_ahead';
SELECT * FROM before EXCEPT SELECT * FROM everything;
SELECT count(*) = 1 AS one_gap_in_the_past FROM leaves WHERE table_name = 'hand' AND gap > interval '0' AND partition <> 'far_ahead';
SELECT runway BETWEEN interval '89 days' AND interval '124 days' AS three_months, through, failures FROM sets WHERE table_name = 'hand';
SELECT action, count(*) FROM concertmaster.plan_partitions('hand') GROUP BY 1;
-- forgotten: all stays
CREATE TABLE taken AS SELECT * FROM everything;
SELECT concertmaster.forget_partition_set('hand');
SELECT count(*) FROM (SELECT * FROM taken EXCEPT SELECT * FROM everything) x;
SELECT count(*) FROM (SELECT * FROM everything EXCEPT SELECT * FROM taken) x;
SELECT count(*) = :rows AS all_rows FROM hand;
SELECT count(*) FROM concertmaster.jobs WHERE name LIKE '%partition_take_over%';

-- 2. from a start on, the gap is filled too, and nothing else
SELECT action, count(*) FROM concertmaster.create_partition_set('hand', '1 month', ahead => 3, start_at => year(-5)) GROUP BY 1 ORDER BY 1;
SELECT array_agg(extract(month FROM range_from)::integer ORDER BY range_from) AS months, count(DISTINCT date_trunc('year', range_from)) AS years
  FROM leaves WHERE table_name = 'hand' AND partition ~ '^hand_' AND range_to < now();
SELECT count(*) AS gaps FROM leaves WHERE table_name = 'hand' AND gap <> interval '0' AND partition <> 'far_ahead';
-- (by hand only from here on, or the job would be done before the plan is shown)
SELECT concertmaster.pause_job('roll partition_take_over.hand');
-- with another period: only what is still to come
SELECT DISTINCT action FROM concertmaster.alter_partition_set('hand', period => '1 year', ahead => 1) ORDER BY 1;
SELECT count(*) AS gaps FROM leaves WHERE table_name = 'hand' AND gap <> interval '0' AND partition <> 'far_ahead';
SELECT bool_and(extract(month FROM range_to) = 1) AS to_the_end_of_a_year FROM leaves WHERE table_name = 'hand' AND range_to > date_trunc('month', now()) + interval '4 months';

-- 3. only what is over as a whole retires: the cutoff is within the third quarter
SELECT (now()::date - (year(-4) + interval '7 months 15 days')::date) * interval '1 day' AS age \gset
SELECT count(*) > 10 AS altered FROM concertmaster.alter_partition_set('hand', retention => :'age');
SELECT partition, action FROM concertmaster.plan_partitions('hand') WHERE action <> 'kept' OR detail IS NOT NULL;
CALL concertmaster.roll_partitions('hand');
SELECT partition_schema, partition FROM leaves WHERE table_name = 'hand' ORDER BY range_from LIMIT 2;
SELECT n.nspname, c.relname, c.relispartition FROM before b JOIN pg_class c ON c.oid = b.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE b.parent = 'hand'::regclass AND NOT c.relispartition ORDER BY b.bounds COLLATE "C";
SELECT through, failures, last_error FROM sets WHERE table_name = 'hand';

-- 4. what goes to another schema: a foreign table too; not what is another role's, and not over another table
CREATE TABLE attic.m1 (mine text);
SELECT (now()::date - (year(-3) + interval '2 months')::date) * interval '1 day' AS age \gset
SELECT count(*) > 10 AS altered FROM concertmaster.alter_partition_set('hand', retention => :'age', retention_schema => 'attic');
SELECT partition, action, detail FROM concertmaster.plan_partitions('hand') WHERE action <> 'kept' OR detail IS NOT NULL;
CALL concertmaster.roll_partitions('hand');
SELECT relnamespace::regnamespace, relname, relkind, relispartition FROM pg_class WHERE relname IN ('q3', 'q4', 'm1', 'm2') ORDER BY relname, relnamespace::regnamespace::text;
SELECT count(*) FROM concertmaster.partitions WHERE schema_name = 'partition_take_over' AND state <> 'attached';
SELECT through, failures > 0 AS failing, last_error FROM sets WHERE table_name = 'hand';
-- once they can, they do
DROP TABLE attic.m1;
RESET ROLE;
ALTER TABLE q4 OWNER TO regress_take_over;
SET ROLE regress_take_over;
CALL concertmaster.roll_partitions('hand');
SELECT relnamespace::regnamespace, relname, relkind, relispartition FROM pg_class WHERE relname IN ('q4', 'm1') ORDER BY relname;
SELECT count(*) FROM concertmaster.partitions WHERE schema_name = 'partition_take_over' AND state <> 'attached';
-- and what retired is not made again, though the period is longer than they were
SELECT partition, action FROM concertmaster.plan_partitions('hand') WHERE action <> 'kept';
SELECT min(range_from) = year(-3) + interval '2 months' AS begins_there FROM leaves WHERE table_name = 'hand';

-- 5. what is dropped: partitions with partitions of their own, too
SELECT (now()::date - (year(-1) + interval '5 days')::date) * interval '1 day' AS age \gset
SELECT count(*) > 10 AS altered FROM concertmaster.alter_partition_set('hand', retention => :'age', retention_keep => false);
CALL concertmaster.roll_partitions('hand');
SELECT to_regclass('m2') AS m2, to_regclass('m12') AS m12, to_regclass('by_id') AS by_id, to_regclass('by_id_low') AS by_id_low, to_regclass('ten_days') AS ten_days;
SELECT through, failures, last_error FROM sets WHERE table_name = 'hand';
SELECT partition FROM leaves WHERE table_name = 'hand' ORDER BY range_from LIMIT 3;
SELECT count(*) AS gaps FROM leaves WHERE table_name = 'hand' AND gap <> interval '0' AND partition <> 'far_ahead';
SELECT concertmaster.forget_partition_set('hand');
-- a foreign table is dropped as such, what is another role's is left alone
CREATE TABLE kinds (id bigint, at timestamptz NOT NULL) PARTITION BY RANGE (at);
SELECT leaf('kinds', '"Elsewhere ""x""".ours', year(-2), year(-1));
RESET ROLE;
SELECT foreign_leaf('kinds', 'far', year(-4), year(-3));
ALTER FOREIGN TABLE far OWNER TO regress_take_over;
SELECT leaf('kinds', 'regress_take_over_other.theirs', year(-3), year(-2));
ALTER TABLE regress_take_over_other.theirs OWNER TO regress_take_over_other;
SET ROLE regress_take_over;
SELECT count(*) > 3 FROM concertmaster.create_partition_set('kinds', '1 month', ahead => 1, retention => '10 months', retention_keep => false);
CALL concertmaster.roll_partitions('kinds');
SELECT to_regclass('far') AS far, to_regclass('"Elsewhere ""x""".ours') AS ours;
RESET ROLE;
GRANT USAGE ON SCHEMA regress_take_over_other TO regress_take_over;
SET ROLE regress_take_over;
CALL concertmaster.roll_partitions('kinds');
SELECT relispartition FROM pg_class WHERE oid = 'regress_take_over_other.theirs'::regclass;
SELECT through, failures > 0 AS failing, last_error FROM sets WHERE table_name = 'kinds';
RESET ROLE;
ALTER TABLE regress_take_over_other.theirs OWNER TO regress_take_over;
SET ROLE regress_take_over;
CALL concertmaster.roll_partitions('kinds');
SELECT to_regclass('regress_take_over_other.theirs') AS theirs;
SELECT concertmaster.forget_partition_set('kinds');
-- one that cannot be dropped stops no other
CREATE TABLE seen (at timestamptz NOT NULL) PARTITION BY RANGE (at);
SELECT leaf('seen', 'looked_at', year(-4), year(-3));
SELECT leaf('seen', 'unseen', year(-3), year(-2));
CREATE VIEW looks AS SELECT * FROM looked_at;
SELECT count(*) > 1 FROM concertmaster.create_partition_set('seen', '1 month', ahead => 1, retention => '10 months', retention_keep => false);
CALL concertmaster.roll_partitions('seen');
SELECT to_regclass('looked_at') AS looked_at, to_regclass('unseen') AS unseen;
SELECT through, failures > 0 AS failing, last_error FROM sets WHERE table_name = 'seen';
DROP VIEW looks;
CALL concertmaster.roll_partitions('seen');
SELECT to_regclass('looked_at') AS looked_at;
SELECT through, failures, last_error FROM sets WHERE table_name = 'seen';
SELECT concertmaster.forget_partition_set('seen');

-- 6. without ends
CREATE TABLE ends (at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE "all before" PARTITION OF ends FOR VALUES FROM (MINVALUE) TO ('2001-02-03');
CREATE TABLE "all after" PARTITION OF ends FOR VALUES FROM ('2001-02-03') TO (MAXVALUE);
SELECT partition, action, range_from, range_to, bounds FROM concertmaster.create_partition_set('ends', '1 month', retention => '1 year');
CALL concertmaster.roll_partitions('ends');
SELECT partition, bounds FROM leaves WHERE table_name = 'ends';
SELECT runway, through, failures FROM sets WHERE table_name = 'ends';
SELECT concertmaster.forget_partition_set('ends');
-- one that holds everything is all there is, so it never retires
CREATE TABLE single (at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE "all of it" PARTITION OF single FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
SELECT partition, action, bounds FROM concertmaster.create_partition_set('single', '1 month', start_at => '2020-01-01', retention => '1 day');
SELECT action, count(*) FROM concertmaster.alter_partition_set('single', ahead => 40) GROUP BY 1;
SELECT concertmaster.forget_partition_set('single');

-- 7. numbers
CREATE TABLE numbers (id integer NOT NULL) PARTITION BY RANGE (id);
CREATE TABLE "below" PARTITION OF numbers FOR VALUES FROM (MINVALUE) TO (0);
CREATE TABLE n_wide PARTITION OF numbers FOR VALUES FROM (0) TO (10000);
CREATE TABLE n_odd PARTITION OF numbers FOR VALUES FROM (10000) TO (10777);
CREATE TABLE n_after_gap PARTITION OF numbers FOR VALUES FROM (12000) TO (12250);
CREATE TABLE n_far PARTITION OF numbers FOR VALUES FROM (2000000000) TO (2000001000);
INSERT INTO numbers SELECT i FROM generate_series(-10, 10700, 10) i;
SELECT partition, action, bounds FROM concertmaster.create_partition_set('numbers', width => 1000, ahead => 2);
INSERT INTO numbers VALUES (12999);
SELECT partition, action, bounds FROM concertmaster.alter_partition_set('numbers', retention_width => 4000) WHERE action <> 'kept';
CALL concertmaster.roll_partitions('numbers');
SELECT partition, bounds FROM leaves WHERE table_name = 'numbers' ORDER BY length(bounds), bounds;
SELECT count(*) AS detached FROM (VALUES ('below'), ('n_wide')) v (name) JOIN pg_class c ON c.oid = to_regclass(v.name) WHERE NOT relispartition;
SELECT concertmaster.forget_partition_set('numbers');
SELECT count(*) FROM "below";

RESET ROLE;
SET client_min_messages = warning;
DROP SCHEMA partition_take_over, "Elsewhere ""x""", attic, regress_take_over_other CASCADE;
DROP SERVER files CASCADE;
DROP EXTENSION file_fdw;
DROP OWNED BY regress_take_over, regress_take_over_other;
DROP ROLE regress_take_over, regress_take_over_other;
ALTER SYSTEM RESET concertmaster.enabled;
SELECT pg_reload_conf();
