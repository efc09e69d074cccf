/*
 * What the server's settings should be on this machine, and three ways to say
 * so.  A setting that is already good enough is left as it is: each figure
 * comes with the range in which it is not worth a change.
 */

/*
 * live: what pg_settings says, figures in bytes or milliseconds.  reset_val
 * rather than setting, so that a SET of this session does not count.
 */
CREATE VIEW concertmaster.recommended_settings AS
WITH host AS MATERIALIZED (
    SELECT h.memory_bytes::numeric AS memory, greatest(ceil(h.cpus), 1)::numeric AS cores, h.disk_rotates,
           pg_size_pretty(h.memory_bytes) || ' of memory (' || h.memory_source || ')' AS memory_text,
           trim_scale(round(h.cpus::numeric, 2)) || ' processors (' || h.cpu_source || ')' AS cpu_text
      FROM concertmaster.host_facts() h
), live AS MATERIALIZED (
    SELECT s.name, s.reset_val, s.unit, s.context, s.source, s.pending_restart, s.enumvals, s.max_val,
           u.measure,
           -- Minus one means off or automatic, and has no unit.
           CASE WHEN s.vartype IN ('integer', 'real')
                THEN s.reset_val::numeric * CASE WHEN s.reset_val::numeric < 0 THEN 1 ELSE u.factor END END AS value
      FROM pg_settings s
     CROSS JOIN LATERAL (
           SELECT CASE WHEN s.unit IN ('ms', 's', 'min') THEN 'ms' WHEN s.unit IS NOT NULL THEN 'bytes' END AS measure,
                  CASE s.unit WHEN 'ms' THEN 1 WHEN 's' THEN 1000 WHEN 'min' THEN 60000
                       WHEN 'B' THEN 1 WHEN 'kB' THEN 1024 WHEN 'MB' THEN 1048576
                       ELSE coalesce(pg_size_bytes(regexp_replace(s.unit, 'kB$|MB$', ' \&')), 1) END::numeric AS factor) u
), library AS (
    -- The libraries that are loaded, then those that should be.
    SELECT l.reset_val AS current, c.listed,
           ARRAY(SELECT w.name
                   FROM (VALUES (1, 'concertmaster'), (2, 'pg_stat_statements')) AS w (n, name)
                  WHERE w.name <> ALL (ARRAY(SELECT regexp_replace(x, '^.*/|\.so$', '', 'g') FROM unnest(c.listed) x))
                    -- A library that is not there would keep the server from starting.
                    AND (w.name = 'concertmaster' OR EXISTS (SELECT FROM pg_available_extensions() e WHERE e.name = w.name))
                  ORDER BY w.n) AS missing
      FROM live l
     CROSS JOIN LATERAL (SELECT concertmaster._library_list(l.reset_val) AS listed) c
     WHERE l.name = 'shared_preload_libraries'
), need AS (
    SELECT h.*, m.*,
           -- Launchers of ours and of logical replication, everything that can run at once, and two to spare.
           1 + m.own_workers + 1 + m.apply_workers + greatest(m.parallel_workers, least(h.cores, 64)) + m.cron_workers + 2 AS workers,
           least(16777216, floor(b.buffers / 32 / 8192) * 8192) AS wal_buffers,
           least(greatest(concertmaster._round_size((h.memory - b.buffers) / (3 * c.connections)), 4194304), 268435456) AS work_mem,
           least(greatest(concertmaster._round_size(h.memory / 16), 67108864), 1073741824) AS maintenance_work_mem,
           c.connections
      FROM host h
     CROSS JOIN (SELECT max(value) FILTER (WHERE name = 'max_connections') AS present_connections,
                        max(value) FILTER (WHERE name = 'shared_buffers') AS present_buffers,
                        coalesce(max(value) FILTER (WHERE name = 'concertmaster.max_workers'), 4) AS own_workers,
                        max(value) FILTER (WHERE name = 'max_logical_replication_workers') AS apply_workers,
                        max(value) FILTER (WHERE name = 'max_parallel_workers') AS parallel_workers,
                        max(value) FILTER (WHERE name = 'vacuum_cost_limit') AS cost_limit,
                        max(max_val::numeric) FILTER (WHERE name = 'effective_io_concurrency') AS io_max,
                        max(source) FILTER (WHERE name = 'wal_buffers') AS wal_source,
                        CASE WHEN bool_or(name = 'cron.database_name')
                             THEN 1 + CASE WHEN bool_or(name = 'cron.use_background_workers' AND reset_val = 'on')
                                           THEN coalesce(max(value) FILTER (WHERE name = 'cron.max_running_jobs'), 5)
                                           ELSE 0 END
                             ELSE 0 END AS cron_workers
                   FROM live) m
     CROSS JOIN LATERAL (SELECT CASE WHEN m.present_connections < 120 THEN 200 ELSE m.present_connections END AS connections) c
     CROSS JOIN LATERAL (SELECT CASE WHEN m.present_buffers BETWEEN 0.15 * h.memory AND 0.40 * h.memory THEN m.present_buffers
                                     ELSE concertmaster._round_size(0.25 * h.memory) END AS buffers) b
), figure AS (
    -- Least that is left alone, what is recommended (NULL: nothing), most that is left alone.
    SELECT f.area, f.setting, l.value BETWEEN f.low AND f.high OR f.target IS NULL AS good,
           concertmaster._setting_text(f.target, l.measure) AS target, f.reason
      FROM need n
     CROSS JOIN LATERAL (VALUES
        ('logging', 'log_min_duration_statement', 0::numeric, 100::numeric, 100::numeric,
         'statements that miss the target of 100 ms are logged'),
        ('logging', 'log_temp_files', 0, 10485760, 104857600,
         'sorts and hashes that outgrew work_mem are logged'),
        ('logging', 'log_autovacuum_min_duration', 0, 600000, 600000,
         'long vacuums are logged'),
        ('memory', 'shared_buffers', 0.15 * n.memory, concertmaster._round_size(0.25 * n.memory), 0.40 * n.memory,
         'a quarter of ' || n.memory_text),
        ('memory', 'effective_cache_size', 0.50 * n.memory, concertmaster._round_size(0.75 * n.memory), 0.90 * n.memory,
         'what the planner may expect to be cached: three quarters of ' || n.memory_text),
        ('memory', 'work_mem', n.work_mem / 2, n.work_mem, n.work_mem * 2,
         'what ' || n.connections || ' connections can take at once, three sorts or hashes each'),
        ('memory', 'maintenance_work_mem', n.maintenance_work_mem / 2, n.maintenance_work_mem, n.maintenance_work_mem * 2,
         'index builds and vacuum: a sixteenth of ' || n.memory_text || ', at most 1GB'),
        ('connections', 'max_connections', 120, 200, 'Infinity',
         'a pool of 100, and room for jobs, monitoring, replicas and people; more clients come through PgBouncer; raise it on standbys first'),
        ('connections', 'idle_in_transaction_session_timeout', 1, 600000, 3600000,
         'a forgotten transaction holds back vacuum and every DDL'),
        ('wal', 'max_wal_size', 2147483648, 4294967296, 'Infinity',
         'checkpoints come by time rather than by volume; pg_wal needs that much disk'),
        ('wal', 'checkpoint_timeout', 600000, 900000, 3600000,
         'fewer full page images; recovery after a crash takes longer'),
        ('wal', 'checkpoint_completion_target', 0.7, 0.9, 1,
         'the writes of a checkpoint are spread'),
        ('wal', 'wal_buffers', n.wal_buffers, CASE WHEN n.wal_source <> 'default' THEN n.wal_buffers END, 'Infinity',
         'what the server chooses by itself: 1/32 of shared_buffers, at most 16MB'),
        ('planner', 'random_page_cost', 1, CASE WHEN NOT coalesce(n.disk_rotates, false) THEN 1.1 END, 2,
         CASE n.disk_rotates WHEN true THEN 'the disk says that it rotates: left as it is; 1.1 if that is a virtual disk on flash'
                             WHEN false THEN 'the disk does not rotate'
                             ELSE 'flash or network storage assumed; leave it at 4 on a rotating disk' END),
        ('planner', 'effective_io_concurrency', 16, CASE WHEN NOT coalesce(n.disk_rotates, false) AND n.io_max >= 200 THEN 200 END, 'Infinity',
         'storage that does not rotate serves many reads at once'),
        ('autovacuum', 'autovacuum_max_workers', greatest(3, least(floor(n.cores / 4), 8)), greatest(3, least(floor(n.cores / 4), 8)), 'Infinity',
         'many partitions to look after; ' || n.cpu_text),
        ('autovacuum', 'autovacuum_vacuum_scale_factor', 0, 0.05, 0.1,
         'large tables are vacuumed after 5 % of changes'),
        ('autovacuum', 'autovacuum_vacuum_insert_scale_factor', 0, 0.05, 0.1,
         'tables that only grow become all-visible, which index-only scans need'),
        ('autovacuum', 'autovacuum_analyze_scale_factor', 0, 0.02, 0.05,
         'the newest partition changes fast, and plans follow its statistics'),
        ('autovacuum', 'autovacuum_vacuum_cost_limit', CASE WHEN n.cost_limit >= 1000 THEN -1 ELSE 1000 END, 1000, 'Infinity',
         'the default of 200 dates from slower disks'),
        ('workers', 'max_worker_processes', n.workers, n.workers, 'Infinity',
         n.own_workers || ' workers of concertmaster and its launcher, beside parallel query, logical replication and pg_cron'),
        ('workers', 'max_parallel_workers', least(n.cores, 64), least(n.cores, 64), 'Infinity',
         n.cpu_text),
        ('workers', 'max_parallel_maintenance_workers', greatest(2, least(4, floor(n.cores / 2))), greatest(2, least(4, floor(n.cores / 2))), 'Infinity',
         'index builds in parallel; ' || n.cpu_text),
        ('statistics', 'track_activity_query_size', 2048, 4096, 'Infinity',
         'long statements are seen whole in active_connections and lock_waits')
        ) AS f (area, setting, low, target, high, reason)
      JOIN live l ON l.name = f.setting
), word AS (
    SELECT w.area, w.setting, w.good, w.target, w.reason
      FROM need n
     CROSS JOIN (SELECT max(reset_val) FILTER (WHERE name = 'log_statement') AS log_statement,
                        max(reset_val) FILTER (WHERE name = 'log_line_prefix') AS log_line_prefix,
                        max(reset_val) FILTER (WHERE name = 'log_lock_waits') AS log_lock_waits,
                        max(reset_val) FILTER (WHERE name = 'log_checkpoints') AS log_checkpoints,
                        max(reset_val) FILTER (WHERE name = 'wal_compression') AS wal_compression,
                        bool_or('lz4' = ANY (enumvals)) FILTER (WHERE name = 'wal_compression') AS has_lz4,
                        max(reset_val) FILTER (WHERE name = 'autovacuum') AS autovacuum,
                        max(reset_val) FILTER (WHERE name = 'track_io_timing') AS track_io_timing,
                        max(reset_val) FILTER (WHERE name = 'compute_query_id') AS compute_query_id
                   FROM live) s
     CROSS JOIN LATERAL (VALUES
        ('logging', 'log_statement', s.log_statement IN ('mod', 'all'), 'mod',
         'who changed what is in the log; costs a line per INSERT, UPDATE and DELETE, so choose ddl where the log cannot keep up'),
        ('logging', 'log_line_prefix',
         s.log_line_prefix LIKE '%\%p%' AND s.log_line_prefix LIKE '%\%u%' AND s.log_line_prefix LIKE '%\%d%'
         AND s.log_line_prefix LIKE '%\%a%' AND s.log_line_prefix ~ '%[tmn]',
         '%t [%p]: [%l-1] user=%u,db=%d,app=%a,client=%h ',
         'time, process, role, database, application and client of each line'),
        ('logging', 'log_lock_waits', s.log_lock_waits = 'on', 'on',
         'waits longer than deadlock_timeout are logged with who is in the way'),
        ('logging', 'log_checkpoints', s.log_checkpoints = 'on', 'on',
         'shows whether checkpoints come by time or by volume'),
        ('wal', 'wal_compression', s.wal_compression <> 'off', CASE WHEN s.has_lz4 THEN 'lz4' ELSE 'pglz' END,
         'full page images of JSON and indexes shrink well'),
        ('autovacuum', 'autovacuum', s.autovacuum = 'on', 'on',
         'without it tables bloat and the server stops before transaction ids run out'),
        ('statistics', 'track_io_timing', s.track_io_timing = 'on', 'on',
         'shows how much of a slow statement was reading'),
        ('statistics', 'compute_query_id', s.compute_query_id <> 'off', 'auto',
         'pg_stat_statements needs it')
        ) AS w (area, setting, good, target, reason)
     WHERE EXISTS (SELECT FROM live l WHERE l.name = w.setting)
    UNION ALL
    SELECT 'workers', 'shared_preload_libraries', b.missing = '{}',
           array_to_string(b.listed || b.missing, ', '),
           CASE WHEN b.missing = '{}' THEN 'concertmaster''s launcher and the statistics of slow_query_analysis'
                ELSE 'adds ' || array_to_string(b.missing, ', ') || ' to what is loaded' END
      FROM library b
)
SELECT r.setting,
       c.current,
       CASE WHEN r.good THEN c.current ELSE r.target END AS recommended,
       r.reason,
       r.area,
       NOT r.good AS to_change,
       l.context = 'postmaster' AS needs_restart,
       l.pending_restart,
       l.source,
       l.unit
  FROM (SELECT * FROM figure UNION ALL SELECT * FROM word) r
  JOIN live l ON l.name = r.setting
 CROSS JOIN LATERAL (SELECT CASE WHEN l.value IS NULL THEN l.reset_val ELSE concertmaster._setting_text(l.value, l.measure) END AS current) c
 ORDER BY array_position(ARRAY['workers', 'memory', 'connections', 'wal', 'planner', 'autovacuum', 'statistics', 'logging'], r.area), r.setting;
COMMENT ON VIEW concertmaster.recommended_settings IS
'one row per setting that matters here: what it is, what it should be on this machine, and why; what is good enough is left as it is.  Settings that the reader may not see are left out (pg_monitor sees all).  To apply: recommended_settings_sql(), recommended_settings_conf(), recommended_settings_cnpg()';
COMMENT ON COLUMN concertmaster.recommended_settings.setting IS 'name of the setting';
COMMENT ON COLUMN concertmaster.recommended_settings.current IS 'value that new sessions get, as SHOW prints it';
COMMENT ON COLUMN concertmaster.recommended_settings.recommended IS 'value that it should have; the current one if that is good';
COMMENT ON COLUMN concertmaster.recommended_settings.reason IS 'why, in words';
COMMENT ON COLUMN concertmaster.recommended_settings.area IS 'workers, memory, connections, wal, planner, autovacuum, statistics or logging';
COMMENT ON COLUMN concertmaster.recommended_settings.to_change IS 'true: current and recommended differ';
COMMENT ON COLUMN concertmaster.recommended_settings.needs_restart IS 'true: takes effect at the next start of the server; false: at a reload';
COMMENT ON COLUMN concertmaster.recommended_settings.pending_restart IS 'true: already changed in a file, waiting for a restart';
COMMENT ON COLUMN concertmaster.recommended_settings.source IS 'where the current value comes from; ALTER SYSTEM does not reach what comes from the command line';
COMMENT ON COLUMN concertmaster.recommended_settings.unit IS 'unit of a plain number in this setting; NULL: none';
GRANT SELECT ON concertmaster.recommended_settings TO PUBLIC;

CREATE FUNCTION concertmaster.recommended_settings_sql()
RETURNS SETOF text
LANGUAGE sql STABLE PARALLEL SAFE ROWS 40
BEGIN ATOMIC
    -- Of a list of libraries each name is a literal of its own: one literal would be taken for one name.
    SELECT format('ALTER SYSTEM SET %I = %s', r.setting,
                  CASE r.setting WHEN 'shared_preload_libraries'
                       THEN (SELECT string_agg(quote_literal(x.name), ', ' ORDER BY x.n)
                               FROM unnest(concertmaster._library_list(r.recommended)) WITH ORDINALITY AS x (name, n))
                       ELSE quote_literal(r.recommended) END)
      FROM concertmaster.recommended_settings r
     WHERE r.to_change;
END;
COMMENT ON FUNCTION concertmaster.recommended_settings_sql() IS
'Returns one ALTER SYSTEM statement per setting to change; in psql run them with: SELECT * FROM concertmaster.recommended_settings_sql() \gexec and then reload or restart the server.  Everyone may call it; running them needs a superuser.  Use recommended_settings_conf() where allow_alter_system is off';

CREATE FUNCTION concertmaster.recommended_settings_conf()
RETURNS SETOF text
LANGUAGE sql STABLE PARALLEL SAFE ROWS 40
BEGIN ATOMIC
    SELECT format('%s = ''%s''  # %s%s', r.setting,
                  replace(replace(r.recommended, '\', '\\'), '''', ''''''),
                  CASE WHEN r.needs_restart THEN 'restart; ' ELSE '' END, r.reason)
      FROM concertmaster.recommended_settings r
     WHERE r.to_change;
END;
COMMENT ON FUNCTION concertmaster.recommended_settings_conf() IS
'Returns one line of postgresql.conf per setting to change, with the reason as its comment.  Everyone may call it';

CREATE FUNCTION concertmaster.recommended_settings_cnpg()
RETURNS SETOF text
LANGUAGE sql STABLE PARALLEL SAFE ROWS 40
BEGIN ATOMIC
    WITH change AS MATERIALIZED (
        -- The operator keeps the log in CSV, where a prefix has no place.
        SELECT r.* FROM concertmaster.recommended_settings r WHERE r.to_change AND r.setting <> 'log_line_prefix'
    ), line AS (
        SELECT 1 AS block, 0 AS n, 'postgresql:' AS text
        UNION ALL
        SELECT 2, 0, '  shared_preload_libraries:' FROM change c WHERE c.setting = 'shared_preload_libraries'
        UNION ALL
        SELECT 2, x.n, '    - ' || to_json(x.name)
          FROM change c, unnest(concertmaster._library_list(c.recommended)) WITH ORDINALITY AS x (name, n)
         WHERE c.setting = 'shared_preload_libraries'
        UNION ALL
        SELECT 3, 0, '  parameters:' WHERE EXISTS (SELECT FROM change c WHERE c.setting <> 'shared_preload_libraries')
        UNION ALL
        SELECT 3, row_number() OVER (ORDER BY c.setting), format('    %s: %s  # %s', c.setting, to_json(c.recommended), c.reason)
          FROM change c WHERE c.setting <> 'shared_preload_libraries'
    )
    SELECT l.text FROM line l WHERE EXISTS (SELECT FROM change) ORDER BY l.block, l.n;
END;
COMMENT ON FUNCTION concertmaster.recommended_settings_cnpg() IS
'Returns the settings to change as lines for the spec of a CloudNativePG Cluster, where ALTER SYSTEM is off: parameters as quoted strings, libraries as their own list.  No row if nothing is to be changed.  Everyone may call it';
