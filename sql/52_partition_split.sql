/*
 * Partitions: what splitting a default partition needs.
 */

-- Only a superuser, which a worker is, may make triggers of it.
CREATE FUNCTION concertmaster._partition_capture()
RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cm__partition_capture';
COMMENT ON FUNCTION concertmaster._partition_capture() IS
'Writes the changes of a default partition down while it is being split; for the trigger concertmaster_split, which workers make and drop';
REVOKE ALL ON FUNCTION concertmaster._partition_capture() FROM PUBLIC;
