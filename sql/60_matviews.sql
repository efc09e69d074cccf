/*
 * Materialized views that are kept fresh.
 *
 * Every function checks that its caller owns the view, so all of them are
 * executable by PUBLIC.
 */

CREATE FUNCTION concertmaster.manage_matview(
    view regclass,
    every interval,
    allow_blocking boolean DEFAULT false,
    incremental boolean DEFAULT true,
    allow_inexact boolean DEFAULT false,
    timezone text DEFAULT NULL,
    history boolean DEFAULT NULL)
RETURNS text
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cm_manage_matview';
COMMENT ON FUNCTION concertmaster.manage_matview(regclass, interval, boolean, boolean, boolean, text, boolean) IS
'view: a materialized view; every: period of its refresh, at least a second, NULL if something else (pg_cron) refreshes it on schedule; allow_blocking: refresh it even without a unique index, its readers waiting; incremental: where its query allows it, have its tables log their changes and compute only the groups that changed; allow_inexact: so too where results depend on the order of rows, such as sums of floating-point numbers; timezone: the time zone that it is refreshed in, NULL keeps what it was, at first that of the session; history: keep the rows of partitions that retire, in a table <view>_history and, together with the view''s, in a view <view>_with_history, both made in its schema and for its owner; for an incremental view that is grouped by the time, or a bucket of it, by which its tables are partitioned; NULL keeps what it was, at first false, and what was kept stays in any case.  Makes the job that refreshes it, at once if it is not populated or its tables are to log; called again, it changes the settings.  Returns how it would be refreshed now: incremental, concurrently, blocking or first fill.  Errors: 42809 not a materialized view, 42501 not the owner, 22023 every or timezone, 55000 no usable unique index, not incremental and blocking not allowed, or a history not possible, 42P07 the name of a history is taken, 22004 a null view, 25006 on a standby.  For the view''s owner';

CREATE FUNCTION concertmaster.unmanage_matview(view regclass)
RETURNS void
LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cm_unmanage_matview';
COMMENT ON FUNCTION concertmaster.unmanage_matview(regclass) IS
'view: a managed materialized view.  Removes its settings and its job, and its tables stop logging for it; the view, and its history, stay as they are.  Errors: 42704 not managed, 42809 not a materialized view, 42501 not the owner, 25006 on a standby.  For the view''s owner';

CREATE FUNCTION concertmaster.unmanage_matview(view text)
RETURNS void
LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cm_unmanage_matview_by_name';
COMMENT ON FUNCTION concertmaster.unmanage_matview(text) IS
'view: a managed materialized view, named as in SQL, with its schema if the view was dropped.  Otherwise as unmanage_matview(regclass)';

CREATE FUNCTION concertmaster.refresh(
    view regclass,
    OUT mode text,
    OUT reason text,
    OUT duration double precision,
    OUT groups bigint,
    OUT inserted bigint,
    OUT deleted bigint)
RETURNS record
LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cm_refresh';
COMMENT ON FUNCTION concertmaster.refresh(regclass) IS
'view: a materialized view, managed or not.  Refreshes it in the caller''s transaction: from the log of its tables'' changes where it is managed, its tables log and the transaction is READ COMMITTED (mode incremental, or full if all of it had to be computed), concurrently where it has a unique index, as first fill where it is not populated, blocking its readers only if manage_matview() allowed that.  Returns the mode, why it was that one, the time it took in milliseconds, how many changed groups were computed (NULL: all), and how many rows were written to the view and removed from it (NULL: not known); an updated row counts as both.  Errors: 42809 not a materialized view, 42501 not the owner, 55000 no usable unique index and blocking not allowed, 55P03 a lock was not to be had, 25006 on a standby, and whatever the view''s query raises.  For the view''s owner';

-- The view below calls this as its reader; it shows catalog rows only.
CREATE FUNCTION concertmaster._matview_mode(
    view oid,
    allow_blocking boolean,
    incremental boolean,
    allow_inexact boolean,
    timezone text,
    OUT mode text,
    OUT reason text)
RETURNS record
LANGUAGE c STRICT STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cm__matview_mode';
COMMENT ON FUNCTION concertmaster._matview_mode(oid, boolean, boolean, boolean, text) IS
'view: a materialized view; allow_blocking, incremental, allow_inexact, timezone: as in manage_matview().  Returns how it would be refreshed now, and why; NULL if it is gone.  Takes no lock on it';

CREATE VIEW concertmaster.matviews WITH (security_barrier) AS
SELECT v.schema_name,
       v.view_name,
       p.mode,
       CASE WHEN p.mode <> 'incremental' THEN p.reason
            WHEN s.not_logging IS NOT NULL THEN s.not_logging
            WHEN k.view IS NULL THEN 'its tables do not log their changes yet'
            WHEN k.stale IS NOT NULL THEN 'all of it next: ' || k.stale
            ELSE p.reason END AS reason,
       v.every,
       v.allow_blocking,
       v.timezone,
       c.relispopulated AS populated,
       s.last_refresh,
       now() - s.last_refresh AS lag,
       CASE WHEN k.view IS NOT NULL THEN
            (SELECT count(*) FROM concertmaster.matview_log l WHERE l.view = c.oid) END AS pending,
       s.last_mode,
       s.last_reason,
       s.last_duration,
       s.last_groups,
       s.last_inserted,
       s.last_deleted,
       t.next_run,
       z.size,
       t.failures_in_row AS failures,
       t.last_sqlstate AS sqlstate,
       t.last_error,
       CASE WHEN v.history_name IS NOT NULL THEN format('%I.%I', v.history_schema, v.history_name) END AS history,
       pg_get_userbyid(coalesce(c.relowner, r.oid)) AS owner
  FROM concertmaster.matview v
  LEFT JOIN concertmaster.matview_state s USING (schema_name, view_name)
  LEFT JOIN concertmaster.relation_map m ON m.schema_name = v.schema_name AND m.relation_name = v.view_name
  LEFT JOIN pg_class c ON c.oid = coalesce(
       (SELECT k.oid FROM pg_class k WHERE k.oid = m.relid),
       (SELECT k.oid FROM pg_class k JOIN pg_namespace n ON n.oid = k.relnamespace
         WHERE n.nspname = v.schema_name AND k.relname = v.view_name))
  LEFT JOIN concertmaster.job j ON j.kind = 'refresh' AND j.schema_name = v.schema_name AND j.relation_name = v.view_name
  LEFT JOIN concertmaster.job_state t ON t.job_id = j.job_id
  LEFT JOIN pg_roles r ON r.rolname = j.owner
  LEFT JOIN LATERAL concertmaster._matview_mode(c.oid, v.allow_blocking, v.incremental, v.allow_inexact, v.timezone) p ON true
  LEFT JOIN concertmaster.matview_track k ON k.view = c.oid
 CROSS JOIN LATERAL (
       SELECT CASE WHEN bool_and(b.bytes IS NOT NULL) THEN sum(b.bytes)::bigint END AS size
         FROM (SELECT concertmaster._relation_size(c.oid) AS bytes
               UNION ALL
               SELECT concertmaster._relation_size(c.reltoastrelid) WHERE c.reltoastrelid <> 0
               UNION ALL
               SELECT concertmaster._relation_size(i.indexrelid) FROM pg_index i
                WHERE i.indrelid IN (c.oid, c.reltoastrelid)) b) z
 WHERE pg_has_role(coalesce(c.relowner, r.oid), 'USAGE') OR pg_has_role('pg_monitor', 'USAGE');
COMMENT ON VIEW concertmaster.matviews IS 'one row per managed materialized view: how and when it is refreshed, how stale it is; a role sees its own views, pg_monitor all';
COMMENT ON COLUMN concertmaster.matviews.schema_name IS 'schema of the view';
COMMENT ON COLUMN concertmaster.matviews.view_name IS 'name of the view';
COMMENT ON COLUMN concertmaster.matviews.mode IS 'how it would be refreshed now: incremental, concurrently, first fill, blocking or none';
COMMENT ON COLUMN concertmaster.matviews.reason IS 'why so';
COMMENT ON COLUMN concertmaster.matviews.every IS 'period of the refresh; NULL: something else refreshes it on schedule';
COMMENT ON COLUMN concertmaster.matviews.allow_blocking IS 'true: may be refreshed while its readers wait';
COMMENT ON COLUMN concertmaster.matviews.timezone IS 'time zone in which it is refreshed';
COMMENT ON COLUMN concertmaster.matviews.populated IS 'whether it can be read';
COMMENT ON COLUMN concertmaster.matviews.last_refresh IS 'start of the last successful refresh by concertmaster; refreshes by others are not seen';
COMMENT ON COLUMN concertmaster.matviews.lag IS 'time since last_refresh: how old its contents can be';
COMMENT ON COLUMN concertmaster.matviews.pending IS 'changed groups in the log, which the next refresh computes; one that several transactions changed counts for each; NULL: its tables do not log';
COMMENT ON COLUMN concertmaster.matviews.last_mode IS 'how it was last refreshed';
COMMENT ON COLUMN concertmaster.matviews.last_reason IS 'why so';
COMMENT ON COLUMN concertmaster.matviews.last_duration IS 'time that took, in milliseconds';
COMMENT ON COLUMN concertmaster.matviews.last_groups IS 'changed groups that it computed; NULL: all';
COMMENT ON COLUMN concertmaster.matviews.last_inserted IS 'rows that it wrote to the view; NULL: not known';
COMMENT ON COLUMN concertmaster.matviews.last_deleted IS 'rows that it removed from the view; NULL: not known';
COMMENT ON COLUMN concertmaster.matviews.next_run IS 'when it is due; NULL: only on request';
COMMENT ON COLUMN concertmaster.matviews.size IS 'bytes with indexes and TOAST; NULL while something holds it exclusively';
COMMENT ON COLUMN concertmaster.matviews.failures IS 'failed refreshes since the last success';
COMMENT ON COLUMN concertmaster.matviews.sqlstate IS 'SQLSTATE of the last failure, NULL after a success';
COMMENT ON COLUMN concertmaster.matviews.last_error IS 'text of the last failure, NULL after a success';
COMMENT ON COLUMN concertmaster.matviews.history IS 'table that keeps its rows before partitions retire; NULL: none does';
COMMENT ON COLUMN concertmaster.matviews.owner IS 'owner of the view';
GRANT SELECT ON concertmaster.matviews TO PUBLIC;
