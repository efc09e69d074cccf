-- What the workers have done, the newest run of each job.
SELECT DISTINCT ON (name) name AS job, status, round(duration_ms::numeric, 1) AS "took, ms", message
  FROM concertmaster.job_runs WHERE kind IN ('roll', 'refresh') ORDER BY name, run_id DESC;
