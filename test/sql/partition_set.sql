-- create_partition_set(), alter_partition_set(), forget_partition_set(), plan_partitions(), roll_partitions()
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
DROP SCHEMA IF EXISTS partition_set, "Odd ""Set""" CASCADE;
RESET client_min_messages;
CREATE SCHEMA partition_set;
SET search_path = partition_set;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
\set SHOW_CONTEXT never

-- Does every moment from the first bound on have exactly one partition?
CREATE FUNCTION contiguous(parent regclass) RETURNS boolean LANGUAGE sql AS $$
    SELECT bool_and(range_from IS NOT DISTINCT FROM coalesce(previous, range_from))
      FROM (SELECT range_from, lag(range_to) OVER (ORDER BY range_from) AS previous
              FROM concertmaster.partitions
             WHERE (schema_name, table_name) = (SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = parent)
               AND NOT is_default) p
$$;
CREATE VIEW sets AS
    SELECT table_name, period, ahead, partitions, timezone, start_at, deferred_since, blocked_by, failures, sqlstate, last_error
      FROM concertmaster.partition_sets WHERE schema_name LIKE '%artition_set' ORDER BY table_name;

-- 1. a set from nothing
CREATE TABLE events (id integer, at timestamptz NOT NULL, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
SELECT action, count(*), min(range_from) = date_trunc('month', now()) AS from_this_month,
       max(range_to) = date_trunc('month', now()) + interval '5 months' AS four_ahead,
       bool_and(partition = 'events_' || to_char(range_from, 'YYYY_MM')) AS named
  FROM concertmaster.create_partition_set('events', '1 month') GROUP BY 1;
SELECT * FROM sets;
SELECT runway > interval '4 months' AS four_months, runway < interval '5 months 1 day' AS not_more, last_bound = date_trunc('month', now()) + interval '5 months' AS last
  FROM concertmaster.partition_sets WHERE table_name = 'events';
SELECT name, kind, every, paused FROM concertmaster.job WHERE name = 'roll partition_set.events';
INSERT INTO events VALUES (1, now()), (2, now() + interval '4 months');
-- called again: nothing to do
SELECT action, count(*) FROM concertmaster.create_partition_set('events', '1 month') GROUP BY 1;
SELECT count(*) FROM concertmaster.job WHERE name = 'roll partition_set.events';
SELECT action, count(*) FROM concertmaster.plan_partitions('events') GROUP BY 1;

-- 2. alter: NULL leaves a setting as it is
SELECT action, count(*) FROM concertmaster.alter_partition_set('events', ahead => 6) GROUP BY 1 ORDER BY 1;
SELECT * FROM sets;
SELECT action, count(*) FROM concertmaster.alter_partition_set('events') GROUP BY 1;
SELECT action, count(*) FROM concertmaster.alter_partition_set('events', start_at => date_trunc('month', now()) - interval '2 months') GROUP BY 1 ORDER BY 1;
SELECT contiguous('events');
-- another period goes on where the old partitions end
SELECT action, count(*) > 0, bool_and(range_to - range_from <= interval '1 day') AS days
  FROM concertmaster.alter_partition_set('events', period => '1 day', ahead => 220) WHERE action = 'created' GROUP BY 1;
SELECT contiguous('events');

-- 3. roll: in workers, only when called as a statement of its own
DO $$
BEGIN
    EXECUTE (SELECT format('DROP TABLE %I.%I', partition_schema, partition) FROM concertmaster.partitions
              WHERE table_name = 'events' AND range_to > now() ORDER BY range_from OFFSET 2 LIMIT 1);
END $$;
SELECT action, count(*) >= 28 AS a_month FROM concertmaster.plan_partitions('events') WHERE action = 'create' GROUP BY 1;
SELECT contiguous('events');
BEGIN;
CALL concertmaster.roll_partitions('events');
ROLLBACK;
SET client_min_messages = warning;
DO $$ BEGIN CALL concertmaster.roll_partitions('events'); END $$;
CALL concertmaster.roll_partitions('events');
RESET client_min_messages;
SELECT contiguous('events');
SELECT last_roll IS NOT NULL AS rolled, last_success = last_roll AS well FROM concertmaster.partition_sets WHERE table_name = 'events';
CALL concertmaster.roll_partitions('sets');

-- 4. take over what is there: any name, any width, with gaps; keep a default partition
BEGIN;
CREATE TABLE adopted (at timestamp NOT NULL, note text) PARTITION BY RANGE (at);
CREATE TABLE the_past PARTITION OF adopted FOR VALUES FROM (MINVALUE) TO ('2020-01-15');
CREATE TABLE a_year PARTITION OF adopted FOR VALUES FROM ('2020-02-10') TO ('2021-02-10');
CREATE TABLE rest PARTITION OF adopted DEFAULT;
INSERT INTO adopted VALUES ('2020-03-01', 'kept'), ('2019-01-01', 'old');
SELECT partition, range_from, range_to, action FROM concertmaster.create_partition_set('adopted', '1 month', ahead => 0, start_at => '2020-01-01')
 WHERE range_to < '2021-07-01' OR range_to IS NULL ORDER BY range_from;
COMMIT;
SELECT contiguous('adopted');
SELECT count(*) FROM adopted;
SELECT partition, range_from, range_to, is_default FROM concertmaster.partitions WHERE table_name = 'adopted' AND (is_default OR range_from < '2020-02-01') ORDER BY range_from;
-- what is held to the end has no end
CREATE TABLE endless (at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE all_of_it PARTITION OF endless FOR VALUES FROM ('2000-01-01') TO (MAXVALUE);
SELECT action, range_to FROM concertmaster.create_partition_set('endless', '1 week');
SELECT runway IS NULL AS without_end, last_bound FROM concertmaster.partition_sets WHERE table_name = 'endless';

-- 5. a start that is yet to come; the present has no partition then
CREATE TABLE later (at timestamptz NOT NULL) PARTITION BY RANGE (at);
SELECT count(*) FROM concertmaster.create_partition_set('later', '1 year', ahead => 1, start_at => now() + interval '3 years');
SELECT runway FROM concertmaster.partition_sets WHERE table_name = 'later';
-- a short period is looked at more often
SELECT count(*) FROM concertmaster.create_partition_set('later', '10 minutes', ahead => 3);
SELECT every FROM concertmaster.job WHERE name = 'roll partition_set.later';

-- many partitions: the present and the future first, the job makes the rest
CREATE TABLE many (at date NOT NULL) PARTITION BY RANGE (at);
SET client_min_messages = warning;
BEGIN;
SELECT action, count(*) - count(*) FILTER (WHERE action = 'deferred') AS here, max(range_to) >= now() + interval '2 days' AS future
  FROM concertmaster.create_partition_set('many', '1 day', ahead => 2, start_at => now() - interval '250 days') GROUP BY 1 ORDER BY 1;
SELECT runway > interval '2 days' AS ahead, contiguous('many') FROM concertmaster.partition_sets WHERE table_name = 'many';
SELECT s.next_run <= now() AS due FROM concertmaster.job_state s JOIN concertmaster.job j USING (job_id) WHERE j.name = 'roll partition_set.many';
UPDATE concertmaster.job SET paused = true WHERE name = 'roll partition_set.many';
COMMIT;
CALL concertmaster.roll_partitions('many');
RESET client_min_messages;
SELECT partitions, contiguous('many') FROM concertmaster.partition_sets WHERE table_name = 'many';
-- after a restore nothing but the names is there
DELETE FROM concertmaster.relation_map WHERE relation_name = 'many';
SELECT partitions, owner = CURRENT_USER AS mine FROM concertmaster.partition_sets WHERE table_name = 'many';
SELECT count(*) FROM concertmaster.partitions WHERE table_name = 'many';
SELECT concertmaster.forget_partition_set('many');
DROP TABLE many;

-- 6. odd names
CREATE SCHEMA "Odd ""Set""";
CREATE TABLE "Odd ""Set"""."T'able x" ("A t" timestamptz NOT NULL) PARTITION BY RANGE ("A t");
SELECT count(*), bool_and(partition ~ '^T''able x_\d{4}_\d\d$') FROM concertmaster.create_partition_set('"Odd ""Set"""."T''able x"', '1 month', 1, timezone => 'Asia/Tokyo');
SELECT name FROM concertmaster.job WHERE name LIKE '%Odd%';
SET client_min_messages = warning;
CALL concertmaster.roll_partitions('"Odd ""Set"""."T''able x"');
RESET client_min_messages;
SELECT schema_name, table_name, partitions, timezone FROM concertmaster.partition_sets WHERE schema_name LIKE 'Odd%';
-- renamed, moved, and given away: the set follows
CREATE ROLE regress_partition_set_owner;
CREATE ROLE regress_partition_set_other;
GRANT USAGE, CREATE ON SCHEMA partition_set TO regress_partition_set_owner;
ALTER TABLE "Odd ""Set"""."T'able x" RENAME TO renamed;
ALTER TABLE "Odd ""Set""".renamed SET SCHEMA partition_set;
ALTER TABLE renamed OWNER TO regress_partition_set_owner;
SELECT action, count(*) FROM concertmaster.alter_partition_set('renamed', ahead => 2) GROUP BY 1 ORDER BY 1;
SELECT name, owner FROM concertmaster.job WHERE relation_name = 'renamed';
SELECT relowner::regrole FROM pg_class WHERE oid = (SELECT max(inhrelid) FROM pg_inherits WHERE inhparent = 'renamed'::regclass);

-- 7. owners see and change their own, others nothing, pg_monitor sees all
SET ROLE regress_partition_set_owner;
SELECT table_name, owner FROM concertmaster.partition_sets;
SELECT count(*) FROM concertmaster.partitions;
SELECT action, count(*) FROM concertmaster.alter_partition_set('renamed', ahead => 3) GROUP BY 1 ORDER BY 1;
SET client_min_messages = warning;
CALL concertmaster.roll_partitions();
RESET client_min_messages;
SELECT concertmaster.forget_partition_set('partition_set.events');
SELECT * FROM concertmaster.partition_set;
SELECT * FROM concertmaster._partition_plan('t', 'date', '1 day', 1, now(), 'UTC', now());
SET ROLE regress_partition_set_other;
SELECT count(*) FROM concertmaster.partition_sets;
SELECT count(*) FROM concertmaster.partitions;
SELECT * FROM concertmaster.alter_partition_set('partition_set.renamed', ahead => 3);
RESET ROLE;
GRANT USAGE ON SCHEMA partition_set TO regress_partition_set_other;
SET ROLE regress_partition_set_other;
SELECT * FROM concertmaster.alter_partition_set('partition_set.renamed', ahead => 3);
SELECT * FROM concertmaster.create_partition_set('partition_set.renamed', '1 month');
SELECT * FROM concertmaster.plan_partitions('partition_set.renamed');
SELECT concertmaster.forget_partition_set('partition_set.renamed'::regclass);
CALL concertmaster.roll_partitions('partition_set.renamed');
RESET ROLE;
GRANT pg_monitor TO regress_partition_set_other;
SET ROLE regress_partition_set_other;
SELECT count(*) > 4 AS all_sets FROM concertmaster.partition_sets;
RESET ROLE;

-- 8. refusals
CREATE TABLE plain (at date);
CREATE TABLE by_list (at date) PARTITION BY LIST (at);
CREATE TABLE by_text (at text) PARTITION BY RANGE (at);
CREATE TABLE fresh (at date NOT NULL) PARTITION BY RANGE (at);
SELECT * FROM concertmaster.create_partition_set('no_such_table', '1 month');
SELECT * FROM concertmaster.create_partition_set('plain', '1 month');
SELECT * FROM concertmaster.create_partition_set('by_list', '1 month');
SELECT * FROM concertmaster.create_partition_set('by_text', '1 month');
SELECT * FROM concertmaster.create_partition_set('fresh', '0');
SELECT * FROM concertmaster.create_partition_set('fresh', '-1 month');
SELECT * FROM concertmaster.create_partition_set('fresh', '0.5 seconds');
SELECT * FROM concertmaster.create_partition_set('fresh', '1 hour');
SELECT * FROM concertmaster.create_partition_set('fresh', '1 month', ahead => -1);
SELECT * FROM concertmaster.create_partition_set('fresh', '1 month', ahead => 2147483647);
SELECT * FROM concertmaster.create_partition_set('fresh', '1 day', start_at => '1900-01-01');
SELECT * FROM concertmaster.create_partition_set('fresh', '1 month', start_at => '-infinity');
SELECT * FROM concertmaster.create_partition_set('fresh', '1 month', timezone => 'Nowhere/Else');
SELECT * FROM concertmaster.create_partition_set(NULL, '1 month');
SELECT * FROM concertmaster.create_partition_set('fresh', NULL);
SELECT * FROM concertmaster.create_partition_set('fresh', '1 month', NULL);
SELECT * FROM concertmaster.create_partition_set('fresh', '1 month', timezone => NULL);
SELECT * FROM concertmaster.alter_partition_set('fresh', ahead => 2);
SELECT * FROM concertmaster.alter_partition_set(NULL);
SELECT * FROM concertmaster.alter_partition_set('events', ahead => -2);
SELECT * FROM concertmaster.alter_partition_set('events', period => '-2 days');
SELECT * FROM concertmaster.alter_partition_set('events', timezone => '');
SELECT * FROM concertmaster.plan_partitions('fresh');
SELECT concertmaster.forget_partition_set('fresh');
SELECT concertmaster.forget_partition_set('no_such_schema.no_such_table');
SELECT concertmaster.forget_partition_set('no_such_table');
CALL concertmaster.roll_partitions('fresh');
CALL concertmaster.roll_partitions('plain');
BEGIN READ ONLY;
SELECT * FROM concertmaster.create_partition_set('fresh', '1 month');
ROLLBACK;
-- nothing changed
SELECT count(*) FROM concertmaster.partition_set WHERE table_name = 'fresh';
SELECT count(*) FROM pg_inherits WHERE inhparent = 'fresh'::regclass;
SELECT table_name, period, ahead FROM concertmaster.partition_sets WHERE table_name = 'events';
-- all or nothing: the last name is taken
SELECT format('CREATE TABLE fresh_%s (x integer)', to_char(now() AT TIME ZONE 'UTC' + interval '2 months', 'YYYY_MM')) \gexec
\set VERBOSITY sqlstate
SELECT * FROM concertmaster.create_partition_set('fresh', '1 month');
\set VERBOSITY default
SELECT count(*) FROM concertmaster.partition_set WHERE table_name = 'fresh';
SELECT count(*) FROM pg_inherits WHERE inhparent = 'fresh'::regclass;

-- 9. a set that fails is reported and stops no other
ALTER TABLE events OWNER TO regress_partition_set_owner;
SELECT partition AS last_of_events FROM concertmaster.partitions WHERE table_name = 'events' ORDER BY range_from DESC LIMIT 1 \gset
SELECT partition AS last_of_renamed FROM concertmaster.partitions WHERE table_name = 'renamed' ORDER BY range_from DESC LIMIT 1 \gset
DROP TABLE :"last_of_events", :"last_of_renamed";
CREATE TABLE :"last_of_events" (unrelated integer);
SET ROLE regress_partition_set_owner;
SET client_min_messages = warning;
\set VERBOSITY sqlstate
CALL concertmaster.roll_partitions();
\set VERBOSITY default
SELECT table_name, failures, sqlstate, last_error LIKE 'cannot make partition "events_%: the name is taken' AS said, first_failure = last_failure AS first
  FROM concertmaster.partition_sets ORDER BY 1;
SELECT to_regclass('partition_set.' || :'last_of_renamed') IS NOT NULL AS other_made;
\set VERBOSITY sqlstate
CALL concertmaster.roll_partitions();
\set VERBOSITY default
SELECT table_name, failures, first_failure < last_failure AS again FROM concertmaster.partition_sets WHERE failures > 0;
RESET ROLE;
-- nor does one partition of it that cannot be made stop the others
UPDATE concertmaster.partition_set SET ahead = ahead + 2 WHERE table_name = 'events';
SELECT count(*) AS before FROM pg_inherits WHERE inhparent = 'events'::regclass \gset
SELECT count(*) AS to_make, count(detail) AS hindered FROM concertmaster.plan_partitions('events') WHERE action = 'create';
SELECT detail LIKE 'the name is taken: rename the relation partition_set.events_%, or attach it to the table' AS said
  FROM concertmaster.plan_partitions('events') WHERE partition = :'last_of_events';
\set VERBOSITY sqlstate
CALL concertmaster.roll_partitions('events');
\set VERBOSITY default
SELECT count(*) - :before AS made FROM pg_inherits WHERE inhparent = 'events'::regclass;
DROP TABLE :"last_of_events";
CALL concertmaster.roll_partitions('events');
SELECT failures, first_failure, sqlstate, last_error, contiguous('events') FROM concertmaster.partition_sets WHERE table_name = 'events';
-- a table that is gone is reported, and can be forgotten by its name
DROP TABLE adopted;
CALL concertmaster.run_job('roll partition_set.adopted');
RESET client_min_messages;
SELECT table_name, partitions, failures, sqlstate, last_error FROM concertmaster.partition_sets WHERE table_name = 'adopted' ORDER BY 1;
SET ROLE regress_partition_set_owner;
SELECT concertmaster.forget_partition_set('partition_set.adopted');
RESET ROLE;
SELECT concertmaster.forget_partition_set('partition_set.adopted');

-- 10. forget: everything stays but the set and its job
SELECT concertmaster.forget_partition_set('events');
SELECT count(*) FROM events;
SELECT count(*) FROM concertmaster.job WHERE name = 'roll partition_set.events';
SELECT table_name FROM sets;
SELECT concertmaster.forget_partition_set('later'::regclass), concertmaster.forget_partition_set('endless'), concertmaster.forget_partition_set('renamed');
SELECT table_name FROM sets;
SELECT count(*) FROM concertmaster.job WHERE schema_name IN ('partition_set', 'Odd "Set"');

SET client_min_messages = warning;
DROP SCHEMA partition_set, "Odd ""Set""" CASCADE;
DROP ROLE regress_partition_set_owner, regress_partition_set_other;
