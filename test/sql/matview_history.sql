-- The history of a view: rows that are kept before their partition retires
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
-- (nobody but the calls below shall roll the sets)
ALTER SYSTEM SET concertmaster.enabled = off;
SELECT pg_reload_conf();
DROP SCHEMA IF EXISTS matview_history, matview_elsewhere CASCADE;
DROP ROLE IF EXISTS regress_history, regress_reader, regress_other;
RESET client_min_messages;
CREATE SCHEMA matview_history;
SET search_path = matview_history;
SET timezone = 'UTC';
SET datestyle = 'ISO';
\set SHOW_CONTEXT never

-- All of it is long ago.  A partition retires once its upper bound is that old.
CREATE PROCEDURE retire(parent regclass, until timestamptz) LANGUAGE plpgsql AS $$
BEGIN
    SET LOCAL client_min_messages = warning;
    PERFORM concertmaster.alter_partition_set(parent, retention => now() - until - interval '1 hour');
    COMMIT;
    SET client_min_messages = warning;
    CALL concertmaster.roll_partitions(parent);
    SET client_min_messages = notice;
END $$;
-- A table of three months is a set, and its views have histories
CREATE PROCEDURE keep(parent regclass, VARIADIC views text[]) LANGUAGE plpgsql AS $$
DECLARE
    v text;
BEGIN
    SET LOCAL client_min_messages = warning;
    PERFORM concertmaster.create_partition_set(parent, '1 month', ahead => 0, start_at => '2024-01-01', retention => '1000 years');
    PERFORM concertmaster.pause_job(format('roll %s', (SELECT format('%I.%I', relnamespace::regnamespace::text, relname) FROM pg_class WHERE oid = parent)));
    FOREACH v IN ARRAY views LOOP
        PERFORM concertmaster.manage_matview(v::regclass, NULL, history => true);
    END LOOP;
    COMMIT;
    SET client_min_messages = warning;
    FOREACH v IN ARRAY views LOOP
        CALL concertmaster.run_job(format('refresh matview_history.%s', v));
    END LOOP;
    SET client_min_messages = notice;
END $$;
-- its partitions until then
CREATE FUNCTION months(parent regclass) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(right(inhrelid::regclass::text, 1), ' ' ORDER BY inhrelid::regclass::text)
      FROM pg_inherits WHERE inhparent = parent AND inhrelid::regclass::text ~ '_m\d$'
$$;

-- 1. days and weeks over months; the week that begins on 2024-01-29 is in two of them
CREATE TABLE facts (at timestamptz NOT NULL, g text, n integer) PARTITION BY RANGE (at);
CREATE TABLE facts_m1 PARTITION OF facts FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
CREATE TABLE facts_m2 PARTITION OF facts FOR VALUES FROM ('2024-02-01') TO ('2024-03-01');
CREATE TABLE facts_m3 PARTITION OF facts FOR VALUES FROM ('2024-03-01') TO ('2024-04-01');
INSERT INTO facts
SELECT d, CASE WHEN extract(day FROM d)::int % 2 = 0 THEN 'even' END, 1
  FROM generate_series(timestamptz '2024-01-20', '2024-03-10', '12 hours') d;
CREATE MATERIALIZED VIEW days AS
SELECT date_trunc('day', at) AS day, g, sum(n) AS n FROM facts GROUP BY 1, g;
CREATE UNIQUE INDEX ON days (day, g);
CREATE MATERIALIZED VIEW weeks AS
SELECT g, date_trunc('week', at)::date AS week, sum(n) AS n FROM facts GROUP BY 2, g;
CREATE UNIQUE INDEX ON weeks (week, g);
CALL keep('facts', 'days', 'weeks');
\d days_history
SELECT obj_description('days_history'::regclass, 'pg_class'), obj_description('days_with_history'::regclass, 'pg_class');
SELECT view_name, mode, history FROM concertmaster.matviews WHERE schema_name = 'matview_history' ORDER BY 1;
CREATE TABLE whole_days AS TABLE days;
CREATE TABLE whole_weeks AS TABLE weeks;
CREATE FUNCTION differences() RETURNS TABLE (what text, r text) LANGUAGE sql AS $$
    SELECT 'day lost', x::text FROM (TABLE whole_days EXCEPT ALL TABLE days_with_history) x
    UNION ALL SELECT 'day too much', x::text FROM (TABLE days_with_history EXCEPT ALL TABLE whole_days) x
    UNION ALL SELECT 'week lost', x::text FROM (TABLE whole_weeks EXCEPT ALL TABLE weeks_with_history) x
    UNION ALL SELECT 'week too much', x::text FROM (TABLE weeks_with_history EXCEPT ALL TABLE whole_weeks) x
$$;
-- nothing is in the history before something retires
SELECT (SELECT count(*) FROM days_history) AS days, (SELECT count(*) FROM weeks_history) AS weeks;
-- a row that no refresh has seen yet
INSERT INTO facts VALUES ('2024-01-22 06:00', 'late', 100);
INSERT INTO whole_days VALUES ('2024-01-22', 'late', 100);
INSERT INTO whole_weeks VALUES ('late', '2024-01-22', 100);
CALL retire('facts', '2024-02-01');
SELECT months('facts');
SELECT deferred, last_error FROM concertmaster.partition_sets WHERE table_name = 'facts';
SELECT min(day), max(day), count(*), sum(n) FROM days_history;
SELECT * FROM weeks_history ORDER BY week, g;
-- before the next refresh and after it the union shows the same
SELECT * FROM differences();
SELECT mode, reason FROM concertmaster.refresh('days');
SELECT mode, reason FROM concertmaster.refresh('weeks');
SELECT min(day), count(*) FROM days;
SELECT * FROM concertmaster.verify_matview('days');
SELECT * FROM concertmaster.verify_matview('weeks');
SELECT * FROM differences();
-- what was whole is not replaced by the rest of it, now or when that retires
SELECT * FROM weeks WHERE week = '2024-01-29' ORDER BY g;
CALL retire('facts', '2024-03-01');
SELECT months('facts');
SELECT * FROM differences();
SELECT mode FROM concertmaster.refresh('weeks');
SELECT mode FROM concertmaster.refresh('days');
SELECT * FROM differences();
-- the planner can look for a row of the view in the history by hashing the time
SET enable_nestloop = off;
SET enable_mergejoin = off;
CREATE FUNCTION plan(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY EXECUTE 'EXPLAIN (COSTS OFF) ' || query; END $$;
SELECT count(*) FROM plan('SELECT * FROM days_with_history') p WHERE p ~ 'Hash Cond: .*\mday\M';
RESET enable_nestloop;
RESET enable_mergejoin;

-- 2. what is decided stays decided, and can be decided anew
SELECT concertmaster.manage_matview('days', NULL);
SELECT history FROM concertmaster.matviews WHERE view_name = 'days';
SELECT concertmaster.manage_matview('days', NULL, history => true);
-- what is not possible any more has to be said
SELECT concertmaster.manage_matview('days', NULL, incremental => false);
SELECT concertmaster.manage_matview('days', NULL, incremental => false, history => false);
SELECT history FROM concertmaster.matviews WHERE view_name = 'days';
-- begun anew beside what there is
SELECT concertmaster.manage_matview('days', NULL, history => true);
ALTER TABLE days_history RENAME TO days_before;
SELECT concertmaster.manage_matview('days', NULL, history => true);
DROP VIEW days_with_history;
SELECT concertmaster.manage_matview('days', NULL, history => true);
INSERT INTO days_history TABLE days_before;
SELECT * FROM differences();
-- renamed: view, history, column; moved
CREATE SCHEMA matview_elsewhere;
ALTER TABLE weeks_history RENAME TO "Weeks of old";
ALTER MATERIALIZED VIEW weeks RENAME TO "Weeks";
ALTER TABLE "Weeks of old" SET SCHEMA matview_elsewhere;
ALTER TABLE matview_elsewhere."Weeks of old" RENAME COLUMN week TO "The week";
ALTER TABLE matview_elsewhere."Weeks of old" ADD COLUMN more text DEFAULT 'more';
SET client_min_messages = warning;
CALL concertmaster.run_job('refresh matview_history.days');
CALL retire('facts', '2024-04-01');
SELECT months('facts');
SELECT view_name, history FROM concertmaster.matviews WHERE schema_name = 'matview_history' ORDER BY 1;
SELECT max("The week"), count(*), sum(n), count(more) FROM matview_elsewhere."Weeks of old";
SELECT * FROM differences();
-- nothing is managed any more, and everything is there
SELECT concertmaster.unmanage_matview('days'::regclass);
SELECT concertmaster.unmanage_matview('matview_history."Weeks"');
SELECT * FROM differences();
DROP MATERIALIZED VIEW days;
DROP MATERIALIZED VIEW days CASCADE;
SELECT count(*) FROM days_history;

-- 3. which views
CREATE TABLE plain (at timestamptz, n integer);
CREATE TABLE listed (at timestamptz, g integer) PARTITION BY LIST (g);
CREATE TABLE numbered (id bigint) PARTITION BY RANGE (id);
CREATE TABLE twofold (at date, id integer) PARTITION BY RANGE (at, id);
CREATE PROCEDURE refused(query text, index text, options text DEFAULT '') LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    hint text;
BEGIN
    EXECUTE 'CREATE MATERIALIZED VIEW refused AS ' || query;
    EXECUTE format('CREATE UNIQUE INDEX ON refused (%s)', index);
    BEGIN
        EXECUTE format('SELECT concertmaster.manage_matview(''refused'', NULL, history => true%s)', options);
        RAISE NOTICE 'not refused';
    EXCEPTION WHEN object_not_in_prerequisite_state THEN
        GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
        RAISE NOTICE '%: % %', SQLERRM, detail, hint;
    END;
    ROLLBACK;
END $$;
CALL refused('SELECT g, count(*) FROM facts GROUP BY g', 'g');
CALL refused('SELECT DISTINCT at FROM facts', 'at');
CALL refused('SELECT date_trunc(''day'', at) AS day, count(*) FROM facts WHERE date_trunc(''day'', at) > now() - interval ''30 days'' GROUP BY 1', 'day');
CALL refused('SELECT date_trunc(''day'', at) AS day, count(*) FROM facts WHERE g = ''x'' GROUP BY 1, n', 'day');
CALL refused('SELECT date_trunc(''day'', at) AS day, count(*) FROM plain GROUP BY 1', 'day');
CALL refused('SELECT date_trunc(''day'', at) AS day, count(*) FROM listed GROUP BY 1', 'day');
CALL refused('SELECT id, count(*) FROM numbered GROUP BY 1', 'id');
CALL refused('SELECT at, count(*) FROM twofold GROUP BY 1', 'at');
CALL refused('SELECT a.at, count(*) FROM facts a JOIN facts b ON b.n = a.n GROUP BY 1', 'at');
CALL refused('SELECT p.n, f.at, count(*) FROM plain p LEFT JOIN facts f ON f.n = p.n GROUP BY 1, 2', 'n, at');
CALL refused('SELECT f.at, count(*) FROM plain p RIGHT JOIN facts f ON f.n = p.n GROUP BY 1', 'at');
CALL refused('SELECT at, count(*) FROM facts GROUP BY 1', 'at');
CALL refused('SELECT at, count(*) FROM facts GROUP BY 1', 'at', ', incremental => false');
SET client_min_messages = warning;
-- names that are taken, long ones, hostile ones
CREATE MATERIALIZED VIEW taken AS SELECT at, count(*) FROM facts GROUP BY at;
CREATE UNIQUE INDEX ON taken (at);
CREATE SEQUENCE taken_with_history;
SELECT concertmaster.manage_matview('taken', NULL, history => true);
SELECT to_regclass('taken_history'), (SELECT count(*) FROM concertmaster.matviews WHERE view_name = 'taken');
CREATE MATERIALIZED VIEW a_name_that_is_as_long_as_a_name_can_be_with_an_x_at_its_end_xx AS SELECT at, count(*) FROM facts GROUP BY at;
CREATE UNIQUE INDEX ON a_name_that_is_as_long_as_a_name_can_be_with_an_x_at_its_end_xx (at);
SELECT concertmaster.manage_matview('a_name_that_is_as_long_as_a_name_can_be_with_an_x_at_its_end_xx', NULL, history => true);
CREATE MATERIALIZED VIEW "it's %s; -- ""x""" AS SELECT at AS "a't", g AS "select", count(*) AS "%I" FROM facts GROUP BY at, g;
CREATE UNIQUE INDEX ON "it's %s; -- ""x""" ("a't", "select");
SELECT concertmaster.manage_matview('"it''s %s; -- ""x"""', NULL, history => true);
SELECT relname, relkind FROM pg_class WHERE relnamespace = 'matview_history'::regnamespace AND relname ~ '^(a_name|it).*history$' ORDER BY 1;
SELECT concertmaster.unmanage_matview('a_name_that_is_as_long_as_a_name_can_be_with_an_x_at_its_end_xx'::regclass),
       concertmaster.unmanage_matview('"it''s %s; -- ""x"""'::regclass);
RESET client_min_messages;

-- 4. days of another zone than the partitions; a timestamp; levels; a join
CREATE TABLE local (at timestamptz NOT NULL, n integer) PARTITION BY RANGE (at);
CREATE TABLE local_m1 PARTITION OF local FOR VALUES FROM ('2024-01-01') TO ('2024-02-01') PARTITION BY RANGE (at);
CREATE TABLE local_early PARTITION OF local_m1 FOR VALUES FROM ('2024-01-01') TO ('2024-01-11');
CREATE TABLE local_rest PARTITION OF local_m1 DEFAULT;
CREATE TABLE local_m2 PARTITION OF local FOR VALUES FROM ('2024-02-01') TO ('2024-03-01');
INSERT INTO local SELECT d, 1 FROM generate_series(timestamptz '2024-01-01', '2024-02-02', '30 minutes') d;
CREATE TABLE names (n integer PRIMARY KEY, name text);
INSERT INTO names VALUES (1, 'one');
CREATE MATERIALIZED VIEW berlin AS
SELECT (l.at AT TIME ZONE 'Europe/Berlin')::date AS day, m.name, count(*) AS c
  FROM local l LEFT JOIN names m ON m.n = l.n GROUP BY 1, m.name;
CREATE UNIQUE INDEX ON berlin (day, name);
CALL keep('local', 'berlin');
CREATE TABLE whole AS TABLE berlin;
CALL retire('local', '2024-02-01');
SELECT months('local'), deferred, last_error FROM concertmaster.partition_sets WHERE table_name = 'local';
-- the last day is 31 January's last hour and 23 of 1 February's
SELECT min(day), max(day), count(*), sum(c) FROM berlin_history;
SELECT mode FROM concertmaster.refresh('berlin');
TABLE whole EXCEPT ALL TABLE berlin_with_history;
TABLE berlin_with_history EXCEPT ALL TABLE whole;
-- a change of a name changes the view, and no history
UPDATE names SET name = 'uno';
SELECT mode FROM concertmaster.refresh('berlin');
SELECT name, count(*) FROM berlin_with_history GROUP BY name ORDER BY name;

-- an hour that comes twice, in the midst of which the partition ends
CREATE TABLE twice (at timestamptz NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE twice_m1 PARTITION OF twice FOR VALUES FROM ('2023-10-01') TO ('2023-10-29 01:10+00');
CREATE TABLE twice_m2 PARTITION OF twice FOR VALUES FROM ('2023-10-29 01:10+00') TO ('2023-11-01');
INSERT INTO twice SELECT d FROM generate_series(timestamptz '2023-10-28 23:00', '2023-10-29 03:00', '5 minutes') d;
CREATE MATERIALIZED VIEW minutes AS
SELECT date_trunc('minute', at AT TIME ZONE 'Europe/Berlin') AS minute, count(*) AS c FROM twice GROUP BY 1;
CREATE UNIQUE INDEX ON minutes (minute);
CALL keep('twice', 'minutes');
CREATE TABLE whole_minutes AS TABLE minutes;
CALL retire('twice', '2023-10-29 01:10+00');
SELECT months('twice'), deferred, last_error FROM concertmaster.partition_sets WHERE table_name = 'twice';
SELECT mode FROM concertmaster.refresh('minutes');
SELECT min(minute), max(minute), count(*), sum(c) FROM minutes_history;
TABLE whole_minutes EXCEPT ALL TABLE minutes_with_history;
TABLE minutes_with_history EXCEPT ALL TABLE whole_minutes;

-- a bucket that is not over
CREATE TABLE slow (at timestamp NOT NULL, n integer) PARTITION BY RANGE (at);
CREATE TABLE slow_m1 PARTITION OF slow FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
INSERT INTO slow VALUES ('2024-01-05', 1);
CREATE MATERIALIZED VIEW centuries AS SELECT date_trunc('century', at) AS century, count(*) AS c FROM slow GROUP BY 1;
CREATE UNIQUE INDEX ON centuries (century);
CALL keep('slow', 'centuries');
CALL retire('slow', '2024-02-01');
SELECT months('slow'), deferred, last_error FROM concertmaster.partition_sets WHERE table_name = 'slow';
SELECT count(*) FROM centuries_history;
-- years are, with a column that is partitioned below the view's table
CREATE TABLE regions (region text, at date NOT NULL, n integer) PARTITION BY LIST (region);
CREATE TABLE regions_north (n integer, region text, at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE north_m1 PARTITION OF regions_north FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
ALTER TABLE regions ATTACH PARTITION regions_north FOR VALUES IN ('north');
CREATE TABLE zones (at date NOT NULL, region text) PARTITION BY RANGE (at);
CREATE TABLE zones_m1 PARTITION OF zones FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
INSERT INTO regions VALUES ('north', '2024-01-05', 1);
INSERT INTO zones VALUES ('2024-01-05', 'north');
CREATE MATERIALIZED VIEW levels AS
SELECT z.at AS zone_at, date_trunc('year', r.at::timestamp)::date AS year, r.region, count(*) AS c
  FROM zones z JOIN regions r ON r.region = z.region GROUP BY 1, 2, 3;
CREATE UNIQUE INDEX ON levels (zone_at, year, region);
CALL keep('regions_north', 'levels');
CALL retire('regions_north', '2024-02-01');
SELECT months('regions_north'), deferred, last_error FROM concertmaster.partition_sets WHERE table_name = 'regions_north';
TABLE levels_history;
CALL keep('zones', 'levels');
CALL retire('zones', '2024-02-01');
SELECT months('zones'), deferred, last_error FROM concertmaster.partition_sets WHERE table_name = 'zones';
SELECT mode FROM concertmaster.refresh('levels');
TABLE levels;
TABLE levels_with_history;

-- 5. what cannot be kept does not retire, and is said
CREATE ROLE regress_history;
CREATE ROLE regress_reader;
CREATE ROLE regress_other;
GRANT CREATE, USAGE ON SCHEMA matview_history TO regress_history;
GRANT USAGE ON SCHEMA matview_history TO regress_reader, regress_other;
SET ROLE regress_history;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;
CREATE TABLE own (at date NOT NULL, g integer) PARTITION BY RANGE (at);
CREATE TABLE own_m1 PARTITION OF own FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
CREATE TABLE own_m2 PARTITION OF own FOR VALUES FROM ('2024-02-01') TO ('2024-03-01');
INSERT INTO own VALUES ('2024-01-31', 1), ('2024-02-01', 1);
CREATE MATERIALIZED VIEW owned AS SELECT at, g, count(*) AS c FROM own GROUP BY at, g;
CREATE UNIQUE INDEX ON owned (at, g);
REVOKE ALL ON owned FROM PUBLIC;
GRANT SELECT ON owned TO regress_reader WITH GRANT OPTION;
GRANT SELECT (at, c) ON owned TO regress_other;
RESET ROLE;
CALL keep('own', 'owned');
SELECT c.relname, c.relowner::regrole, a.grantee::regrole, a.privilege_type, a.is_grantable
  FROM pg_class c, LATERAL aclexplode(c.relacl) a WHERE c.relname ~ '^owned(_with)?_history$' AND a.grantee <> c.relowner ORDER BY 1;
SELECT attrelid::regclass, attname, attacl FROM pg_attribute WHERE attrelid IN ('owned_history'::regclass, 'owned_with_history'::regclass) AND attacl IS NOT NULL ORDER BY 1, 2;
SET ROLE regress_other;
SELECT at, c FROM owned_with_history ORDER BY at;
SELECT g FROM owned_with_history;
RESET ROLE;
CREATE VIEW said AS SELECT table_name, deferred, sqlstate, last_error FROM concertmaster.partition_sets;
\set VERBOSITY terse
-- somebody else's
ALTER TABLE owned_history OWNER TO regress_other;
CALL retire('own', '2024-02-01');
RESET client_min_messages;
SELECT months('own'), * FROM said WHERE table_name = 'own';
SELECT count(*) FROM concertmaster.partitions WHERE state <> 'attached' AND table_name = 'own';
ALTER TABLE owned_history OWNER TO regress_history;
-- no unique index
DROP INDEX owned_history_at_g_idx;
CALL retire('own', '2024-02-01');
RESET client_min_messages;
SELECT months('own'), * FROM said WHERE table_name = 'own';
CREATE UNIQUE INDEX ON owned_history (at, g) NULLS NOT DISTINCT;
-- not incremental any more
ALTER TABLE own_m2 OWNER TO regress_other;
CALL retire('own', '2024-02-01');
RESET client_min_messages;
SELECT months('own'), * FROM said WHERE table_name = 'own';
ALTER TABLE own_m2 OWNER TO regress_history;
-- nobody would see what is written to it between the last refresh and the detach
ALTER TABLE own_m1 DISABLE TRIGGER ALL;
CALL retire('own', '2024-02-01');
RESET client_min_messages;
SELECT months('own'), * FROM said WHERE table_name = 'own';
DO $$BEGIN EXECUTE format('ALTER TABLE own_m1 ENABLE ALWAYS TRIGGER %I', tgname) FROM pg_trigger WHERE tgrelid = 'own_m1'::regclass; END$$;
-- gone
DROP TABLE owned_history CASCADE;
CALL retire('own', '2024-02-01');
RESET client_min_messages;
SELECT months('own'), * FROM said WHERE table_name = 'own';
\set VERBOSITY default
-- made anew; not filled by what was written to the view's rows since, which is nothing
SELECT concertmaster.manage_matview('owned', NULL, history => true);
CALL retire('own', '2024-02-01');
SELECT months('own'), * FROM said WHERE table_name = 'own';
TABLE owned_history;
SELECT * FROM owned_with_history ORDER BY at;

-- clean up
SET client_min_messages = warning;
SELECT count(concertmaster.unmanage_matview(format('%I.%I', schema_name, view_name)::regclass)) FROM concertmaster.matviews WHERE schema_name = 'matview_history';
SELECT count(concertmaster.forget_partition_set(format('%I.%I', schema_name, table_name)::regclass)) FROM concertmaster.partition_sets WHERE schema_name = 'matview_history';
DROP SCHEMA matview_history, matview_elsewhere CASCADE;
DROP OWNED BY regress_history, regress_reader, regress_other;
DROP ROLE regress_history, regress_reader, regress_other;
