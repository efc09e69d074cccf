-- Made-up data for the demo: people, workflows, forms, and four months of runs
-- and answers that grow towards now.  psql variable responses says how many
-- answers; all else follows from it.  The seed makes every run alike, apart
-- from keys and from when "now" is.
\set ON_ERROR_STOP on
SET client_min_messages = warning;
SELECT setseed(0.20260115) \g /dev/null

-- Partitions for the past that the data has.  Each is attached in a transaction
-- of its own, hence the CALL; the set's job keeps on from here.
SELECT concertmaster.create_partition_set(t::regclass, '1 month', start_at => now() - interval '125 days')
  FROM unnest(ARRAY['public.form_responses', 'public.node_executions', 'public.audit_events']) AS t \g /dev/null
CALL concertmaster.roll_partitions();

BEGIN;

CREATE TEMPORARY TABLE person ON COMMIT DROP AS
SELECT n, md5('person ' || n)::uuid AS id,
       (ARRAY['ada','ben','chloe','dmitri','esra','farid','grace','hugo','ines','jonas'])[1 + n % 10] || '.' ||
       (ARRAY['okafor','lindqvist','moreau','tanaka','silva','novak'])[1 + n % 6] || '@example.org' AS mail
  FROM generate_series(0, 59) AS n;

-- Workflows: what a middle-sized office automates, department by department.
CREATE TEMPORARY TABLE pattern ON COMMIT DROP AS
SELECT row_number() OVER () - 1 AS n, *
  FROM (VALUES
    ('Onboard a new colleague',   'manual',    ARRAY['form','approval','email','task','email']),
    ('Approve an invoice',        'form',      ARRAY['form','condition','approval','http','email']),
    ('Request time off',          'form',      ARRAY['form','approval','calendar','email']),
    ('Nightly stock report',      'scheduled', ARRAY['query','transform','email']),
    ('Sync customers to the CRM', 'scheduled', ARRAY['query','transform','http']),
    ('Triage a support ticket',   'webhook',   ARRAY['webhook','condition','task','email']),
    ('Collect event feedback',    'form',      ARRAY['form','transform','email']),
    ('Order equipment',           'form',      ARRAY['form','approval','http','task']),
    ('Report a safety incident',  'form',      ARRAY['form','email','task','approval']),
    ('Renew a contract',          'scheduled', ARRAY['query','condition','task','approval','email']),
    ('Payment received',          'webhook',   ARRAY['webhook','transform','http','email']),
    ('Weekly team pulse',         'scheduled', ARRAY['form','transform','email'])
  ) AS p (name, type, nodes);

INSERT INTO public.workflows (name, definition, created_by, created_at, updated_at, is_template)
SELECT p.name || CASE d.n WHEN 0 THEN '' ELSE ' (' || d.name || ')' END,
       jsonb_build_object(
           'type', p.type,
           'status', CASE WHEN d.n = 0 OR x.r < 0.72 THEN 'active' WHEN x.r < 0.84 THEN 'draft' WHEN x.r < 0.94 THEN 'paused' ELSE 'archived' END,
           'version', 1 + (x.r * 7)::int,
           'nodes', (SELECT jsonb_agg(jsonb_build_object('id', 'n' || k.ord, 'type', k.node, 'name', initcap(k.node) || ' ' || k.ord,
                                                         'position', jsonb_build_array(120 * k.ord, 80)) ORDER BY k.ord)
                       FROM unnest(p.nodes) WITH ORDINALITY AS k (node, ord)),
           'connections', (SELECT jsonb_agg(jsonb_build_array('n' || k, 'n' || k + 1)) FROM generate_series(1, cardinality(p.nodes) - 1) AS k),
           'settings', jsonb_build_object('timeout', 3600, 'retry', (x.r * 3)::int))
       || CASE p.type WHEN 'scheduled' THEN jsonb_build_object('schedule', (ARRAY['0 2 * * *', '*/30 * * * *', '0 8 * * 1'])[1 + (p.n % 3)::int])
                      ELSE '{}'::jsonb END,
       (SELECT id FROM person WHERE person.n = (p.n * 5 + d.n) % 60),
       now() - interval '300 days' + x.r * interval '150 days',
       now() - x.r * interval '120 days',
       d.n = 0 AND p.n % 4 = 0
  FROM pattern p
 CROSS JOIN (VALUES (0, ''), (1, 'Sales'), (2, 'Finance'), (3, 'Operations'), (4, 'People'), (5, 'Lisbon office'), (6, 'Osaka office')) AS d (n, name)
 CROSS JOIN LATERAL (SELECT abs(hashtextextended(p.name || d.name, 42) % 1000) / 1000.0 AS r) AS x;

-- Forms, the later version of each being the one in use.
INSERT INTO public.form_schemas (name, version, schema, created_at, updated_at)
SELECT f.name, v, jsonb_build_object('title', initcap(f.name), 'fields',
           (SELECT jsonb_agg(jsonb_build_object('id', k.field, 'label', initcap(replace(k.field, '_', ' ')), 'required', k.ord <= 2) ORDER BY k.ord)
              FROM unnest(f.fields[1:cardinality(f.fields) - (f.versions - v)]) WITH ORDINALITY AS k (field, ord))),
       now() - interval '290 days' + v * interval '40 days', now() - interval '290 days' + v * interval '40 days'
  FROM (VALUES
    ('customer satisfaction', 3, ARRAY['score', 'would_recommend', 'topic', 'comment', 'contact_me']),
    ('time off request',      1, ARRAY['kind', 'days', 'handover', 'comment']),
    ('expense claim',         2, ARRAY['category', 'amount', 'currency', 'receipts', 'comment']),
    ('event feedback',        2, ARRAY['event', 'score', 'liked', 'comment']),
    ('team pulse',            4, ARRAY['mood', 'workload', 'focus', 'blocked_by', 'comment', 'anonymous']),
    ('equipment order',       1, ARRAY['item', 'quantity', 'needed_by', 'comment'])
  ) AS f (name, versions, fields), generate_series(1, f.versions) AS v;

-- Runs: one for ten answers, more and more of them, in office hours.
CREATE TEMPORARY TABLE active_workflow ON COMMIT DROP AS
SELECT row_number() OVER (ORDER BY name) - 1 AS n, id, definition -> 'nodes' AS nodes, definition ->> 'type' AS type
  FROM public.workflows WHERE definition ->> 'status' = 'active';

CREATE TEMPORARY TABLE run ON COMMIT DROP AS
SELECT concertmaster.uuid_v7() AS id, x.asked, x.r2, x.r4, w.id AS workflow_id, w.nodes, w.type, p.id AS created_by, p.mail,
       CASE WHEN x.asked > now() - interval '40 minutes' THEN CASE WHEN x.r4 < 0.3 THEN 'pending' ELSE 'running' END
            WHEN x.r4 < 0.90 THEN 'completed' WHEN x.r4 < 0.97 THEN 'failed' ELSE 'cancelled' END AS status,
       x.asked + x.r2 * interval '90 seconds' AS started,
       x.r3 * x.r3 * interval '25 minutes' + interval '2 seconds' AS took
  FROM (SELECT g.n, random() AS r2, random() AS r3, random() AS r4, random() AS r5, random() AS r6,
               least(date_trunc('day', now() - power(random(), 1.5) * interval '120 days')
                     + interval '6 hours' + (random() + random()) * interval '7 hours',
                     now() - random() * interval '5 hours') AS asked
          FROM generate_series(1, greatest(:responses / 10, 10)) AS g (n)) AS x
  JOIN active_workflow w ON w.n = floor(x.r5 * x.r5 * (SELECT count(*) FROM active_workflow))
  JOIN person p ON p.n = floor(x.r6 * 60)
 ORDER BY x.asked;

INSERT INTO public.workflow_runs (id, workflow_id, status, trigger_data, started_at, completed_at, created_by, created_at, updated_at)
SELECT id, workflow_id, status,
       jsonb_build_object('type', type, 'by', mail, 'attempt', 1 + (r2 * 1.2)::int, 'priority', (ARRAY['low','normal','normal','normal','high'])[1 + floor(r2 * 5)::int]),
       CASE WHEN status <> 'pending' THEN started END,
       CASE WHEN status NOT IN ('pending', 'running') THEN started + took END,
       created_by, asked, CASE status WHEN 'pending' THEN asked WHEN 'running' THEN started ELSE started + took END
  FROM run ORDER BY asked;

-- Their steps: all done in a completed run; in a failed one the last has an error and the rest is skipped.
INSERT INTO public.node_executions (workflow_run_id, node_id, status, started_at, completed_at, error, input, output, created_at)
SELECT r.id, k.node ->> 'id', s.status,
       CASE WHEN s.status IN ('completed', 'failed', 'running') THEN s.begun END,
       CASE WHEN s.status IN ('completed', 'failed') THEN s.begun + r.took / jsonb_array_length(r.nodes) END,
       CASE WHEN s.status = 'failed' THEN
           (ARRAY['connection to crm.example.org timed out after 30 s', 'HTTP 502 from https://billing.example.org/v2/invoices',
                  'approver left the company: no delegate found', 'mailbox is full', 'amount is not a number: "12,50 EUR"'])[1 + floor(r.r2 * 5)::int]
           || CASE WHEN r.r2 > 0.8 THEN E'\n' || repeat('    at step ' || (k.node ->> 'name') || E'\n', 40) ELSE '' END END,
       jsonb_build_object('node', k.node ->> 'type'),
       CASE WHEN s.status = 'completed' THEN jsonb_build_object('ok', true, 'items', floor(r.r2 * 20)) END,
       r.asked
  FROM run r
 CROSS JOIN LATERAL jsonb_array_elements(r.nodes) WITH ORDINALITY AS k (node, ord)
 CROSS JOIN LATERAL (SELECT 1 + floor(r.r2 * jsonb_array_length(r.nodes)) AS stop) AS e
 CROSS JOIN LATERAL (
       SELECT CASE r.status WHEN 'completed' THEN 'completed'
                            WHEN 'pending' THEN 'pending'
                            WHEN 'running' THEN CASE WHEN k.ord < e.stop THEN 'completed' WHEN k.ord = e.stop THEN 'running' ELSE 'pending' END
                            WHEN 'failed' THEN CASE WHEN k.ord < e.stop THEN 'completed' WHEN k.ord = e.stop THEN 'failed' ELSE 'skipped' END
                            ELSE CASE WHEN k.ord < e.stop THEN 'completed' ELSE 'cancelled' END END AS status,
              r.started + (k.ord - 1) * r.took / jsonb_array_length(r.nodes) AS begun) AS s;

-- Answers: most complete, some given up half way, a few with a duration that is no number.
CREATE TEMPORARY TABLE form ON COMMIT DROP AS
SELECT f.id, f.name, row_number() OVER (ORDER BY f.name) - 1 AS n
  FROM public.form_schemas f
 WHERE f.version = (SELECT max(g.version) FROM public.form_schemas g WHERE g.name = f.name);

CREATE TEMPORARY TABLE numbered_run ON COMMIT DROP AS
SELECT row_number() OVER (ORDER BY asked) - 1 AS n, id, asked FROM run;
CREATE INDEX ON numbered_run (n);
ANALYZE numbered_run;

INSERT INTO public.form_responses (form_schema_id, workflow_run_id, data, metadata, submitted_at)
SELECT f.id,
       CASE WHEN x.r1 < 0.4 THEN r.id END,
       jsonb_build_object('status', CASE WHEN x.r2 < 0.83 THEN 'complete' WHEN x.r2 < 0.97 THEN 'partial' ELSE 'abandoned' END)
       || CASE WHEN x.r2 >= 0.97 THEN '{}'::jsonb
               WHEN x.r3 < 0.002 THEN jsonb_build_object('completion_time', 'about five minutes')
               ELSE jsonb_build_object('completion_time', (20 - ln(1 - x.r3) * 140)::int) END
       || jsonb_build_object('answers', CASE f.name
            WHEN 'customer satisfaction' THEN jsonb_build_object('score', 1 + floor(sqrt(x.r4) * 10), 'would_recommend', x.r4 > 0.3,
                 'topic', (ARRAY['delivery','price','quality','support'])[1 + floor(x.r3 * 4)::int])
            WHEN 'time off request' THEN jsonb_build_object('kind', (ARRAY['holiday','holiday','sick','parental'])[1 + floor(x.r4 * 4)::int], 'days', 1 + floor(x.r3 * x.r3 * 15))
            WHEN 'expense claim' THEN jsonb_build_object('category', (ARRAY['travel','meals','equipment','training'])[1 + floor(x.r4 * 4)::int],
                 'amount', round((5 + x.r3 * x.r3 * 900)::numeric, 2), 'currency', (ARRAY['EUR','EUR','USD','JPY'])[1 + floor(x.r1 * 4)::int])
            WHEN 'event feedback' THEN jsonb_build_object('event', 'event ' || floor(x.r3 * 24), 'score', 1 + floor(sqrt(x.r4) * 5))
            WHEN 'team pulse' THEN jsonb_build_object('mood', 1 + floor(sqrt(x.r4) * 5), 'workload', 1 + floor(x.r3 * 5), 'anonymous', x.r1 > 0.5)
            ELSE jsonb_build_object('item', (ARRAY['laptop','monitor','headset','desk','chair'])[1 + floor(x.r4 * 5)::int], 'quantity', 1 + floor(x.r3 * 4))
            END || CASE WHEN x.r5 < 0.25 THEN jsonb_build_object('comment',
                 (ARRAY['Works well, thank you.', 'It took three tries to upload the file.', 'Please add a dark mode.', 'Not sure who answers this.',
                        'Much faster than the paper form.'])[1 + floor(x.r5 * 20)::int]) ELSE '{}'::jsonb END),
       CASE WHEN x.r4 < 0.9 THEN jsonb_build_object('source', (ARRAY['web','web','mobile','email','kiosk'])[1 + floor(x.r5 * 5)::int],
                                                   'locale', (ARRAY['en','en','pt','ja','de'])[1 + floor(x.r1 * 5)::int]) END,
       x.at
  -- The nth answer belongs to the run of about the same time.
  FROM (SELECT y.*, (row_number() OVER (ORDER BY y.at) - 1) * (SELECT count(*) FROM numbered_run) / :responses AS run_n
          FROM (SELECT random() AS r1, random() AS r2, random() AS r3, random() AS r4, random() AS r5, random() AS r6,
                       least(date_trunc('day', now() - power(random(), 1.5) * interval '120 days')
                             + interval '6 hours' + (random() + random()) * interval '7 hours',
                             now() - random() * interval '3 hours') AS at
                  FROM generate_series(1, :responses)) AS y) AS x
  JOIN form f ON f.n = floor(x.r6 * x.r6 * 6)
  LEFT JOIN numbered_run r ON x.r1 < 0.4 AND r.n = x.run_n
 ORDER BY x.at;

-- What an auditor would ask for.
INSERT INTO public.audit_events (entity_type, entity_id, action, actor, details, created_at)
SELECT 'workflow_run', id, CASE status WHEN 'cancelled' THEN 'cancel' WHEN 'failed' THEN 'fail' ELSE 'start' END, mail,
       jsonb_build_object('workflow', workflow_id, 'status', status), asked
  FROM run
 UNION ALL
SELECT 'workflow', w.id, (ARRAY['create', 'edit', 'edit', 'publish'])[k], p.mail, jsonb_build_object('version', k),
       now() - interval '118 days' + k * interval '28 days' + abs(hashtextextended(w.name, k) % 86400) * interval '1 second'
  FROM public.workflows w, generate_series(1, 4) AS k, person p
 WHERE p.n = abs(hashtextextended(w.name, 7) % 60);

COMMIT;

ANALYZE public.workflows, public.form_schemas, public.workflow_runs, public.node_executions, public.form_responses, public.audit_events;
