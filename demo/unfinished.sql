-- Jobs that are due now and have not succeeded yet, one per line.
SELECT j.name FROM concertmaster.job j LEFT JOIN concertmaster.job_state s USING (job_id)
 WHERE j.every IS NOT NULL AND j.kind IN ('roll', 'refresh') AND s.last_success IS NULL
 ORDER BY j.name;
