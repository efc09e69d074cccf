SELECT * FROM concertmaster.jobs;
SELECT * FROM form_completion_stats ORDER BY day DESC, submissions DESC LIMIT 10;
INSERT INTO form_responses (form_schema_id, data)
    SELECT id, '{"status": "complete", "completion_time": 42}' FROM form_schemas LIMIT 1;
CALL concertmaster.run_job('refresh public.form_completion_stats');
SELECT concertmaster.create_monthly_partition('form_responses', '2031-05-20');
SELECT * FROM concertmaster.partitions;
SELECT * FROM concertmaster.lock_waits;
SELECT * FROM concertmaster.recommended_settings WHERE to_change;
SELECT * FROM concertmaster.recommended_settings_conf();
