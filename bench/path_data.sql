/*
 * What a platform has after a year, in the strategy's schema (which
 * test/fixtures/strategy_schema.sql has made, with setting fixture.responses
 * 0): the responses that setting bench.responses says, with runs, steps and
 * events in proportion.  Made for psql, by bench/path.sh.
 *
 * The strategy's indexes name two tables that its schema forgets; they are
 * made of the columns that it names, as it would have made them, plain.
 */
CREATE TABLE node_executions (
    id UUID PRIMARY KEY,
    workflow_run_id UUID,
    node_id TEXT,
    status VARCHAR(50),
    started_at TIMESTAMP,
    completed_at TIMESTAMP,
    error TEXT
);

CREATE TABLE audit_events (
    id UUID PRIMARY KEY,
    entity_type TEXT,
    entity_id UUID,
    action TEXT,
    created_at TIMESTAMP
);

SELECT current_setting('bench.responses') AS responses \gset

-- 2,000 workflows of about 2.5 kB, 200 forms; the first of them are the fixture's.
INSERT INTO workflows (id, name, definition, created_at, updated_at)
SELECT md5('workflow ' || n)::uuid, 'workflow ' || n,
       jsonb_build_object('type', (ARRAY['scheduled', 'manual', 'event'])[1 + n % 3], 'status', (ARRAY['active', 'draft'])[1 + n % 2],
                          'nodes', (SELECT jsonb_agg(jsonb_build_object('id', 'node ' || k, 'settings', md5(n || ' ' || k) || md5(k || ' ' || n)))
                                      FROM generate_series(1, 20) k)),
       now() - n * interval '1 hour', now() - n * interval '1 hour'
  FROM generate_series(101, 2000) n;

INSERT INTO form_schemas (id, name, version)
SELECT md5('form ' || n)::uuid, 'form ' || n, 1 FROM generate_series(21, 200) n;

INSERT INTO workflow_runs (id, workflow_id, status, trigger_data, started_at, completed_at)
SELECT md5('run ' || n)::uuid, md5('workflow ' || 1 + n % 2000)::uuid,
       CASE WHEN n % 50 = 0 THEN 'failed' WHEN n < 100 THEN 'running' ELSE 'completed' END,
       jsonb_build_object('source', 'webhook', 'n', n),
       now() - n * interval '365 days' / (:responses / 10), now() - n * interval '365 days' / (:responses / 10) + interval '1 minute'
  FROM generate_series(1, :responses / 10) n;

INSERT INTO node_executions (id, workflow_run_id, node_id, status, started_at, completed_at, error)
SELECT md5('step ' || n)::uuid, md5('run ' || 1 + n / 5)::uuid, 'node ' || n % 5,
       CASE WHEN n % 250 = 0 THEN 'failed' ELSE 'completed' END, now() - n * interval '365 days' / (:responses / 2),
       now() - n * interval '365 days' / (:responses / 2) + interval '10 seconds', CASE WHEN n % 250 = 0 THEN 'timed out' END
  FROM generate_series(1, :responses / 2) n;

INSERT INTO audit_events (id, entity_type, entity_id, action, created_at)
SELECT md5('event ' || n)::uuid, 'workflow_run', md5('run ' || n)::uuid, 'started', now() - n * interval '365 days' / (:responses / 10)
  FROM generate_series(1, :responses / 10) n;

-- Oldest first, as a table that lives has them.
INSERT INTO form_responses (id, form_schema_id, workflow_run_id, data, metadata, submitted_at)
SELECT md5('response ' || n)::uuid, md5('form ' || 1 + n % 200)::uuid, CASE WHEN n % 2 = 0 THEN md5('run ' || 1 + n / 10)::uuid END,
       jsonb_build_object('status', CASE WHEN n % 3 > 0 THEN 'complete' ELSE 'draft' END, 'completion_time', n % 600,
                          'email', 'user' || n % 100000 || '@example.org', 'answer', repeat('x', n % 50)),
       jsonb_build_object('browser', 'b' || n % 7, 'session', md5('session ' || n / 3)),
       now() - n * interval '365 days' / :responses
  FROM generate_series(:responses, 1, -1) n;

\ir ../test/fixtures/strategy_view.sql
