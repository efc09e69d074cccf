/*
 * Why a materialized view is refreshed incrementally, or is not.
 */

CREATE FUNCTION concertmaster.explain_refresh(
    view regclass,
    OUT check_name text,
    OUT ok boolean,
    OUT reason_code text,
    OUT detail text,
    OUT hint text)
RETURNS SETOF record
LANGUAGE c STRICT STABLE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cm_explain_refresh';
COMMENT ON FUNCTION concertmaster.explain_refresh(regclass) IS
'view: a materialized view, managed or not.  Tells whether it can be refreshed incrementally: it can if every row is ok.  One row per check, or per failure of it, with a reason_code that stays the same from version to version, the clause, function or table concerned as detail, and the change that would help as hint; then one row per table, with the groups that a change to one of its rows makes a refresh compute anew.  Looks at the catalogs only, and takes no lock on the view or its tables.  Errors: 42809 not a materialized view, 42501 not the owner, 42P01 no such relation.  For the view''s owner';
