-- Refreshes from the log: after each, the view is what its query says, and
-- rows that did not change are where they were
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
DROP SCHEMA IF EXISTS inc CASCADE;
DROP ROLE IF EXISTS regress_inc_owner;
SET search_path = inc;
SET timezone = 'America/New_York';
SET datestyle = 'ISO';
\set SHOW_CONTEXT never
CREATE SCHEMA inc;

-- Refresh; wrong: rows that differ from the query, both ways; moved: rows that
-- are the same and elsewhere
CREATE FUNCTION refreshed(view regclass, OUT mode text, OUT reason text, OUT groups bigint, OUT inserted bigint, OUT deleted bigint, OUT wrong bigint, OUT moved bigint)
LANGUAGE plpgsql AS $$
DECLARE
    query text := rtrim(pg_get_viewdef(view), ';');
    others bigint;
BEGIN
    EXECUTE format('CREATE TEMP TABLE before AS SELECT v.ctid AS place, v::text AS row FROM %s v', view);
    SELECT r.mode, regexp_replace(r.reason, '_log_\d+', '_log_N'), r.groups, r.inserted, r.deleted INTO mode, reason, groups, inserted, deleted FROM concertmaster.refresh(view) r;
    EXECUTE format('SELECT count(*) FROM ((SELECT v::text FROM %1$s v EXCEPT ALL SELECT q::text FROM (%2$s) q)
        UNION ALL (SELECT q::text FROM (%2$s) q EXCEPT ALL SELECT v::text FROM %1$s v)) x', view, query) INTO wrong;
    SELECT count(*) INTO others FROM concertmaster.verify_matview(view);
    IF others <> 0 THEN
        RAISE WARNING 'verify_matview() finds % rows', others;
    END IF;
    EXECUTE format('SELECT count(*) FROM before b JOIN %s v ON v::text = b.row WHERE v.ctid <> b.place', view) INTO moved;
    DROP TABLE before;
END $$;

-- Manage, and have the job make the tables log
CREATE PROCEDURE manage(view text, allow_inexact boolean DEFAULT false)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM concertmaster.manage_matview(view::regclass, NULL, allow_inexact => allow_inexact);
    COMMIT;
    CALL concertmaster.run_job('refresh inc.' || view);
END $$;

CREATE TABLE forms (id integer PRIMARY KEY, name text NOT NULL, weight numeric);
INSERT INTO forms VALUES (1, 'one', 1.0), (2, 'two', 2.5), (3, 'three', 1.00);
CREATE TABLE answers (id bigint GENERATED ALWAYS AS IDENTITY, form_id integer, at timestamptz NOT NULL, status text, amount numeric(10, 2), data jsonb, clerk text) PARTITION BY RANGE (at);
CREATE TABLE answers_1 PARTITION OF answers FOR VALUES FROM ('2025-01-01') TO ('2025-02-01');
CREATE TABLE answers_2 PARTITION OF answers FOR VALUES FROM ('2025-02-01') TO ('2025-03-01');
CREATE TABLE answers_3 PARTITION OF answers FOR VALUES FROM ('2025-03-01') TO ('2025-04-01');
INSERT INTO answers (form_id, at, status, amount, data, clerk)
SELECT nullif(i % 5, 4), timestamptz '2025-01-01' + i * interval '2 hours', CASE i % 3 WHEN 0 THEN 'done' WHEN 1 THEN 'open' END, i % 7 + 0.5, jsonb_build_object('k', i % 4), 'clerk ' || i % 6
FROM generate_series(0, 1000) i;

-- 1. one partitioned table: two group columns, NULL keys, FILTER, DISTINCT
CREATE MATERIALIZED VIEW daily AS
    SELECT form_id, date_trunc('day', at) AS day, count(*) AS n, count(*) FILTER (WHERE status = 'done') AS done,
           count(DISTINCT clerk) AS clerks, sum(amount) AS amount, max(data ->> 'k') AS k
      FROM answers GROUP BY form_id, date_trunc('day', at);
CREATE UNIQUE INDEX ON daily (form_id, day);
SELECT concertmaster.manage_matview('daily', NULL);
-- its tables do not log yet
SELECT mode, reason, pending, timezone FROM concertmaster.matviews WHERE schema_name = 'inc';
SELECT mode FROM concertmaster.refresh('daily');
CALL concertmaster.run_job('refresh inc.daily');
SELECT mode, reason, pending, last_mode, last_reason, last_groups, last_inserted, last_deleted FROM concertmaster.matviews WHERE schema_name = 'inc';
SELECT * FROM refreshed('daily');
INSERT INTO answers (form_id, at, status, amount) VALUES (1, '2025-01-10 10:00-05', 'done', 1), (1, '2025-01-10 11:00-05', 'open', 2), (NULL, '2025-01-11 11:00-05', 'open', 2);
SELECT pending FROM concertmaster.matviews WHERE schema_name = 'inc';
SELECT * FROM refreshed('daily');
UPDATE answers SET status = 'done' WHERE form_id = 2 AND at BETWEEN '2025-02-03' AND '2025-02-05';
SELECT * FROM refreshed('daily');
-- across groups and partitions; a group vanishes, another one comes
UPDATE answers SET at = at + interval '30 days' WHERE id IN (5, 6, 7);
DELETE FROM answers WHERE form_id = 3 AND at::date = '2025-03-05';
INSERT INTO answers (form_id, at) VALUES (77, '2025-03-31');
SELECT * FROM refreshed('daily');
-- what is read is written, but the result is the same
UPDATE answers SET data = data || '{"other": 1}' WHERE form_id = 1;
SELECT * FROM refreshed('daily');
-- rolled back, in part
BEGIN;
INSERT INTO answers (form_id, at) VALUES (8, '2025-03-30');
SAVEPOINT s;
INSERT INTO answers (form_id, at) VALUES (9, '2025-03-30');
ROLLBACK TO s;
COMMIT;
SELECT * FROM refreshed('daily');
-- in one transaction with the writes, more than once, and taken back
BEGIN;
INSERT INTO answers (form_id, at) VALUES (8, '2025-03-30');
SELECT * FROM refreshed('daily');
INSERT INTO answers (form_id, at) VALUES (8, '2025-03-30'), (8, '2025-03-29');
SELECT * FROM refreshed('daily');
SAVEPOINT s;
INSERT INTO answers (form_id, at) VALUES (8, '2025-03-30');
SELECT * FROM refreshed('daily');
ROLLBACK TO s;
SELECT * FROM refreshed('daily');
INSERT INTO answers (form_id, at) VALUES (8, '2025-03-30');
SELECT * FROM refreshed('daily');
ROLLBACK;
SELECT * FROM refreshed('daily');

-- 2. what no trigger sees
TRUNCATE answers_3;
SELECT * FROM refreshed('daily');
ALTER TABLE answers DETACH PARTITION answers_1;
SELECT * FROM refreshed('daily');
DELETE FROM answers_1 WHERE form_id = 2;
ALTER TABLE answers ATTACH PARTITION answers_1 FOR VALUES FROM ('2025-01-01') TO ('2025-02-01');
SELECT * FROM refreshed('daily');
CREATE TABLE answers_4 PARTITION OF answers FOR VALUES FROM ('2025-04-01') TO ('2025-05-01');
INSERT INTO answers (form_id, at) VALUES (1, '2025-04-10'), (NULL, '2025-04-10');
SELECT * FROM refreshed('daily');
DROP TABLE answers_4;
SELECT * FROM refreshed('daily');
-- a trigger that was disabled for a while, and one that is
SELECT tgname AS trigger FROM pg_trigger WHERE tgrelid = 'answers_2'::regclass AND tgname ~ '^concertmaster_log_' \gset
ALTER TABLE answers_2 DISABLE TRIGGER :trigger;
DELETE FROM answers_2 WHERE form_id = 1 AND id % 3 = 0;
ALTER TABLE answers_2 ENABLE ALWAYS TRIGGER :trigger;
SELECT * FROM refreshed('daily');
ALTER TABLE answers_2 DISABLE TRIGGER :trigger;
DELETE FROM answers_2 WHERE form_id = 2 AND id % 3 = 0;
SELECT * FROM refreshed('daily');
SELECT regexp_replace(reason, '_log_\d+', '_log_N') AS reason FROM concertmaster.matviews WHERE view_name = 'daily';
ALTER TABLE answers_2 ENABLE ALWAYS TRIGGER :trigger;
SELECT mode FROM refreshed('daily');
SELECT * FROM refreshed('daily');
-- refreshed by hand
INSERT INTO answers (form_id, at) VALUES (1, '2025-02-10');
REFRESH MATERIALIZED VIEW CONCURRENTLY daily;
SELECT mode, wrong FROM refreshed('daily');
REFRESH MATERIALIZED VIEW daily;
SELECT mode, reason, wrong FROM refreshed('daily');
SET timezone = 'Asia/Tokyo';
REFRESH MATERIALIZED VIEW CONCURRENTLY daily;
SET timezone = 'America/New_York';
SELECT mode, reason, wrong, moved FROM refreshed('daily');
-- another isolation level: core's, and everything once more after
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT mode, reason, wrong FROM refreshed('daily');
COMMIT;
SELECT mode, reason, groups, inserted, deleted, wrong FROM refreshed('daily');

-- 3. joins: inner with a dimension, and its changes
CREATE MATERIALIZED VIEW named AS
    SELECT f.name, a.form_id, (a.at AT TIME ZONE 'Europe/Berlin')::date AS day, count(*) AS n, sum(a.amount * f.weight) AS weighted
      FROM answers a JOIN forms f ON f.id = a.form_id
     WHERE a.status IS NOT NULL
     GROUP BY f.name, a.form_id, (a.at AT TIME ZONE 'Europe/Berlin')::date
    HAVING count(*) > 1;
CREATE UNIQUE INDEX ON named (name, form_id, day);
CALL manage('named');
SELECT * FROM refreshed('named');
UPDATE forms SET name = 'zwei' WHERE id = 2;
SELECT * FROM refreshed('named');
UPDATE forms SET weight = 10 WHERE id = 1;
INSERT INTO answers (form_id, at, status) VALUES (1, '2025-02-02', 'done'), (3, '2025-02-03', 'done');
SELECT * FROM refreshed('named');
DELETE FROM forms WHERE id = 3;
SELECT * FROM refreshed('named');
INSERT INTO forms VALUES (3, 'three', 1);
SELECT * FROM refreshed('named');
-- nothing that is read
UPDATE answers SET data = NULL WHERE form_id = 2 AND at < '2025-02-10';
SELECT * FROM refreshed('named');
UPDATE answers SET status = NULL WHERE form_id = 2 AND at BETWEEN '2025-02-10' AND '2025-02-12';
SELECT * FROM refreshed('named');
-- left join; several views on one table
CREATE MATERIALIZED VIEW outer_join AS
    SELECT a.form_id, f.name, date_bin('7 days', a.at, '2025-01-06') AS week, count(*) AS n, array_agg(a.id ORDER BY a.id) AS ids
      FROM answers a LEFT JOIN forms f ON f.id = a.form_id
     GROUP BY a.form_id, f.name, date_bin('7 days', a.at, '2025-01-06');
CREATE UNIQUE INDEX ON outer_join (form_id, name, week);
CALL manage('outer_join');
SELECT * FROM refreshed('outer_join');
DELETE FROM forms WHERE id = 1;
SELECT * FROM refreshed('outer_join');
INSERT INTO forms VALUES (1, 'one again', 3), (4, 'four', NULL);
INSERT INTO answers (form_id, at) VALUES (NULL, '2025-02-20'), (4, '2025-02-20');
SELECT * FROM refreshed('outer_join');
SELECT * FROM refreshed('named');
SELECT * FROM refreshed('daily');

-- 4. types of keys: equal but not the same, case, json, dates, months
CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE DOMAIN code AS varchar(10);
CREATE TABLE things (n numeric, word text COLLATE nocase, doc jsonb, day date, c code, flag boolean, pair text[], amount integer);
INSERT INTO things SELECT (i % 3)::numeric, 'W' || i % 2, jsonb_build_object('a', i % 3), date '2025-01-01' + i, 'c' || i % 2, i % 2 = 0, ARRAY['p', (i % 2)::text], i FROM generate_series(1, 60) i;
CREATE MATERIALIZED VIEW by_things AS
    SELECT doc, date_trunc('month', day::timestamp) AS month, c, flag, pair, n::numeric(10, 2) AS n, count(*) AS count, sum(amount) AS amount
      FROM things GROUP BY doc, date_trunc('month', day::timestamp), c, flag, pair, n::numeric(10, 2);
CREATE UNIQUE INDEX ON by_things (doc, month, c, flag, pair, n);
CALL manage('by_things');
SELECT * FROM refreshed('by_things');
INSERT INTO things VALUES (1.0, 'w1', '{"a": 1}', '2025-01-15', 'c1', false, '{p,1}', 7), (1.000, 'W1', '{"a": 1.0}', '2025-01-15', 'c1', false, '{p,1}', 8), (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
SELECT inserted, deleted, wrong, moved FROM refreshed('by_things');
UPDATE things SET amount = amount + 1 WHERE doc IS NULL OR n = 2;
SELECT inserted, deleted, wrong, moved FROM refreshed('by_things');
UPDATE things SET day = 'infinity' WHERE n = 2;
SELECT inserted, deleted, wrong, moved FROM refreshed('by_things');
DELETE FROM things WHERE doc IS NULL;
SELECT inserted, deleted, wrong, moved FROM refreshed('by_things');
CREATE MATERIALIZED VIEW by_word AS SELECT word, min(amount) AS least, count(*) AS n FROM things GROUP BY word;
CREATE UNIQUE INDEX ON by_word (word);
CREATE MATERIALIZED VIEW by_number AS SELECT n, max(amount) AS most FROM things GROUP BY n;
CREATE UNIQUE INDEX ON by_number (n);
CALL manage('by_word');
CALL manage('by_number');
SELECT view_name, mode, reason FROM concertmaster.matviews WHERE view_name LIKE 'by_%' ORDER BY 1;
-- which of the equal values a group shows depends on the order of rows
CALL manage('by_word', true);
CALL manage('by_number', true);
INSERT INTO things (n, word, amount) VALUES (1.0, 'w1', 100), (1.00, 'W1', 101), (2.00, 'w0', -5);
SELECT count(*), count(DISTINCT n) FROM by_number;
SELECT mode, groups FROM concertmaster.refresh('by_word');
SELECT mode, groups FROM concertmaster.refresh('by_number');
SELECT lower(word) AS word, least, n FROM by_word ORDER BY least;
SELECT n::integer AS n, most FROM by_number ORDER BY 1;
SELECT n::integer, max(amount) FROM things GROUP BY 1 ORDER BY 1;

-- 5. windows that move
CREATE TABLE events (at timestamptz, day date, kind text);
INSERT INTO events SELECT now() - i * interval '1 hour', (now() - i * interval '1 hour')::date, 'k' || i % 2 FROM generate_series(-50, 400) i;
CREATE MATERIALIZED VIEW recent AS
    SELECT date_trunc('hour', at) AS hour, kind, count(*) AS n FROM events
     WHERE at >= now() - interval '10 days' AND at < now() GROUP BY 1, 2;
CREATE UNIQUE INDEX ON recent (hour, kind);
CREATE MATERIALIZED VIEW whole_days AS
    SELECT day, count(*) AS n FROM events WHERE day > current_date - 7 GROUP BY day;
CREATE UNIQUE INDEX ON whole_days (day);
CALL manage('recent');
CALL manage('whole_days');
SELECT mode IN ('incremental', 'full') AS logged, wrong FROM refreshed('recent');
-- as of three days ago
CREATE FUNCTION pretend(view regclass, at timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE concertmaster.matview_track SET refreshed_at = at WHERE matview_track.view = pretend.view;
    DELETE FROM concertmaster.matview_state s USING pg_class c WHERE c.oid = pretend.view AND s.view_name = c.relname;
END $$;
UPDATE events SET at = at;
SELECT pretend('recent', now() - interval '3 days'), pretend('whole_days', now() - interval '3 days');
SELECT mode IN ('incremental', 'full') AS logged, wrong FROM refreshed('recent');
SELECT mode, wrong FROM refreshed('whole_days');
SELECT mode, reason, wrong FROM refreshed('whole_days');

-- 6. no bucket of time; two columns of one row; a join with itself
CREATE TABLE people (id integer PRIMARY KEY, boss integer, city text, pay numeric(8, 2));
INSERT INTO people SELECT i, nullif(i / 10, 0), 'city ' || i % 4, i FROM generate_series(1, 200) i;
CREATE MATERIALIZED VIEW bosses AS
    SELECT b.id, b.city, count(*) AS people, sum(p.pay) AS pay FROM people p JOIN people b ON b.id = p.boss GROUP BY b.id, b.city;
CREATE UNIQUE INDEX ON bosses (id, city);
CALL manage('bosses');
UPDATE people SET pay = pay + 1 WHERE id = 55;
SELECT * FROM refreshed('bosses');
UPDATE people SET city = 'elsewhere' WHERE id IN (5, 6);
UPDATE people SET boss = 6 WHERE id = 51;
SELECT * FROM refreshed('bosses');
DELETE FROM people WHERE id < 4;
SELECT * FROM refreshed('bosses');

-- 7. DST: hours that come twice and never
CREATE TABLE ticks (at timestamptz, local timestamp);
INSERT INTO ticks SELECT t, t AT TIME ZONE 'America/New_York' FROM generate_series(timestamptz '2025-03-08 20:00-05', '2025-03-10 00:00-04', '20 minutes') t;
INSERT INTO ticks SELECT t, t AT TIME ZONE 'America/New_York' FROM generate_series(timestamptz '2025-11-01 20:00-04', '2025-11-03 00:00-05', '20 minutes') t;
CREATE MATERIALIZED VIEW hours AS
    SELECT date_trunc('hour', at AT TIME ZONE 'America/New_York') AS hour, date_trunc('day', at) AS day, count(*) AS n FROM ticks GROUP BY 1, 2;
CREATE UNIQUE INDEX ON hours (hour, day);
CALL manage('hours');
DELETE FROM ticks WHERE at = '2025-11-02 01:20-04';
SELECT inserted, deleted, wrong, moved FROM refreshed('hours');
DELETE FROM ticks WHERE at = '2025-11-02 01:20-05';
UPDATE ticks SET at = at + interval '1 hour' WHERE at BETWEEN '2025-03-09 01:00-05' AND '2025-03-09 01:59-05';
SELECT inserted, deleted, wrong, moved FROM refreshed('hours');

-- 8. settings: not wanted any more, and again; another time zone; inexact sums
SELECT concertmaster.manage_matview('hours', NULL, incremental => false);
SELECT mode, reason, pending FROM concertmaster.matviews WHERE view_name = 'hours';
SELECT mode, wrong FROM refreshed('hours');
CALL manage('hours');
SELECT mode, reason, pending FROM concertmaster.matviews WHERE view_name = 'hours';
SELECT concertmaster.manage_matview('hours', NULL, timezone => 'europe/berlin');
SELECT timezone FROM concertmaster.matview WHERE view_name = 'hours';
SELECT mode, reason FROM concertmaster.refresh('hours');
CALL concertmaster.run_job('refresh inc.hours');
SELECT mode, reason, last_mode FROM concertmaster.matviews WHERE view_name = 'hours';
SELECT count(*) FROM concertmaster.verify_matview('hours');
SELECT concertmaster.manage_matview('hours', NULL, timezone => 'Nowhere/Land');
CREATE MATERIALIZED VIEW sums AS SELECT kind, sum(extract(epoch FROM at)::float8) AS sum FROM events GROUP BY kind;
CREATE UNIQUE INDEX ON sums (kind);
SELECT concertmaster.manage_matview('sums', NULL);
SELECT reason FROM concertmaster.matviews WHERE view_name = 'sums';
SELECT concertmaster.manage_matview('sums', NULL, allow_inexact => true);

-- 9. verify_matview() finds what is wrong, and refuses who may not
SELECT * FROM concertmaster.verify_matview('bosses');
INSERT INTO people VALUES (1000, 5, 'far', 1);
SELECT * FROM concertmaster.verify_matview('bosses') ORDER BY 1;
CREATE MATERIALIZED VIEW unmanaged AS SELECT id, pay FROM people WHERE id > 190;
UPDATE people SET pay = pay + 0 WHERE id = 195;
DELETE FROM people WHERE id = 196;
UPDATE people SET pay = -1 WHERE id = 197;
SELECT * FROM concertmaster.verify_matview('unmanaged') ORDER BY 1, 2;
SELECT mode FROM concertmaster.refresh('unmanaged');
REFRESH MATERIALIZED VIEW unmanaged WITH NO DATA;
SELECT * FROM concertmaster.verify_matview('unmanaged');
SELECT * FROM concertmaster.verify_matview('people');
CREATE ROLE regress_inc_owner;
GRANT USAGE ON SCHEMA inc TO regress_inc_owner;
SET ROLE regress_inc_owner;
SELECT * FROM concertmaster.verify_matview('inc.bosses');
SELECT count(*) FROM concertmaster.matviews;
RESET ROLE;

-- 10. an error in the query, and a unique violation: nothing is lost
CREATE TABLE ratios (k integer, d integer);
INSERT INTO ratios VALUES (1, 1), (2, 2), (2, 3);
CREATE MATERIALIZED VIEW failing AS SELECT k, sum(10 / d) AS s FROM ratios GROUP BY k;
CREATE UNIQUE INDEX ON failing (k);
CALL manage('failing');
INSERT INTO ratios VALUES (3, 5), (1, 0);
SELECT * FROM refreshed('failing');
DELETE FROM ratios WHERE d = 0;
SELECT * FROM refreshed('failing');
INSERT INTO ratios VALUES (3, 3), (3, 3);
CREATE UNIQUE INDEX i ON failing (s);
SELECT * FROM refreshed('failing');
SELECT pending FROM concertmaster.matviews WHERE view_name = 'failing';
DROP INDEX i;
SELECT * FROM refreshed('failing');
-- index expressions run as the owner
CREATE INDEX ON failing ((s * 2));
INSERT INTO ratios VALUES (3, 1);
SELECT * FROM refreshed('failing');
SET enable_seqscan = off;
SELECT k FROM failing WHERE s * 2 = 36;
RESET enable_seqscan;

-- 11. unmanaged: the tables do not log any more
SELECT view_name, concertmaster.unmanage_matview(format('inc.%I', view_name)::regclass) FROM concertmaster.matview WHERE schema_name = 'inc' ORDER BY 1;
SELECT count(*) FROM concertmaster.matview_track JOIN pg_class ON oid = view WHERE relnamespace = 'inc'::regnamespace;
INSERT INTO ratios VALUES (3, 1);
SELECT count(*) FROM concertmaster.matview_log JOIN pg_class ON oid = view WHERE relnamespace = 'inc'::regnamespace;

SET client_min_messages = warning;
DROP SCHEMA inc CASCADE;
DROP ROLE regress_inc_owner;
