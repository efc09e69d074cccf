/*
 * Is a materialized view what its query says?
 *
 * Checks that its caller owns the view, so it is executable by PUBLIC.
 */

CREATE FUNCTION concertmaster.verify_matview(
    view regclass,
    OUT found_in text,
    OUT row_value text)
RETURNS SETOF record
LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cm_verify_matview';
COMMENT ON FUNCTION concertmaster.verify_matview(regclass) IS
'view: a materialized view, managed or not.  Runs its query as its owner, in its time zone and with now() as of its last refresh, and returns the rows that differ by what is stored: found_in is view for a row that only the view has, query for one that only the query yields; row_value is the row as text.  No rows: the view is what its query says, under the snapshot of the caller.  What was written since the last refresh differs too, and so can sums of floating-point numbers and whatever else depends on the order of rows.  Blocks nobody.  Errors: 42809 not a materialized view, 42501 not the owner, 55000 it is not populated, and whatever the query raises.  For the view''s owner';
