-- The triggers that log: their names, what becomes of them when tables are
-- attached, who is in the way of making them, many partitions
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
DROP SCHEMA IF EXISTS tracks CASCADE;
SET search_path = tracks;
SET datestyle = 'ISO';
\set SHOW_CONTEXT never
CREATE SCHEMA tracks;

-- Manage, and have the job make the tables log
CREATE PROCEDURE manage(view text)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM concertmaster.manage_matview(view::regclass, NULL);
    COMMIT;
    CALL concertmaster.run_job('refresh tracks.' || view);
END $$;

-- Refresh by the job; how it was done and what the view has wrong then.  The
-- names of triggers end in oids.
CREATE PROCEDURE run(view text, INOUT mode text DEFAULT NULL, INOUT reason text DEFAULT NULL, INOUT wrong bigint DEFAULT NULL)
LANGUAGE plpgsql AS $$
BEGIN
    CALL concertmaster.run_job('refresh tracks.' || view);
    SELECT last_mode, regexp_replace(last_reason, 'concertmaster_log_\d+', 'concertmaster_log_N') INTO mode, reason
      FROM concertmaster.matviews WHERE schema_name = 'tracks' AND view_name = view;
    SELECT count(*) INTO wrong FROM concertmaster.verify_matview(view::regclass);
END $$;

-- What matviews says of the next refresh
CREATE FUNCTION next(view text) RETURNS TABLE (mode text, reason text)
LANGUAGE sql AS $$
    SELECT mode, regexp_replace(reason, 'concertmaster_log_\d+', 'concertmaster_log_N')
      FROM concertmaster.matviews WHERE schema_name = 'tracks' AND view_name = view;
$$;

-- A table's triggers that log, whose names say whose they are
CREATE FUNCTION triggers(tab regclass) RETURNS TABLE (name text, inherited boolean, enabled "char")
LANGUAGE sql AS $$
    SELECT regexp_replace(tgname, '_\d+$', ' of ' || coalesce(regexp_substr(tgname, '\d+$')::oid::regclass::text, '')), tgparentid <> 0, tgenabled
      FROM pg_trigger WHERE tgrelid = tab AND tgfoid = 'concertmaster.log_changes()'::regprocedure ORDER BY 1;
$$;

-- 1. a partitioned table that logs becomes a partition of another that does
CREATE TABLE whole (at date, g integer) PARTITION BY RANGE (at);
CREATE TABLE whole_1 PARTITION OF whole FOR VALUES FROM ('2025-01-01') TO ('2025-02-01');
CREATE TABLE part (at date, g integer) PARTITION BY LIST (g);
CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
CREATE TABLE part_2 PARTITION OF part FOR VALUES IN (2);
INSERT INTO part VALUES ('2025-02-03', 1);
CREATE MATERIALIZED VIEW wholes AS SELECT at, g, count(*) AS n FROM whole GROUP BY at, g;
CREATE UNIQUE INDEX ON wholes (at, g);
CREATE MATERIALIZED VIEW parts AS SELECT at, g, count(*) AS n FROM part GROUP BY at, g;
CREATE UNIQUE INDEX ON parts (at, g);
CALL manage('wholes');
CALL manage('parts');
ALTER TABLE whole ATTACH PARTITION part FOR VALUES FROM ('2025-02-01') TO ('2025-03-01');
SELECT * FROM triggers('part_1');
INSERT INTO part VALUES ('2025-02-03', 1), ('2025-02-04', 2);
CALL run('wholes');
CALL run('parts');
INSERT INTO whole VALUES ('2025-02-05', 2), ('2025-01-05', 2);
CALL run('wholes');
CALL run('parts');
CALL concertmaster.run_job('prune');
SELECT * FROM triggers('part_1');
-- detached, both log for themselves again
ALTER TABLE whole DETACH PARTITION part;
CALL run('parts');
INSERT INTO part VALUES ('2025-02-06', 2);
CALL run('parts');
CALL run('wholes');
-- attached where one logs and the other has yet to begin
SELECT concertmaster.unmanage_matview('wholes'::regclass);
CALL concertmaster.run_job('prune');
SELECT * FROM triggers('whole');
ALTER TABLE whole ATTACH PARTITION part FOR VALUES FROM ('2025-02-01') TO ('2025-03-01');
CALL manage('wholes');
INSERT INTO part VALUES ('2025-02-07', 1);
CALL run('wholes');
CALL run('parts');
INSERT INTO part VALUES ('2025-02-08', 2);
CALL run('wholes');
CALL run('parts');

-- 2. as after a restore: a trigger with the number of another database
CREATE TABLE restored (at date, g integer) PARTITION BY RANGE (at);
CREATE TABLE restored_1 PARTITION OF restored FOR VALUES FROM ('2025-01-01') TO ('2025-02-01');
CREATE TRIGGER concertmaster_log_1 AFTER INSERT OR UPDATE OR DELETE ON restored FOR EACH ROW EXECUTE FUNCTION concertmaster.log_changes();
ALTER TABLE restored ENABLE ALWAYS TRIGGER concertmaster_log_1;
CREATE MATERIALIZED VIEW restoreds AS SELECT at, g, count(*) AS n FROM restored GROUP BY at, g;
CREATE UNIQUE INDEX ON restoreds (at, g);
CALL manage('restoreds');
SELECT * FROM triggers('restored');
SELECT * FROM triggers('restored_1');
INSERT INTO restored VALUES ('2025-01-05', 1);
CALL run('restoreds');

-- 3. CREATE TRIGGER fails: refreshed all the same, told, and tried again
CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no triggers this week'; END$$;
CREATE TABLE guarded (k integer, n integer);
CREATE MATERIALIZED VIEW guards AS SELECT k, sum(n) AS n FROM guarded GROUP BY k;
CREATE UNIQUE INDEX ON guards (k);
SELECT concertmaster.manage_matview('guards', NULL);
SELECT * FROM next('guards');
CREATE EVENT TRIGGER tracks_forbid ON ddl_command_start WHEN TAG IN ('CREATE TRIGGER') EXECUTE FUNCTION forbid();
INSERT INTO guarded VALUES (1, 1);
CALL run('guards');
SELECT * FROM next('guards');
SELECT failures, last_error FROM concertmaster.matviews WHERE view_name = 'guards';
SELECT * FROM concertmaster.explain_refresh('guards') WHERE NOT ok;
INSERT INTO guarded VALUES (1, 2);
SELECT mode, reason FROM concertmaster.refresh('guards');
DROP EVENT TRIGGER tracks_forbid;
CALL run('guards');
SELECT * FROM next('guards');
SELECT * FROM concertmaster.explain_refresh('guards') WHERE NOT ok;
INSERT INTO guarded VALUES (2, 2);
CALL run('guards');
-- a trigger of that name that is somebody else's
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;
CREATE TABLE named (k integer, n integer);
CREATE TRIGGER concertmaster_log_table AFTER INSERT ON named EXECUTE FUNCTION nothing();
CREATE MATERIALIZED VIEW names AS SELECT k, sum(n) AS n FROM named GROUP BY k;
CREATE UNIQUE INDEX ON names (k);
CALL manage('names');
SELECT * FROM next('names');
ALTER TRIGGER concertmaster_log_table ON named RENAME TO mine;
CALL run('names');
-- DROP TRIGGER fails: the other tables' go
CREATE EVENT TRIGGER tracks_forbid ON ddl_command_start WHEN TAG IN ('DROP TRIGGER') EXECUTE FUNCTION forbid();
SELECT concertmaster.unmanage_matview('names');
CALL concertmaster.run_job('prune');
SELECT last_error FROM concertmaster.jobs WHERE name = 'prune';
SELECT * FROM triggers('named');
DROP EVENT TRIGGER tracks_forbid;
CALL concertmaster.run_job('prune');
SELECT * FROM triggers('named');

-- 4. it takes longer than the deadline
CREATE FUNCTION dawdle() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(10); END$$;
CREATE TABLE slow (k integer, n integer);
CREATE MATERIALIZED VIEW slows AS SELECT k, sum(n) AS n FROM slow GROUP BY k;
CREATE UNIQUE INDEX ON slows (k);
ALTER SYSTEM SET concertmaster.ddl_attempts = 2;
SELECT pg_reload_conf();
CREATE EVENT TRIGGER tracks_dawdle ON ddl_command_start WHEN TAG IN ('CREATE TRIGGER') EXECUTE FUNCTION dawdle();
CALL manage('slows');
SELECT * FROM next('slows');
SELECT * FROM concertmaster.explain_refresh('slows') WHERE NOT ok;
DROP EVENT TRIGGER tracks_dawdle;
ALTER SYSTEM RESET concertmaster.ddl_attempts;
SELECT pg_reload_conf();
CALL run('slows');
SELECT * FROM next('slows');

-- 5. a trigger that is disabled is told before the refresh
ALTER TABLE whole_1 DISABLE TRIGGER ALL;
SELECT * FROM next('wholes');
INSERT INTO whole VALUES ('2025-01-06', 2);
CALL run('wholes');
SELECT * FROM next('wholes');
DO $$BEGIN EXECUTE format('ALTER TABLE whole_1 ENABLE ALWAYS TRIGGER %I', tgname) FROM pg_trigger WHERE tgrelid = 'whole_1'::regclass; END$$;
SELECT * FROM next('wholes');
CALL run('wholes');
CALL run('wholes');

-- 6. many partitions have triggers of their own, made one by one
CREATE TABLE many (at date, g integer) PARTITION BY RANGE (at);
CREATE FUNCTION add_partition(n integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TABLE many_%s PARTITION OF many FOR VALUES FROM (%L) TO (%L)', n, date '2025-01-01' + n, date '2025-01-02' + n);
END $$;
SELECT count(add_partition(n)) FROM generate_series(0, 79) n;
INSERT INTO many SELECT date '2025-01-01' + n, n % 3 FROM generate_series(0, 79) n;
CREATE MATERIALIZED VIEW manies AS SELECT at, g, count(*) AS n FROM many GROUP BY at, g;
CREATE UNIQUE INDEX ON manies (at, g);
CALL manage('manies');
SELECT * FROM next('manies');
SELECT * FROM triggers('many');
SELECT * FROM triggers('many_79');
INSERT INTO many VALUES ('2025-01-05', 7), ('2025-02-05', 7);
UPDATE many SET at = '2025-03-01', g = 8 WHERE at = '2025-02-05' AND g = 7;
CALL run('manies');
-- the prune job leaves them
CALL concertmaster.run_job('prune');
SELECT count(*) FROM pg_trigger WHERE tgfoid = 'concertmaster.log_changes()'::regprocedure AND tgrelid::regclass::text LIKE 'many%';
-- a new one: its range is computed until it has a trigger, which the job makes
SELECT add_partition(80);
INSERT INTO many VALUES ('2025-03-22', 1);
SELECT mode, groups, inserted FROM concertmaster.refresh('manies');
INSERT INTO many VALUES ('2025-03-22', 2);
SELECT mode, groups, inserted FROM concertmaster.refresh('manies');
SELECT count(*) FROM concertmaster.verify_matview('manies');
INSERT INTO many VALUES ('2025-03-22', 3);
CALL run('manies');
SELECT * FROM triggers('many_80');
INSERT INTO many VALUES ('2025-03-22', 4);
CALL run('manies');
CALL run('manies');
SELECT last_groups FROM concertmaster.matviews WHERE view_name = 'manies';
-- one that has lost its trigger
DROP TRIGGER concertmaster_log_table ON many_3;
INSERT INTO many VALUES ('2025-01-04', 9);
SELECT mode, groups, inserted FROM concertmaster.refresh('manies');
INSERT INTO many VALUES ('2025-01-04', 10);
CALL run('manies');
CALL run('manies');
-- and one that fails to get one, or is locked: the view goes on
SELECT add_partition(81);
CREATE EVENT TRIGGER tracks_forbid ON ddl_command_start WHEN TAG IN ('CREATE TRIGGER') EXECUTE FUNCTION forbid();
INSERT INTO many VALUES ('2025-03-23', 1);
CALL run('manies');
SELECT * FROM next('manies');
INSERT INTO many VALUES ('2025-03-23', 2);
CALL run('manies');
DROP EVENT TRIGGER tracks_forbid;
CALL run('manies');
SELECT * FROM next('manies');
-- detached, its trigger goes with the next prune job
ALTER TABLE many DETACH PARTITION many_0;
CALL run('manies');
CALL concertmaster.run_job('prune');
SELECT * FROM triggers('many_0');
-- one that was written to while it was detached
ALTER TABLE many DETACH PARTITION many_1;
INSERT INTO many_1 VALUES ('2025-01-02', 11);
ALTER TABLE many ATTACH PARTITION many_1 FOR VALUES FROM ('2025-01-02') TO ('2025-01-03');
CALL run('manies');
-- all go when no view needs them
SELECT concertmaster.unmanage_matview('manies');
CALL concertmaster.run_job('prune');
SELECT count(*) FROM pg_trigger WHERE tgfoid = 'concertmaster.log_changes()'::regprocedure AND tgrelid::regclass::text LIKE 'many%';

DO $$BEGIN PERFORM concertmaster.unmanage_matview(format('tracks.%I', view_name)::regclass) FROM concertmaster.matview WHERE schema_name = 'tracks'; END$$;
SET client_min_messages = warning;
DROP SCHEMA tracks CASCADE;
