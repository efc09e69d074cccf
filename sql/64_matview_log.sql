/*
 * What tables write down for the materialized views over them.
 *
 * The triggers are made for the tables' owners, who need EXECUTE for that;
 * on any other table the function does nothing.
 */

CREATE FUNCTION concertmaster.log_changes()
RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cm_log_changes';
GRANT EXECUTE ON FUNCTION concertmaster.log_changes() TO PUBLIC;
COMMENT ON FUNCTION concertmaster.log_changes() IS
'Trigger function: notes which groups of incrementally refreshed materialized views a written row belongs to.  Its triggers are made by concertmaster on the tables of such views and dropped when there are none; disabling one makes its views be refreshed in full.  Errors: 39P01 not called as an AFTER ROW trigger';

CREATE FUNCTION concertmaster._log_patterns(
    view oid,
    OUT mask integer,
    OUT key text)
RETURNS SETOF record
LANGUAGE c STRICT STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cm__log_patterns';
COMMENT ON FUNCTION concertmaster._log_patterns(oid) IS
'view: a tracked materialized view.  Returns the rows of its log: which columns of its key are known, and their values; if none, why any group can have changed';
REVOKE ALL ON FUNCTION concertmaster._log_patterns(oid) FROM PUBLIC;

CREATE FUNCTION concertmaster._note_refresh()
RETURNS event_trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cm__note_refresh';
COMMENT ON FUNCTION concertmaster._note_refresh() IS
'Event trigger function: notes that a materialized view was refreshed by hand, where the next incremental refresh has to know';
REVOKE ALL ON FUNCTION concertmaster._note_refresh() FROM PUBLIC;

CREATE EVENT TRIGGER concertmaster_note_refresh ON ddl_command_end
    WHEN TAG IN ('REFRESH MATERIALIZED VIEW')
    EXECUTE FUNCTION concertmaster._note_refresh();
COMMENT ON EVENT TRIGGER concertmaster_note_refresh IS
'notes that a materialized view was refreshed by hand, where the next incremental refresh has to know';
