-- Load what dev/demo.sh has copied into schema demo_input from the files of a
-- folder: workflows, forms and answers.  The newest answer is taken to be from
-- now, the others as much earlier as they were; partitions are made for the
-- months that the answers reach back.
\set ON_ERROR_STOP on
SET client_min_messages = warning;

SELECT concertmaster.create_partition_set('public.form_responses', '1 month',
           start_at => (SELECT now() - (max(submitted_at) - min(submitted_at)) FROM demo_input.form_responses)) \g /dev/null
CALL concertmaster.roll_partitions('public.form_responses');

BEGIN;

INSERT INTO public.workflows (name, definition, created_at, updated_at)
SELECT left(name, 255), definition, coalesce(created_at, updated_at, now()), coalesce(updated_at, created_at, now())
  FROM demo_input.workflows;

INSERT INTO public.form_schemas (name, version, schema)
SELECT name, version, schema FROM demo_input.form_schemas;

DO $$
DECLARE
    missing text;
BEGIN
    SELECT string_agg(DISTINCT quote_literal(form_name), ', ') INTO missing
      FROM demo_input.form_responses r
     WHERE NOT EXISTS (SELECT FROM demo_input.form_schemas s WHERE s.name = r.form_name);
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'form_responses.csv names forms that form_schemas.csv does not have'
            USING ERRCODE = 'foreign_key_violation', DETAIL = format('Forms: %s.', missing);
    END IF;
END
$$;

INSERT INTO public.form_responses (form_schema_id, data, metadata, submitted_at)
SELECT f.id, r.data, jsonb_strip_nulls(jsonb_build_object('respondent', r.respondent, 'started_at', r.started_at)),
       r.submitted_at + (now() - (SELECT max(submitted_at) FROM demo_input.form_responses))
  FROM demo_input.form_responses r
  JOIN LATERAL (SELECT s.id FROM public.form_schemas s WHERE s.name = r.form_name ORDER BY s.version DESC LIMIT 1) f ON true
 ORDER BY r.submitted_at;

COMMIT;

DROP SCHEMA demo_input CASCADE;
ANALYZE public.workflows, public.form_schemas, public.form_responses;
