-- The schema that install() makes: tables, columns, keys, partitions,
-- triggers, privileges, comments.
\set ON_ERROR_STOP on
BEGIN;
SELECT no_plan();

CREATE ROLE pgtap_install_owner;
CREATE SCHEMA pgtap_install AUTHORIZATION pgtap_install_owner;
SET LOCAL ROLE pgtap_install_owner;
SELECT concertmaster.install('pgtap_install') \g /dev/null
RESET ROLE;
SET LOCAL search_path = pgtap_install, public;

SELECT tables_are('pgtap_install',
    ARRAY['workflows', 'workflow_runs', 'form_schemas', 'form_responses', 'node_executions', 'audit_events']
    || ARRAY(SELECT c.relname::text FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE c.relnamespace = 'pgtap_install'::regnamespace AND c.relkind = 'r'));
SELECT materialized_views_are('pgtap_install', ARRAY['form_completion_stats']);

-- Columns, in order
SELECT columns_are('workflows', ARRAY['id', 'name', 'definition', 'created_by', 'created_at', 'updated_at', 'is_template']);
SELECT columns_are('workflow_runs', ARRAY['id', 'workflow_id', 'status', 'trigger_data', 'started_at', 'completed_at', 'created_by', 'created_at', 'updated_at']);
SELECT columns_are('form_schemas', ARRAY['id', 'name', 'version', 'schema', 'created_at', 'updated_at']);
SELECT columns_are('form_responses', ARRAY['id', 'form_schema_id', 'workflow_run_id', 'data', 'metadata', 'submitted_at']);
SELECT columns_are('node_executions', ARRAY['id', 'workflow_run_id', 'node_id', 'status', 'started_at', 'completed_at', 'error', 'input', 'output', 'created_at']);
SELECT columns_are('audit_events', ARRAY['id', 'entity_type', 'entity_id', 'action', 'actor', 'details', 'created_at']);
SELECT columns_are('form_completion_stats', ARRAY['form_schema_id', 'form_name', 'day', 'submissions', 'completed', 'avg_completion_time', 'malformed_completion_times']);

SELECT col_type_is('workflows', 'name', 'character varying(255)');
SELECT col_type_is('workflows', 'definition', 'jsonb');
SELECT col_type_is('workflows', 'is_template', 'boolean');
SELECT col_default_is('workflows', 'is_template', 'false');
SELECT col_type_is('workflow_runs', 'status', 'character varying(50)');
SELECT col_type_is('form_schemas', 'version', 'integer');
SELECT col_type_is('form_responses', 'data', 'jsonb');
SELECT col_type_is('node_executions', 'error', 'text');
SELECT col_type_is('form_completion_stats', 'day', 'date');
SELECT col_is_null('node_executions', 'started_at', 'a pending node has no start');
SELECT col_not_null('workflow_runs', 'status');
SELECT col_not_null('node_executions', 'status');

-- Keys of every table: uuid, ordered by time
SELECT unnest(ARRAY[col_type_is(t, 'id', 'uuid'), col_not_null(t, 'id'),
                    col_default_is(t, 'id', 'concertmaster.uuid_v7()', t || '.id is ordered by time')])
  FROM unnest(ARRAY['workflows', 'workflow_runs', 'form_schemas', 'form_responses', 'node_executions', 'audit_events']) t;
SELECT col_is_pk('workflows', 'id');
SELECT col_is_pk('workflow_runs', 'id');
SELECT col_is_pk('form_schemas', 'id');
SELECT col_is_pk('form_responses', ARRAY['id', 'submitted_at']);
SELECT col_is_pk('node_executions', ARRAY['workflow_run_id', 'id', 'created_at']);
SELECT col_is_pk('audit_events', ARRAY['id', 'created_at']);

-- Times: with zone, never missing, now by themselves
SELECT unnest(ARRAY[col_type_is(t, c, 'timestamp with time zone'), col_not_null(t, c), col_default_is(t, c, 'now()')])
  FROM (VALUES ('workflows', 'created_at'), ('workflows', 'updated_at'), ('workflow_runs', 'created_at'), ('workflow_runs', 'updated_at'),
               ('form_schemas', 'created_at'), ('form_schemas', 'updated_at'), ('form_responses', 'submitted_at'),
               ('node_executions', 'created_at'), ('audit_events', 'created_at')) v (t, c);

-- Foreign keys: those of the strategy, none to a table that is written often
SELECT fk_ok('workflow_runs', 'workflow_id', 'workflows', 'id');
SELECT fk_ok('form_responses', 'form_schema_id', 'form_schemas', 'id');
SELECT is(ARRAY(SELECT conname::text FROM pg_constraint WHERE contype = 'f' AND conparentid = 0 AND connamespace = 'pgtap_install'::regnamespace ORDER BY 1),
    ARRAY['form_responses_form_schema_id_fkey', 'workflow_runs_workflow_id_fkey'], 'there are no others');

-- Statuses, by constraints that have names
SELECT has_check('workflow_runs');
SELECT has_check('node_executions');
SELECT lives_ok(format('INSERT INTO workflow_runs (status) VALUES (%L)', s), 'a run can be ' || s)
  FROM unnest(ARRAY['pending', 'running', 'completed', 'failed', 'cancelled']) s;
SELECT throws_ok($$INSERT INTO workflow_runs (status) VALUES ('resting')$$, '23514');
SELECT lives_ok(format($$INSERT INTO node_executions (workflow_run_id, node_id, status) VALUES (gen_random_uuid(), 'n', %L)$$, s), 'a node can be ' || s)
  FROM unnest(ARRAY['pending', 'running', 'completed', 'failed', 'skipped', 'cancelled']) s;
SELECT throws_ok($$INSERT INTO node_executions (workflow_run_id, node_id, status) VALUES (gen_random_uuid(), 'n', 'resting')$$, '23514');

-- Triggers
SELECT trigger_is('pgtap_install', t, 'concertmaster_updated_at', 'concertmaster', 'set_updated_at', t || ': updated_at follows')
  FROM unnest(ARRAY['workflows', 'workflow_runs', 'form_schemas']) t;
SELECT trigger_is('pgtap_install', 'node_executions', 'concertmaster_created_at', 'concertmaster', 'keep_created_at', 'node_executions: created_at stays');
SELECT throws_ok($$UPDATE node_executions SET created_at = created_at + interval '1 day'$$, '23000');
SELECT throws_ok($$UPDATE node_executions SET created_at = NULL$$, '23000');

-- Partitions: by range of time, this month and four ahead
SELECT is_partitioned(t) FROM unnest(ARRAY['form_responses', 'node_executions', 'audit_events']) t;
SELECT is(pg_get_partkeydef(t::regclass), k, t || ' is partitioned by ' || k)
  FROM (VALUES ('form_responses', 'RANGE (submitted_at)'), ('node_executions', 'RANGE (created_at)'), ('audit_events', 'RANGE (created_at)')) v (t, k);
SELECT is_partition_of('pgtap_install', t || to_char((now() AT TIME ZONE 'UTC') + m * interval '1 month', '_YYYY_MM'), 'pgtap_install', t)
  FROM unnest(ARRAY['form_responses', 'node_executions', 'audit_events']) t, generate_series(0, 4) m;
SELECT is(ARRAY(SELECT table_name::text FROM concertmaster.partition_set WHERE schema_name = 'pgtap_install' ORDER BY 1),
    ARRAY['audit_events', 'form_responses', 'node_executions'], 'all three are sets');

-- The view
SELECT ok((SELECT relispopulated FROM pg_class WHERE oid = 'form_completion_stats'::regclass), 'the view is filled');
SELECT index_is_unique('form_completion_stats', 'form_completion_stats_form_schema_id_day_key');
SELECT has_index('pgtap_install', 'form_completion_stats', 'form_completion_stats_form_schema_id_day_key', ARRAY['form_schema_id', 'day']);
SELECT results_eq($$SELECT every FROM concertmaster.matview WHERE schema_name = 'pgtap_install'$$, ARRAY[interval '15 minutes'], 'it is managed');

-- The index plan
SELECT results_eq($$SELECT phase, count(*)::integer FROM concertmaster.index_plan WHERE schema_name = 'pgtap_install' GROUP BY 1 ORDER BY 1$$,
    $$VALUES (1, 8), (2, 4)$$, 'twelve indexes are planned');

-- Owner and privileges: the caller's, nobody else's
SELECT is_empty($$SELECT relname FROM pg_class WHERE relnamespace = 'pgtap_install'::regnamespace AND relowner <> 'pgtap_install_owner'::regrole$$,
    'all belongs to the caller');
SELECT is_empty($$SELECT relname, relacl FROM pg_class WHERE relnamespace = 'pgtap_install'::regnamespace AND relacl IS NOT NULL$$,
    'nothing is granted to anybody');
SELECT function_privs_are('concertmaster', f, a, 'public', ARRAY['EXECUTE'])
  FROM (VALUES ('uuid_v7', '{}'::text[]), ('uuid_v7_time', '{uuid}'), ('install', '{name}'), ('plan_install', '{name}'), ('uninstall', '{}')) v (f, a);
SELECT function_privs_are('concertmaster', f, a, 'pgtap_install_owner', '{}')
  FROM (VALUES ('_bundled_tables', '{}'::text[]), ('_bundled_columns', '{}'), ('_bundled_constraints', '{}'), ('_bundled_triggers', '{}'),
               ('_bundled_view_query', '{name,boolean}')) v (f, a);
SELECT table_privs_are('concertmaster', 'installation', 'pgtap_install_owner', '{}'::text[]);

-- Comments on every table and column of a user's
SELECT is_empty($$SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'pgtap_install'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
      AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid) IS NULL)$$, 'every table and column has a comment');
SELECT ok(obj_description('form_completion_stats'::regclass) IS NOT NULL, 'the view has one');

SELECT finish();
ROLLBACK;
