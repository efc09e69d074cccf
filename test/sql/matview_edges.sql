-- What could make a view wrong, or stand in the way of those who write to its
-- tables, and is neither a row nor a clause of its query
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
DROP SCHEMA IF EXISTS hazards CASCADE;
DROP ROLE IF EXISTS regress_hazards_1, regress_hazards_2;
SET search_path = hazards;
SET timezone = 'UTC';
SET datestyle = 'ISO';
\set SHOW_CONTEXT never
CREATE SCHEMA hazards;

-- Manage, and have the job make the tables log
CREATE PROCEDURE manage(view text)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM concertmaster.manage_matview(view::regclass, NULL);
    COMMIT;
    CALL concertmaster.run_job('refresh hazards.' || view);
END $$;

-- 1. TRUNCATE empties a file of its own transaction where it is
CREATE TABLE cut (at date, g integer) PARTITION BY RANGE (at);
CREATE TABLE cut_1 PARTITION OF cut FOR VALUES FROM ('2025-01-01') TO ('2025-02-01');
CREATE TABLE cut_2 PARTITION OF cut FOR VALUES FROM ('2025-02-01') TO ('2025-03-01');
INSERT INTO cut VALUES ('2025-01-05', 1), ('2025-02-05', 2);
CREATE MATERIALIZED VIEW cuts AS SELECT at, g, count(*) AS n FROM cut GROUP BY at, g;
CREATE UNIQUE INDEX ON cuts (at, g);
CALL manage('cuts');
BEGIN;
TRUNCATE cut_1;
INSERT INTO cut VALUES ('2025-01-06', 3);
SELECT mode, reason, inserted, deleted FROM concertmaster.refresh('cuts');
TRUNCATE cut_1;
SELECT mode, reason, inserted, deleted FROM concertmaster.refresh('cuts');
INSERT INTO cut VALUES ('2025-01-07', 4);
SELECT mode, reason, inserted, deleted FROM concertmaster.refresh('cuts');
TRUNCATE cut_1;
COMMIT;
SELECT mode, reason, inserted, deleted FROM concertmaster.refresh('cuts');
SELECT * FROM concertmaster.verify_matview('cuts');
SELECT mode, reason, inserted, deleted FROM concertmaster.refresh('cuts');
-- a partition made in the transaction likewise
BEGIN;
CREATE TABLE cut_3 PARTITION OF cut FOR VALUES FROM ('2025-03-01') TO ('2025-04-01');
INSERT INTO cut VALUES ('2025-03-01', 5);
SELECT mode, reason, inserted, deleted FROM concertmaster.refresh('cuts');
TRUNCATE cut_3;
COMMIT;
SELECT mode, reason, inserted, deleted FROM concertmaster.refresh('cuts');
SELECT * FROM concertmaster.verify_matview('cuts');
SELECT mode, reason, inserted, deleted FROM concertmaster.refresh('cuts');

-- 2. a table that logs becomes a partition of one that does
CREATE TABLE whole (at date, g integer) PARTITION BY RANGE (at);
CREATE TABLE whole_1 PARTITION OF whole FOR VALUES FROM ('2025-01-01') TO ('2025-02-01');
CREATE TABLE piece (at date, g integer);
INSERT INTO piece VALUES ('2025-02-03', 1);
CREATE MATERIALIZED VIEW wholes AS SELECT at, g, count(*) AS n FROM whole GROUP BY at, g;
CREATE UNIQUE INDEX ON wholes (at, g);
CREATE MATERIALIZED VIEW pieces AS SELECT at, g, count(*) AS n FROM piece GROUP BY at, g;
CREATE UNIQUE INDEX ON pieces (at, g);
CALL manage('wholes');
CALL manage('pieces');
ALTER TABLE whole ATTACH PARTITION piece FOR VALUES FROM ('2025-02-01') TO ('2025-03-01');
SELECT mode, reason, inserted, deleted FROM concertmaster.refresh('wholes');
INSERT INTO piece VALUES ('2025-02-03', 1), ('2025-02-04', 2);
SELECT mode, reason, inserted, deleted FROM concertmaster.refresh('wholes');
SELECT * FROM concertmaster.verify_matview('wholes');
SELECT mode, reason FROM concertmaster.refresh('pieces');
SELECT * FROM concertmaster.verify_matview('pieces');
-- the trigger that is its own goes with the view, the other one stays
CALL manage('pieces');
SELECT concertmaster.unmanage_matview('pieces'::regclass);
CALL concertmaster.run_job('prune');
INSERT INTO piece VALUES ('2025-02-05', 2);
ALTER TABLE whole DETACH PARTITION piece;
SELECT regexp_replace(tgname, '\d+$', 'N') AS tgname FROM pg_trigger WHERE tgrelid = 'piece'::regclass;
SELECT mode, reason, inserted, deleted FROM concertmaster.refresh('wholes');
SELECT * FROM concertmaster.verify_matview('wholes');

-- 3. texts of numbers and bytes depend on settings, though their functions do not say so
CREATE TABLE texts (g integer, x double precision, b bytea);
CREATE MATERIALIZED VIEW text AS SELECT g, max(x::text) AS x, max(b::text) AS b, max(g::text) AS gs FROM texts GROUP BY g;
SELECT reason_code, detail FROM concertmaster.explain_refresh('text') WHERE check_name = 'functions';

-- 4. everybody who makes a partition makes its trigger, whatever the default privileges
SELECT a.grantee::regrole AS grantee, a.privilege_type FROM pg_proc, aclexplode(proacl) a WHERE oid = 'concertmaster.log_changes()'::regprocedure AND a.grantee = 0;

-- 5. nor can triggers be made on a partition of somebody else
CREATE ROLE regress_hazards_1;
CREATE ROLE regress_hazards_2;
GRANT CREATE, USAGE ON SCHEMA hazards TO regress_hazards_1, regress_hazards_2;
CREATE TABLE owned (at date, g integer) PARTITION BY RANGE (at);
CREATE TABLE owned_1 PARTITION OF owned FOR VALUES FROM ('2025-01-01') TO ('2025-02-01');
INSERT INTO owned VALUES ('2025-01-03', 1);
ALTER TABLE owned OWNER TO regress_hazards_1;
ALTER TABLE owned_1 OWNER TO regress_hazards_2;
CREATE MATERIALIZED VIEW owns AS SELECT at, g, count(*) AS n FROM owned GROUP BY at, g;
CREATE UNIQUE INDEX ON owns (at, g);
ALTER MATERIALIZED VIEW owns OWNER TO regress_hazards_1;
CALL manage('owns');
SELECT mode, last_mode, last_reason FROM concertmaster.matviews WHERE view_name = 'owns';

-- 6. what an open transaction has logged with a function that was replaced meanwhile
CREATE FUNCTION cut_to(integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 % 10; END';
CREATE TABLE numbers (n integer);
INSERT INTO numbers SELECT generate_series(1, 100);
CREATE MATERIALIZED VIEW digits AS SELECT cut_to(n) AS g, count(*) AS n FROM numbers GROUP BY 1;
CREATE UNIQUE INDEX ON digits (g);
CALL manage('digits');
INSERT INTO numbers VALUES (777);
CREATE TEMP TABLE logged AS SELECT * FROM concertmaster.matview_log WHERE view = 'digits'::regclass;
SELECT mode, reason, inserted, deleted FROM concertmaster.refresh('digits');
CREATE OR REPLACE FUNCTION cut_to(integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 % 9; END';
SELECT mode, reason FROM concertmaster.refresh('digits');
SELECT mode, reason FROM concertmaster.refresh('digits');
INSERT INTO concertmaster.matview_log SELECT * FROM logged;
SELECT mode, reason FROM concertmaster.refresh('digits');
INSERT INTO numbers VALUES (778);
SELECT mode, reason, inserted, deleted FROM concertmaster.refresh('digits');
SELECT * FROM concertmaster.verify_matview('digits');

-- 7. who lost the rights on a table sees no more of what is written to it
CREATE FUNCTION peek(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RAISE WARNING '% sees %', current_user, $1; RETURN left($1, 1); END$$;
CREATE TABLE secrets (secret text);
CREATE MATERIALIZED VIEW letters AS SELECT peek(secret) AS g, count(*) AS n FROM secrets GROUP BY 1;
CREATE UNIQUE INDEX ON letters (g);
ALTER MATERIALIZED VIEW letters OWNER TO regress_hazards_1;
GRANT regress_hazards_2 TO regress_hazards_1;
ALTER TABLE secrets OWNER TO regress_hazards_2;
CALL manage('letters');
INSERT INTO secrets VALUES ('open');
REVOKE regress_hazards_2 FROM regress_hazards_1;
INSERT INTO secrets VALUES ('password');
GRANT regress_hazards_2 TO regress_hazards_1;
SELECT p.key FROM concertmaster._log_patterns('letters'::regclass) p ORDER BY 1;
SET client_min_messages = error;
SELECT mode, reason FROM concertmaster.refresh('letters');
SELECT * FROM concertmaster.verify_matview('letters');
ALTER TABLE secrets OWNER TO CURRENT_USER;
INSERT INTO secrets VALUES ('password');
ALTER TABLE secrets OWNER TO regress_hazards_1;
SELECT p.key FROM concertmaster._log_patterns('letters'::regclass) p ORDER BY 1;
RESET client_min_messages;

-- 8. zones whose rules a view depends on: those that its query names, or all
CREATE TABLE ticks (at timestamptz, zone text);
INSERT INTO ticks VALUES ('2025-01-01 23:30+00', 'Asia/Tokyo');
CREATE MATERIALIZED VIEW zone_none AS SELECT zone, count(*) AS n FROM ticks GROUP BY zone;
CREATE MATERIALIZED VIEW zone_named AS SELECT date_trunc('day', at, 'Europe/Berlin') AS d, count(*) AS n FROM ticks GROUP BY 1;
CREATE MATERIALIZED VIEW zone_other AS SELECT (at AT TIME ZONE ('Asia/' || 'Tokyo'))::date AS d, count(*) AS n FROM ticks GROUP BY 1;
CREATE MATERIALIZED VIEW zone_given AS SELECT (at AT TIME ZONE zone)::date AS d, count(*) AS n FROM ticks GROUP BY 1;
CREATE UNIQUE INDEX ON zone_none (zone);
CREATE UNIQUE INDEX ON zone_named (d);
CREATE UNIQUE INDEX ON zone_other (d);
CREATE UNIQUE INDEX ON zone_given (d);
SET client_min_messages = warning;
CALL manage('zone_none');
CALL manage('zone_named');
CALL manage('zone_other');
CALL manage('zone_given');
CREATE FUNCTION zones(view regclass) RETURNS text LANGUAGE sql AS $$SELECT regexp_substr(stamp, '[0-9a-f]+$') FROM concertmaster.matview_track k WHERE k.view = zones.view$$;
SELECT zones('zone_none'), count(DISTINCT zones(v)) FROM unnest('{zone_none,zone_named,zone_other,zone_given}'::regclass[]) v;
SELECT reason FROM concertmaster.refresh('zone_given');
-- as if the rules had been others at the last refresh
UPDATE concertmaster.matview_track k SET stamp = regexp_replace(stamp, '[0-9a-f]+$', 'ffffffff') WHERE k.view IN ('zone_named'::regclass, 'zone_given'::regclass);
SELECT mode, reason FROM concertmaster.refresh('zone_named');
SELECT mode, reason FROM concertmaster.refresh('zone_named');
SELECT mode, reason FROM concertmaster.refresh('zone_other');
SELECT mode, reason FROM concertmaster.refresh('zone_given');

DO $$BEGIN PERFORM concertmaster.unmanage_matview(format('hazards.%I', view_name)::regclass) FROM concertmaster.matview WHERE schema_name = 'hazards'; END$$;
SET client_min_messages = warning;
DROP SCHEMA hazards CASCADE;
DROP ROLE regress_hazards_1, regress_hazards_2;
