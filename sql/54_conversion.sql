/*
 * Converting a live table to a partitioned one: what that meets.
 *
 * The function checks that its caller owns the table, so it is executable by
 * PUBLIC.
 */

CREATE FUNCTION concertmaster.explain_conversion(
    table_name regclass,
    column_name name,
    period interval DEFAULT NULL,
    foreign_keys text DEFAULT NULL,
    accept text[] DEFAULT '{}',
    timezone text DEFAULT 'UTC',
    width bigint DEFAULT NULL,
    epoch text DEFAULT NULL,
    OUT step integer,
    OUT object text,
    OUT status text,
    OUT code text,
    OUT detail text,
    OUT remedy text,
    OUT statement text,
    OUT lock text,
    OUT blocks text,
    OUT duration interval,
    OUT disk_bytes bigint)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cm_explain_conversion';
COMMENT ON FUNCTION concertmaster.explain_conversion(regclass, name, interval, text, text[], text, bigint, text) IS
'table_name: a plain table; column_name: the column by which it is to be partitioned, of type date, timestamp, timestamptz, uuid (version 7) or integer; period, timezone, width, epoch: of its partitions, as in create_partition_set(); foreign_keys: what becomes of foreign keys to the table that do not reference the column: composite, then the referencing table gets a column with the referenced row''s value, which a trigger fills, and the key references that, too; drop; or NULL, then they are refused; accept: codes of findings whose consequences are accepted.  Tells what converting the table in place, with its rows where they are, meets and takes; changes nothing.  The first row, code verdict, sums up.  Then one row per finding (step is NULL), what is in the way first: status refused (until it is changed), to accept (until accept has its code), accepted, carried over or ok; a code that stays the same from version to version; facts as detail; what is done, or what to do, as remedy.  Then one row per step, in order (status is NULL): statement (NULL for several), lock, blocks (whom, and for how long), duration and disk_bytes, estimated from file sizes.  Takes ACCESS SHARE on the table and scans nothing: values are looked for in an index that begins with the column, else in a sample.  Statements are looked for in pg_stat_statements, with the caller''s rights, if it is there.  doc/conversion.md has the codes.  Errors: 42703 no such column, 42809 not a table, 42501 not the owner, 42P01 no such table, 22004 a null argument, 22023 period, width, epoch, timezone or foreign_keys.  For the table''s owner';
