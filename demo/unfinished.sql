-- Jobs that have not run to success since a time, one per line.
SELECT name FROM concertmaster.jobs
 WHERE kind IN ('roll', 'refresh') AND (last_success IS NULL OR last_run < :'since' OR last_status <> 'succeeded')
 ORDER BY name;
