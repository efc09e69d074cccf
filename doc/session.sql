-- The session of README.md, for psql, in a database without concertmaster:
--
--   createdb platform && psql -d platform -f doc/session.sql
--
-- test/t/092_docs_readme.pl runs it and compares its answers with README.md.

CREATE EXTENSION concertmaster;
SELECT object, action FROM concertmaster.install() WHERE object !~ '^index';

INSERT INTO workflows (name, definition)
VALUES ('Onboarding', '{"type": "scheduled", "status": "active"}') RETURNING id AS workflow \gset
INSERT INTO workflow_runs (workflow_id, status, started_at)
VALUES (:'workflow', 'running', now()) RETURNING id AS run \gset
INSERT INTO form_schemas (name) VALUES ('First week') RETURNING id AS form \gset
INSERT INTO form_responses (form_schema_id, workflow_run_id, data)
VALUES (:'form', :'run', '{"status": "complete", "completion_time": 42, "mood": "good"}');
UPDATE workflow_runs SET status = 'completed', completed_at = now() WHERE id = :'run';

CALL concertmaster.build_indexes();
SELECT index_name, table_name, state FROM concertmaster.indexes WHERE phase = 1 ORDER BY index_name;
SELECT table_name, period, ahead, partitions FROM concertmaster.partition_sets ORDER BY table_name;

CALL concertmaster.run_job('refresh public.form_completion_stats');
INSERT INTO form_responses (form_schema_id, data) VALUES (:'form', '{"status": "partial"}');
SELECT mode, groups, inserted, deleted FROM concertmaster.refresh('form_completion_stats');
SELECT form_name, submissions, completed, avg_completion_time::int AS seconds FROM form_completion_stats;

SELECT name, every, last_status FROM concertmaster.jobs ORDER BY name;
