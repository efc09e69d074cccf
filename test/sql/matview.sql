-- manage_matview(), unmanage_matview(), refresh(), the view matviews
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
DROP SCHEMA IF EXISTS matview, "Odd ""View""" CASCADE;
RESET client_min_messages;
CREATE SCHEMA matview;
SET search_path = matview;
\set SHOW_CONTEXT never

CREATE TABLE answers (form integer NOT NULL, day date NOT NULL, status text);
INSERT INTO answers SELECT i % 3, date '2025-01-01' + i % 10, CASE WHEN i % 2 = 0 THEN 'complete' END FROM generate_series(1, 1000) i;
CREATE MATERIALIZED VIEW stats AS
    SELECT form, day AS "The Day", count(*) AS submissions, count(*) FILTER (WHERE status = 'complete') AS completed
      FROM answers GROUP BY form, day WITH NO DATA;
CREATE VIEW managed AS
    SELECT view_name, mode, reason, every, allow_blocking, populated, last_refresh IS NOT NULL AS refreshed, lag < interval '1 minute' AS fresh,
           last_mode, last_duration > 0 AS took, next_run IS NOT NULL AS scheduled, size > 0 AS has_size, failures, sqlstate, last_error, owner = CURRENT_USER AS mine
      FROM concertmaster.matviews WHERE schema_name = 'matview' ORDER BY 1;

-- 1. no unique index, not populated: it can be filled, but not be kept fresh
SELECT mode, duration > 0 AS took FROM concertmaster.refresh('stats');
SELECT count(*), sum(submissions) FROM stats;
SELECT * FROM concertmaster.refresh('stats');
SELECT concertmaster.manage_matview('stats', '15 minutes');
SELECT count(*) FROM managed;
-- the hint is right; due at once, because its tables are to log, but not before we look
CREATE UNIQUE INDEX ON matview.stats (form, "The Day");
BEGIN;
SELECT concertmaster.manage_matview('stats', '15 minutes');
UPDATE concertmaster.job SET paused = true WHERE relation_name = 'stats';
COMMIT;
SELECT * FROM managed \gx
SELECT name, kind, every FROM concertmaster.job WHERE schema_name = 'matview';
INSERT INTO answers VALUES (1, '2025-01-01', 'complete');
SELECT mode FROM concertmaster.refresh('stats');
SELECT sum(submissions), sum(completed) FROM stats;
SELECT * FROM managed \gx

-- 2. in a worker
INSERT INTO answers VALUES (2, '2025-01-01', NULL);
SET client_min_messages = warning;
CALL concertmaster.run_job('refresh matview.stats');
RESET client_min_messages;
SELECT sum(submissions) FROM stats;
SELECT last_status, last_sqlstate FROM concertmaster.job_state s JOIN concertmaster.job USING (job_id) WHERE name = 'refresh matview.stats';

-- 3. called again it changes the settings; without a period something else drives it
SELECT concertmaster.manage_matview('stats', '1 hour', allow_blocking => true);
SELECT every, allow_blocking, mode, scheduled FROM managed;
SELECT concertmaster.manage_matview('stats', NULL);
SELECT every, allow_blocking, mode, refreshed, scheduled FROM managed;
SELECT name, every FROM concertmaster.job WHERE schema_name = 'matview';
SELECT concertmaster.manage_matview('stats', '1 day');
SELECT every, scheduled FROM managed;

-- 4. which index will do
CREATE FUNCTION mode_with(index text) RETURNS TABLE (mode text, reason text) LANGUAGE plpgsql AS $$
BEGIN
    DROP INDEX IF EXISTS matview.stats_form_idx, matview."stats_form_The Day_idx", matview.i;
    EXECUTE index;
    RETURN QUERY SELECT m.mode, m.reason FROM concertmaster._matview_mode('matview.stats'::regclass, false, false, false, 'UTC') m;
END $$;
SET client_min_messages = warning;
SELECT mode FROM mode_with('CREATE INDEX i ON matview.stats (form, "The Day")');
SELECT mode FROM mode_with('CREATE UNIQUE INDEX i ON matview.stats (form, "The Day") WHERE form > 0');
SELECT mode FROM mode_with('CREATE UNIQUE INDEX i ON matview.stats (abs(form), "The Day")');
SELECT * FROM mode_with('CREATE UNIQUE INDEX i ON matview.stats ("The Day" DESC, form) INCLUDE (completed)');
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'matview.i'::regclass;
SELECT * FROM concertmaster._matview_mode('stats'::regclass, false, false, false, 'UTC');
SELECT * FROM concertmaster._matview_mode('stats'::regclass, true, false, false, 'UTC');
SELECT * FROM concertmaster._matview_mode('answers'::regclass, true, true, true, 'UTC');
SELECT * FROM concertmaster._matview_mode(0, true, true, true, 'UTC');
RESET client_min_messages;
-- without one, the job fails until there is one again, and says so
DROP INDEX i;
SET client_min_messages = warning;
CALL concertmaster.run_job('refresh matview.stats');
RESET client_min_messages;
SELECT mode, reason, failures, sqlstate, last_error FROM managed;
CREATE UNIQUE INDEX i ON stats (form, "The Day");
SET client_min_messages = warning;
CALL concertmaster.run_job('refresh matview.stats');
RESET client_min_messages;
SELECT mode, failures, sqlstate, last_error FROM managed;

-- 5. blocking, if the owner says so
CREATE MATERIALIZED VIEW totals AS SELECT sum(submissions) AS total FROM stats;
SELECT concertmaster.manage_matview('totals', '1 day');
SELECT concertmaster.manage_matview('totals', '1 day', true);
SELECT mode FROM concertmaster.refresh('totals');
SELECT view_name, mode, reason, last_mode FROM managed WHERE view_name = 'totals';
-- what identifies the rows of other queries
CREATE MATERIALIZED VIEW different AS SELECT DISTINCT status, day FROM answers;
SELECT * FROM concertmaster.refresh('different');
CREATE MATERIALIZED VIEW hidden_group AS SELECT count(*) FROM answers GROUP BY form;
SELECT * FROM concertmaster.refresh('hidden_group');
CREATE MATERIALIZED VIEW several AS SELECT form, day, count(*) FROM answers GROUP BY ROLLUP (form, day);
SELECT * FROM concertmaster.refresh('several');
CREATE MATERIALIZED VIEW united AS SELECT form FROM answers UNION SELECT 7;
SELECT * FROM concertmaster.refresh('united');

-- 6. as the owner, with a path of its own, in the caller's transaction
CREATE ROLE regress_matview_owner;
CREATE ROLE regress_matview_other;
GRANT USAGE, CREATE ON SCHEMA matview TO regress_matview_owner;
GRANT USAGE ON SCHEMA matview TO regress_matview_other;
CREATE FUNCTION witness() RETURNS text LANGUAGE sql AS $$ SELECT current_user || ' ' || current_setting('search_path') $$;
CREATE MATERIALIZED VIEW who AS SELECT matview.witness() AS witness WITH NO DATA;
CREATE UNIQUE INDEX ON who (witness);
ALTER MATERIALIZED VIEW who OWNER TO regress_matview_owner;
SELECT mode FROM concertmaster.refresh('who');
SELECT * FROM who;
REFRESH MATERIALIZED VIEW who WITH NO DATA;
-- due at once, but not before we look
BEGIN;
SELECT concertmaster.manage_matview('who', '1 day');
SELECT next_run <= now() AS due FROM concertmaster.matviews WHERE view_name = 'who';
UPDATE concertmaster.job SET paused = true WHERE relation_name = 'who';
COMMIT;
SELECT name, owner FROM concertmaster.job WHERE relation_name = 'who';
SET client_min_messages = warning;
CALL concertmaster.run_job('refresh matview.who');
RESET client_min_messages;
SELECT * FROM who;
SELECT current_user = session_user AS myself, current_setting('search_path');
BEGIN;
INSERT INTO answers VALUES (0, '2025-01-01', NULL);
SELECT mode FROM concertmaster.refresh('stats');
SELECT sum(submissions) FROM stats;
ROLLBACK;
SELECT sum(submissions) FROM stats;
SET ROLE regress_matview_owner;
SELECT view_name, mode, populated FROM concertmaster.matviews;
SELECT mode FROM concertmaster.refresh('matview.who');
SELECT concertmaster.unmanage_matview('matview.stats');
SELECT * FROM concertmaster.matview;
SET ROLE regress_matview_other;
SELECT count(*) FROM concertmaster.matviews;
SELECT * FROM concertmaster.refresh('matview.who');
SELECT concertmaster.manage_matview('matview.who', '1 day');
SELECT concertmaster.unmanage_matview('matview.who'::regclass);
RESET ROLE;
GRANT pg_monitor TO regress_matview_other;
SET ROLE regress_matview_other;
SELECT count(*) FROM concertmaster.matviews WHERE schema_name = 'matview';
RESET ROLE;

-- 7. an error in the query is the job's, text and SQLSTATE
CREATE TABLE divisors (d integer);
CREATE MATERIALIZED VIEW ratios AS SELECT d, 100 / d AS ratio FROM divisors;
CREATE UNIQUE INDEX ON ratios (d);
SELECT concertmaster.manage_matview('ratios', '1 day');
INSERT INTO divisors VALUES (4), (0);
SELECT * FROM concertmaster.refresh('ratios');
\echo :SQLSTATE
SET client_min_messages = warning;
CALL concertmaster.run_job('refresh matview.ratios');
\echo :SQLSTATE
RESET client_min_messages;
SELECT mode, failures, sqlstate, last_error FROM managed WHERE view_name = 'ratios';
DELETE FROM divisors WHERE d = 0;
SET client_min_messages = warning;
CALL concertmaster.run_job('refresh matview.ratios');
RESET client_min_messages;
SELECT mode, failures, sqlstate, last_error FROM managed WHERE view_name = 'ratios';
SELECT * FROM ratios;

-- 8. odd names, and renamed
CREATE SCHEMA "Odd ""View""";
CREATE MATERIALIZED VIEW "Odd ""View"""."It's 1" AS SELECT 1 AS "One";
CREATE UNIQUE INDEX ON "Odd ""View"""."It's 1" ("One");
SELECT concertmaster.manage_matview('"Odd ""View"""."It''s 1"', '1 day');
SELECT name FROM concertmaster.job WHERE schema_name = 'Odd "View"';
SET client_min_messages = warning;
CALL concertmaster.run_job('refresh "Odd ""View"""."It''s 1"');
RESET client_min_messages;
SELECT schema_name, view_name, last_mode FROM concertmaster.matviews WHERE schema_name LIKE 'Odd%';
ALTER MATERIALIZED VIEW "Odd ""View"""."It's 1" RENAME TO other;
SELECT mode FROM concertmaster.refresh('"Odd ""View""".other');
SELECT concertmaster.manage_matview('"Odd ""View""".other', '2 days');
SELECT name, every FROM concertmaster.job WHERE schema_name = 'Odd "View"';
SELECT concertmaster.unmanage_matview('"Odd ""View""".other');

-- 9. refusals
SELECT concertmaster.manage_matview('no_such_view', '1 day');
SELECT concertmaster.manage_matview('answers', '1 day');
SELECT concertmaster.manage_matview('managed', '1 day');
SELECT concertmaster.manage_matview(NULL, '1 day');
SELECT concertmaster.manage_matview('different', '0');
SELECT concertmaster.manage_matview('different', '-1 day');
SELECT concertmaster.manage_matview('different', '0.5 seconds');
SELECT concertmaster.refresh('answers');
SELECT concertmaster.refresh('managed');
SELECT concertmaster.refresh(NULL) IS NULL AS strict;
SELECT concertmaster.unmanage_matview('different');
SELECT concertmaster.unmanage_matview('answers');
SELECT concertmaster.unmanage_matview('no_such_view');
BEGIN READ ONLY;
SELECT concertmaster.refresh('stats');
ROLLBACK;
SELECT count(*) FROM concertmaster.matview WHERE view_name = 'different';

-- 10. unmanage: the view stays; one that is gone can be forgotten by name
SELECT concertmaster.unmanage_matview('totals'::regclass);
SELECT count(*) FROM totals;
DROP MATERIALIZED VIEW ratios;
SET client_min_messages = warning;
CALL concertmaster.run_job('refresh matview.ratios');
RESET client_min_messages;
SELECT concertmaster.unmanage_matview('matview.ratios');
SELECT view_name FROM managed;
SELECT name FROM concertmaster.job WHERE schema_name = 'matview' ORDER BY 1;
SELECT concertmaster.unmanage_matview('who'), concertmaster.unmanage_matview('stats');
SELECT count(*) FROM concertmaster.job WHERE schema_name IN ('matview', 'Odd "View"');
SELECT count(*) FROM concertmaster.matviews WHERE schema_name IN ('matview', 'Odd "View"');

SET client_min_messages = warning;
DROP SCHEMA matview, "Odd ""View""" CASCADE;
DROP ROLE regress_matview_owner, regress_matview_other;
