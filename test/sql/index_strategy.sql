-- The strategy's twelve indexes on the strategy's own tables, and its queries.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
SET timezone = 'UTC';
CREATE SCHEMA index_strategy_test;
SET search_path = index_strategy_test;

CREATE TABLE workflows (
    id uuid PRIMARY KEY, name varchar(255), definition jsonb, created_by uuid,
    created_at timestamp, updated_at timestamp, is_template boolean DEFAULT false);
CREATE TABLE workflow_runs (
    id uuid PRIMARY KEY, workflow_id uuid REFERENCES workflows (id), status varchar(50),
    trigger_data jsonb, started_at timestamp, completed_at timestamp, created_by uuid);
CREATE TABLE form_schemas (id uuid PRIMARY KEY, name text, version int);
CREATE TABLE form_responses (
    id uuid, form_schema_id uuid REFERENCES form_schemas (id), workflow_run_id uuid,
    data jsonb, metadata jsonb, submitted_at timestamptz NOT NULL, PRIMARY KEY (id, submitted_at))
    PARTITION BY RANGE (submitted_at);
CREATE TABLE form_responses_2025_01 PARTITION OF form_responses FOR VALUES FROM ('2025-01-01') TO ('2025-02-01');
CREATE TABLE form_responses_2025_02 PARTITION OF form_responses FOR VALUES FROM ('2025-02-01') TO ('2025-03-01');
CREATE TABLE node_executions (
    workflow_run_id uuid, id uuid, node_id text, status varchar(50), started_at timestamptz,
    completed_at timestamptz, error text, created_at timestamptz NOT NULL,
    PRIMARY KEY (workflow_run_id, id, created_at))
    PARTITION BY RANGE (created_at);
CREATE TABLE node_executions_2025_01 PARTITION OF node_executions FOR VALUES FROM ('2025-01-01') TO ('2025-02-01');
CREATE TABLE node_executions_2025_02 PARTITION OF node_executions FOR VALUES FROM ('2025-02-01') TO ('2025-03-01');
CREATE TABLE audit_events (
    id uuid, entity_type text, entity_id uuid, action text, created_at timestamptz NOT NULL, PRIMARY KEY (id, created_at))
    PARTITION BY RANGE (created_at);
CREATE TABLE audit_events_old PARTITION OF audit_events FOR VALUES FROM ('2001-01-01') TO ('2002-01-01');
CREATE TABLE audit_events_now PARTITION OF audit_events FOR VALUES FROM ('2002-01-01') TO ('9000-01-01');

-- a key that is the same on every run
CREATE FUNCTION key(kind text, number bigint) RETURNS uuid LANGUAGE sql IMMUTABLE
    RETURN md5(kind || number)::uuid;
INSERT INTO workflows
SELECT key('w', g), 'w' || g,
       jsonb_build_object('type', (ARRAY['scheduled', 'manual', 'event', 'webhook'])[1 + g % 4],
                          'status', (ARRAY['active', 'draft', 'paused'])[1 + g % 3], 'filler', repeat(md5(g::text), 10)),
       key('u', g % 50), '2025-01-01', timestamp '2025-01-01' + g * interval '1 minute'
  FROM generate_series(1, 10000) g;
INSERT INTO workflow_runs
SELECT key('r', g), key('w', 1 + g % 1000),
       CASE g % 50 WHEN 0 THEN 'running' WHEN 1 THEN 'failed' WHEN 2 THEN 'pending' ELSE 'completed' END,
       '{}', timestamp '2025-01-01' + g * interval '1 minute', NULL, key('u', g % 50)
  FROM generate_series(1, 20000) g;
INSERT INTO form_schemas SELECT key('s', g), 'form ' || g % 200, 1 + g / 200 FROM generate_series(1, 4000) g;
INSERT INTO form_responses
SELECT key('f', g), key('s', 1 + g % 100), CASE WHEN g % 3 = 0 THEN key('r', 1 + g % 5000) END,
       jsonb_build_object('status', CASE WHEN g % 100 = 0 THEN 'odd' ELSE 'complete' END, 'n', g % 1000),
       CASE WHEN g % 2 = 0 THEN jsonb_build_object('source', 's' || g % 400) END,
       timestamptz '2025-01-01' + g % 59 * interval '1 day'
  FROM generate_series(1, 20000) g;
INSERT INTO node_executions
SELECT key('r', 1 + g % 100), key('n', g), 'node ' || g / 100 % 20, CASE WHEN g / 100 % 7 = 0 THEN 'failed' ELSE 'completed' END,
       NULL, NULL, NULL, timestamptz '2025-01-01' + g % 59 * interval '1 day'
  FROM generate_series(1, 20000) g;
INSERT INTO audit_events
SELECT key('a', g), 'workflow', key('w', 1 + g % 1000), 'changed',
       CASE WHEN g % 10 = 0 THEN timestamptz '2001-06-01' ELSE timestamptz '2025-01-01' + g * interval '1 minute' END
  FROM generate_series(1, 20000) g;

INSERT INTO concertmaster.index_plan
SELECT (b).* FROM (SELECT concertmaster._bundled_indexes('index_strategy_test') AS b) x;
SELECT phase, table_name, index_name, definition, hot_window
  FROM concertmaster.indexes WHERE schema_name = 'index_strategy_test';
CALL concertmaster.build_indexes(1);
SELECT phase, index_name, state, percent_done, message
  FROM concertmaster.indexes WHERE schema_name = 'index_strategy_test';
CALL concertmaster.build_indexes();
SELECT phase, index_name, state, percent_done, message
  FROM concertmaster.indexes WHERE schema_name = 'index_strategy_test';
SELECT indrelid::regclass, indexrelid::regclass FROM pg_index
 WHERE indrelid IN ('audit_events'::regclass, 'audit_events_old'::regclass, 'audit_events_now'::regclass) ORDER BY 1, 2;

-- Each index serves its query.
VACUUM ANALYZE workflows, workflow_runs, form_schemas, form_responses, node_executions, audit_events;
SET max_parallel_workers_per_gather = 0;
-- the strategy's optimized query, to the letter
EXPLAIN (COSTS OFF)
SELECT w.id, w.name, w.definition, w.created_at
FROM workflows w
WHERE (definition->>'type') = 'scheduled'
AND (definition->>'status') = 'active'
ORDER BY w.updated_at DESC
LIMIT 50;
EXPLAIN (COSTS OFF)
SELECT * FROM workflows WHERE definition->>'status' = 'active' ORDER BY updated_at DESC LIMIT 20;
EXPLAIN (COSTS OFF)
SELECT * FROM workflow_runs WHERE status = 'failed' ORDER BY started_at DESC LIMIT 20;
EXPLAIN (COSTS OFF)
SELECT status, started_at, completed_at FROM workflow_runs WHERE workflow_id = key('w', 5) AND status = 'completed';
EXPLAIN (COSTS OFF)
SELECT * FROM form_responses WHERE form_schema_id = key('s', 5) AND submitted_at >= '2025-02-01' ORDER BY submitted_at DESC LIMIT 20;
EXPLAIN (COSTS OFF)
SELECT * FROM form_responses WHERE workflow_run_id = key('r', 9) AND submitted_at < '2025-02-01';
EXPLAIN (COSTS OFF)
SELECT * FROM form_responses WHERE data @> '{"status": "odd", "n": 100}' AND submitted_at < '2025-02-01';
EXPLAIN (COSTS OFF)
SELECT * FROM form_responses WHERE metadata @> '{"source": "s8"}' AND submitted_at < '2025-02-01';
EXPLAIN (COSTS OFF)
SELECT * FROM node_executions WHERE workflow_run_id = key('r', 7) AND node_id = 'node 14' AND status = 'failed' AND created_at < '2025-02-01';
EXPLAIN (COSTS OFF)
SELECT * FROM workflow_runs WHERE created_by = key('u', 7) AND status = 'completed' ORDER BY started_at DESC LIMIT 20;
EXPLAIN (COSTS OFF)
SELECT * FROM form_schemas WHERE name = 'form 7' ORDER BY version DESC LIMIT 1;
EXPLAIN (COSTS OFF)
SELECT * FROM audit_events WHERE entity_type = 'workflow' AND entity_id = key('w', 7) AND created_at > '2025-01-01' ORDER BY created_at DESC LIMIT 20;

-- No value that an index leaves out or bounds makes a write fail, however long.
CREATE FUNCTION noise(length integer) RETURNS text LANGUAGE sql IMMUTABLE
    RETURN (SELECT left(string_agg(md5(g::text), ''), length) FROM generate_series(1, length / 32 + 1) g);
INSERT INTO node_executions VALUES
    (key('r', 1), key('n', 0), noise(100000), 'failed', NULL, NULL, noise(100000), '2025-01-15');
UPDATE node_executions SET error = noise(200000) WHERE node_id = 'node 1' AND workflow_run_id = key('r', 1);
INSERT INTO form_responses VALUES
    (key('f', 0), key('s', 1), NULL, jsonb_build_object('long', noise(100000), noise(5000), 1), jsonb_build_object('long', noise(100000)), '2025-01-15');
SELECT length(error) FROM node_executions WHERE workflow_run_id = key('r', 1) AND node_id = noise(100000);
SELECT count(*) FROM form_responses WHERE data @> jsonb_build_object('long', noise(100000));

DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_strategy_test';
DELETE FROM concertmaster.job WHERE kind = 'build' AND phase IN (1, 2);
DROP SCHEMA index_strategy_test CASCADE;
