/*
 * The platform's own tables: keys, triggers, the list of what belongs to
 * them, and the doors that make them, adopt them and let them go.
 *
 * The list (functions _bundled_*) is read by install_plan.c, which compares
 * it with what a schema holds.  Nothing here is created by CREATE EXTENSION:
 * the tables are the users' own.
 */

-- Anybody may make keys, and read their time.
CREATE FUNCTION concertmaster.uuid_v7() RETURNS uuid
LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'cm_uuid_v7';
COMMENT ON FUNCTION concertmaster.uuid_v7() IS
'New time-ordered key: UUID of version 7 (RFC 9562), 48 bits of milliseconds, 12 of their fraction, 62 random.  Each is greater than the one before in the same session, also when the clock is set back.  Open to everybody.';

CREATE FUNCTION concertmaster.uuid_v7_time(id uuid) RETURNS timestamptz
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'cm_uuid_v7_time';
COMMENT ON FUNCTION concertmaster.uuid_v7_time(uuid) IS
'Time, to the millisecond, at which a version 7 UUID was made.  Error 22023 for a UUID of another version.  Open to everybody.';

CREATE FUNCTION concertmaster.set_updated_at() RETURNS trigger
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', 'cm_set_updated_at';
COMMENT ON FUNCTION concertmaster.set_updated_at() IS
'BEFORE UPDATE row trigger: writes the transaction''s time into column updated_at, or into the column that its argument names.  Errors: 39P01 if called otherwise, 42703 if there is no such column, 42804 if it is not a timestamp.  Open to everybody.';

CREATE FUNCTION concertmaster.keep_created_at() RETURNS trigger
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', 'cm_keep_created_at';
COMMENT ON FUNCTION concertmaster.keep_created_at() IS
'BEFORE UPDATE row trigger: refuses (23000) to change column created_at, or the column that its argument names.  Errors: 39P01 if called otherwise, 42703 if there is no such column.  Open to everybody.';

/*
 * The list.  Private: only install_plan.c reads it, as the extension's owner.
 */
CREATE FUNCTION concertmaster._bundled_tables(
    OUT ordinal integer, OUT table_name name, OUT partition_column name, OUT comment text)
RETURNS SETOF record LANGUAGE sql STABLE PARALLEL SAFE
AS $$
VALUES
    (1, 'workflows'::name, NULL::name, 'definitions of workflows'),
    (2, 'workflow_runs', NULL, 'runs of workflows, one row each'),
    (3, 'form_schemas', NULL, 'versions of forms'),
    (4, 'form_responses', 'submitted_at', 'answers to forms, partitioned by month of submitted_at'),
    (5, 'node_executions', 'created_at', 'steps of runs, partitioned by month of created_at'),
    (6, 'audit_events', 'created_at', 'who did what to which entity, partitioned by month of created_at')
$$;
REVOKE ALL ON FUNCTION concertmaster._bundled_tables() FROM PUBLIC;

-- Types, defaults and keys of new tables; on adopted ones what is there stays.
CREATE FUNCTION concertmaster._bundled_columns(
    OUT ordinal integer, OUT table_name name, OUT column_name name, OUT type_name text,
    OUT not_null boolean, OUT default_value text, OUT comment text)
RETURNS SETOF record LANGUAGE sql STABLE PARALLEL SAFE
AS $$
VALUES
    (11, 'workflows'::name, 'id'::name, 'uuid', true, 'concertmaster.uuid_v7()', 'key, ordered by time'),
    (12, 'workflows', 'name', 'character varying(255)', false, NULL, 'name for people'),
    (13, 'workflows', 'definition', 'jsonb', false, NULL, 'the definition; its type and status are indexed'),
    (14, 'workflows', 'created_by', 'uuid', false, NULL, 'user who made it'),
    (15, 'workflows', 'created_at', 'timestamp with time zone', true, 'now()', 'when it was made'),
    (16, 'workflows', 'updated_at', 'timestamp with time zone', true, 'now()', 'when it was last changed; follows every UPDATE'),
    (17, 'workflows', 'is_template', 'boolean', false, 'false', 'whether it is a pattern for others'),

    (21, 'workflow_runs', 'id', 'uuid', true, 'concertmaster.uuid_v7()', 'key, ordered by time'),
    (22, 'workflow_runs', 'workflow_id', 'uuid', false, NULL, 'the workflow that runs'),
    (23, 'workflow_runs', 'status', 'character varying(50)', true, '''pending''', 'pending, running, completed, failed or cancelled'),
    (24, 'workflow_runs', 'trigger_data', 'jsonb', false, NULL, 'what set it off'),
    (25, 'workflow_runs', 'started_at', 'timestamp with time zone', false, NULL, 'when it started; NULL while pending'),
    (26, 'workflow_runs', 'completed_at', 'timestamp with time zone', false, NULL, 'when it ended, however it ended'),
    (27, 'workflow_runs', 'created_by', 'uuid', false, NULL, 'user who started it'),
    (28, 'workflow_runs', 'created_at', 'timestamp with time zone', true, 'now()', 'when it was asked for'),
    (29, 'workflow_runs', 'updated_at', 'timestamp with time zone', true, 'now()', 'when it was last changed; follows every UPDATE'),

    (31, 'form_schemas', 'id', 'uuid', true, 'concertmaster.uuid_v7()', 'key, ordered by time'),
    (32, 'form_schemas', 'name', 'text', false, NULL, 'name of the form, the same in all its versions'),
    (33, 'form_schemas', 'version', 'integer', true, '1', 'version of the form'),
    (34, 'form_schemas', 'schema', 'jsonb', false, NULL, 'the form''s fields'),
    (35, 'form_schemas', 'created_at', 'timestamp with time zone', true, 'now()', 'when it was made'),
    (36, 'form_schemas', 'updated_at', 'timestamp with time zone', true, 'now()', 'when it was last changed; follows every UPDATE'),

    (41, 'form_responses', 'id', 'uuid', true, 'concertmaster.uuid_v7()', 'key, ordered by time'),
    (42, 'form_responses', 'form_schema_id', 'uuid', false, NULL, 'the form that was answered'),
    (43, 'form_responses', 'workflow_run_id', 'uuid', false, NULL, 'the run that asked for it, if any'),
    (44, 'form_responses', 'data', 'jsonb', false, NULL, 'the answers; status and completion_time are counted by form_completion_stats'),
    (45, 'form_responses', 'metadata', 'jsonb', false, NULL, 'what is known about the answering'),
    (46, 'form_responses', 'submitted_at', 'timestamp with time zone', true, 'now()', 'when it was submitted; decides the partition'),

    (51, 'node_executions', 'id', 'uuid', true, 'concertmaster.uuid_v7()', 'the step, ordered by time'),
    (52, 'node_executions', 'workflow_run_id', 'uuid', true, NULL, 'the run it is a step of'),
    (53, 'node_executions', 'node_id', 'text', true, NULL, 'the node of the workflow''s definition'),
    (54, 'node_executions', 'status', 'character varying(50)', true, '''pending''', 'pending, running, completed, failed, skipped or cancelled'),
    (55, 'node_executions', 'started_at', 'timestamp with time zone', false, NULL, 'when it started; NULL while pending'),
    (56, 'node_executions', 'completed_at', 'timestamp with time zone', false, NULL, 'when it ended, however it ended'),
    (57, 'node_executions', 'error', 'text', false, NULL, 'why it failed, of any length'),
    (58, 'node_executions', 'input', 'jsonb', false, NULL, 'what it was given'),
    (59, 'node_executions', 'output', 'jsonb', false, NULL, 'what it gave'),
    (60, 'node_executions', 'created_at', 'timestamp with time zone', true, 'now()', 'when it was planned; decides the partition, never changes'),

    (71, 'audit_events', 'id', 'uuid', true, 'concertmaster.uuid_v7()', 'the event, ordered by time'),
    (72, 'audit_events', 'entity_type', 'text', true, NULL, 'kind of entity, for instance workflow'),
    (73, 'audit_events', 'entity_id', 'uuid', false, NULL, 'key of the entity'),
    (74, 'audit_events', 'action', 'text', true, NULL, 'what was done to it'),
    (75, 'audit_events', 'actor', 'text', false, NULL, 'who did it; NULL: the system'),
    (76, 'audit_events', 'details', 'jsonb', false, NULL, 'the particulars'),
    (77, 'audit_events', 'created_at', 'timestamp with time zone', true, 'now()', 'when it happened; decides the partition')
$$;
REVOKE ALL ON FUNCTION concertmaster._bundled_columns() FROM PUBLIC;

-- kind: p(rimary key), c(heck), f(oreign key), as in pg_constraint.contype.
-- referenced: a bundled table.  No key refers to a table that is written often.
CREATE FUNCTION concertmaster._bundled_constraints(
    OUT ordinal integer, OUT table_name name, OUT constraint_name name, OUT kind text,
    OUT column_name name, OUT referenced name, OUT expression text)
RETURNS SETOF record LANGUAGE sql STABLE PARALLEL SAFE
AS $$
VALUES
    (1, 'workflows'::name, 'workflows_pkey'::name, 'p', NULL::name, NULL::name, 'id'),
    (2, 'workflow_runs', 'workflow_runs_pkey', 'p', NULL, NULL, 'id'),
    (3, 'workflow_runs', 'workflow_runs_status_check', 'c', 'status', NULL,
        'status IN (''pending'', ''running'', ''completed'', ''failed'', ''cancelled'')'),
    (4, 'workflow_runs', 'workflow_runs_workflow_id_fkey', 'f', 'workflow_id', 'workflows', NULL),
    (5, 'form_schemas', 'form_schemas_pkey', 'p', NULL, NULL, 'id'),
    (6, 'form_responses', 'form_responses_pkey', 'p', NULL, NULL, 'id, submitted_at'),
    (7, 'form_responses', 'form_responses_form_schema_id_fkey', 'f', 'form_schema_id', 'form_schemas', NULL),
    (8, 'node_executions', 'node_executions_pkey', 'p', NULL, NULL, 'workflow_run_id, id, created_at'),
    (9, 'node_executions', 'node_executions_status_check', 'c', 'status', NULL,
        'status IN (''pending'', ''running'', ''completed'', ''failed'', ''skipped'', ''cancelled'')'),
    (10, 'audit_events', 'audit_events_pkey', 'p', NULL, NULL, 'id, created_at')
$$;
REVOKE ALL ON FUNCTION concertmaster._bundled_constraints() FROM PUBLIC;

-- column_name: the column that the trigger is about; function_name in schema concertmaster.
CREATE FUNCTION concertmaster._bundled_triggers(
    OUT table_name name, OUT trigger_name name, OUT column_name name, OUT function_name name, OUT condition text)
RETURNS SETOF record LANGUAGE sql STABLE PARALLEL SAFE
AS $$
VALUES
    ('workflows'::name, 'concertmaster_updated_at'::name, 'updated_at'::name, 'set_updated_at'::name, NULL::text),
    ('workflow_runs', 'concertmaster_updated_at', 'updated_at', 'set_updated_at', NULL),
    ('form_schemas', 'concertmaster_updated_at', 'updated_at', 'set_updated_at', NULL),
    ('node_executions', 'concertmaster_created_at', 'created_at', 'keep_created_at',
        'OLD.created_at IS DISTINCT FROM NEW.created_at')
$$;
REVOKE ALL ON FUNCTION concertmaster._bundled_triggers() FROM PUBLIC;

/*
 * The query of form_completion_stats over the tables of a schema.  Whole days
 * of UTC: the present one and the thirty before it.  A timestamp without time
 * zone is taken as it stands.  completion_time counts where it is a whole
 * number that type integer can hold, else it is missing, and counted as such;
 * the nested CASE keeps the cast behind the pattern.
 */
CREATE FUNCTION concertmaster._bundled_view_query(schema_name name, with_time_zone boolean)
RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
AS $$
SELECT replace(replace(replace(replace(
$view$SELECT fr.form_schema_id,
       fs.name AS form_name,
       {day} AS day,
       count(*) AS submissions,
       count(*) FILTER (WHERE fr.data ->> 'status' = 'complete') AS completed,
       avg({seconds}) AS avg_completion_time,
       count(*) FILTER (WHERE fr.data ->> 'completion_time' IS NOT NULL AND {seconds} IS NULL) AS malformed_completion_times
  FROM {schema}.form_responses fr
  JOIN {schema}.form_schemas fs ON fs.id = fr.form_schema_id
 WHERE fr.submitted_at >= {start}
 GROUP BY fr.form_schema_id, fs.name, {day}$view$,
    '{seconds}', $part$CASE WHEN fr.data ->> 'completion_time' ~ '^[[:space:]]*[-+]?0*[0-9]{1,10}[[:space:]]*$' THEN
           CASE WHEN (fr.data ->> 'completion_time')::bigint BETWEEN -2147483648 AND 2147483647
                THEN (fr.data ->> 'completion_time')::bigint END END$part$),
    '{day}', CASE WHEN with_time_zone THEN '(fr.submitted_at AT TIME ZONE ''UTC'')::date'
                  ELSE 'fr.submitted_at::date' END),
    '{start}', CASE WHEN with_time_zone
                    THEN '((now() AT TIME ZONE ''UTC'')::date - 30)::timestamp AT TIME ZONE ''UTC'''
                    ELSE '((now() AT TIME ZONE ''UTC'')::date - 30)::timestamp' END),
    '{schema}', quote_ident(schema_name))
$$;
REVOKE ALL ON FUNCTION concertmaster._bundled_view_query(name, boolean) FROM PUBLIC;

-- A step of install(), run as the view's owner; it checks that itself.
CREATE FUNCTION concertmaster._refresh_on_request(view regclass) RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cm_refresh_on_request';
COMMENT ON FUNCTION concertmaster._refresh_on_request(regclass) IS
'Internal: the refresh job of a view that pg_cron refreshes, without a period, due once if the view was never filled.  Errors: 42501 for others than the view''s owner, 42809 if it is no materialized view.';

-- Ownership of what exists and CREATE on the schema are checked inside.
CREATE FUNCTION concertmaster.plan_install(
    schema_name name DEFAULT 'public',
    OUT step integer, OUT object text, OUT action text, OUT lock text, OUT statement text, OUT detail text)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cm_plan_install';
COMMENT ON FUNCTION concertmaster.plan_install(name) IS
'What install() would do in the schema, in order, without doing it.  step: number; object: kind and name; action: create (at once), exists, pending (left to job "adopt <schema>"), remains (left to you: see detail) or conflict (install() refuses); lock: what it takes on relations that exist, NULL for none; statement: the SQL; detail: in words.  Errors: 3F000 no such schema, 42939 a system schema, 22004 NULL.  Open to everybody.';

CREATE FUNCTION concertmaster.install(
    schema_name name DEFAULT 'public',
    OUT object text, OUT action text, OUT detail text)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cm_install';
COMMENT ON FUNCTION concertmaster.install(name) IS
'Make the platform''s tables, view, partition sets and index plan in the schema, owned by the caller, or adopt those that are there: one row per object, action being created, exists, pending (a job does it, under short locks) or remains (left to you: see detail).  What reads tables that are there, the view and foreign keys, is made only where those are of one role, and as that role, who owns the view.  May be called again.  Errors: 3F000 no such schema, 42939 a system schema, 42501 no CREATE privilege on it, 42809 a name is taken by another kind of object, 25006 on a standby, 22004 NULL.  Open to everybody who may create in the schema.';
CREATE FUNCTION concertmaster.uninstall(
    OUT object text, OUT action text, OUT detail text)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'cm_uninstall';
COMMENT ON FUNCTION concertmaster.uninstall() IS
'Let go of everything, so that DROP EXTENSION succeeds: column defaults that call this extension become core functions, its triggers, jobs, partition sets, managed views and plans go; tables, rows, indexes and views stay.  One row per thing done, action being changed, dropped, removed or remains (left to you: see detail).  What the caller does not own remains; so does, for others than members of the extension''s owner, what has no owner any more.  Errors: 55P03 if locks were not to be had, 25006 on a standby.  Open to everybody.';
