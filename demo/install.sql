-- One row per object: what install() did.  The two index jobs would start by
-- themselves at once; the demo holds them back until there is data, to show
-- them at work.
\set ON_ERROR_STOP on
SET client_min_messages = warning;
CREATE EXTENSION pg_stat_statements;
CREATE EXTENSION concertmaster;
BEGIN;
SELECT object, action, detail FROM concertmaster.install();
SELECT concertmaster.pause_job('build phase ' || n) FROM generate_series(1, 2) n \g /dev/null
COMMIT;
