/*
 * Partitions: sets of pg_partman are taken over.
 *
 * The function acts as its caller, on pg_partman's tables too, and makes a set
 * only of a table that the caller owns, so it is executable by PUBLIC.
 */

CREATE FUNCTION concertmaster.take_over_partman(
    parent regclass DEFAULT NULL,
    OUT table_name text,
    OUT action text,
    OUT settings text,
    OUT detail text)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cm_take_over_partman';
COMMENT ON FUNCTION concertmaster.take_over_partman(regclass) IS
'parent: a table that pg_partman (4.7 or 5) manages; NULL: every one that the caller owns.  Makes a partition set of it with the same settings, as create_partition_set() does, and sets automatic_maintenance to off in pg_partman''s part_config; partitions keep their names and bounds.  The time zone is the one, of UTC, the session''s and the server''s, that the bounds fit best.  Partitions are made ahead also while no rows come.  Returns a row per table: taken over, with the settings and, in detail, what pg_partman did and nobody does now; or skipped, with the reason (sub-partitions, partitioning by list or by triggers, a template with unique indexes, another kind of key, or an error, which stops no other table).  To go back: forget_partition_set(), then set automatic_maintenance to on; pg_partman 4 goes by names, so rename the partitions made meanwhile first.  Errors: 42704 pg_partman is not installed or does not manage the table, 42501 not the owner, or no privilege to read and update part_config, 55P03 pg_partman''s maintenance is running, 25006 on a standby.  For the table''s owner';
