-- What a refresh tells the planner about the groups that it asks for.
CREATE FUNCTION concertmaster._share_support(internal) RETURNS internal
LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cm__share_support';
COMMENT ON FUNCTION concertmaster._share_support(internal) IS
'Internal: tells the planner that _share() selects the share that is its argument';

-- Run by refreshes as the view's owner, hence executable by PUBLIC.
CREATE FUNCTION concertmaster._share(raw anyelement, lo anyelement, share double precision) RETURNS boolean
LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE
SUPPORT concertmaster._share_support
AS 'MODULE_PATHNAME', 'cm__share';
COMMENT ON FUNCTION concertmaster._share(anyelement, anyelement, double precision) IS
'Internal: true; the planner expects it to be so for this share of the rows';
