/*
 * What several rooms' views ask about a relation.
 */

-- Callable by everyone, as pg_relation_size() is: the listing views call it as their reader.
CREATE FUNCTION concertmaster._relation_size(relid oid)
RETURNS bigint
LANGUAGE c STRICT VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cm__relation_size';
COMMENT ON FUNCTION concertmaster._relation_size(oid) IS
'relid: any relation.  Returns the bytes of all its forks without indexes, TOAST or partitions (0 for a relation without storage), or NULL when the relation is locked exclusively or gone: it never waits';
