/*
 * Partitions: sets that are rolled forward, and single months.
 *
 * Every function checks that its caller owns the table, so all of them are
 * executable by PUBLIC, except the planner's window for tests.
 */

CREATE FUNCTION concertmaster.create_monthly_partition(table_name text, start_date date)
RETURNS void
LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cm_create_monthly_partition';
COMMENT ON FUNCTION concertmaster.create_monthly_partition(text, date) IS
'table_name: a table partitioned by range of one date, timestamp or timestamptz column, named as in SQL; start_date: any day of the month.  Makes the partition table_YYYY_MM for that month by CREATE TABLE (LIKE ...) and ATTACH, which do not wait behind readers or writers; does nothing if a partition holds exactly that month.  Month bounds are in the time zone of the table''s partition set, else of the session.  Errors: 42P01 no such table, 42501 not the owner, 42809 not partitioned, 0A000 another kind of partitioning, 42804 another type of key, 42P17 overlaps an existing partition, 42P07 the name is taken, 55P03 a lock was not to be had, 25006 on a standby.  For the table''s owner';

CREATE FUNCTION concertmaster.create_partition_set(
    parent regclass,
    period interval DEFAULT NULL,
    ahead integer DEFAULT 4,
    start_at timestamptz DEFAULT NULL,
    timezone text DEFAULT 'UTC',
    retention interval DEFAULT NULL,
    retention_keep boolean DEFAULT true,
    retention_schema name DEFAULT NULL,
    width bigint DEFAULT NULL,
    start_value bigint DEFAULT NULL,
    retention_width bigint DEFAULT NULL,
    epoch text DEFAULT NULL,
    OUT partition name,
    OUT range_from timestamptz,
    OUT range_to timestamptz,
    OUT action text,
    OUT bounds text,
    OUT rows_to_move bigint,
    OUT detail text)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cm_create_partition_set';
COMMENT ON FUNCTION concertmaster.create_partition_set(regclass, interval, integer, timestamptz, text, interval, boolean, name, bigint, bigint, bigint, text) IS
'parent: a table partitioned by range of one column of type date, timestamp, timestamptz, uuid (version 7) or integer; period: width of a partition, months or a whole number of seconds; ahead: partitions kept ready after the present one; start_at: time that the oldest partition to make holds, NULL the present; timezone: zone of the bounds; retention: age at which a partition retires, that is when all it can hold is older, NULL never; retention_keep: true detaches it and keeps the table, false drops it; retention_schema: where kept ones go, NULL nowhere; for an integer key either epoch, what it counts since 1970 (seconds, milliseconds, microseconds or nanoseconds), or, instead of period, start_at and retention, in numbers: width, start_value and retention_width, reckoned from the greatest value in the table.  Makes what is missing, keeps partitions of any name and width that exist, and leaves a job that does the same every hour and retires partitions.  Called again, it changes the settings.  Returns each partition with its bounds (range_from and range_to: NULL for numbers; bounds: as in SQL) and kept, created or deferred (left to the job: a lock was not to be had, or there are more than 200 to make, or attaching locks a default partition or a table at the other end of a foreign key, then all but one, or rows of the default partition go into it, rows_to_move of them; the present and the future come first).  Errors: 42501 not the owner, 42809 not partitioned, 0A000 another kind of partitioning, 42804 another type of key, 22023 period, width, ahead, timezone, retention or epoch, 3F000 no such retention_schema, 22008 start_at, 22004 a null argument, 42P07 a name is taken, 54000 too many partitions, 25006 on a standby.  For the table''s owner';

CREATE FUNCTION concertmaster.alter_partition_set(
    parent regclass,
    period interval DEFAULT NULL,
    ahead integer DEFAULT NULL,
    start_at timestamptz DEFAULT NULL,
    timezone text DEFAULT NULL,
    retention interval DEFAULT NULL,
    retention_keep boolean DEFAULT NULL,
    retention_schema name DEFAULT NULL,
    width bigint DEFAULT NULL,
    start_value bigint DEFAULT NULL,
    retention_width bigint DEFAULT NULL,
    OUT partition name,
    OUT range_from timestamptz,
    OUT range_to timestamptz,
    OUT action text,
    OUT bounds text,
    OUT rows_to_move bigint,
    OUT detail text)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cm_alter_partition_set';
COMMENT ON FUNCTION concertmaster.alter_partition_set(regclass, interval, integer, timestamptz, text, interval, boolean, name, bigint, bigint, bigint) IS
'Arguments as in create_partition_set(); NULL leaves a setting as it is, a retention or retention_width of 0 means never, an empty retention_schema nowhere.  Changes a set and makes what is missing then; partitions that exist stay as they are until the next roll.  Returns and errors as create_partition_set(), and 42704 if the table is no set.  For the table''s owner';

CREATE FUNCTION concertmaster.forget_partition_set(parent regclass)
RETURNS void
LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cm_forget_partition_set';
COMMENT ON FUNCTION concertmaster.forget_partition_set(regclass) IS
'parent: the table of a partition set.  Removes its settings, its job, and tables that it made but did not come to attach; the table and its partitions stay as they are.  Errors: 42704 not a set, 42501 not the owner, 25006 on a standby.  For the table''s owner';

CREATE FUNCTION concertmaster.forget_partition_set(parent text)
RETURNS void
LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cm_forget_partition_set_by_name';
COMMENT ON FUNCTION concertmaster.forget_partition_set(text) IS
'parent: the table of a partition set, named as in SQL, with its schema if the table was dropped.  Otherwise as forget_partition_set(regclass)';

CREATE FUNCTION concertmaster.plan_partitions(
    parent regclass,
    OUT partition name,
    OUT range_from timestamptz,
    OUT range_to timestamptz,
    OUT action text,
    OUT bounds text,
    OUT rows_to_move bigint,
    OUT detail text)
RETURNS SETOF record
LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cm_plan_partitions';
COMMENT ON FUNCTION concertmaster.plan_partitions(regclass) IS
'parent: the table of a partition set.  Returns what the next roll does, and changes nothing: each partition that stays (kept; detail says if it should retire and what references it), that is made (create: detail says if its name is taken; drain: rows_to_move rows of the default partition go into it; rebind: the default partition itself becomes it; split: rows_to_move rows, too many to be moved while others wait, are copied beside it and exchanged for it; detail says how much disk that takes, or what is in the way and what to do), and that retires (finalize: ends a DETACH that was interrupted; detach; drop).  range_from and range_to are NULL for numbers and for a default partition; bounds is as in SQL.  Reads the default partition if there is one with rows.  Errors: 42704 not a set, 42501 not the owner, 55P03 a table is locked.  For the table''s owner';

CREATE PROCEDURE concertmaster.roll_partitions(parent regclass DEFAULT NULL)
LANGUAGE c
AS 'MODULE_PATHNAME', 'cm_roll_partitions';
COMMENT ON PROCEDURE concertmaster.roll_partitions(regclass) IS
'parent: the table of a partition set; NULL: every set that the caller owns.  Makes the partitions that are missing, moves rows of a default partition where they belong and retires what has had its time, now, in workers, one transaction per step, and waits for them.  Sets with nothing to do need no worker.  Errors: 25001 inside a transaction block, 42704 not a set, 42501 not the owner, 55000 some of several sets failed (the others are done), 53000 no worker to be had, 25006 on a standby, and whatever made a single set fail.  For the table''s owner';

-- For tests: the planner is pure, so it can be asked about any time and zone.
CREATE FUNCTION concertmaster._partition_plan(
    table_name text,
    key_type regtype,
    period interval,
    ahead integer,
    start_at timestamptz,
    timezone text,
    at timestamptz,
    epoch text DEFAULT NULL,
    OUT partition name,
    OUT range_from timestamptz,
    OUT range_to timestamptz,
    OUT action text,
    OUT bounds text,
    OUT rows_to_move bigint,
    OUT detail text)
RETURNS SETOF record
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cm__partition_plan';
COMMENT ON FUNCTION concertmaster._partition_plan(text, regtype, interval, integer, timestamptz, text, timestamptz, text) IS
'The partitions that a set with these settings would make at the given time if it had none; for tests';
REVOKE ALL ON FUNCTION concertmaster._partition_plan(text, regtype, interval, integer, timestamptz, text, timestamptz, text) FROM PUBLIC;

-- The views below call these two as their reader; both show catalog rows only.
CREATE FUNCTION concertmaster._partitions(
    parent oid,
    timezone text,
    epoch text,
    OUT leaf oid,
    OUT range_from timestamptz,
    OUT range_to timestamptz,
    OUT is_default boolean,
    OUT is_pending boolean)
RETURNS SETOF record
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cm__partitions';
COMMENT ON FUNCTION concertmaster._partitions(oid, text, text) IS
'parent: a table; timezone: zone in which bounds without one are read; epoch: what an integer key counts, or NULL.  Returns its partitions by time range (NULL for numbers); no row if it has none or is gone.  Takes no lock on any of them';

CREATE FUNCTION concertmaster._partition_summary(
    parent oid,
    timezone text,
    epoch text,
    OUT partitions integer,
    OUT first_bound timestamptz,
    OUT last_bound timestamptz,
    OUT covered_until timestamptz,
    OUT last_value bigint)
RETURNS record
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cm__partition_summary';
COMMENT ON FUNCTION concertmaster._partition_summary(oid, text, text) IS
'parent: a table; timezone: zone in which bounds without one are read; epoch: what an integer key counts, or NULL.  Returns how many partitions it has, their outermost bounds, and until when every time from now on has a partition; for numbers the last bound alone';

CREATE VIEW concertmaster.partition_sets WITH (security_barrier) AS
SELECT s.schema_name,
       s.table_name,
       s.period,
       s.width,
       s.ahead,
       p.partitions,
       p.first_bound,
       p.last_bound,
       CASE WHEN isfinite(p.covered_until) THEN greatest(p.covered_until - now(), interval '0') END AS runway,
       CASE WHEN s.width IS NOT NULL THEN greatest(p.last_value::numeric - coalesce(t.newest_value, s.start_value, 0), 0) END AS values_left,
       s.retention,
       s.retention_width,
       s.retention_keep,
       s.retention_schema,
       s.start_at,
       s.start_value,
       s.timezone,
       s.epoch,
       t.last_roll,
       t.last_success,
       t.deferred,
       t.deferred_since,
       t.blocked_by,
       t.default_rows,
       k.kept_back,
       t.failures,
       t.first_failure,
       t.last_failure,
       t.sqlstate,
       t.last_error,
       pg_get_userbyid(coalesce(c.relowner, r.oid)) AS owner
  FROM concertmaster.partition_set s
  LEFT JOIN concertmaster.partition_set_state t USING (schema_name, table_name)
  LEFT JOIN concertmaster.relation_map m ON m.schema_name = s.schema_name AND m.relation_name = s.table_name
  LEFT JOIN pg_class c ON c.oid = coalesce(
       (SELECT k.oid FROM pg_class k WHERE k.oid = m.relid),
       (SELECT k.oid FROM pg_class k JOIN pg_namespace n ON n.oid = k.relnamespace
         WHERE n.nspname = s.schema_name AND k.relname = s.table_name))
  LEFT JOIN concertmaster.job j ON j.kind = 'roll' AND j.schema_name = s.schema_name AND j.relation_name = s.table_name
  LEFT JOIN pg_roles r ON r.rolname = j.owner
  LEFT JOIN LATERAL concertmaster._partition_summary(c.oid, s.timezone, s.epoch) p ON true
  LEFT JOIN LATERAL (
       SELECT count(*) AS kept_back FROM concertmaster.partition_state b
        WHERE b.schema_name = s.schema_name AND b.table_name = s.table_name AND b.state = 'referenced') k ON true
 WHERE pg_has_role(coalesce(c.relowner, r.oid), 'USAGE') OR pg_has_role('pg_monitor', 'USAGE');
COMMENT ON VIEW concertmaster.partition_sets IS 'one row per partition set: settings, bounds, how long partitions reach, how the last roll went; a role sees its own sets, pg_monitor all';
COMMENT ON COLUMN concertmaster.partition_sets.schema_name IS 'schema of the partitioned table';
COMMENT ON COLUMN concertmaster.partition_sets.table_name IS 'name of the partitioned table';
COMMENT ON COLUMN concertmaster.partition_sets.period IS 'width of one partition, where the key is a time';
COMMENT ON COLUMN concertmaster.partition_sets.width IS 'width of one partition, where the key is a number';
COMMENT ON COLUMN concertmaster.partition_sets.ahead IS 'number of whole partitions kept ready after the present one';
COMMENT ON COLUMN concertmaster.partition_sets.partitions IS 'number of partitions, a default partition included';
COMMENT ON COLUMN concertmaster.partition_sets.first_bound IS 'lower bound of the oldest partition';
COMMENT ON COLUMN concertmaster.partition_sets.last_bound IS 'upper bound of the newest partition';
COMMENT ON COLUMN concertmaster.partition_sets.runway IS 'for how long from now every time has a partition; NULL: without end';
COMMENT ON COLUMN concertmaster.partition_sets.values_left IS 'how many numbers after the greatest one (at the last roll) have a partition; NULL where the key is a time';
COMMENT ON COLUMN concertmaster.partition_sets.retention IS 'age at which partitions retire; NULL: never';
COMMENT ON COLUMN concertmaster.partition_sets.retention_width IS 'how far behind the newest number partitions retire; NULL: never';
COMMENT ON COLUMN concertmaster.partition_sets.retention_keep IS 'true: retired partitions stay as tables of their own; false: they are dropped';
COMMENT ON COLUMN concertmaster.partition_sets.retention_schema IS 'schema that kept ones are moved to; NULL: they stay where they are';
COMMENT ON COLUMN concertmaster.partition_sets.start_at IS 'time that the oldest partition to make holds; NULL: the present';
COMMENT ON COLUMN concertmaster.partition_sets.start_value IS 'number that the oldest partition to make holds; NULL: the present';
COMMENT ON COLUMN concertmaster.partition_sets.timezone IS 'time zone of the bounds';
COMMENT ON COLUMN concertmaster.partition_sets.epoch IS 'what an integer key counts since 1970; NULL: the key is no such integer';
COMMENT ON COLUMN concertmaster.partition_sets.last_roll IS 'when a worker last looked at the set';
COMMENT ON COLUMN concertmaster.partition_sets.last_success IS 'when a worker last left nothing to do';
COMMENT ON COLUMN concertmaster.partition_sets.deferred IS 'the step that waits for a lock, in words; NULL: none does';
COMMENT ON COLUMN concertmaster.partition_sets.deferred_since IS 'since when a step waits for a lock; NULL: none does';
COMMENT ON COLUMN concertmaster.partition_sets.blocked_by IS 'pid that held the lock at the last try; NULL also for a prepared transaction';
COMMENT ON COLUMN concertmaster.partition_sets.default_rows IS 'rows that the last roll left in the default partition: older than the retention, beyond what is made ahead, or with a null key; NULL: no default partition';
COMMENT ON COLUMN concertmaster.partition_sets.kept_back IS 'number of partitions that should have retired, but that foreign keys reference; see partitions.detail';
COMMENT ON COLUMN concertmaster.partition_sets.failures IS 'failures since the last success';
COMMENT ON COLUMN concertmaster.partition_sets.first_failure IS 'first failure since the last success';
COMMENT ON COLUMN concertmaster.partition_sets.last_failure IS 'last failure';
COMMENT ON COLUMN concertmaster.partition_sets.sqlstate IS 'SQLSTATE of the last failure, NULL after a success';
COMMENT ON COLUMN concertmaster.partition_sets.last_error IS 'text of the last failure, NULL after a success';
COMMENT ON COLUMN concertmaster.partition_sets.owner IS 'owner of the table';
GRANT SELECT ON concertmaster.partition_sets TO PUBLIC;

CREATE VIEW concertmaster.partitions WITH (security_barrier) AS
SELECT s.schema_name,
       s.table_name,
       n.nspname AS partition_schema,
       l.relname AS partition,
       p.range_from,
       p.range_to,
       p.is_default,
       CASE WHEN p.is_pending THEN 'detaching'
            WHEN NOT p.attached THEN 'detached'
            WHEN b.state IS NOT NULL THEN b.state
            ELSE 'attached' END AS state,
       z.size,
       CASE WHEN l.reltuples >= 0 THEN l.reltuples::bigint END AS row_estimate,
       pg_get_expr(l.relpartbound, l.oid) AS bounds,
       b.since,
       b.detail
  FROM concertmaster.partition_set s
  LEFT JOIN concertmaster.relation_map m ON m.schema_name = s.schema_name AND m.relation_name = s.table_name
  JOIN pg_class c ON c.oid = coalesce(
       (SELECT k.oid FROM pg_class k WHERE k.oid = m.relid),
       (SELECT k.oid FROM pg_class k JOIN pg_namespace n ON n.oid = k.relnamespace
         WHERE n.nspname = s.schema_name AND k.relname = s.table_name))
 CROSS JOIN LATERAL (
       SELECT a.*, true AS attached FROM concertmaster._partitions(c.oid, s.timezone, s.epoch) a
        UNION ALL
       SELECT d.relid, NULL, NULL, false, false, false FROM concertmaster.partition_state d
        WHERE d.schema_name = s.schema_name AND d.table_name = s.table_name
          AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = d.relid)) p
  JOIN pg_class l ON l.oid = p.leaf
  JOIN pg_namespace n ON n.oid = l.relnamespace
  LEFT JOIN concertmaster.partition_state b ON b.relid = l.oid AND b.schema_name = s.schema_name AND b.table_name = s.table_name
 CROSS JOIN LATERAL (
       SELECT CASE WHEN bool_and(b.bytes IS NOT NULL) THEN sum(b.bytes)::bigint END AS size
         FROM (SELECT concertmaster._relation_size(l.oid) AS bytes
               UNION ALL
               SELECT concertmaster._relation_size(l.reltoastrelid) WHERE l.reltoastrelid <> 0
               UNION ALL
               SELECT concertmaster._relation_size(i.indexrelid) FROM pg_index i
                WHERE i.indrelid IN (l.oid, l.reltoastrelid)) b) z
 WHERE pg_has_role(c.relowner, 'USAGE') OR pg_has_role('pg_monitor', 'USAGE');
COMMENT ON VIEW concertmaster.partitions IS 'one row per partition of each partition set; a role sees its own, pg_monitor all; never waits for a lock';
COMMENT ON COLUMN concertmaster.partitions.schema_name IS 'schema of the partitioned table';
COMMENT ON COLUMN concertmaster.partitions.table_name IS 'name of the partitioned table';
COMMENT ON COLUMN concertmaster.partitions.partition_schema IS 'schema of the partition';
COMMENT ON COLUMN concertmaster.partitions.partition IS 'name of the partition';
COMMENT ON COLUMN concertmaster.partitions.range_from IS 'lower bound, inclusive; -infinity: MINVALUE; NULL for a default partition and where the key is a number';
COMMENT ON COLUMN concertmaster.partitions.range_to IS 'upper bound, exclusive; infinity: MAXVALUE; NULL for a default partition and where the key is a number';
COMMENT ON COLUMN concertmaster.partitions.is_default IS 'true for the default partition';
COMMENT ON COLUMN concertmaster.partitions.state IS 'attached; referenced (should retire, but see detail); retiring (its detaching is due); detaching (DETACH CONCURRENTLY waits for readers; its rows are not seen any more); detached (about to be dropped or moved)';
COMMENT ON COLUMN concertmaster.partitions.size IS 'bytes with indexes and TOAST; NULL while something holds it exclusively';
COMMENT ON COLUMN concertmaster.partitions.row_estimate IS 'estimated number of rows; NULL before the first vacuum or analyze';
COMMENT ON COLUMN concertmaster.partitions.bounds IS 'bounds as in SQL';
COMMENT ON COLUMN concertmaster.partitions.since IS 'when it came into the state; NULL: attached';
COMMENT ON COLUMN concertmaster.partitions.detail IS 'what references a partition that should retire, and how many rows';
GRANT SELECT ON concertmaster.partitions TO PUBLIC;
