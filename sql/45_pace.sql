/*
 * When large work may run: the window, free disk, the standbys.
 */

CREATE FUNCTION concertmaster.explain_build_window(
    build_window text DEFAULT NULL, at timestamptz DEFAULT NULL, duration interval DEFAULT NULL,
    OUT is_open boolean, OUT open_since timestamptz, OUT open_until timestamptz,
    OUT next_open timestamptz, OUT may_begin boolean, OUT timezone text)
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cm_explain_build_window';
COMMENT ON FUNCTION concertmaster.explain_build_window(text, timestamptz, interval) IS
'What a build window means at an instant, to try one before it is set.  Arguments: build_window, as setting concertmaster.build_window takes it, NULL: its present value; at: NULL: now; duration of an index build, NULL: of no matter.  Returns whether it is open; if it is, since when and until when (NULL: without end), windows that touch taken together; if not, when it opens next; whether a build of that duration may begin (one that would not end in time may not, except in the first half of the window if it takes longer than half of it); and the time zone that its times are of.  Errors: 22023 if the window cannot be read, 22008 for an instant out of range.  Open to everybody.';

CREATE FUNCTION concertmaster._build_conditions(
    OUT condition text, OUT object text, OUT ok boolean, OUT detail text, OUT until timestamptz,
    OUT size_bytes bigint, OUT free_bytes bigint, OUT floor_bytes bigint,
    OUT lag_bytes bigint, OUT lag interval)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'cm__build_conditions';
COMMENT ON FUNCTION concertmaster._build_conditions() IS
'Internal: the rows of view build_conditions.  Errors: those of looking up a file system.  For members of pg_monitor, as it names standbys.';
REVOKE ALL ON FUNCTION concertmaster._build_conditions() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION concertmaster._build_conditions() TO pg_monitor;

CREATE VIEW concertmaster.build_conditions AS
SELECT c.condition, c.object, c.ok, c.detail, c.until, c.size_bytes, c.free_bytes, c.floor_bytes, c.lag_bytes, c.lag
  FROM concertmaster._build_conditions() c;
COMMENT ON VIEW concertmaster.build_conditions IS 'what index builds and splits ask before they go on: one row for the build window, one per file system that holds tablespaces or WAL, one per standby connected now; for members of pg_monitor';
COMMENT ON COLUMN concertmaster.build_conditions.condition IS 'window, disk or standby';
COMMENT ON COLUMN concertmaster.build_conditions.object IS 'the setting concertmaster.build_window, or always; what is on the file system; application_name of the standby';
COMMENT ON COLUMN concertmaster.build_conditions.ok IS 'true if this is in nobody''s way: the window is open, more than the floor is free, the standby is not further behind than allowed';
COMMENT ON COLUMN concertmaster.build_conditions.detail IS 'more about it, in words: the window''s time zone, why WAL is kept, by how much the standby is too far behind';
COMMENT ON COLUMN concertmaster.build_conditions.until IS 'when the window closes, or opens; NULL: never, or not about the window';
COMMENT ON COLUMN concertmaster.build_conditions.size_bytes IS 'size of the file system in bytes';
COMMENT ON COLUMN concertmaster.build_conditions.free_bytes IS 'bytes of it that the server can still use';
COMMENT ON COLUMN concertmaster.build_conditions.floor_bytes IS 'bytes of it that have to stay free, by concertmaster.min_free_disk';
COMMENT ON COLUMN concertmaster.build_conditions.lag_bytes IS 'bytes of WAL that the standby has not replayed';
COMMENT ON COLUMN concertmaster.build_conditions.lag IS 'replay_lag as pg_stat_replication shows it; a standby whose replay stands still goes on showing the last, so workers measure';
REVOKE ALL ON concertmaster.build_conditions FROM PUBLIC;
GRANT SELECT ON concertmaster.build_conditions TO pg_monitor;
