/*
 * Converting a live table to a partitioned one: doing it.
 *
 * The procedures check that their caller owns the table, so they are
 * executable by PUBLIC.
 */

CREATE PROCEDURE concertmaster.convert_to_partitioned(
    table_name regclass,
    column_name name,
    period interval DEFAULT NULL,
    foreign_keys text DEFAULT NULL,
    accept text[] DEFAULT '{}',
    timezone text DEFAULT 'UTC',
    width bigint DEFAULT NULL,
    epoch text DEFAULT NULL,
    ahead integer DEFAULT 4,
    retention interval DEFAULT NULL)
LANGUAGE c
AS 'MODULE_PATHNAME', 'cm_convert_to_partitioned';
COMMENT ON PROCEDURE concertmaster.convert_to_partitioned(regclass, name, interval, text, text[], text, bigint, text, integer, interval) IS
'Turns a plain table that is in use into a partitioned one of the same name, in place: its rows stay where they are, as the first partition.  Done by a job, which this waits for, showing its progress as notices; called again it goes on where it was.  Arguments: those of explain_conversion(), which shows what it meets and every step; ahead: partitions that the set shall have ahead; retention: age at which they retire, NULL: never.  What others queue behind is done under concertmaster.ddl_deadline and tried again; if that does not come off, a WARNING says so and the job goes on in the background.  Until the tables are exchanged, in one transaction, the table is as it was, and cancel_conversion() removes what stands beside it; cancelling the call stops it, until the next call or cancel_conversion().  View conversions shows how far it is.  Errors: 55000 something is refused or has to be accepted first, with a line for each; 42501 not the owner, 42703 no such column, 22023 and 22004 as explain_conversion(); 25001 inside a transaction block, 25006 on a standby, 53000 without a free worker; the error of a step.  For the table''s owner';

CREATE PROCEDURE concertmaster.cancel_conversion(table_name regclass)
LANGUAGE c
AS 'MODULE_PATHNAME', 'cm_cancel_conversion';
COMMENT ON PROCEDURE concertmaster.cancel_conversion(regclass) IS
'Ends the conversion of a table before the tables are exchanged: a run that is going on is cancelled, and the partitioned table, the constraint and the indexes that were made for it are dropped, without blocking.  A key that was made NOT NULL stays so.  Argument: the table.  Errors: 42704 it is not being converted; 55000 it is partitioned already; 42501 not the owner; 25001 inside a transaction block, 25006 on a standby.  For the table''s owner';

CREATE VIEW concertmaster.conversions WITH (security_barrier) AS
SELECT coalesce(p.oid, t.oid)::regclass AS table_name, c.state, g.activity,
       c.column_name, c.period, c.width, c.bound, CASE WHEN p.oid IS NOT NULL THEN t.oid::regclass END AS old_part,
       c.started_at, c.swapped_at, c.ended_at, s.last_status, s.last_error
  FROM concertmaster.conversion c
  LEFT JOIN pg_catalog.pg_class t ON t.oid = c.relid
  LEFT JOIN pg_catalog.pg_class p ON p.oid = c.parent AND c.swapped_at IS NOT NULL
  LEFT JOIN concertmaster.relation_map m ON m.relid = coalesce(p.oid, t.oid)
  LEFT JOIN concertmaster.job j ON j.kind = 'convert' AND (j.schema_name, j.relation_name) = (m.schema_name, m.relation_name)
  LEFT JOIN concertmaster.job_state s USING (job_id)
  LEFT JOIN concertmaster.progress_jobs g USING (job_id)
 WHERE pg_catalog.pg_has_role(coalesce(p.relowner, t.relowner), 'USAGE');
GRANT SELECT ON concertmaster.conversions TO PUBLIC;
COMMENT ON VIEW concertmaster.conversions IS 'tables of the current user that are being, or were, converted to partitioned ones';
COMMENT ON COLUMN concertmaster.conversions.table_name IS 'the table; from the exchange on the partitioned one';
COMMENT ON COLUMN concertmaster.conversions.state IS 'preparing: the table is what it was, with something beside it; swapped: the partitioned table has its place; converted: nothing is left to do; cancelled: what is beside it is being removed; stopped: a run was cancelled, the next call goes on';
COMMENT ON COLUMN concertmaster.conversions.activity IS 'what its job is doing now; NULL: it does not run';
COMMENT ON COLUMN concertmaster.conversions.column_name IS 'partition key';
COMMENT ON COLUMN concertmaster.conversions.period IS 'length of a partition in time; NULL: width counts';
COMMENT ON COLUMN concertmaster.conversions.width IS 'numbers in a partition; NULL: period counts';
COMMENT ON COLUMN concertmaster.conversions.bound IS 'SQL literal below which all rows of the old part are; NULL: not chosen yet';
COMMENT ON COLUMN concertmaster.conversions.old_part IS 'the table that was converted, now the first partition; NULL before';
COMMENT ON COLUMN concertmaster.conversions.started_at IS 'when it was asked for';
COMMENT ON COLUMN concertmaster.conversions.swapped_at IS 'when the tables were exchanged';
COMMENT ON COLUMN concertmaster.conversions.ended_at IS 'when nothing was left to do';
COMMENT ON COLUMN concertmaster.conversions.last_status IS 'how the job''s last run went, as in job_runs';
COMMENT ON COLUMN concertmaster.conversions.last_error IS 'text of its last failure, NULL after a success';
