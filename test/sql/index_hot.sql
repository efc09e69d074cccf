-- build_indexes() with a hot window: what partitions outside of it lose.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
CREATE SCHEMA index_hot_test;
SET search_path = index_hot_test;
SET timezone = 'UTC';
\set SHOW_CONTEXT never

CREATE PROCEDURE plan(phase integer, table_name name, index_name name, definition text,
                     hot_window interval, is_unique boolean DEFAULT false)
LANGUAGE sql AS $$
    INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition, is_unique, hot_window)
    VALUES (phase, 'index_hot_test', table_name, index_name, definition, is_unique, hot_window)
$$;
-- time goes by: the same row with another window
CREATE PROCEDURE replan(index_name name, hot_window interval)
LANGUAGE plpgsql AS $$
DECLARE
    p concertmaster.index_plan;
BEGIN
    SELECT * INTO p FROM concertmaster.index_plan i
     WHERE i.schema_name = 'index_hot_test' AND i.index_name = replan.index_name;
    PERFORM concertmaster.unplan_index('index_hot_test', replan.index_name);
    CALL index_hot_test.plan(p.phase, p.table_name, p.index_name, p.definition, replan.hot_window, p.is_unique);
END $$;
CREATE VIEW stand AS
    SELECT phase AS ph, index_name, state, percent_done AS pct, adopted_index AS adopted, sqlstate, message, detail
      FROM concertmaster.indexes WHERE schema_name = 'index_hot_test';
CREATE VIEW truth AS
    SELECT x.indrelid::regclass::text AS on_table, x.indexrelid::regclass::text AS index, x.indisvalid AS valid,
           (SELECT h.inhparent::regclass::text FROM pg_inherits h WHERE h.inhrelid = x.indexrelid) AS attached_to
      FROM pg_index x JOIN pg_class c ON c.oid = x.indrelid
     WHERE c.relnamespace = 'index_hot_test'::regnamespace
     ORDER BY 1, 2;
CREATE VIEW outcome AS
    SELECT r.status, r.message FROM concertmaster.job_runs r WHERE r.name LIKE 'build phase 32_'
     ORDER BY r.run_id DESC LIMIT 1;

-- partitions age out: leaves of any depth, and whole branches, but no default
CREATE TABLE ev (id integer, at timestamptz NOT NULL, kind text) PARTITION BY RANGE (at);
CREATE TABLE ev_2001 PARTITION OF ev FOR VALUES FROM ('2001-01-01') TO ('2002-01-01');
CREATE TABLE ev_2002 PARTITION OF ev FOR VALUES FROM ('2002-01-01') TO ('2003-01-01') PARTITION BY LIST (kind);
CREATE TABLE ev_2002_a PARTITION OF ev_2002 FOR VALUES IN ('a');
CREATE TABLE ev_2002_rest PARTITION OF ev_2002 DEFAULT;
CREATE TABLE ev_now PARTITION OF ev FOR VALUES FROM ('2003-01-01') TO ('9000-01-01') PARTITION BY RANGE (at);
CREATE TABLE ev_now_cold PARTITION OF ev_now FOR VALUES FROM ('2003-01-01') TO ('2004-01-01');
CREATE TABLE ev_now_hot PARTITION OF ev_now FOR VALUES FROM ('2004-01-01') TO (MAXVALUE);
CREATE TABLE ev_default PARTITION OF ev DEFAULT PARTITION BY RANGE (at);
CREATE TABLE ev_default_1999 PARTITION OF ev_default FOR VALUES FROM ('1999-01-01') TO ('2000-01-01');
CREATE TABLE ev_default_rest PARTITION OF ev_default DEFAULT;
INSERT INTO ev SELECT g, timestamptz '1998-06-01' + g % 10 * interval '1 year', CASE g % 3 WHEN 0 THEN 'a' ELSE 'b' END
  FROM generate_series(0, 199) g;
CALL plan(320, 'ev', 'ev_id', '(id)', '1000 years');
CALL concertmaster.build_indexes(320);
SELECT * FROM stand;
SELECT * FROM truth;
CALL replan('ev_id', '90 days');
CALL concertmaster.build_indexes(320);
SELECT * FROM stand;
SELECT * FROM truth;
SELECT * FROM outcome;
SELECT cardinality(leaf_relids), leaf_total FROM concertmaster.index_state WHERE schema_name = 'index_hot_test';
-- the next run has nothing to do; a wider window brings them back
CALL concertmaster.build_indexes(320);
SELECT message FROM stand;
CALL replan('ev_id', '1000 years');
CALL concertmaster.build_indexes(320);
SELECT state, pct, message FROM stand;
SELECT * FROM outcome;
-- both at a time
DROP INDEX ev_now_hot_ev_id;
CALL replan('ev_id', '90 days');
CALL concertmaster.build_indexes(320);
SELECT state, pct, message FROM stand;
-- without a window all get it, and nothing is dropped; with one again, what belongs to the whole stays
CALL replan('ev_id', NULL);
CALL concertmaster.build_indexes(320);
SELECT state, pct, message FROM stand;
CALL replan('ev_id', '90 days');
CALL concertmaster.build_indexes(320);
SELECT state, pct, message FROM stand;
SELECT count(*), bool_and(valid) FROM truth;
DROP INDEX ev_id;
-- one index that fails keeps others from nothing
CALL replan('ev_id', '1000 years');
CALL concertmaster.build_indexes(320);
DROP INDEX ev_now_hot_ev_id;
CREATE SEQUENCE ev_now_hot_ev_id;
CALL replan('ev_id', '90 days');
CALL concertmaster.build_indexes(320);
SELECT state, pct, message FROM stand;
SELECT on_table FROM truth;
SELECT * FROM outcome;
-- nothing but old partitions: all that is to be is there
CREATE TABLE old (id integer, at date) PARTITION BY RANGE (at);
CREATE TABLE old_2001 PARTITION OF old FOR VALUES FROM ('2001-01-01') TO ('2002-01-01');
CALL plan(321, 'old', 'old_id', '(id)', '90 days');
SELECT state, pct, message FROM stand WHERE ph = 321;
CALL concertmaster.build_indexes(321);
SELECT state, pct, message FROM stand WHERE ph = 321;
DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_hot_test';

-- only what is certainly ours, and of no other use
CREATE TABLE ref (id integer NOT NULL, at timestamptz NOT NULL) PARTITION BY RANGE (at);
CREATE ROLE regress_index_hot_leaf;
GRANT ALL ON SCHEMA index_hot_test TO regress_index_hot_leaf;
DO $$
DECLARE
    leaf text;
    year integer := 2000;
BEGIN
    FOREACH leaf IN ARRAY ARRAY['shape', 'theirs', 'identity', 'clustered', 'constraint', 'foreign_key', 'attached',
                                'view', 'elsewhere', 'pending', 'detached', 'renamed', 'invalid', 'dead', 'owned',
                                'with_a_name_that_is_so_long_that_its_index_is_cut_to_fit', 'plain'] LOOP
        EXECUTE format('CREATE TABLE ref_%s PARTITION OF ref FOR VALUES FROM (%L) TO (%L)', leaf,
                       make_date(year, 1, 1), make_date(year + 1, 1, 1));
        year := year + 1;
    END LOOP;
END $$;
INSERT INTO ref SELECT g, timestamptz '2000-06-01' + g * interval '1 year' FROM generate_series(0, 16) g;
CREATE UNIQUE INDEX ref_theirs_by_another_name ON ref_theirs (id, at);
CALL plan(322, 'ref', 'ix', '(id, at)', '1000 years', true);
CALL concertmaster.build_indexes(322);
SELECT state, pct, message FROM stand;
DROP INDEX ref_shape_ix, ref_view_ix, ref_elsewhere_ix;
CREATE UNIQUE INDEX ref_shape_ix ON ref_shape (id DESC, at);
ALTER TABLE ref_identity REPLICA IDENTITY USING INDEX ref_identity_ix;
ALTER TABLE ref_clustered CLUSTER ON ref_clustered_ix;
ALTER TABLE ref_constraint ADD CONSTRAINT ref_constraint_ix UNIQUE USING INDEX ref_constraint_ix;
CREATE TABLE points (id integer, at timestamptz, FOREIGN KEY (id, at) REFERENCES ref_foreign_key (id, at));
CREATE UNIQUE INDEX ref_whole ON ONLY ref (id, at);
ALTER INDEX ref_whole ATTACH PARTITION ref_attached_ix;
CREATE VIEW ref_view_ix AS SELECT 1;
CREATE TABLE apart (id integer NOT NULL, at timestamptz NOT NULL);
CREATE UNIQUE INDEX ref_elsewhere_ix ON apart (id, at);
UPDATE pg_inherits SET inhdetachpending = true WHERE inhrelid = 'ref_pending'::regclass;
ALTER TABLE ref DETACH PARTITION ref_detached;
ALTER TABLE ref_renamed RENAME TO ref_renamed_since;
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ref_invalid_ix'::regclass;
UPDATE pg_index SET indisvalid = false, indisready = false, indislive = false WHERE indexrelid = 'ref_dead_ix'::regclass;
ALTER TABLE ref_owned OWNER TO regress_index_hot_leaf;
SELECT count(*) FROM truth WHERE on_table LIKE 'ref_with%';
CALL replan('ix', '90 days');
CALL concertmaster.build_indexes(322);
SELECT state, pct, sqlstate, message FROM stand;
SELECT * FROM outcome;
SELECT * FROM truth WHERE on_table LIKE 'ref%' OR on_table = 'apart';
-- what it was kept for ends
ALTER TABLE ref_identity REPLICA IDENTITY DEFAULT;
ALTER TABLE ref_clustered SET WITHOUT CLUSTER;
DROP TABLE points;
CALL concertmaster.build_indexes(322);
SELECT state, pct, sqlstate, message FROM stand;
DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_hot_test';
ALTER TABLE ref DETACH PARTITION ref_pending FINALIZE;

-- two rows that plan the same: the one that is served by the other's keeps it
CREATE TABLE two (id integer, at timestamptz NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE two_2001 PARTITION OF two FOR VALUES FROM ('2001-01-01') TO ('2002-01-01');
CREATE TABLE two_now PARTITION OF two FOR VALUES FROM ('2002-01-01') TO ('9000-01-01');
INSERT INTO two SELECT g, '2001-06-01' FROM generate_series(1, 100) g;
CALL plan(323, 'two', 'two_a_short', '(id)', '1000 years');
CALL plan(323, 'two', 'two_b_long', '(id)', '1000 years');
CALL concertmaster.build_indexes(323);
CALL replan('two_a_short', '90 days');
CALL concertmaster.build_indexes(323);
SELECT index_name, state, pct, message FROM stand;
SELECT * FROM truth WHERE on_table LIKE 'two%';
CALL replan('two_b_long', '90 days');
CALL concertmaster.build_indexes(323);
CALL concertmaster.build_indexes(323);
SELECT index_name, state, pct, message FROM stand;
SELECT * FROM truth WHERE on_table LIKE 'two%';
SELECT concertmaster.unplan_index('index_hot_test', 'two_b_long');
-- one of them for all partitions: it takes the other's indexes as its own
CALL replan('two_a_short', '1000 years');
CALL concertmaster.build_indexes(323);
CALL plan(323, 'two', 'two_all', '(id)', NULL);
CALL concertmaster.build_indexes(323);
CALL replan('two_a_short', '90 days');
CALL concertmaster.build_indexes(323);
SELECT index_name, state, pct, message FROM stand;
SELECT * FROM truth WHERE on_table LIKE 'two%';
DROP INDEX two_all;
DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_hot_test';
-- one for the partition itself, which goes by the same name
CALL plan(323, 'two', 'ix', '(at)', '1000 years');
CALL concertmaster.build_indexes(323);
CALL plan(324, 'two_2001', 'two_2001_ix', '(at)', NULL);
CALL replan('ix', '90 days');
CALL concertmaster.build_indexes(323);
SELECT index_name, state, pct, message FROM stand;
SELECT on_table, index FROM truth WHERE on_table LIKE 'two%';
DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_hot_test';

-- where the window begins, by the type of the key: no time without zone is
-- called old before it is so in all of them, and no uuid that is no time
CREATE FUNCTION key_v7(at timestamptz, rest text DEFAULT '70008000000000000000') RETURNS text
LANGUAGE sql AS $$ SELECT (lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0') || rest)::uuid::text $$;
CREATE PROCEDURE edge(name text, type text, VARIADIC upper text[])
LANGUAGE plpgsql AS $$
DECLARE
    key text := CASE cardinality(upper) WHEN 1 THEN 'at' ELSE 'at, id' END;
    low text := CASE cardinality(upper) WHEN 1 THEN 'MINVALUE' ELSE 'MINVALUE, MINVALUE' END;
BEGIN
    EXECUTE format('CREATE TABLE index_hot_test.%I (id integer, at %s) PARTITION BY RANGE (%s)', name, type, key);
    EXECUTE format('CREATE TABLE index_hot_test.%I PARTITION OF index_hot_test.%I FOR VALUES FROM (%s) TO (%s)',
                   name || '_1', name, low, (SELECT string_agg(quote_literal(u), ', ') FROM unnest(upper) u));
    CALL index_hot_test.plan(325, name, 'x_' || name, '(id)', '30 days');
END $$;
CALL edge('date_in', 'date', (now() - interval '29 days 20 hours')::date::text);
CALL edge('date_out', 'date', (now() - interval '31 days 4 hours')::date::text);
CALL edge('date_last', 'date', '5874897-12-31');
CALL edge('date_ever', 'date', 'infinity');
CALL edge('pair_in', 'date', (now() - interval '30 days 20 hours')::date::text, '5');
CALL edge('pair_out', 'date', (now() - interval '32 days 4 hours')::date::text, '5');
CALL edge('stamp_in', 'timestamp', (now() - interval '30 days 20 hours')::timestamp::text);
CALL edge('stamp_out', 'timestamp', (now() - interval '31 days 4 hours')::timestamp::text);
CALL edge('zoned_in', 'timestamptz', (now() - interval '29 days 20 hours')::text);
CALL edge('zoned_out', 'timestamptz', (now() - interval '30 days 4 hours')::text);
CALL edge('v7_in', 'uuid', key_v7(now() - interval '29 days 20 hours'));
CALL edge('v7_out', 'uuid', key_v7(now() - interval '30 days 4 hours'));
CALL edge('low_in', 'uuid', key_v7(date_trunc('second', now() - interval '29 days 20 hours'), repeat('0', 20)));
CALL edge('low_out', 'uuid', key_v7(date_trunc('second', now() - interval '30 days 4 hours'), repeat('0', 20)));
CALL edge('random_split', 'uuid', '01000000-0000-0000-0000-000000000000');
CALL edge('random_v4', 'uuid', '01000000-1234-4234-8234-000000000000');
CALL edge('number', 'bigint', '5');
CALL edge('words', 'text', '2001-01-01');
CALL concertmaster.build_indexes(325);
SELECT regexp_replace(index_name, '^x_', '') AS key, message FROM stand ORDER BY index_name COLLATE "C";
DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_hot_test';

-- partitions came or went: the build is due now, for the table or one above it
CALL plan(326, 'ev', 'ev_id', '(id)', '90 days');
CALL plan(327, 'two', 'two_id', '(id)', NULL);
DROP SEQUENCE ev_now_hot_ev_id;
CALL concertmaster.build_indexes(326);
CALL concertmaster.build_indexes(327);
CREATE PROCEDURE wake(relation regclass) LANGUAGE plpgsql AS $$
DECLARE
    name text;
    woken text := '';
BEGIN
    UPDATE concertmaster.job_state s SET next_run = now() + interval '1 day', scheduled = NULL
      FROM concertmaster.job j WHERE j.job_id = s.job_id AND j.phase BETWEEN 320 AND 329;
    PERFORM concertmaster._wake_hot_indexes(relation);
    FOR name IN SELECT j.name FROM concertmaster.job j JOIN concertmaster.job_state s USING (job_id)
                 WHERE j.phase BETWEEN 320 AND 329 AND s.next_run <= clock_timestamp() AND s.scheduled > now() ORDER BY 1 LOOP
        woken := woken || ' ' || name;
    END LOOP;
    RAISE WARNING '%:%', relation, woken;
END $$;
SELECT count(concertmaster.pause_job(name)) FROM concertmaster.jobs WHERE name LIKE 'build phase 32_';
CALL wake('ev');
CALL wake('ev_now');
CALL wake('ev_2001');
CALL wake('two');
ALTER TABLE ev RENAME TO evs;
CALL wake('evs');
-- not from an old snapshot, which cannot write what was changed since
BEGIN ISOLATION LEVEL REPEATABLE READ;
CALL wake('evs');
ROLLBACK;

DELETE FROM concertmaster.index_plan WHERE schema_name = 'index_hot_test';
DELETE FROM concertmaster.job WHERE phase BETWEEN 320 AND 329;
DROP SCHEMA index_hot_test CASCADE;
DROP ROLE regress_index_hot_leaf;
