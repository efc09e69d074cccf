-- What the views say at the end of the demo.
\set ON_ERROR_STOP on
\echo 'Jobs (concertmaster.jobs)'
SELECT name, status, every, runs, round(last_duration_ms::numeric, 1) AS "last, ms", last_success::timestamp(0) AS "last success (UTC)", next_run::timestamp(0) AS "next (UTC)"
  FROM concertmaster.jobs ORDER BY name;
\echo 'Partitions, made ahead of time (concertmaster.partition_sets)'
SELECT table_name AS "table", period, partitions, first_bound::date AS from, last_bound::date AS until,
       extract(day FROM runway) || ' days' AS runway, coalesce(last_error, 'none') AS error
  FROM concertmaster.partition_sets ORDER BY table_name;
\echo 'Indexes (concertmaster.indexes)'
SELECT phase, table_name AS "table", index_name AS "index", state, percent_done AS "%", pg_size_pretty(size_bytes) AS size, scans
  FROM concertmaster.indexes ORDER BY phase, table_name, index_name;
\echo 'Materialized views (concertmaster.matviews)'
SELECT view_name AS "view", mode, every, last_refresh::timestamp(0) AS "last refresh (UTC)", last_mode AS "last mode", round(last_duration::numeric, 1) AS "took, ms"
  FROM concertmaster.matviews ORDER BY view_name;
\echo 'Form completion, last seven days (form_completion_stats)'
SELECT form_name AS form, sum(submissions) AS submissions, sum(completed) AS completed,
       round(100.0 * sum(completed) / sum(submissions), 1) AS "completed, %",
       round(sum(avg_completion_time * completed) / nullif(sum(completed) FILTER (WHERE avg_completion_time IS NOT NULL), 0)) AS "mean time, s"
  FROM public.form_completion_stats WHERE day > (now() AT TIME ZONE 'UTC')::date - 7
 GROUP BY form_name ORDER BY submissions DESC;
\echo 'Sizes (concertmaster.table_sizes)'
SELECT tablename AS "table", kind, leaves, estimated_rows AS "rows", pg_size_pretty(heap_bytes) AS heap, pg_size_pretty(index_bytes) AS indexes,
       pg_size_pretty(toast_bytes) AS toast, total
  FROM concertmaster.table_sizes WHERE schemaname = 'public' ORDER BY total_bytes DESC, tablename;
\echo 'The slowest statements so far (concertmaster.slow_query_analysis)'
SELECT left(regexp_replace(regexp_replace(query, '^(\s|--[^\n]*\n)+', ''), '\s+', ' ', 'g'), 60) AS query, calls,
       round(mean_time::numeric) AS "mean, ms", rows, hit_percent AS "hit, %"
  FROM concertmaster.slow_query_analysis LIMIT 6;
