-- What could make a view wrong, or stand in the way of those who write to its
-- tables, and is neither a row nor a clause of its query
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
DROP SCHEMA IF EXISTS hazards CASCADE;
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

SELECT view_name, concertmaster.unmanage_matview(format('hazards.%I', view_name)::regclass) FROM concertmaster.matview WHERE schema_name = 'hazards' ORDER BY 1;
SET client_min_messages = warning;
DROP SCHEMA hazards CASCADE;
