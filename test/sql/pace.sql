--
-- When large work may run: windows, their arithmetic, the settings' checks, and
-- how well sizes of indexes are estimated.
--
SET client_min_messages TO warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
RESET client_min_messages;
CREATE SCHEMA pace;
SET search_path TO pace;
SET timezone TO 'UTC';

-- Within a day; at the beginning it is open, at the end no more.
SELECT t AS at, w.is_open, w.open_since, w.open_until, w.next_open
  FROM unnest('{2026-03-10 08:59+00, 2026-03-10 09:00+00, 2026-03-10 16:59:59.999999+00, 2026-03-10 17:00+00}'::timestamptz[]) t,
       concertmaster.explain_build_window('09:00-17:00 UTC', t) w;
-- Across midnight, from both sides.
SELECT t AS at, w.is_open, w.open_since, w.open_until, w.next_open
  FROM unnest('{2026-12-31 21:59+00, 2026-12-31 23:30+00, 2027-01-01 00:00+00, 2027-01-01 05:59+00, 2027-01-01 06:00+00}'::timestamptz[]) t,
       concertmaster.explain_build_window('22:00-06:00 UTC', t) w;
-- Days are those on which a window begins: Friday's reaches into Saturday, and none begins on Saturday.
SELECT to_char(t, 'Dy HH24:MI') AS at, w.is_open, to_char(w.open_until, 'Dy HH24:MI') AS open_until, to_char(w.next_open, 'Dy HH24:MI') AS next_open
  FROM unnest('{2026-03-13 23:00+00, 2026-03-14 05:00+00, 2026-03-14 06:00+00, 2026-03-14 23:00+00, 2026-03-16 01:00+00, 2026-03-16 22:00+00}'::timestamptz[]) t,
       concertmaster.explain_build_window('Mon-Fri 22:00-06:00 UTC', t) w;
-- A range of days over the week's end; one day alone.
SELECT to_char(t, 'Dy') AS at, a.is_open AS sat_to_mon, b.is_open AS wed
  FROM generate_series('2026-03-09 12:00+00'::timestamptz, '2026-03-15 12:00+00', '1 day') t,
       concertmaster.explain_build_window('Sat-Mon 10:00-14:00 UTC', t) a,
       concertmaster.explain_build_window('wed 10:00-14:00 UTC', t) b;
-- Windows that touch or overlap are one; a whole week has no end.
SELECT w.* FROM concertmaster.explain_build_window('20:00-24:00, 00:00-03:00,02:00-04:30 UTC', '2026-03-10 01:00+00') w;
SELECT w.* FROM concertmaster.explain_build_window('Mon-Fri 22:00-06:00, Sat-Sun 00:00-24:00 UTC', '2026-03-14 12:00+00') w;
SELECT w.* FROM concertmaster.explain_build_window('00:00-24:00 UTC', '2026-03-14 12:00+00') w;
SELECT w.is_open, w.open_since, w.open_until, w.next_open, w.may_begin FROM concertmaster.explain_build_window(' ', '2026-03-14 12:00+00') w;
-- Another zone.
SELECT w.* FROM concertmaster.explain_build_window('22:00-06:00 America/New_York', '2026-01-15 04:00+00') w;
-- The night in which the clock is put forward is an hour shorter, the other one longer.
SELECT w.open_since, w.open_until, w.open_until - w.open_since AS length
  FROM unnest('{2026-03-28 12:00+00, 2026-03-29 00:00+00, 2026-10-25 00:00+00}'::timestamptz[]) t,
       concertmaster.explain_build_window('22:00-06:00 Europe/Berlin', t) w;
-- A window in the hour that is left out is not opened that day; one that begins in it begins an hour later.
SELECT w.is_open, w.next_open FROM concertmaster.explain_build_window('02:00-03:00 Europe/Berlin', '2026-03-28 12:00+00') w;
SELECT w.is_open, w.open_since, w.open_until FROM concertmaster.explain_build_window('02:30-05:00 Europe/Berlin', '2026-03-29 02:00+00') w;
-- The hour that is there twice: the second counts.
SELECT t AS at, w.is_open, w.open_since, w.open_until
  FROM unnest('{2026-10-25 00:30+00, 2026-10-25 01:30+00}'::timestamptz[]) t,
       concertmaster.explain_build_window('02:00-03:00 Europe/Berlin', t) w;
-- What would not end in time does not begin; what takes longer than half of the window may, in its first half.
SELECT t::time AS at, d AS duration, w.is_open, w.may_begin
  FROM unnest('{2026-03-10 08:00+00, 2026-03-10 09:00+00, 2026-03-10 12:59+00, 2026-03-10 13:01+00, 2026-03-10 16:00+00}'::timestamptz[]) t,
       unnest('{10 minutes, 3 hours, 5 hours, 2 days}'::interval[]) d,
       concertmaster.explain_build_window('09:00-17:00 UTC', t, d) w
 ORDER BY t, d;
-- The present setting; what is wrong with a text.
SET concertmaster.build_window TO '01:00-02:00 UTC';
SELECT w.is_open, w.next_open, w.timezone FROM concertmaster.explain_build_window(at => '2026-03-10 00:00+00') w;
RESET concertmaster.build_window;
SELECT concertmaster.explain_build_window('22-06');
SELECT concertmaster.explain_build_window('22:00-06:00', 'infinity');
SET concertmaster.build_window TO '22:00';
SET concertmaster.build_window TO '22:00-25:00';
SET concertmaster.build_window TO '22:00-22:00';
SET concertmaster.build_window TO '22:60-23:00';
SET concertmaster.build_window TO 'Mon- 22:00-23:00';
SET concertmaster.build_window TO 'Someday 22:00-23:00';
SET concertmaster.build_window TO '22:00-23:00;';
SET concertmaster.build_window TO '22:00-23:00,';
SET concertmaster.build_window TO '22:00-23:00 Mars/Olympus_Mons';
SET concertmaster.min_free_disk TO '10';
SET concertmaster.min_free_disk TO '-1GB';
SET concertmaster.min_free_disk TO '95%';
SET concertmaster.min_free_disk TO '5% or so';
SET concertmaster.min_free_disk TO '5 furlongs';
SET concertmaster.min_free_disk TO '';
SET concertmaster.min_free_disk TO '1.5GB';
SET concertmaster.min_free_disk TO '2.5 %';
SET concertmaster.min_free_disk TO '0';
SET concertmaster.delayed_standbys TO 'one two';
SET concertmaster.delayed_standbys TO 'one, "two three"';
RESET concertmaster.delayed_standbys;
RESET concertmaster.min_free_disk;

-- What is asked now: of a floor that no disk has, of none, and of the window.
SELECT condition, object LIKE '%WAL%' AS with_wal, ok, free_bytes < size_bytes AS free, floor_bytes < size_bytes AS floor
  FROM concertmaster.build_conditions WHERE object LIKE '%WAL%';
SET concertmaster.min_free_disk TO '1000TB';
SELECT ok, pg_size_pretty(floor_bytes) AS floor FROM concertmaster.build_conditions WHERE object LIKE '%WAL%';
RESET concertmaster.min_free_disk;
SELECT condition, object, ok, detail, until FROM concertmaster.build_conditions WHERE condition = 'window';
SET concertmaster.build_window TO '00:00-24:00 UTC';
SELECT condition, object, ok, detail, until FROM concertmaster.build_conditions WHERE condition = 'window';
RESET concertmaster.build_window;
-- It names standbys, so it is for members of pg_monitor.
CREATE ROLE regress_pace;
SET ROLE regress_pace;
SELECT count(*) FROM concertmaster.build_conditions;
SELECT w.is_open FROM concertmaster.explain_build_window('00:00-24:00') w;
RESET ROLE;
GRANT pg_monitor TO regress_pace;
SET ROLE regress_pace;
SELECT count(*) > 0 AS some FROM concertmaster.build_conditions;
RESET ROLE;

-- Estimates against what is built.
CREATE TABLE facts AS
SELECT g AS id, md5(g::text) AS name, g % 40 AS few, timestamptz '2026-01-01' + g * interval '1 second' AS at,
       CASE WHEN g % 10 = 0 THEN 'open' ELSE 'done' END AS status, jsonb_build_object('n', g, 'k', md5((g % 100)::text)) AS data
  FROM generate_series(1, 60000) g;
ANALYZE facts;
CREATE TABLE parts (id bigint, at timestamptz, name text) PARTITION BY RANGE (at);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
INSERT INTO parts SELECT g, timestamptz '2026-01-01' + g * interval '1 minute', md5(g::text) FROM generate_series(1, 80000) g;
CREATE INDEX ON parts_1 USING gin (to_tsvector('pg_catalog.simple', name));
ANALYZE parts;
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, is_unique, definition, purpose)
VALUES (77, 'pace', 'facts', 'facts_id', true, '(id)', 'test'),
       (77, 'pace', 'facts', 'facts_few', false, '(few)', 'test'),
       (77, 'pace', 'facts', 'facts_wide', false, '(name, at DESC) INCLUDE (id)', 'test'),
       (77, 'pace', 'facts', 'facts_open', false, '(at) WHERE status = ''open''', 'test'),
       (77, 'pace', 'facts', 'facts_expression', false, '(lower(name))', 'test'),
       (77, 'pace', 'facts', 'facts_hash', false, 'USING hash (name)', 'test'),
       (77, 'pace', 'facts', 'facts_brin', false, 'USING brin (at)', 'test'),
       (77, 'pace', 'facts', 'facts_gin', false, 'USING gin (data)', 'test'),
       (77, 'pace', 'parts', 'parts_id', false, '(id)', 'test'),
       (77, 'pace', 'parts', 'parts_gin', false, 'USING gin (to_tsvector(''pg_catalog.simple'', name))', 'test');
CREATE TABLE before AS
SELECT index_name, estimated_bytes, estimate_basis FROM concertmaster.indexes WHERE phase = 77;
SELECT index_name, state, estimate_basis, estimated_duration > '0 s' AS takes_time, has_room
  FROM concertmaster.indexes WHERE phase = 77 ORDER BY index_name;
-- A plan that does not fit its table has no estimate, and keeps no other from being seen.
BEGIN;
ALTER TABLE facts DROP COLUMN few;
SELECT index_name, estimated_bytes IS NULL AS none FROM concertmaster.indexes i
 WHERE phase = 77 AND index_name IN ('facts_few', 'facts_id') ORDER BY index_name;
ROLLBACK;
-- Only for who may see the row.
REVOKE pg_monitor FROM regress_pace;
SET ROLE regress_pace;
SELECT concertmaster._index_estimate('pace', 'facts_id');
RESET ROLE;
SET client_min_messages TO warning;
CALL concertmaster.build_indexes(77);
RESET client_min_messages;
SELECT b.index_name, b.estimate_basis, i.state, i.estimated_bytes,
       b.estimated_bytes::float8 / (i.size_bytes - CASE b.index_name WHEN 'parts_gin' THEN pg_relation_size('parts_1_to_tsvector_idx') ELSE 0 END)
         BETWEEN CASE b.estimate_basis WHEN 'types' THEN 0.33 ELSE 0.75 END AND CASE b.estimate_basis WHEN 'types' THEN 3 ELSE 1.34 END AS near
  FROM before b JOIN concertmaster.indexes i USING (index_name) WHERE i.phase = 77 ORDER BY b.index_name;

-- Too little disk for a conversion's indexes is found before.
SET concertmaster.min_free_disk TO '1000TB';
CREATE TABLE plain (id bigint PRIMARY KEY, at timestamptz NOT NULL);
INSERT INTO plain SELECT g, timestamptz '2026-01-01' + g * interval '1 minute' FROM generate_series(1, 1000) g;
ANALYZE plain;
SELECT status, code, regexp_replace(detail, '\d+ bytes', 'N bytes') AS detail, remedy
  FROM concertmaster.explain_conversion('plain', 'at', '1 month') WHERE code IN ('verdict', 'free_disk');
RESET concertmaster.min_free_disk;
SELECT count(*) FROM concertmaster.explain_conversion('plain', 'at', '1 month') WHERE code = 'free_disk';

SET client_min_messages TO warning;
DELETE FROM concertmaster.index_plan WHERE schema_name = 'pace';
DELETE FROM concertmaster.job WHERE phase = 77;
DROP SCHEMA pace CASCADE;
DROP ROLE regress_pace;
