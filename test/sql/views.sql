-- The monitoring views: shapes, figures, and who sees what.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
CREATE SCHEMA "Views Test";
SET search_path = "Views Test";

-- The strategy's columns come first, by its names.
SELECT c.relname, string_agg(a.attname || ' ' || format_type(a.atttypid, NULL), ', ' ORDER BY a.attnum) AS columns
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
 WHERE c.relnamespace = 'concertmaster'::regnamespace
   AND c.relname IN ('slow_query_analysis', 'index_usage_stats', 'active_connections', 'lock_waits', 'table_sizes')
 GROUP BY c.relname ORDER BY c.relname;

-- Slow queries: without pg_stat_statements a row says what to do.
BEGIN;
DROP EXTENSION IF EXISTS pg_stat_statements;
SELECT query, calls, total_time, mean_time, rows, hit_percent, hint FROM concertmaster.slow_query_analysis;

-- In a schema of any name.
CREATE EXTENSION pg_stat_statements SCHEMA "Views Test";
SELECT "Views Test".pg_stat_statements_reset() IS NOT NULL AS reset;
SELECT pg_sleep(0.15) AS "slow one";
SELECT 1 AS "fast one";
SELECT query, calls, total_time BETWEEN 100 AND 60000 AS total_time, mean_time = total_time AS mean_time, rows,
       hit_percent, username = current_user AS username, datname = current_database() AS datname, hint
  FROM concertmaster.slow_query_analysis WHERE query ~ 'slow one';
SELECT query, calls FROM concertmaster.slow_queries(0) WHERE query ~ 'fast one|slow one' ORDER BY mean_time DESC;
SELECT count(*) AS far_too_slow FROM concertmaster.slow_queries(3600000);
SELECT count(*) AS null_threshold FROM concertmaster.slow_queries(NULL);
DROP EXTENSION pg_stat_statements;

-- As pg_upgrade leaves it: an old version of the extension, whose columns had other names.
CREATE EXTENSION pg_stat_statements SCHEMA "Views Test" VERSION '1.7';
SELECT query, calls, total_time > 100 AS total_time FROM concertmaster.slow_query_analysis WHERE query ~ 'slow one';
ROLLBACK;

-- Index usage.
CREATE TABLE "Mixed Case" (id bigint PRIMARY KEY, "Some Value" text, UNIQUE ("Some Value"));
CREATE INDEX "Mixed Index" ON "Mixed Case" (lower("Some Value"));
INSERT INTO "Mixed Case" SELECT n, repeat(n::text, 700) FROM generate_series(1, 300) n;
SELECT schemaname, tablename, indexname, idx_scan >= 0 AS idx_scan, idx_tup_read >= 0 AS idx_tup_read,
       idx_tup_fetch >= 0 AS idx_tup_fetch, index_bytes = pg_relation_size(format('%I.%I', schemaname, indexname)::regclass) AS index_bytes,
       is_unique, is_constraint, is_valid
  FROM concertmaster.index_usage_stats WHERE schemaname = 'Views Test' ORDER BY indexname;

-- Sizes: a plain table, a partitioned one with two levels, one without leaves, a materialized view.
CREATE TABLE parts (id int, at date, note text) PARTITION BY RANGE (at);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY LIST (id);
CREATE TABLE parts_2a PARTITION OF parts_2 FOR VALUES IN (1);
CREATE TABLE parts_2b PARTITION OF parts_2 DEFAULT;
CREATE INDEX ON parts (at);
INSERT INTO parts SELECT n % 3, date '2024-06-01' + n, repeat('x', 100) FROM generate_series(1, 500) n;
CREATE TABLE empty_parts (id int) PARTITION BY LIST (id);
CREATE MATERIALIZED VIEW summary AS SELECT count(*) FROM parts;
CREATE TEMPORARY TABLE not_listed (id int);
ANALYZE "Mixed Case", parts;
SELECT tablename, kind, leaves, estimated_rows, heap_bytes > 0 AS heap, index_bytes > 0 AS index, toast_bytes > 0 AS toast,
       total_bytes = heap_bytes + index_bytes + toast_bytes AND total = pg_size_pretty(total_bytes) AS adds_up, not_measured
  FROM concertmaster.table_sizes WHERE schemaname = 'Views Test' ORDER BY tablename;
SELECT t.total_bytes = sum(pg_total_relation_size(p.relid)) AS as_core_says
  FROM concertmaster.table_sizes t, pg_partition_tree('parts') p
 WHERE t.schemaname = 'Views Test' AND t.tablename = 'parts' AND p.isleaf
 GROUP BY t.total_bytes;
SELECT t.total_bytes = pg_total_relation_size('"Mixed Case"') AS as_core_says
  FROM concertmaster.table_sizes t WHERE t.schemaname = 'Views Test' AND t.tablename = 'Mixed Case';
SELECT count(*) AS not_listed FROM concertmaster.table_sizes WHERE tablename IN ('not_listed', 'parts_1', 'parts_2', 'parts_2a', 'pg_class');

-- Connections: this one is at work; the rest of the server's processes are not clients.
SELECT count(*) FILTER (WHERE pid = pg_backend_pid() AND state = 'active' AND datname = current_database()
                          AND query_age >= '0' AND xact_age >= '0') AS mine
  FROM concertmaster.active_connections;
SELECT count(*) AS not_clients FROM concertmaster.active_connections c JOIN pg_stat_activity a USING (pid)
 WHERE a.backend_type <> 'client backend';
SELECT count(*) AS waiting_for_me FROM concertmaster.lock_waits WHERE pg_backend_pid() = ANY (blocked_by);

-- Everyone may read every view; other roles' statements are masked as core masks them.
CREATE ROLE regress_views_nobody;
CREATE ROLE regress_views_monitor IN ROLE pg_monitor;
BEGIN;
DROP EXTENSION IF EXISTS pg_stat_statements;
CREATE EXTENSION pg_stat_statements SCHEMA public;
SELECT public.pg_stat_statements_reset() IS NOT NULL AS reset;
SELECT pg_sleep(0.15) AS "slow one";
SET LOCAL ROLE regress_views_nobody;
SELECT DISTINCT query FROM concertmaster.slow_query_analysis;
SELECT count(*) AS others FROM concertmaster.active_connections WHERE username <> current_user;
SELECT count(*) > 0 AS indexes FROM concertmaster.index_usage_stats WHERE schemaname = 'Views Test';
SELECT count(*) AS tables FROM concertmaster.table_sizes WHERE schemaname = 'Views Test';
SELECT count(*) AS waits FROM concertmaster.lock_waits WHERE pid = pg_backend_pid();
SET LOCAL ROLE regress_views_monitor;
SELECT query, calls FROM concertmaster.slow_query_analysis WHERE query ~ 'pg_sleep';
SELECT count(*) AS me FROM concertmaster.active_connections WHERE pid = pg_backend_pid();
ROLLBACK;

DROP ROLE regress_views_nobody, regress_views_monitor;
DROP SCHEMA "Views Test" CASCADE;
