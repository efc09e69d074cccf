-- The planner is pure: any time, any zone
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
\set SHOW_CONTEXT never
CREATE FUNCTION pg_temp.plan(key regtype, period interval, ahead integer, start_at timestamptz, timezone text, at timestamptz)
RETURNS TABLE (partition name, range_from text, range_to text, width interval) LANGUAGE sql AS $$
    SELECT partition, range_from::text, range_to::text, range_to - range_from
      FROM concertmaster._partition_plan('t', key, period, ahead, start_at, timezone, at)
$$;

-- months over both changes of the clock
SELECT * FROM pg_temp.plan('timestamptz', '1 month', 0, '2025-03-15', 'Europe/Berlin', '2025-04-02');
SELECT * FROM pg_temp.plan('timestamptz', '1 month', 1, '2025-10-15', 'Europe/Berlin', '2025-10-15');
-- now is already the next month in one zone and not yet in another
SELECT partition FROM pg_temp.plan('timestamptz', '1 month', 0, '2025-06-30 23:30Z', 'Europe/Berlin', '2025-06-30 23:30Z');
SELECT partition FROM pg_temp.plan('timestamptz', '1 month', 0, '2025-06-30 23:30Z', 'America/New_York', '2025-06-30 23:30Z');
SELECT partition FROM pg_temp.plan('date', '1 month', 0, '2025-06-30 23:30Z', 'Europe/Berlin', '2025-06-30 23:30Z');
-- quarters and years, several years, backwards over the origin
SELECT * FROM pg_temp.plan('timestamp', '3 months', 1, '2024-12-31', 'UTC', '2025-02-01');
SELECT * FROM pg_temp.plan('date', '1 year', 1, '1998-07-01', 'UTC', '2000-02-29');
SELECT * FROM pg_temp.plan('date', '10 years', 0, '1985-01-01', 'UTC', '2000-02-29');
-- days of 23 and 25 hours, and of 24 for a clock without zone
SELECT * FROM pg_temp.plan('timestamptz', '1 day', 1, '2025-03-29 12:00Z', 'Europe/Berlin', '2025-03-30 12:00Z');
SELECT * FROM pg_temp.plan('timestamptz', '1 day', 1, '2025-10-25 12:00Z', 'Europe/Berlin', '2025-10-26 12:00Z');
SELECT * FROM pg_temp.plan('timestamp', '1 day', 1, '2025-03-29 12:00Z', 'Europe/Berlin', '2025-03-30 12:00Z');
-- a day whose midnight no clock showed; a day that did not exist
SELECT * FROM pg_temp.plan('timestamptz', '1 day', 0, '2018-11-03 12:00Z', 'America/Sao_Paulo', '2018-11-05 12:00Z');
SELECT * FROM pg_temp.plan('timestamptz', '1 day', 0, '2011-12-29 12:00-10', 'Pacific/Apia', '2011-12-31 12:00+14');
-- weeks begin on Mondays
SELECT *, extract(isodow FROM range_from::timestamptz) FROM pg_temp.plan('date', '1 week', 1, '2025-01-01', 'UTC', '2025-01-08');
-- hours: one is skipped, one is doubled; half hours and odd ones
SELECT * FROM pg_temp.plan('timestamptz', '1 hour', 0, '2025-03-30 00:00Z', 'Europe/Berlin', '2025-03-30 02:59Z');
SELECT * FROM pg_temp.plan('timestamptz', '1 hour', 0, '2025-10-25 23:00Z', 'Europe/Berlin', '2025-10-26 02:00Z');
SELECT * FROM pg_temp.plan('timestamptz', '6 hours', 0, '2025-03-29 22:00Z', 'Europe/Berlin', '2025-03-30 12:00Z');
SELECT * FROM pg_temp.plan('timestamptz', '30 minutes', 0, '2025-10-04 14:30Z', 'Australia/Lord_Howe', '2025-10-04 16:00Z');
SELECT * FROM pg_temp.plan('timestamptz', '50 minutes', 0, '2025-03-30 01:05Z', 'Europe/Berlin', '2025-03-30 01:05Z');
SELECT * FROM pg_temp.plan('timestamptz', '15 seconds', 1, '2025-01-01 12:00:07Z', 'UTC', '2025-01-01 12:00:07Z');

-- contiguous, without a gap or an overlap, and holding "at", whatever the zone and the period
SELECT z.name, p.period, count(*) AS partitions,
       bool_and(range_from = coalesce(previous, range_from) AND range_to > range_from) AS contiguous,
       count(*) FILTER (WHERE range_from <= '2025-11-05 12:00Z' AND range_to > '2025-11-05 12:00Z') AS hold_now,
       count(*) FILTER (WHERE range_from <= '2025-02-25 12:00Z' AND range_to > '2025-02-25 12:00Z') AS hold_start,
       count(DISTINCT partition) = count(*) AS names_differ
  FROM (VALUES ('Europe/Berlin'), ('America/St_Johns'), ('Australia/Lord_Howe'), ('Asia/Kathmandu'), ('America/Havana')) z (name),
       (VALUES (interval '1 month'), ('1 week'), ('1 day'), ('12 hours'), ('3 hours'), ('1 hour'), ('50 minutes')) p (period),
       LATERAL (SELECT *, lag(range_to) OVER (ORDER BY range_from) AS previous
                  FROM concertmaster._partition_plan('t', 'timestamptz', p.period, 2, '2025-02-25 12:00Z', z.name, '2025-11-05 12:00Z')) b
 GROUP BY 1, 2 ORDER BY 1, 2;

-- nothing is as wide as it should not be
SELECT partition FROM pg_temp.plan('date', '1 month', 0, '2026-03-01', 'UTC', '2025-01-15');

-- refusals
SELECT * FROM pg_temp.plan('timestamptz', '0', 0, '2025-01-01', 'UTC', '2025-01-01');
SELECT * FROM pg_temp.plan('timestamptz', '-1 month', 0, '2025-01-01', 'UTC', '2025-01-01');
SELECT * FROM pg_temp.plan('timestamptz', '1 month -1 day', 0, '2025-01-01', 'UTC', '2025-01-01');
SELECT * FROM pg_temp.plan('timestamptz', '1 month 1 day', 0, '2025-01-01', 'UTC', '2025-01-01');
SELECT * FROM pg_temp.plan('timestamptz', '500 milliseconds', 0, '2025-01-01', 'UTC', '2025-01-01');
SELECT * FROM pg_temp.plan('timestamptz', '1.5 seconds', 0, '2025-01-01', 'UTC', '2025-01-01');
SELECT * FROM pg_temp.plan('date', '12 hours', 0, '2025-01-01', 'UTC', '2025-01-01');
SELECT * FROM pg_temp.plan('date', '2000 years', 0, '2025-01-01', 'UTC', '2025-01-01');
SELECT * FROM pg_temp.plan('timestamptz', '1 day', 0, '2025-01-01', 'Mars/Olympus', '2025-01-01');
SELECT * FROM pg_temp.plan('timestamptz', '1 second', 0, '2025-01-01', 'UTC', '2025-01-02');
SELECT * FROM pg_temp.plan('date', '1 year', 9999, '294200-01-01', 'UTC', '294200-01-01');
