-- What tables log for materialized views, and what they do not
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
DROP SCHEMA IF EXISTS matview_log CASCADE;
DROP ROLE IF EXISTS regress_log_writer;
RESET client_min_messages;
CREATE SCHEMA matview_log;
SET search_path = matview_log;
\set SHOW_CONTEXT never

-- What the worker does to begin, without its waits for locks.
CREATE FUNCTION track(v regclass, zone text, VARIADIC tables regclass[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE t regclass;
BEGIN
    INSERT INTO concertmaster.matview_track (view, stale, timezone) VALUES (v, 'first refresh', zone);
    FOREACH t IN ARRAY tables LOOP
        INSERT INTO concertmaster.matview_source (relid, view) VALUES (t, v);
        EXECUTE format('CREATE OR REPLACE TRIGGER concertmaster_log_changes AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION concertmaster.log_changes()', t);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER concertmaster_log_changes', t);
    END LOOP;
END $$;
-- The log of a view, which is emptied.
CREATE FUNCTION logged(v text) RETURNS TABLE (pattern text, times bigint) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT p.mask || ': ' || p.key, count(*) FROM concertmaster._log_patterns(v::regclass) p GROUP BY 1 ORDER BY 1;
    DELETE FROM concertmaster.matview_log WHERE view = v::regclass;
END $$;

CREATE TABLE forms (id integer PRIMARY KEY, name text, note text);
CREATE TABLE answers (id bigint, form integer REFERENCES forms ON DELETE CASCADE, at timestamptz NOT NULL, score integer, comment text)
    PARTITION BY RANGE (at);
CREATE TABLE answers_old (comment text, junk integer, score integer, at timestamptz NOT NULL, form integer, id bigint);
ALTER TABLE answers_old DROP COLUMN junk;
ALTER TABLE answers ATTACH PARTITION answers_old FOR VALUES FROM (MINVALUE) TO ('2025-02-01 00:00+00');
CREATE TABLE answers_new PARTITION OF answers FOR VALUES FROM ('2025-02-01 00:00+00') TO (MAXVALUE);
INSERT INTO forms VALUES (1, 'one'), (2, 'two'), (3, 'three');

CREATE MATERIALIZED VIEW by_day AS
    SELECT a.form, f.name, date_trunc('day', a.at) AS day, count(*) AS n, sum(a.score) AS score
      FROM answers a JOIN forms f ON f.id = a.form GROUP BY a.form, f.name, date_trunc('day', a.at);
CREATE MATERIALIZED VIEW by_month AS
    SELECT date_trunc('month', at, 'Europe/Berlin') AS month, count(*) AS n FROM answers GROUP BY 1;
SELECT track('by_day', 'UTC', 'answers', 'forms');
SELECT track('by_month', 'UTC', 'answers');
SET timezone = 'America/New_York';

-- 1. every way to write
INSERT INTO answers VALUES (1, 1, '2025-01-01 12:00+00', 5), (2, 1, '2025-01-01 13:00+00', 5), (3, 2, '2025-01-02 01:00+00', 5);
SELECT * FROM logged('by_day');
SELECT * FROM logged('by_month');
UPDATE answers SET score = 6 WHERE id = 1;
SELECT * FROM logged('by_day');
SELECT * FROM logged('by_month');
UPDATE answers SET form = 3 WHERE id = 1;
SELECT * FROM logged('by_day');
UPDATE answers SET at = '2025-03-01 00:00+00' WHERE id = 1;
SELECT * FROM logged('by_day');
SELECT * FROM logged('by_month');
DELETE FROM answers WHERE id = 2;
SELECT * FROM logged('by_day');
COPY answers (id, form, at) FROM STDIN;
10	1	2025-01-05 00:00:00+00
11	1	2025-01-05 23:59:59.999999+00
12	2	2025-04-05 00:00:00+00
\.
SELECT * FROM logged('by_day');
MERGE INTO answers a USING (VALUES (10, 1, timestamptz '2025-01-05 00:00+00'), (20, 2, '2025-01-07 00:00+00')) v (id, form, at) ON a.id = v.id
    WHEN MATCHED THEN UPDATE SET score = 7 WHEN NOT MATCHED THEN INSERT (id, form, at) VALUES (v.id, v.form, v.at);
SELECT * FROM logged('by_day');
INSERT INTO forms VALUES (1, 'uno'), (4, 'four') ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name;
SELECT * FROM logged('by_day');
INSERT INTO answers_old (id, form, at) VALUES (30, 3, '2025-01-09 10:00+00');
SELECT * FROM logged('by_day');
TRUNCATE concertmaster.matview_log;
DELETE FROM forms WHERE id = 3;
SELECT * FROM logged('by_day');
SET session_replication_role = replica;
INSERT INTO answers_new (id, form, at) VALUES (31, 1, '2025-02-09 10:00+00');
RESET session_replication_role;
SELECT * FROM logged('by_day');
TRUNCATE concertmaster.matview_log;

-- 2. what no view reads is not logged
UPDATE answers SET comment = 'x', id = id + 100;
UPDATE answers SET score = score;
UPDATE forms SET note = 'x';
SELECT count(*) FROM concertmaster.matview_log;
UPDATE answers SET score = 1 WHERE id = 110;
SELECT * FROM logged('by_day');
SELECT * FROM logged('by_month');

-- 3. once per transaction; savepoints
BEGIN;
INSERT INTO answers VALUES (40, 1, '2025-05-01 00:00+00');
INSERT INTO answers VALUES (41, 1, '2025-05-01 00:00+00');
UPDATE answers SET score = 2 WHERE id = 40;
SAVEPOINT a;
INSERT INTO answers VALUES (42, 1, '2025-05-02 00:00+00');
SAVEPOINT b;
INSERT INTO answers VALUES (43, 1, '2025-05-03 00:00+00');
RELEASE b;
ROLLBACK TO a;
INSERT INTO answers VALUES (44, 1, '2025-05-03 00:00+00');
SAVEPOINT b;
INSERT INTO answers VALUES (45, 1, '2025-05-02 00:00+00');
RELEASE b;
RELEASE a;
INSERT INTO answers VALUES (46, 1, '2025-05-02 00:00+00'), (47, 1, '2025-05-03 00:00+00');
COMMIT;
SELECT * FROM logged('by_day');
BEGIN;
SAVEPOINT a;
INSERT INTO answers VALUES (50, 1, '2025-06-01 00:00+00');
SAVEPOINT b;
ROLLBACK TO b;
INSERT INTO answers VALUES (51, 1, '2025-06-01 00:00+00');
ROLLBACK TO a;
INSERT INTO answers VALUES (52, 1, '2025-06-01 00:00+00');
COMMIT;
SELECT * FROM logged('by_day');
DO $$
BEGIN
    FOR i IN 1..6 LOOP
        BEGIN
            INSERT INTO answers VALUES (60, 1, timestamptz '2025-06-01 00:00+00' + i / 2 * interval '1 day');
            IF i % 2 = 1 THEN
                RAISE division_by_zero;
            END IF;
        EXCEPTION WHEN division_by_zero THEN
            INSERT INTO answers VALUES (61, 2, timestamptz '2025-06-01 00:00+00' + i / 2 * interval '1 day');
        END;
    END LOOP;
END $$;
SELECT * FROM logged('by_day');
BEGIN;
INSERT INTO answers VALUES (70, 1, '2025-07-01 00:00+00');
ROLLBACK;
INSERT INTO answers VALUES (71, 1, '2025-07-01 00:00+00');
SELECT * FROM logged('by_day');

-- 4. NULL, infinity, and times at the edge of a zone's day
INSERT INTO answers VALUES (80, NULL, '2025-07-01 00:00+00'), (81, 1, '-infinity'), (82, 1, 'infinity'), (83, 1, '4000-01-01 BC');
INSERT INTO answers VALUES (84, 1, '2025-10-26 00:30+00'), (85, 1, '2025-10-31 22:59+00'), (86, 1, '2025-10-31 23:00+00');
SELECT * FROM logged('by_day');
SELECT * FROM logged('by_month');

-- 5. keys made by expressions: an error is not the writer's
CREATE TABLE loose (id integer, kind text, v text);
CREATE FUNCTION halve(i integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF i = 13 THEN RAISE 'no thirteen'; END IF;
    RETURN i / 2;
END $$;
CREATE MATERIALIZED VIEW by_number AS SELECT v::integer / 10 AS tens, kind, count(*) FROM loose GROUP BY 1, 2;
CREATE MATERIALIZED VIEW by_half AS SELECT halve(id) AS half, coalesce(kind, 'none') AS kind, count(*) FROM loose GROUP BY 1, 2;
SELECT track('by_number', 'UTC', 'loose');
SELECT track('by_half', 'UTC', 'loose');
INSERT INTO loose VALUES (1, 'a', '25'), (13, 'a', 'twenty'), (4, 'b', NULL), (5, NULL, '99999999999');
SELECT * FROM logged('by_number');
SELECT * FROM logged('by_half');
INSERT INTO loose VALUES (2, repeat('long ', 1000), '1');
SELECT * FROM logged('by_number');
CREATE OR REPLACE FUNCTION halve(i integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT i * 100';
INSERT INTO loose VALUES (3, 'a', '1');
SELECT * FROM logged('by_half');
-- what a function would write is an error, which is not the writer's either
CREATE OR REPLACE FUNCTION halve(i integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    INSERT INTO matview_log.loose VALUES (i, 'again', '1');
    RETURN i;
END $$;
INSERT INTO loose VALUES (6, 'a', '1');
SELECT * FROM logged('by_half');
SELECT count(*) FROM loose;
TRUNCATE concertmaster.matview_log;

-- 6. a role that has no right on anything of ours
CREATE ROLE regress_log_writer;
GRANT USAGE ON SCHEMA matview_log TO regress_log_writer;
GRANT SELECT, INSERT, UPDATE, DELETE ON answers, loose TO regress_log_writer;
REVOKE ALL ON FUNCTION halve(integer) FROM PUBLIC;
CREATE OR REPLACE FUNCTION halve(i integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RAISE NOTICE 'as writer: %', CURRENT_USER = 'regress_log_writer';
    RETURN i / 2;
END $$;
SET ROLE regress_log_writer;
INSERT INTO answers VALUES (90, 2, '2025-08-01 00:00+00');
INSERT INTO loose VALUES (8, 'a', '1');
SELECT FROM concertmaster.matview_log;
SELECT FROM concertmaster._log_patterns(0);
RESET ROLE;
SELECT * FROM logged('by_day');
SELECT * FROM logged('by_half');
TRUNCATE concertmaster.matview_log;

-- 7. too many groups in one transaction
SET concertmaster.matview_log_transaction_groups = 3;
BEGIN;
SAVEPOINT a;
INSERT INTO answers SELECT 1000 + i, 1, timestamptz '2025-09-01 00:00+00' + i * interval '1 day' FROM generate_series(1, 5) i;
ROLLBACK TO a;
INSERT INTO answers SELECT 1000 + i, 1, timestamptz '2025-09-01 00:00+00' + i * interval '1 day' FROM generate_series(1, 3) i;
COMMIT;
SELECT * FROM logged('by_day');
INSERT INTO answers SELECT 1000 + i, 1, timestamptz '2025-09-01 00:00+00' + i * interval '1 day' FROM generate_series(1, 9) i;
SELECT * FROM logged('by_day');
SELECT * FROM logged('by_month');
RESET concertmaster.matview_log_transaction_groups;

-- 8. a leaf is detached, another attached, columns and views come and go
ALTER TABLE answers DETACH PARTITION answers_old;
INSERT INTO answers_old (id, form, at) VALUES (100, 1, '2025-01-01 00:00+00');
SELECT * FROM logged('by_day');
ALTER TABLE answers ATTACH PARTITION answers_old FOR VALUES FROM (MINVALUE) TO ('2025-02-01 00:00+00');
INSERT INTO answers_old (id, form, at) VALUES (101, 1, '2025-01-01 00:00+00');
SELECT * FROM logged('by_day');
ALTER TABLE answers ADD COLUMN more text;
ALTER TABLE answers RENAME COLUMN form TO form_id;
UPDATE answers SET more = 'x';
INSERT INTO answers_old (id, form_id, at) VALUES (102, 1, '2025-01-02 00:00+00');
SELECT * FROM logged('by_day');
TRUNCATE concertmaster.matview_log;
DROP MATERIALIZED VIEW by_month;
INSERT INTO answers_old (id, form_id, at) VALUES (103, 1, '2025-01-03 00:00+00');
SELECT count(*) FROM concertmaster.matview_log;
SELECT * FROM logged('by_day');
DELETE FROM concertmaster.matview_source WHERE view = 'by_day'::regclass AND relid = 'answers'::regclass;
ALTER TABLE answers ADD COLUMN most text;
INSERT INTO answers_old (id, form_id, at) VALUES (104, 1, '2025-01-04 00:00+00');
SELECT * FROM logged('by_day');

-- 9. one table twice in a view, a row as a whole, an outer join
CREATE TABLE tree (id integer, parent integer, v integer);
CREATE MATERIALIZED VIEW families AS SELECT p.id AS parent, count(*) AS n FROM tree p JOIN tree c ON c.parent = p.id GROUP BY p.id;
CREATE MATERIALIZED VIEW rows AS SELECT id, max(t::text) AS last FROM tree t GROUP BY id;
CREATE MATERIALIZED VIEW left_families AS SELECT p.id AS parent, p.v, count(c.id) AS n FROM tree p LEFT JOIN tree c ON c.parent = p.id GROUP BY p.id, p.v;
SELECT track('families', 'UTC', 'tree'), track('rows', 'UTC', 'tree'), track('left_families', 'UTC', 'tree');
INSERT INTO tree VALUES (1, NULL, 0), (2, 1, 0);
SELECT * FROM logged('families');
SELECT * FROM logged('rows');
SELECT * FROM logged('left_families');
UPDATE tree SET v = 1 WHERE id = 2;
SELECT * FROM logged('families');
SELECT * FROM logged('rows');
SELECT * FROM logged('left_families');

-- 10. REFRESH by hand, and by us
REFRESH MATERIALIZED VIEW families;
SELECT * FROM logged('families');
REFRESH MATERIALIZED VIEW families WITH NO DATA;
SELECT * FROM logged('families');
SELECT mode FROM concertmaster.refresh('families');
SELECT * FROM logged('families');
CREATE MATERIALIZED VIEW untracked AS SELECT 1 AS one;
REFRESH MATERIALIZED VIEW untracked;
SELECT count(*) FROM concertmaster.matview_log;

-- 11. a trigger of ours on a table that nobody tracks, and in the wrong place
CREATE TABLE plain (i integer);
CREATE TRIGGER t AFTER INSERT ON plain FOR EACH ROW EXECUTE FUNCTION concertmaster.log_changes();
INSERT INTO plain VALUES (1);
CREATE TRIGGER u BEFORE INSERT ON plain FOR EACH ROW EXECUTE FUNCTION concertmaster.log_changes();
INSERT INTO plain VALUES (1);
SELECT concertmaster.log_changes();


-- 12. no longer managed: the trigger goes with the last view that needs it, later if that could block
SELECT count(concertmaster.manage_matview('untracked', NULL, allow_blocking => true));
INSERT INTO concertmaster.matview (schema_name, view_name) VALUES ('matview_log', 'rows'), ('matview_log', 'families'), ('matview_log', 'left_families');
INSERT INTO tree VALUES (3, 1, 1);
SELECT concertmaster.unmanage_matview('rows'), concertmaster.unmanage_matview('families');
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'tree'::regclass;
SELECT count(*) FROM logged('rows') FULL JOIN logged('families') f ON true;
SELECT count(*) FROM logged('left_families');
SELECT concertmaster.unmanage_matview('left_families');
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'tree'::regclass;
SELECT track('left_families', 'UTC', 'tree');
INSERT INTO concertmaster.matview (schema_name, view_name) VALUES ('matview_log', 'left_families');
BEGIN;
SELECT concertmaster.unmanage_matview('left_families');
COMMIT;
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'tree'::regclass;
INSERT INTO tree VALUES (4, 1, 1);
SELECT count(*) FROM concertmaster.matview_log;
SET client_min_messages = warning;
CALL concertmaster.run_job('prune');
-- what is still needed stays, and one trigger of each table goes at a time
SELECT tgrelid::regclass FROM pg_trigger WHERE tgfoid = 'concertmaster.log_changes()'::regprocedure AND tgparentid = 0 ORDER BY 1;

SELECT concertmaster.unmanage_matview('untracked');
TRUNCATE concertmaster.matview_log;
DELETE FROM concertmaster.matview_source;
DELETE FROM concertmaster.matview_track;
SET client_min_messages = warning;
DROP SCHEMA matview_log CASCADE;
DROP ROLE regress_log_writer;
