/*
 * Indexes: the bundled plan, the check of planned rows, the door that builds
 * them and the view of how they stand.
 */

/*
 * The strategy's indexes of phases 1 and 2, for install().  Text has no GIN
 * operator class, so keys of definition are btrees; NOW() cannot stand in a
 * predicate, so hot_window says which partitions get the index; a long error
 * or node_id must not make a write fail, so neither is in an index as it is.
 */
CREATE FUNCTION concertmaster._bundled_indexes(schema name)
RETURNS SETOF concertmaster.index_plan
LANGUAGE sql STABLE STRICT PARALLEL SAFE
AS $$
SELECT v.phase, schema, v.table_name, v.index_name, false, v.definition, v.purpose, v.hot_window
  FROM (VALUES
    (1, 'workflows'::name, 'idx_workflow_type'::name,
     $d$((definition->>'type'), (definition->>'status'), updated_at DESC)$d$,
     'workflows of a type and status, the latest first, without a sort; a type and status of together more than about 2,600 bytes (compressed) cannot be stored: where such are expected, replace the definition by USING hash ((definition->>''type''))',
     NULL::interval),
    (1, 'workflows', 'idx_workflow_status_filter',
     $d$((definition->>'status'), updated_at DESC) WHERE (definition->>'status') IS NOT NULL$d$,
     'workflows of a status whatever their type, the latest first; the limit of idx_workflow_type holds here too',
     NULL),
    (1, 'workflow_runs', 'idx_workflow_runs_status_time',
     $d$(status, started_at DESC) WHERE status IN ('running', 'failed', 'pending')$d$,
     'runs that need attention, the latest first; finished runs, the most by far, are not in it',
     NULL),
    (1, 'workflow_runs', 'idx_workflow_runs_workflow_status',
     $d$(workflow_id, status) INCLUDE (started_at, completed_at)$d$,
     'runs of one workflow, with their times from the index alone',
     NULL),
    (1, 'form_responses', 'idx_form_responses_schema_time',
     $d$(form_schema_id, submitted_at DESC)$d$,
     'answers to one form, the latest first',
     NULL),
    (1, 'form_responses', 'idx_form_responses_workflow',
     $d$(workflow_run_id) WHERE workflow_run_id IS NOT NULL$d$,
     'answers that a run asked for',
     NULL),
    (1, 'form_responses', 'idx_form_responses_data_gin',
     $d$USING gin (data)$d$,
     'answers by their content: data @> ''{"key": "value"}'', data ? ''key''; of any length, as long keys are hashed',
     NULL),
    (1, 'form_responses', 'idx_form_responses_metadata',
     $d$USING gin (metadata) WHERE metadata IS NOT NULL$d$,
     'answers by what is known about the answering, as data',
     NULL),
    (2, 'node_executions', 'idx_node_executions_composite',
     $d$(workflow_run_id, left(node_id, 200), status) INCLUDE (started_at, completed_at)$d$,
     'steps of a run, also by status; error is left out and node_id is cut, so that no value, however long, makes a write fail; a search by node_id finds the run''s steps here and compares theirs',
     NULL),
    (2, 'workflow_runs', 'idx_workflow_runs_dashboard',
     $d$(created_by, status, started_at DESC)$d$,
     'a user''s runs by status, the latest first; the 30 days are kept for the day the table is partitioned',
     interval '30 days'),
    (2, 'form_schemas', 'idx_form_schemas_name_version',
     $d$(name, version DESC)$d$,
     'versions of a form, the latest first; a name over about 2,600 bytes (compressed) cannot be stored',
     NULL),
    (2, 'audit_events', 'idx_audit_events_entity_time',
     $d$(entity_type, entity_id, created_at DESC)$d$,
     'what happened to an entity, the latest first, on the partitions of the last 90 days',
     interval '90 days')
  ) v (phase, table_name, index_name, definition, purpose, hot_window)
$$;
COMMENT ON FUNCTION concertmaster._bundled_indexes(name) IS
'Internal: the rows of index_plan that install() adds for the platform''s tables in a schema.  Argument: schema, its name.  No errors.  For the extension''s owner.';
-- Only install() adds them, as the extension's owner.
REVOKE ALL ON FUNCTION concertmaster._bundled_indexes(name) FROM PUBLIC;

CREATE FUNCTION concertmaster._index_plan_check() RETURNS trigger
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', 'cm__index_plan_check';
COMMENT ON FUNCTION concertmaster._index_plan_check() IS
'Trigger of index_plan: whoever inserts, changes or deletes a row must own its table (42501); the definition must be the end of one CREATE INDEX (42601) and make an index of that table (the errors of CREATE INDEX).  A superuser''s COPY is checked for syntax alone.';

CREATE TRIGGER index_plan_check
    BEFORE INSERT OR UPDATE OR DELETE ON concertmaster.index_plan
    FOR EACH ROW EXECUTE FUNCTION concertmaster._index_plan_check();

-- Everybody plans indexes for tables of their own: the trigger sees to that.
-- No other privilege: each lets anybody take locks that keep the workers out.
GRANT INSERT ON concertmaster.index_plan TO PUBLIC;

CREATE FUNCTION concertmaster.unplan_index(schema_name name, index_name name)
RETURNS void
LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cm_unplan_index';
COMMENT ON FUNCTION concertmaster.unplan_index(name, name) IS
'Takes an index out of the plan; the index itself stays as it is.  Arguments: schema_name and index_name, as in view indexes.  To change a plan, take it out and insert it anew.  Errors: 42704 not planned, 42501 not the owner of its table, 25006 on a standby.  Open to everybody, for tables that they own; where the table is gone, for those who may create it again.';

CREATE PROCEDURE concertmaster.build_indexes(phase integer DEFAULT NULL, ignore_window boolean DEFAULT false)
LANGUAGE c
AS 'MODULE_PATHNAME', 'cm_build_indexes';
COMMENT ON PROCEDURE concertmaster.build_indexes(integer, boolean) IS
'Builds the planned indexes of the caller''s tables in a background worker, without blocking writers, and waits; shows progress as notices.  Arguments: phase, as in index_plan; NULL: all phases in order; ignore_window: true to build outside of concertmaster.build_window too, in this call.  What may not begin now, because of the window or because standbys are too far behind, is put off with a warning, and built by the phase''s job when it may.  Indexes that are there are kept, leftovers of a build that was interrupted are replaced, an index of the same name but another definition is left alone with a warning.  One with a hot window is dropped from partitions that have aged out of it, where it was built for that window and has no other use.  If some fail, the others are built all the same.  Errors: 22023 for a phase without an index of a table that the caller owns; 53100 where concertmaster.min_free_disk would be gone below; the SQLSTATE of the first index that failed; 25001 inside a transaction block, 25006 on a standby, 53000 without a free worker.  Open to everybody, for tables that they own.';

CREATE FUNCTION concertmaster._wake_hot_indexes(relation regclass) RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cm__wake_hot_indexes';
REVOKE ALL ON FUNCTION concertmaster._wake_hot_indexes(regclass) FROM PUBLIC;  -- for tests
COMMENT ON FUNCTION concertmaster._wake_hot_indexes(regclass) IS
'Internal: makes the build jobs due that have an index with a hot window of this partitioned table, or of one that it is a partition of, except those whose state is locked; done when partitions come or go.  Argument: relation.  No errors.  For tests.';

-- Weights of the phases are a rough guess: reading the table is most of it.
CREATE FUNCTION concertmaster._index_fraction(phase text, blocks_done bigint, blocks_total bigint, tuples_done bigint, tuples_total bigint)
RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN phase LIKE 'building index%' AND tuples_total > 0 THEN 0.5 + 0.2 * least(tuples_done::float8 / tuples_total, 1)
    WHEN phase LIKE 'building index%' AND blocks_total > 0 THEN 0.5 * least(blocks_done::float8 / blocks_total, 1)
    WHEN phase = 'waiting for writers before validation' THEN 0.7
    WHEN phase = 'index validation: scanning index' THEN 0.7 + 0.1 * coalesce(least(blocks_done::float8 / nullif(blocks_total, 0), 1), 0)
    WHEN phase = 'index validation: sorting tuples' THEN 0.8
    WHEN phase = 'index validation: scanning table' THEN 0.8 + 0.15 * coalesce(least(blocks_done::float8 / nullif(blocks_total, 0), 1), 0)
    WHEN phase = 'waiting for old snapshots' THEN 0.95
    WHEN phase LIKE 'waiting for readers%' THEN 0.98
    ELSE 0 END;
COMMENT ON FUNCTION concertmaster._index_fraction(text, bigint, bigint, bigint, bigint) IS
'Internal: how much of one index build is done, 0 to 1, by the columns of pg_stat_progress_create_index of the same names.  No errors.';

CREATE FUNCTION concertmaster._index_progress(OUT pid integer, OUT relid oid, OUT fraction double precision)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'cm__index_progress';
COMMENT ON FUNCTION concertmaster._index_progress() IS
'Internal: the index builds going on in this database on tables that the caller owns (members of pg_monitor: on all): process, table and how much is done, 0 to 1.  No errors.  Behind view indexes, hence executable by PUBLIC.';

CREATE FUNCTION concertmaster._index_estimate(schema_name name, index_name name,
    OUT bytes bigint, OUT duration interval, OUT basis text, OUT has_room boolean)
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cm__index_estimate';
COMMENT ON FUNCTION concertmaster._index_estimate(name, name) IS
'Internal: what building a planned index takes on the tables that lack it: bytes, duration, what that is based on, and whether there is room on the disk.  Arguments: as in index_plan.  NULLs if nothing is missing, if the caller neither owns the table nor is a member of pg_monitor, or if the definition does not fit the table.  Behind view indexes, hence executable by PUBLIC.';

/*
 * Reads catalogs alone, so that it waits for nobody.  roots: the index that
 * has the planned name, or serves under another; for a hot window, the ones
 * of the partitions inside it.  If there is none to have it, all that there
 * is to be is there.
 */
CREATE VIEW concertmaster.indexes WITH (security_barrier) AS
SELECT p.phase, p.schema_name, p.table_name, p.index_name,
       CASE WHEN w.pid IS NOT NULL THEN 'building'
            WHEN h.none_hot THEN 'valid'
            WHEN r.roots IS NULL THEN 'planned'
            WHEN i.is_valid THEN 'valid'
            ELSE 'invalid' END AS state,
       round(CASE WHEN (i.is_valid OR h.none_hot) AND w.pid IS NULL THEN 100
                  ELSE least(100, 100 * (i.leaves_valid + coalesce(w.fraction, 0)) / greatest(t.leaves, 1))
             END::numeric, 1) AS percent_done,
       i.size_bytes,
       e.bytes AS estimated_bytes, e.duration AS estimated_duration, e.basis AS estimate_basis, e.has_room,
       i.scans,
       CASE WHEN s.serving_relid = ANY (r.roots) THEN
           (SELECT a.relname FROM pg_catalog.pg_class a
             WHERE a.oid = s.serving_relid AND a.relname <> p.index_name) END AS adopted_index,
       s.last_run, s.sqlstate, s.message, s.detail, s.hint,
       p.is_unique, p.definition, p.hot_window, p.purpose
  FROM concertmaster.index_plan p
  LEFT JOIN concertmaster.index_state s ON s.schema_name = p.schema_name AND s.index_name = p.index_name
  LEFT JOIN concertmaster.relation_map m ON m.schema_name = p.schema_name AND m.relation_name = p.table_name
  LEFT JOIN pg_catalog.pg_class c ON c.oid = coalesce(
       (SELECT k.oid FROM pg_catalog.pg_class k WHERE k.oid = m.relid),
       (SELECT k.oid FROM pg_catalog.pg_class k JOIN pg_catalog.pg_namespace n ON n.oid = k.relnamespace
         WHERE n.nspname = p.schema_name AND k.relname = p.table_name))
  LEFT JOIN LATERAL (
       SELECT a.pid, (SELECT max(g.fraction) FROM concertmaster._index_progress() g WHERE g.pid = a.pid) AS fraction
         FROM pg_catalog.pg_stat_activity a
        WHERE a.pid = s.worker_pid AND a.datname = pg_catalog.current_database()) w ON true
  CROSS JOIN LATERAL (
       SELECT p.hot_window IS NOT NULL AND c.relkind = 'p' AND s.leaf_total = 0
                AND s.last_run IS NOT NULL AND s.sqlstate IS NULL AS none_hot) h
  LEFT JOIN LATERAL (
       SELECT array_agg(x.indexrelid) AS roots
         FROM pg_catalog.pg_index x
         JOIN pg_catalog.pg_class xc ON xc.oid = x.indexrelid
        WHERE CASE WHEN p.hot_window IS NOT NULL AND c.relkind = 'p' THEN x.indexrelid = ANY (s.leaf_relids)
                   ELSE x.indrelid = c.oid
                        AND CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_index v
                                               WHERE v.indexrelid = s.serving_relid AND v.indrelid = c.oid)
                                 THEN x.indexrelid = s.serving_relid
                                 ELSE xc.relname = p.index_name
                                      AND x.indexrelid IS DISTINCT FROM s.conflict_relid END END) r ON true
  LEFT JOIN LATERAL (
       WITH RECURSIVE tree AS (
           SELECT unnest(r.roots) AS oid
           UNION ALL
           SELECT h.inhrelid FROM tree JOIN pg_catalog.pg_inherits h ON h.inhparent = tree.oid)
       SELECT count(*) FILTER (WHERE ic.relkind = 'i' AND x.indisvalid) AS leaves_valid,
              bool_and(x.indisvalid)
                AND (p.hot_window IS NULL OR c.relkind <> 'p' OR count(*) = s.leaf_total) AS is_valid,
              sum(coalesce(concertmaster._relation_size(ic.oid),
                           ic.relpages * pg_catalog.current_setting('block_size')::bigint))::bigint AS size_bytes,
              sum(pg_catalog.pg_stat_get_numscans(ic.oid))::bigint AS scans
         FROM tree
         JOIN pg_catalog.pg_class ic ON ic.oid = tree.oid
         JOIN pg_catalog.pg_index x ON x.indexrelid = tree.oid) i ON true
  LEFT JOIN LATERAL (
       WITH RECURSIVE tree AS (
           SELECT c.oid, c.relkind
           UNION ALL
           SELECT hc.oid, hc.relkind
             FROM tree JOIN pg_catalog.pg_inherits h ON h.inhparent = tree.oid
             JOIN pg_catalog.pg_class hc ON hc.oid = h.inhrelid
            WHERE tree.relkind = 'p')
       SELECT CASE WHEN p.hot_window IS NOT NULL AND c.relkind = 'p' THEN s.leaf_total
                   ELSE count(*) FILTER (WHERE tree.relkind <> 'p') END AS leaves
         FROM tree) t ON true
  LEFT JOIN LATERAL (
       SELECT g.bytes, g.duration, g.basis, g.has_room
         FROM concertmaster._index_estimate(p.schema_name, p.index_name) g
        WHERE w.pid IS NULL AND i.is_valid IS NOT TRUE AND h.none_hot IS NOT TRUE) e ON true
 WHERE pg_catalog.pg_has_role(c.relowner, 'USAGE') OR pg_catalog.pg_has_role('pg_monitor', 'USAGE')
 ORDER BY p.phase, p.schema_name, p.table_name, p.index_name;
COMMENT ON VIEW concertmaster.indexes IS 'one row per planned index of the tables that you own (members of pg_monitor: of all) and how it stands';
COMMENT ON COLUMN concertmaster.indexes.phase IS 'phase in which it is built, 1 first';
COMMENT ON COLUMN concertmaster.indexes.schema_name IS 'schema of the table and of the index';
COMMENT ON COLUMN concertmaster.indexes.table_name IS 'table to index';
COMMENT ON COLUMN concertmaster.indexes.index_name IS 'planned name of the index';
COMMENT ON COLUMN concertmaster.indexes.state IS 'planned (not there), building (or being dropped from partitions outside the hot window), valid or invalid (a build was interrupted or some partitions lack it; the next build finishes it)';
COMMENT ON COLUMN concertmaster.indexes.percent_done IS 'how much of it is built, in per cent: partitions that have it, and about how far the one being built is';
COMMENT ON COLUMN concertmaster.indexes.size_bytes IS 'size in bytes, over all partitions; of what is locked, as VACUUM last noted it';
COMMENT ON COLUMN concertmaster.indexes.estimated_bytes IS 'about how many bytes the build will take where it is missing; NULL once it is built, or while it is; of partitions that are locked now nothing is in it';
COMMENT ON COLUMN concertmaster.indexes.estimated_duration IS 'about how long that takes, at rates that are assumed (100 MB/s read, 2 µs to sort a row), without waits for old transactions';
COMMENT ON COLUMN concertmaster.indexes.estimate_basis IS 'how good the estimate is: sibling index (the same on another partition: some per cent off), statistics (of the columns: within a third, mostly), types (no statistics, expressions, or an access method whose size depends on the values, gin and gist: a factor of three and more)';
COMMENT ON COLUMN concertmaster.indexes.has_room IS 'true if there is room for that on the disk, with what is sorted and written to WAL, above concertmaster.min_free_disk; false: a build would fail with 53100';
COMMENT ON COLUMN concertmaster.indexes.scans IS 'scans of it, over all partitions, since statistics were reset';
COMMENT ON COLUMN concertmaster.indexes.adopted_index IS 'name of an equivalent index that serves instead; NULL: none';
COMMENT ON COLUMN concertmaster.indexes.last_run IS 'when a build last looked at it';
COMMENT ON COLUMN concertmaster.indexes.sqlstate IS 'SQLSTATE of the last failure; 42P07: the name is taken by something else; 55P03: put off, as a lock was not to be had; 55000: put off, as it may not begin now; 53100: too little free disk; NULL after a success';
COMMENT ON COLUMN concertmaster.indexes.message IS 'what the last build did, or why it could not';
COMMENT ON COLUMN concertmaster.indexes.detail IS 'detail of the last failure';
COMMENT ON COLUMN concertmaster.indexes.hint IS 'what to do about the last failure';
COMMENT ON COLUMN concertmaster.indexes.is_unique IS 'true for a unique index';
COMMENT ON COLUMN concertmaster.indexes.definition IS 'what follows ON table in CREATE INDEX';
COMMENT ON COLUMN concertmaster.indexes.hot_window IS 'how far back partitions shall have it; those that have aged out lose it; NULL: all';
COMMENT ON COLUMN concertmaster.indexes.purpose IS 'the query that it serves, in words';
GRANT SELECT ON concertmaster.indexes TO PUBLIC;
