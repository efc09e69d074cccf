--
-- Time-ordered keys and their inverse.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
RESET client_min_messages;
SET timezone = 'UTC';

-- Version 7, variant 10, the present time.
SELECT substr(id::text, 15, 1) AS version,
       substr(id::text, 20, 1) IN ('8', '9', 'a', 'b') AS variant,
       concertmaster.uuid_v7_time(id) BETWEEN clock_timestamp() - interval '1 minute' AND clock_timestamp() + interval '1 minute' AS is_now
  FROM concertmaster.uuid_v7() AS id;

-- Each key is greater than the one before, and no two are alike.
SELECT count(*) AS keys, count(*) FILTER (WHERE id <= before) AS not_greater, count(DISTINCT id) AS different
  FROM (SELECT id, lag(id) OVER (ORDER BY n) AS before
          FROM (SELECT n, concertmaster.uuid_v7() AS id FROM generate_series(1, 20000) n) k) l;

-- Also from one statement to the next.
SELECT concertmaster.uuid_v7() AS first \gset
SELECT concertmaster.uuid_v7() > :'first' AS later;

-- The example of RFC 9562, appendix A.6, and the ends of the range.
SELECT concertmaster.uuid_v7_time('017F22E2-79B0-7CC3-98C4-DC0C0C07398F') = '2022-02-22 14:22:22-05' AS rfc_9562;
SELECT concertmaster.uuid_v7_time('00000000-0000-7000-8000-000000000000') AS first,
       concertmaster.uuid_v7_time('ffffffff-ffff-7fff-bfff-ffffffffffff') AS last;
SELECT concertmaster.uuid_v7_time(NULL) IS NULL AS null_is_null;

-- Other versions and variants carry no such time.
SELECT concertmaster.uuid_v7_time(gen_random_uuid());
\echo :SQLSTATE
SELECT concertmaster.uuid_v7_time('017F22E2-79B0-1CC3-98C4-DC0C0C07398F');
\echo :SQLSTATE
SELECT concertmaster.uuid_v7_time('017F22E2-79B0-7CC3-18C4-DC0C0C07398F');
\echo :SQLSTATE
SELECT concertmaster.uuid_v7_time('00000000-0000-0000-0000-000000000000');
\echo :SQLSTATE

-- Anybody may use them; a parallel worker would keep a time of its own.
SELECT proname, provolatile, proisstrict, proparallel, has_function_privilege('public', oid, 'EXECUTE') AS public
  FROM pg_proc WHERE pronamespace = 'concertmaster'::regnamespace AND proname IN ('uuid_v7', 'uuid_v7_time')
 ORDER BY proname;
