-- How long some questions take, in milliseconds: the best of five executions.
-- psql variable column: before or after.
\set ON_ERROR_STOP on
SET client_min_messages = warning;
CREATE TABLE IF NOT EXISTS public.demo_question (n int PRIMARY KEY, asks text, before float8, after float8, ask_before text, ask_after text);
INSERT INTO public.demo_question (n, asks, ask_before, ask_after) VALUES
    (1, 'the 50 runs that failed last',
     $$SELECT id, workflow_id, started_at FROM public.workflow_runs WHERE status = 'failed' ORDER BY started_at DESC LIMIT 50$$, NULL),
    (2, 'the workflows that run by schedule, newest first',
     $$SELECT id, name FROM public.workflows WHERE definition ->> 'type' = 'scheduled' AND definition ->> 'status' = 'active' ORDER BY updated_at DESC LIMIT 50$$, NULL),
    (3, 'the last 20 answers to one form',
     $$SELECT data FROM public.form_responses WHERE form_schema_id = (SELECT id FROM public.form_schemas ORDER BY id DESC LIMIT 1) ORDER BY submitted_at DESC LIMIT 20$$, NULL),
    (4, 'answers that contain a rare value',
     $$SELECT count(*) FROM public.form_responses WHERE data @> '{"completion_time": "about five minutes"}'$$, NULL),
    (5, 'submissions per form and day of the last month',
     $$SELECT fs.name, (fr.submitted_at AT TIME ZONE 'UTC')::date AS day, count(*), count(*) FILTER (WHERE fr.data ->> 'status' = 'complete')
         FROM public.form_responses fr JOIN public.form_schemas fs ON fs.id = fr.form_schema_id
        WHERE fr.submitted_at >= now() - interval '30 days' GROUP BY 1, 2$$,
     $$SELECT form_name, day, submissions, completed FROM public.form_completion_stats$$)
ON CONFLICT DO NOTHING;
-- One that the data at hand can answer: files bring no runs, and made-up workflows are few.
DELETE FROM public.demo_question WHERE n = CASE WHEN EXISTS (SELECT FROM public.workflow_runs) THEN 2 ELSE 1 END;

SELECT set_config('demo.column', :'column', false) \g /dev/null
DO $do$
DECLARE
    q record;
    plan json;
    best float8;
BEGIN
    FOR q IN SELECT n, CASE WHEN current_setting('demo.column') = 'after' THEN coalesce(ask_after, ask_before) ELSE ask_before END AS ask
               FROM public.demo_question LOOP
        best := NULL;
        FOR i IN 1..5 LOOP
            EXECUTE 'EXPLAIN (ANALYZE, TIMING OFF, FORMAT json) ' || q.ask INTO plan;
            best := least(best, (plan -> 0 ->> 'Planning Time')::float8 + (plan -> 0 ->> 'Execution Time')::float8);
        END LOOP;
        EXECUTE format('UPDATE public.demo_question SET %I = $1 WHERE n = $2', current_setting('demo.column')) USING best, q.n;
    END LOOP;
END
$do$;
