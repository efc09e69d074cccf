/*
 * Monitoring views.  They run with their reader's rights: what core shows only
 * to members of pg_monitor is masked here in the same way.  None waits for a
 * lock, all work on a standby, and a column that some server versions lack is
 * read through to_jsonb(), so that pg_upgrade can re-create every view.
 */

-- PL/pgSQL, since neither the schema nor the columns of pg_stat_statements are known before it is there.
CREATE FUNCTION concertmaster.slow_queries(min_mean_time double precision DEFAULT 100)
RETURNS TABLE (query text, calls bigint, total_time double precision, mean_time double precision, rows bigint,
               hit_percent numeric, max_time double precision, queryid bigint, username name, datname name, hint text)
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE ROWS 100
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    pss_schema name;
    -- Up to extension version 1.7, which pg_upgrade keeps, planning time had no column of its own.
    infix text;
BEGIN
    SELECT n.nspname,
           CASE WHEN EXISTS (SELECT FROM pg_attribute a
                              WHERE a.attrelid = c.oid AND a.attname = 'total_exec_time' AND NOT a.attisdropped)
                THEN '_exec' ELSE '' END
      INTO pss_schema, infix
      FROM pg_extension e
      JOIN pg_namespace n ON n.oid = e.extnamespace
      JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'pg_stat_statements'
     WHERE e.extname = 'pg_stat_statements';
    IF NOT FOUND THEN
        query := 'pg_stat_statements is not installed in this database';
        hint := CASE WHEN current_setting('pg_stat_statements.max', true) IS NULL
                     THEN 'Add pg_stat_statements to what shared_preload_libraries lists (SELECT concertmaster.recommended_settings_sql()), restart the server, then run CREATE EXTENSION pg_stat_statements in this database.'
                     ELSE 'Run CREATE EXTENSION pg_stat_statements in this database.' END;
        RETURN NEXT;
        RETURN;
    END IF;
    RETURN QUERY EXECUTE format(
        'SELECT s.query, s.calls, s.total%2$s_time, s.mean%2$s_time, s.rows,
                round(100.0 * s.shared_blks_hit / nullif(s.shared_blks_hit + s.shared_blks_read, 0), 2),
                s.max%2$s_time, s.queryid, pg_get_userbyid(s.userid), d.datname, NULL::text
           FROM %1$I.pg_stat_statements s LEFT JOIN pg_database d ON d.oid = s.dbid
          WHERE s.mean%2$s_time > $1
          ORDER BY s.mean%2$s_time DESC', pss_schema, infix)
    USING min_mean_time;
EXCEPTION WHEN object_not_in_prerequisite_state THEN
    query := 'pg_stat_statements is installed but not loaded';
    hint := 'Add pg_stat_statements to what shared_preload_libraries lists (SELECT concertmaster.recommended_settings_sql()) and restart the server.';
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION concertmaster.slow_queries(double precision) IS
'min_mean_time: milliseconds.  Returns the statements whose mean execution time is above it, slowest first, from pg_stat_statements in whatever schema it is; times in milliseconds.  Without pg_stat_statements: one row with no figures, whose query says what is missing and whose hint says what to do.  Runs with the caller''s rights: texts of other roles'' statements need pg_read_all_stats';

CREATE VIEW concertmaster.slow_query_analysis AS
SELECT query, calls, total_time, mean_time, rows, hit_percent, max_time, queryid, username, datname, hint
  FROM concertmaster.slow_queries(100)
 ORDER BY mean_time DESC;
COMMENT ON VIEW concertmaster.slow_query_analysis IS 'statements that take more than 100 ms on average, slowest first; see slow_queries() for another threshold';
COMMENT ON COLUMN concertmaster.slow_query_analysis.query IS 'text of the statement, constants as $n; or what is missing';
COMMENT ON COLUMN concertmaster.slow_query_analysis.calls IS 'number of times it was executed';
COMMENT ON COLUMN concertmaster.slow_query_analysis.total_time IS 'time spent executing it, in milliseconds';
COMMENT ON COLUMN concertmaster.slow_query_analysis.mean_time IS 'mean time of one execution, in milliseconds';
COMMENT ON COLUMN concertmaster.slow_query_analysis.rows IS 'rows returned or changed';
COMMENT ON COLUMN concertmaster.slow_query_analysis.hit_percent IS 'per cent of the blocks it read that were in shared buffers; NULL: it read none';
COMMENT ON COLUMN concertmaster.slow_query_analysis.max_time IS 'time of the longest execution, in milliseconds';
COMMENT ON COLUMN concertmaster.slow_query_analysis.queryid IS 'identifies the statement in pg_stat_statements and pg_stat_activity';
COMMENT ON COLUMN concertmaster.slow_query_analysis.username IS 'role that executed it';
COMMENT ON COLUMN concertmaster.slow_query_analysis.datname IS 'database in which it was executed';
COMMENT ON COLUMN concertmaster.slow_query_analysis.hint IS 'what to do where there are no figures; NULL otherwise';
GRANT SELECT ON concertmaster.slow_query_analysis TO PUBLIC;

CREATE VIEW concertmaster.index_usage_stats AS
SELECT s.schemaname,
       s.relname AS tablename,
       s.indexrelname AS indexname,
       s.idx_scan,
       s.idx_tup_read,
       s.idx_tup_fetch,
       (to_jsonb(s) ->> 'last_idx_scan')::timestamptz AS last_idx_scan,
       concertmaster._relation_size(s.indexrelid) AS index_bytes,
       i.indisunique AS is_unique,
       EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = s.indexrelid AND k.contype IN ('p', 'u', 'x')) AS is_constraint,
       i.indisvalid AS is_valid,
       (SELECT d.stats_reset FROM pg_stat_database d WHERE d.datname = current_database()) AS stats_reset
  FROM pg_stat_user_indexes s
  JOIN pg_index i ON i.indexrelid = s.indexrelid
 ORDER BY s.idx_scan DESC, s.schemaname, s.relname, s.indexrelname;
COMMENT ON VIEW concertmaster.index_usage_stats IS 'how much each index of user tables is used, most used first; a partition''s index has its own row';
COMMENT ON COLUMN concertmaster.index_usage_stats.schemaname IS 'schema of the table';
COMMENT ON COLUMN concertmaster.index_usage_stats.tablename IS 'name of the table';
COMMENT ON COLUMN concertmaster.index_usage_stats.indexname IS 'name of the index';
COMMENT ON COLUMN concertmaster.index_usage_stats.idx_scan IS 'number of scans of it, on this server, since stats_reset';
COMMENT ON COLUMN concertmaster.index_usage_stats.idx_tup_read IS 'index entries returned by scans';
COMMENT ON COLUMN concertmaster.index_usage_stats.idx_tup_fetch IS 'live rows fetched by simple scans';
COMMENT ON COLUMN concertmaster.index_usage_stats.last_idx_scan IS 'when it was last scanned; NULL: never, or PostgreSQL before 16, which does not say';
COMMENT ON COLUMN concertmaster.index_usage_stats.index_bytes IS 'size in bytes; NULL while the index is locked exclusively';
COMMENT ON COLUMN concertmaster.index_usage_stats.is_unique IS 'true: it keeps values unique, so it is needed even if never scanned';
COMMENT ON COLUMN concertmaster.index_usage_stats.is_constraint IS 'true: a primary key, unique or exclusion constraint stands on it';
COMMENT ON COLUMN concertmaster.index_usage_stats.is_valid IS 'false: queries do not use it: being built, or left by a build that failed';
COMMENT ON COLUMN concertmaster.index_usage_stats.stats_reset IS 'since when scans are counted; NULL: since the statistics began';
GRANT SELECT ON concertmaster.index_usage_stats TO PUBLIC;

CREATE VIEW concertmaster.active_connections AS
SELECT a.pid,
       a.datname,
       a.usename AS username,
       a.application_name,
       a.client_addr,
       a.state,
       a.wait_event_type,
       a.wait_event,
       a.backend_start,
       clock_timestamp() - a.xact_start AS xact_age,
       CASE WHEN a.state = 'active' THEN clock_timestamp() - a.query_start END AS query_age,
       clock_timestamp() - a.state_change AS state_age,
       a.query_id,
       a.query
  FROM pg_stat_activity a
 WHERE a.backend_type = 'client backend'
 ORDER BY a.state, a.xact_start, a.pid;
COMMENT ON VIEW concertmaster.active_connections IS
'one row per client connection; those at work: count(*) FILTER (WHERE state = ''active'').  Other roles'' connections are seen by members of pg_read_all_stats';
COMMENT ON COLUMN concertmaster.active_connections.pid IS 'process of the connection';
COMMENT ON COLUMN concertmaster.active_connections.datname IS 'database';
COMMENT ON COLUMN concertmaster.active_connections.username IS 'role that logged in';
COMMENT ON COLUMN concertmaster.active_connections.application_name IS 'what the client calls itself';
COMMENT ON COLUMN concertmaster.active_connections.client_addr IS 'address of the client; NULL: Unix socket';
COMMENT ON COLUMN concertmaster.active_connections.state IS 'active, idle, idle in transaction and so on, as in pg_stat_activity';
COMMENT ON COLUMN concertmaster.active_connections.wait_event_type IS 'kind of event it waits for';
COMMENT ON COLUMN concertmaster.active_connections.wait_event IS 'event it waits for';
COMMENT ON COLUMN concertmaster.active_connections.backend_start IS 'when it connected';
COMMENT ON COLUMN concertmaster.active_connections.xact_age IS 'age of its transaction; NULL: none';
COMMENT ON COLUMN concertmaster.active_connections.query_age IS 'age of the statement at work; NULL: none';
COMMENT ON COLUMN concertmaster.active_connections.state_age IS 'how long it has been in this state';
COMMENT ON COLUMN concertmaster.active_connections.query_id IS 'identifies the statement in pg_stat_statements';
COMMENT ON COLUMN concertmaster.active_connections.query IS 'the statement at work, or the last one';
GRANT SELECT ON concertmaster.active_connections TO PUBLIC;

-- pg_blocking_pids() alone knows the queue; joins of pg_locks with itself miss waiters ahead, or blame bystanders.
CREATE VIEW concertmaster.lock_waits AS
WITH RECURSIVE waiting AS MATERIALIZED (
    SELECT l.pid, l.locktype, l.mode, l.relation, l.database, l.waitstart, b.blocked_by
      FROM pg_locks l
     CROSS JOIN LATERAL (SELECT ARRAY(SELECT DISTINCT p FROM unnest(pg_blocking_pids(l.pid)) p ORDER BY p) AS blocked_by) b
     WHERE NOT l.granted AND b.blocked_by <> '{}'
), edge AS MATERIALIZED (
    SELECT w.pid, b.blocker FROM waiting w CROSS JOIN LATERAL unnest(w.blocked_by) AS b (blocker)
), root AS (
    SELECT DISTINCT e.blocker AS pid FROM edge e WHERE NOT EXISTS (SELECT FROM waiting w WHERE w.pid = e.blocker)
), reach AS (
    -- UNION stops at what was seen: neither a cycle nor a long queue is walked twice.
    SELECT r.pid AS root, r.pid FROM root r
    UNION
    SELECT r.root, e.pid FROM reach r JOIN edge e ON e.blocker = r.pid
), level AS (
    SELECT 0 AS depth, ARRAY(SELECT r.pid FROM root r) AS pids, ARRAY(SELECT r.pid FROM root r) AS seen
    UNION ALL
    SELECT l.depth + 1, n.pids, l.seen || n.pids
      FROM level l
     CROSS JOIN LATERAL (SELECT ARRAY(SELECT DISTINCT e.pid FROM edge e
                                       WHERE e.blocker = ANY (l.pids) AND e.pid <> ALL (l.seen)) AS pids) n
     WHERE n.pids <> '{}'
)
SELECT w.pid,
       w.blocked_by,
       ARRAY(SELECT r.root FROM reach r WHERE r.pid = w.pid ORDER BY r.root) AS root_blockers,
       (SELECT l.depth FROM level l WHERE w.pid = ANY (l.pids)) AS depth,
       w.waitstart AS waiting_since,
       clock_timestamp() - w.waitstart AS waiting_for,
       w.locktype,
       w.mode,
       (SELECT format('%I.%I', n.nspname, c.relname)
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.oid = coalesce(CASE WHEN w.database IN (0, (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
                                     THEN w.relation END,
                                -- Who waits for another transaction's row waits for a transaction, holding the row's lock.
                                (SELECT t.relation FROM pg_locks t
                                  WHERE t.pid = w.pid AND t.locktype = 'tuple' AND t.granted
                                    AND t.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
                                  LIMIT 1))) AS relation,
       a.datname,
       a.usename AS username,
       a.application_name,
       a.query,
       (SELECT string_agg(format('%s (%s): %s', b.pid, b.state, b.query), E'\n' ORDER BY b.pid)
          FROM pg_stat_activity b WHERE b.pid = ANY (w.blocked_by)) AS blocking_query
  FROM waiting w
  LEFT JOIN pg_stat_activity a ON a.pid = w.pid
 ORDER BY depth NULLS FIRST, w.waitstart, w.pid;
COMMENT ON VIEW concertmaster.lock_waits IS
'one row per process that waits for a lock, with who is in its way and who is at the root of it; texts of other roles'' statements need pg_read_all_stats';
COMMENT ON COLUMN concertmaster.lock_waits.pid IS 'process that waits';
COMMENT ON COLUMN concertmaster.lock_waits.blocked_by IS 'processes directly in its way, holding the lock or ahead in the queue; 0: a prepared transaction';
COMMENT ON COLUMN concertmaster.lock_waits.root_blockers IS 'processes that it waits for in the end and that wait for no lock; empty: a deadlock, which the server is about to break';
COMMENT ON COLUMN concertmaster.lock_waits.depth IS 'steps to the nearest root blocker, 1: directly behind it; NULL: a deadlock';
COMMENT ON COLUMN concertmaster.lock_waits.waiting_since IS 'when it began to wait; NULL for a moment at the start';
COMMENT ON COLUMN concertmaster.lock_waits.waiting_for IS 'how long it has waited';
COMMENT ON COLUMN concertmaster.lock_waits.locktype IS 'what kind of object is locked; transactionid: a row that another transaction changed';
COMMENT ON COLUMN concertmaster.lock_waits.mode IS 'lock mode it wants';
COMMENT ON COLUMN concertmaster.lock_waits.relation IS 'table or index in question, if it is in this database';
COMMENT ON COLUMN concertmaster.lock_waits.datname IS 'database of the process';
COMMENT ON COLUMN concertmaster.lock_waits.username IS 'role of the process';
COMMENT ON COLUMN concertmaster.lock_waits.application_name IS 'what its client calls itself';
COMMENT ON COLUMN concertmaster.lock_waits.query IS 'statement that waits';
COMMENT ON COLUMN concertmaster.lock_waits.blocking_query IS 'process, state and last statement of each process in blocked_by, one per line';
GRANT SELECT ON concertmaster.lock_waits TO PUBLIC;

CREATE VIEW concertmaster.table_sizes AS
WITH RECURSIVE tree AS (
    SELECT c.oid AS root, c.oid AS relid, c.relkind
      FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition AND c.relpersistence <> 't'
       AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
    UNION ALL
    -- Not pg_partition_tree(), which locks, and so waits for, every leaf.
    SELECT t.root, c.oid, c.relkind
      FROM tree t
      JOIN pg_inherits i ON i.inhparent = t.relid
      JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition
), part AS (
    SELECT t.root, 'heap' AS part, t.relid, t.relkind FROM tree t WHERE t.relkind <> 'p'
    UNION ALL
    SELECT t.root, 'index', i.indexrelid, NULL FROM tree t JOIN pg_index i ON i.indrelid = t.relid WHERE t.relkind <> 'p'
    UNION ALL
    SELECT t.root, 'toast', x.relid, NULL
      FROM tree t
      JOIN pg_class c ON c.oid = t.relid AND c.reltoastrelid <> 0
     CROSS JOIN LATERAL (SELECT c.reltoastrelid AS relid
                         UNION ALL
                         SELECT i.indexrelid FROM pg_index i WHERE i.indrelid = c.reltoastrelid) x
), measured AS MATERIALIZED (
    SELECT p.root, p.part, p.relid, concertmaster._relation_size(p.relid) AS bytes FROM part p
), summed AS (
    SELECT m.root,
           CASE WHEN count(*) FILTER (WHERE m.part = 'heap') = 0 THEN 0 ELSE sum(m.bytes) FILTER (WHERE m.part = 'heap') END AS heap_bytes,
           coalesce(sum(m.bytes) FILTER (WHERE m.part = 'index'), 0) AS index_bytes,
           coalesce(sum(m.bytes) FILTER (WHERE m.part = 'toast'), 0) AS toast_bytes,
           count(*) FILTER (WHERE m.part = 'heap') AS leaves,
           count(*) FILTER (WHERE m.bytes IS NULL) AS not_measured,
           sum(greatest(c.reltuples, 0)) FILTER (WHERE m.part = 'heap') AS estimated_rows
      FROM measured m
      LEFT JOIN pg_class c ON c.oid = m.relid
     GROUP BY m.root
)
SELECT n.nspname AS schemaname,
       c.relname AS tablename,
       CASE c.relkind WHEN 'p' THEN 'partitioned table' WHEN 'm' THEN 'materialized view' ELSE 'table' END AS kind,
       CASE WHEN c.relkind = 'p' THEN coalesce(s.leaves, 0) ELSE 0 END::integer AS leaves,
       coalesce(s.estimated_rows, 0)::bigint AS estimated_rows,
       t.heap_bytes,
       t.index_bytes,
       t.toast_bytes,
       t.total_bytes,
       pg_size_pretty(t.total_bytes) AS total,
       coalesce(s.not_measured, 0)::integer AS not_measured
  FROM (SELECT DISTINCT root FROM tree) r
  JOIN pg_class c ON c.oid = r.root
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN summed s ON s.root = r.root
 CROSS JOIN LATERAL (
       SELECT CASE WHEN s.root IS NULL THEN 0 ELSE s.heap_bytes END::bigint AS heap_bytes,
              coalesce(s.index_bytes, 0)::bigint AS index_bytes,
              coalesce(s.toast_bytes, 0)::bigint AS toast_bytes,
              CASE WHEN s.root IS NULL THEN 0 ELSE s.heap_bytes + s.index_bytes + s.toast_bytes END::bigint AS total_bytes) t
 ORDER BY t.total_bytes DESC NULLS LAST, n.nspname, c.relname;
COMMENT ON VIEW concertmaster.table_sizes IS
'size of each table and materialized view, a partitioned table with all its leaves in one row; never waits: what is locked exclusively is left out and counted in not_measured';
COMMENT ON COLUMN concertmaster.table_sizes.schemaname IS 'schema of the table';
COMMENT ON COLUMN concertmaster.table_sizes.tablename IS 'name of the table';
COMMENT ON COLUMN concertmaster.table_sizes.kind IS 'table, partitioned table or materialized view';
COMMENT ON COLUMN concertmaster.table_sizes.leaves IS 'number of partitions that hold rows; 0 for a table that is not partitioned';
COMMENT ON COLUMN concertmaster.table_sizes.estimated_rows IS 'rows at the last VACUUM or ANALYZE of each leaf';
COMMENT ON COLUMN concertmaster.table_sizes.heap_bytes IS 'bytes of the rows themselves; NULL: locked exclusively now';
COMMENT ON COLUMN concertmaster.table_sizes.index_bytes IS 'bytes of the indexes';
COMMENT ON COLUMN concertmaster.table_sizes.toast_bytes IS 'bytes of values too long for a row, with their index';
COMMENT ON COLUMN concertmaster.table_sizes.total_bytes IS 'bytes of all of it; NULL: locked exclusively now';
COMMENT ON COLUMN concertmaster.table_sizes.total IS 'total_bytes for people';
COMMENT ON COLUMN concertmaster.table_sizes.not_measured IS 'relations that were locked exclusively and are missing from the sums';
GRANT SELECT ON concertmaster.table_sizes TO PUBLIC;
