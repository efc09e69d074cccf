/*
 * What this machine offers, and small helpers of view recommended_settings.
 */

CREATE FUNCTION concertmaster.host_facts(OUT memory_bytes bigint, OUT memory_source text,
                                         OUT cpus double precision, OUT cpu_source text, OUT disk_rotates boolean)
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cm_host_facts';
COMMENT ON FUNCTION concertmaster.host_facts() IS
'Returns the memory in bytes and the processors that this server may use, each with its source (cgroup v2, cgroup v1 or host: the least of them), and whether the disk of the data directory rotates; NULL: not known.  Everyone may call it';

CREATE FUNCTION concertmaster._host_facts_under(root text, OUT memory_bytes bigint, OUT memory_source text,
                                                OUT cpus double precision, OUT cpu_source text, OUT disk_rotates boolean)
LANGUAGE c STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cm__host_facts_under';
COMMENT ON FUNCTION concertmaster._host_facts_under(text) IS
'root: directory whose proc and sys are read instead of the machine''s, for tests.  Returns what host_facts() does';
-- Reads files of the caller's choice.
REVOKE ALL ON FUNCTION concertmaster._host_facts_under(text) FROM PUBLIC;

CREATE FUNCTION concertmaster._setting_text(value numeric, measure text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN measure = 'bytes' AND value > 0 THEN
        CASE WHEN value % 1073741824 = 0 THEN (value / 1073741824)::bigint || 'GB'
             WHEN value % 1048576 = 0 THEN (value / 1048576)::bigint || 'MB'
             WHEN value % 1024 = 0 THEN (value / 1024)::bigint || 'kB'
             ELSE value::bigint || 'B' END
    WHEN measure = 'ms' AND value > 0 THEN
        CASE WHEN value % 86400000 = 0 THEN (value / 86400000)::bigint || 'd'
             WHEN value % 3600000 = 0 THEN (value / 3600000)::bigint || 'h'
             WHEN value % 60000 = 0 THEN (value / 60000)::bigint || 'min'
             WHEN value % 1000 = 0 THEN (value / 1000)::bigint || 's'
             ELSE trim_scale(value) || 'ms' END
    ELSE trim_scale(value)::text
END;
COMMENT ON FUNCTION concertmaster._setting_text(numeric, text) IS
'value: a setting in bytes (measure bytes), milliseconds (ms) or plainly (any other measure).  Returns it as SHOW would, with the largest unit that fits exactly.  Everyone may call it: view recommended_settings does, as its reader';

CREATE FUNCTION concertmaster._round_size(bytes numeric)
RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN floor(bytes / greatest(1048576, 2 ^ (floor(log(2, greatest(bytes, 1))) - 4)))
       * greatest(1048576, 2 ^ (floor(log(2, greatest(bytes, 1))) - 4));
COMMENT ON FUNCTION concertmaster._round_size(numeric) IS
'bytes: a size.  Returns it rounded down to whole megabytes and five binary digits, so that it reads well.  Everyone may call it: view recommended_settings does, as its reader';

CREATE FUNCTION concertmaster._library_list(setting text)
RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT coalesce(array_agg(btrim(replace(coalesce(m.m[1], m.m[2]), '""', '"')) ORDER BY m.n), '{}')
      FROM regexp_matches(setting, '"((?:[^"]|"")*)"|([^",]*[^",[:space:]])', 'g') WITH ORDINALITY AS m (m, n);
END;
COMMENT ON FUNCTION concertmaster._library_list(text) IS
'setting: text of shared_preload_libraries.  Returns its members in order, without quotes.  Everyone may call it: view recommended_settings does, as its reader';
