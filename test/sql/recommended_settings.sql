-- Recommended settings: shape, rules, the three forms, and who sees what.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
SET search_path = pg_catalog;

SELECT attname, format_type(atttypid, NULL) AS type FROM pg_attribute
 WHERE attrelid = 'concertmaster.recommended_settings'::regclass AND attnum > 0 ORDER BY attnum;

-- Each is a setting of this server, has a reason, and its recommended value is one that the server takes.
SELECT setting, area
  FROM concertmaster.recommended_settings WHERE reason > '' AND setting IN (SELECT name FROM pg_settings)
 ORDER BY area, setting COLLATE "C";
SELECT setting, needs_restart FROM concertmaster.recommended_settings
 WHERE setting IN ('shared_buffers', 'shared_preload_libraries', 'work_mem', 'max_wal_size') ORDER BY setting;
SELECT count(*) FILTER (WHERE reason IS NULL OR reason ~ E'\n' OR current IS NULL OR recommended IS NULL) AS incomplete,
       count(*) FILTER (WHERE to_change <> (current <> recommended)) AS contradicting
  FROM concertmaster.recommended_settings;
BEGIN;
SELECT count(*) FILTER (WHERE set_config(r.setting, r.recommended, true) <> r.recommended) AS not_as_written
  FROM concertmaster.recommended_settings r JOIN pg_settings s ON s.name = r.setting
 WHERE s.context IN ('user', 'superuser');
ROLLBACK;

-- What a session has set for itself does not count.
BEGIN;
SET LOCAL log_min_duration_statement = 12345;
SELECT current <> '12345ms' AS unmoved FROM concertmaster.recommended_settings WHERE setting = 'log_min_duration_statement';
ROLLBACK;

-- Sizes follow what host_facts() says.
SELECT memory_bytes > 0 AS memory, cpus > 0 AS cpus, memory_source IN ('host', 'cgroup v1', 'cgroup v2') AS memory_source,
       cpu_source IN ('host', 'cgroup v1', 'cgroup v2') AS cpu_source
  FROM concertmaster.host_facts();
SELECT r.setting, r.bytes / h.memory_bytes BETWEEN f.low AND f.high AS fits
  FROM concertmaster.host_facts() h,
       (SELECT setting, pg_size_bytes(recommended)::float8 AS bytes FROM concertmaster.recommended_settings
         WHERE setting IN ('shared_buffers', 'effective_cache_size')) r
  JOIN (VALUES ('shared_buffers', 0.15, 0.40), ('effective_cache_size', 0.50, 0.90)) f (setting, low, high) USING (setting)
 ORDER BY r.setting;
SELECT recommended::int >= current_setting('concertmaster.max_workers')::int + current_setting('max_parallel_workers')::int AS workers_fit
  FROM concertmaster.recommended_settings WHERE setting = 'max_worker_processes';

-- Values as SHOW writes them.
SELECT v, m, concertmaster._setting_text(v, m) AS text
  FROM (VALUES (0, 'bytes'), (-1, 'bytes'), (8192, 'bytes'), (134217728, 'bytes'), (1073741824, 'bytes'), (1023, 'bytes'),
               (100, 'ms'), (1.5, 'ms'), (30000, 'ms'), (900000, 'ms'), (7200000, 'ms'), (86400000, 'ms'), (0, 'ms'),
               (1.10, NULL), (200, NULL), (NULL, 'ms')) x (v, m);
SELECT b, pg_size_pretty(concertmaster._round_size(b)) AS rounded
  FROM unnest('{0,1048575,268435456,1073741823,6319128576,27487790694400}'::numeric[]) b;

-- Lists of libraries: quoted and unquoted names, empty members, and none.
SELECT l, concertmaster._library_list(l) AS list
  FROM unnest(ARRAY['', 'a', 'pg_cron,auto_explain', ' pg_cron , auto_explain ', '"$libdir/a b", c', '"a, b"', 'a,,b', '"say ""hi"""', '$libdir/plugins/x']) l;

-- The three forms list exactly what is to be changed.
SELECT (SELECT count(*) FROM concertmaster.recommended_settings_sql()) = count(*) AS sql,
       (SELECT count(*) FROM concertmaster.recommended_settings_conf()) = count(*) AS conf,
       (SELECT count(*) FROM concertmaster.recommended_settings_cnpg() c WHERE c LIKE '    %: "%"  # %')
       = count(*) FILTER (WHERE setting NOT IN ('shared_preload_libraries', 'log_line_prefix')) AS cnpg
  FROM concertmaster.recommended_settings WHERE to_change;
SELECT s FROM concertmaster.recommended_settings_sql() s WHERE s ~ 'log_min_duration_statement|log_line_prefix|log_statement';
SELECT s FROM concertmaster.recommended_settings_conf() s WHERE s ~ '^log_min_duration_statement|^log_line_prefix|^log_statement';
SELECT s FROM concertmaster.recommended_settings_cnpg() s WHERE s ~ '^post|^  par|log_';

-- Who may not see a setting does not get it; the files of another folder are for superusers.
CREATE ROLE regress_settings_nobody;
SET ROLE regress_settings_nobody;
SELECT count(*) > 20 AS rows, count(*) FILTER (WHERE setting = 'shared_preload_libraries') AS hidden
  FROM concertmaster.recommended_settings;
SELECT count(*) > 10 AS lines FROM concertmaster.recommended_settings_sql();
SELECT * FROM concertmaster._host_facts_under('/');
RESET ROLE;
GRANT pg_monitor TO regress_settings_nobody;
SET ROLE regress_settings_nobody;
SELECT count(*) AS seen FROM concertmaster.recommended_settings WHERE setting = 'shared_preload_libraries';
RESET ROLE;
DROP ROLE regress_settings_nobody;
