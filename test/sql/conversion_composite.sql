-- Foreign keys to a table that becomes partitioned get the partition key, too.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
CREATE SCHEMA conv_composite;
CREATE SCHEMA conv_other;
SET search_path = conv_composite, public;
CREATE ROLE regress_composite_owner;
CREATE ROLE regress_composite_child;
CREATE ROLE regress_composite_writer;
GRANT regress_composite_child TO regress_composite_owner;
GRANT CREATE, USAGE ON SCHEMA conv_composite, conv_other TO regress_composite_owner, regress_composite_child;
GRANT USAGE ON SCHEMA conv_composite, conv_other TO regress_composite_writer;
-- There are many keys to be exchanged, and the machine can be busy.
ALTER SYSTEM SET concertmaster.ddl_deadline = '20s';
SELECT pg_reload_conf();
SET ROLE regress_composite_owner;

-- 1. A table, and every shape of key that points at it.
CREATE TABLE t (id bigint PRIMARY KEY, a integer, b text, code varchar(10) UNIQUE, at timestamptz(3) NOT NULL DEFAULT now(), n integer, UNIQUE (a, b));
INSERT INTO t (id, a, b, code, at) SELECT n, n % 10, 'b' || n, 'c' || n, '2024-01-01'::timestamptz + n * interval '1 hour' FROM generate_series(1, 500) n;
RESET ROLE; GRANT REFERENCES ON t TO regress_composite_child; SET ROLE regress_composite_child;
CREATE TABLE c_plain (n serial PRIMARY KEY, t_id integer CONSTRAINT c_plain_t REFERENCES t, touched integer NOT NULL DEFAULT 0);
RESET ROLE; SET ROLE regress_composite_owner;
CREATE TABLE c_cascade (t_id bigint NOT NULL CONSTRAINT c_cascade_t REFERENCES t ON DELETE CASCADE ON UPDATE CASCADE, twice integer GENERATED ALWAYS AS (t_id::integer * 2) STORED, n integer GENERATED ALWAYS AS IDENTITY);
CREATE INDEX c_cascade_t ON c_cascade (t_id);
CREATE TABLE c_null (n integer, t_id bigint CONSTRAINT c_null_t REFERENCES t ON DELETE SET NULL ON UPDATE SET NULL);
CREATE TABLE c_default (n integer, t_id bigint DEFAULT 1 CONSTRAINT c_default_t REFERENCES t ON DELETE SET DEFAULT);
CREATE TABLE c_deferred (n integer, t_id bigint CONSTRAINT c_deferred_t REFERENCES t DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE c_deferrable (n integer, t_id bigint CONSTRAINT c_deferrable_t REFERENCES t DEFERRABLE);
CREATE TABLE c_simple (n integer, a integer, b text COLLATE "C", CONSTRAINT c_simple_t FOREIGN KEY (a, b) REFERENCES t (a, b) ON DELETE SET NULL (b));
CREATE TABLE c_full (n integer, a smallint, b varchar, CONSTRAINT c_full_t FOREIGN KEY (b, a) REFERENCES t (b, a) MATCH FULL);
CREATE TABLE c_many (n integer, from_id bigint, to_id bigint, code varchar, CONSTRAINT c_many_from FOREIGN KEY (from_id) REFERENCES t,
    CONSTRAINT c_many_to FOREIGN KEY (to_id) REFERENCES t ON DELETE CASCADE, CONSTRAINT c_many_code FOREIGN KEY (code) REFERENCES t (code), from_id_at integer);
CREATE TABLE conv_other."C %s'" ("T \ Id" bigint CONSTRAINT "F %s'k""" REFERENCES t);
COMMENT ON CONSTRAINT c_plain_t ON c_plain IS 'told';
INSERT INTO c_plain (t_id) SELECT CASE WHEN n % 7 > 0 THEN 1 + n % 500 END FROM generate_series(1, 3000) n;
INSERT INTO c_cascade (t_id) SELECT n FROM generate_series(100, 200) n;
INSERT INTO c_null SELECT n, n FROM generate_series(100, 200) n;
INSERT INTO c_default SELECT n, n FROM generate_series(100, 200) n;
INSERT INTO c_deferred SELECT n, n FROM generate_series(100, 200) n;
INSERT INTO c_deferrable SELECT n, n FROM generate_series(100, 200) n;
INSERT INTO c_simple SELECT n, CASE WHEN n % 5 > 0 THEN n % 10 END, CASE WHEN n % 3 > 0 THEN 'b' || n END FROM generate_series(100, 200) n;
INSERT INTO c_full SELECT n, n % 10, 'b' || n FROM generate_series(100, 200) n UNION ALL SELECT 0, NULL, NULL;
INSERT INTO c_many SELECT n, n, n + 1, 'c' || n FROM generate_series(100, 200) n;
INSERT INTO conv_other."C %s'" SELECT 7;
-- Filling is no change that an application has made.
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.touched := NEW.touched + 1; RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE UPDATE ON c_plain FOR EACH ROW EXECUTE FUNCTION touch();
CREATE VIEW v_plain AS SELECT * FROM c_plain;
GRANT INSERT, SELECT, UPDATE, DELETE ON c_plain TO regress_composite_writer;
GRANT USAGE ON SEQUENCE c_plain_n_seq TO regress_composite_writer;

-- 2. What is said of them.
SELECT object, status, detail, remedy FROM concertmaster.explain_conversion('t', 'at', '1 month') WHERE code = 'incoming_foreign_key' AND object ~ 'plain';
SELECT object, status, detail, remedy FROM concertmaster.explain_conversion('t', 'at', '1 month', 'composite') WHERE code = 'incoming_foreign_key';
SELECT step, code, object, detail, lock, blocks ~ 'readers' AS blocks, regexp_replace(statement, 'concertmaster_\d+', 'concertmaster_N') AS statement FROM concertmaster.explain_conversion('t', 'at', '1 month', 'composite')
 WHERE step > 0 AND (object ~ 'c_plain|c_cascade' OR code = 'swap');
SELECT count(*) FROM concertmaster.explain_conversion('t', 'at', '1 month', 'composite') WHERE code IN ('add_column', 'fill_column') AND duration > '0' AND (disk_bytes > 0) = (code = 'fill_column');
\set VERBOSITY terse
CALL concertmaster.convert_to_partitioned('t', 'at', '1 month', 'keep');
CALL concertmaster.convert_to_partitioned('t', 'at', '1 month', 'composite', accept => '{unique_index_without_column}', ahead => 2);
\set VERBOSITY default
SELECT state, last_error FROM concertmaster.conversions WHERE table_name = 't'::regclass;
SELECT conrelid::regclass, conname, convalidated, pg_get_constraintdef(oid) FROM pg_constraint WHERE confrelid = 't'::regclass AND conparentid = 0 ORDER BY conrelid::regclass::text, conname;
SELECT conname, convalidated, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'c_simple'::regclass AND contype = 'c';
SELECT obj_description(oid) FROM pg_constraint WHERE conname = 'c_plain_t';
SELECT indexrelid::regclass FROM pg_index WHERE indrelid IN ('c_plain'::regclass, 'c_cascade'::regclass) ORDER BY 1;
SELECT DISTINCT touched FROM c_plain;
SELECT count(*) FROM c_plain JOIN t ON t.id = t_id AND t.at = t_id_at UNION ALL SELECT count(t_id) FROM c_plain;
SELECT * FROM v_plain WHERE n < 3;
SELECT count(*) FROM c_simple JOIN t USING (a, b) WHERE t.at = a_at UNION ALL SELECT count(a_at) FROM c_simple UNION ALL SELECT count(*) FROM c_simple WHERE a IS NOT NULL AND b IS NOT NULL;
RESET ROLE;
SELECT count(*) AS keys_of_ours FROM concertmaster.conversion_key;
SELECT deptype, count(*) FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND objid = 'fill_c_plain_t_id_at'::regproc GROUP BY 1;
SELECT pg_get_functiondef('fill_c_plain_t_id_at'::regproc);
SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid IN ('c_plain'::regclass, 'c_deferrable'::regclass) AND NOT tgisinternal AND tgname <> 'touch' ORDER BY 1;
SELECT proowner::regrole, proacl FROM pg_proc WHERE proname = 'fill_c_plain_t_id_at';

-- 3. Statements that know nothing of the column go on, by roles that know nothing of the table.
SET ROLE regress_composite_writer;
INSERT INTO c_plain (t_id) VALUES (5), (NULL), (500) RETURNING t_id, t_id_at;
UPDATE c_plain SET t_id = 6 WHERE n IN (3001) RETURNING t_id, t_id_at;
UPDATE c_plain SET t_id = NULL WHERE n IN (3001) RETURNING t_id, t_id_at;
INSERT INTO c_plain (t_id) VALUES (9999);
UPDATE c_plain SET t_id = 9999 WHERE n = 3003;
INSERT INTO c_plain (t_id, t_id_at) VALUES (5, '2000-01-01');
UPDATE c_plain SET t_id_at = NULL, touched = 10 WHERE n = 3003 RETURNING t_id, t_id_at, touched;
INSERT INTO c_plain (t_id, t_id_at) VALUES (NULL, now()) RETURNING t_id, t_id_at;
RESET ROLE; SET ROLE regress_composite_owner;
-- The server's name for it differs by version.
\set VERBOSITY sqlstate
DELETE FROM t WHERE id = 5;
\set VERBOSITY default
UPDATE t SET id = 5000 WHERE id = 5;
UPDATE t SET id = 5000, at = at + interval '1 day' WHERE id = 5;
-- The key of a referenced row is free to change, into another partition, too.
CALL concertmaster.roll_partitions('t');
UPDATE t SET at = date_trunc('month', now()) + interval '2 months' WHERE id = 120;
SELECT tableoid::regclass = 't_legacy'::regclass AS moved FROM t WHERE id = 120;
UPDATE t SET at = at - interval '1 day' WHERE id = 121;
SELECT count(*) FROM (SELECT t_id, t_id_at FROM c_plain UNION ALL SELECT t_id, t_id_at FROM c_cascade UNION ALL SELECT t_id, t_id_at FROM c_null UNION ALL SELECT t_id, t_id_at FROM c_default
    UNION ALL SELECT t_id, t_id_at FROM c_deferred UNION ALL SELECT t_id, t_id_at FROM c_deferrable UNION ALL SELECT from_id, from_id_at_1 FROM c_many UNION ALL SELECT to_id, to_id_at FROM c_many) x
 WHERE t_id IN (120, 121) AND (t_id, t_id_at) IN (SELECT id, at FROM t);
-- ON DELETE, ON UPDATE as they were.
DELETE FROM c_plain WHERE t_id BETWEEN 130 AND 139; DELETE FROM c_deferred WHERE t_id BETWEEN 130 AND 139; DELETE FROM c_deferrable WHERE t_id BETWEEN 130 AND 139;
DELETE FROM c_simple WHERE n BETWEEN 130 AND 139; DELETE FROM c_full WHERE n BETWEEN 130 AND 139; DELETE FROM c_many WHERE n BETWEEN 128 AND 139;
DELETE FROM t WHERE id = 130;
SELECT (SELECT count(*) FROM c_cascade WHERE t_id = 130) AS cascaded, (SELECT (t_id, t_id_at) FROM c_null WHERE n = 130) AS nulled,
       (SELECT ROW(t_id, t_id_at = (SELECT at FROM t WHERE id = 1)) FROM c_default WHERE n = 130) AS defaulted;
DELETE FROM c_default WHERE t_id IN (131, 132);
UPDATE t SET id = 1310 WHERE id = 131;
UPDATE t SET id = 1320, at = date_trunc('month', now()) + interval '2 months' WHERE id = 132;
SELECT (SELECT count(*) FROM c_cascade WHERE t_id IN (1310, 1320) AND (t_id, t_id_at) IN (SELECT id, at FROM t)) AS cascaded, (SELECT array_agg((t_id, t_id_at)::text) FROM c_null WHERE n IN (131, 132)) AS nulled;
INSERT INTO c_default (n) VALUES (0) RETURNING t_id, t_id_at;
INSERT INTO c_default VALUES (1, 2);
\set VERBOSITY sqlstate
DELETE FROM t WHERE id = 1;
\set VERBOSITY default
-- Several columns, MATCH SIMPLE and FULL.
INSERT INTO c_simple VALUES (1, 3, NULL), (2, NULL, 'b9'), (3, 1, 'b41') RETURNING n, a, b, a_at;
INSERT INTO c_simple VALUES (4, 1, 'b42');
UPDATE c_simple SET b = 'b31' WHERE n = 3 RETURNING a, b, a_at;
UPDATE c_simple SET b = NULL WHERE n = 3 RETURNING a, b, a_at;
ALTER TABLE c_simple DISABLE TRIGGER USER;
INSERT INTO c_simple VALUES (5, 1, 'b41');
ALTER TABLE c_simple ENABLE TRIGGER USER;
INSERT INTO c_simple VALUES (6, 4, 'b144');
DELETE FROM c_full WHERE b = 'b144'; DELETE FROM c_many WHERE 144 IN (from_id, to_id);
DELETE FROM c_plain WHERE t_id = 144; DELETE FROM c_deferred WHERE t_id = 144; DELETE FROM c_deferrable WHERE t_id = 144;
DELETE FROM t WHERE id = 144;
SELECT a, b, a_at FROM c_simple WHERE n = 6;
INSERT INTO c_full VALUES (1, 1, 'b41'), (2, NULL, NULL) RETURNING a, b, b_at;
INSERT INTO c_full VALUES (3, 1, NULL);
INSERT INTO c_many (n, from_id, to_id, code) VALUES (1, 10, 11, 'c12') RETURNING from_id_at_1, to_id_at, code_at;
INSERT INTO conv_other."C %s'" VALUES (8) RETURNING *;
INSERT INTO conv_other."C %s'" VALUES (-8);
-- Rows that come before the one that they reference, in a statement or deferred.
WITH new AS (INSERT INTO t (id, n) VALUES (10001, 1)) INSERT INTO c_cascade (t_id) VALUES (10001);
SELECT t_id_at = t.at AS filled FROM c_cascade JOIN t ON id = t_id WHERE id = 10001;
WITH new AS (INSERT INTO t (id, n) VALUES (10002, 1)) INSERT INTO c_deferrable (t_id) VALUES (10002);
SELECT t_id_at = t.at AS filled FROM c_deferrable JOIN t ON id = t_id WHERE id = 10002;
INSERT INTO c_deferrable (t_id) VALUES (10003);
BEGIN; INSERT INTO c_deferred (t_id) VALUES (10003), (10003); INSERT INTO t (id) VALUES (10003); COMMIT;
SELECT t_id_at = t.at AS filled FROM c_deferred JOIN t ON id = t_id WHERE id = 10003;
BEGIN; INSERT INTO c_deferred (t_id) VALUES (10004); SET CONSTRAINTS ALL IMMEDIATE; ROLLBACK;
BEGIN; INSERT INTO c_deferred (t_id) VALUES (10004); COMMIT;
BEGIN; INSERT INTO c_deferred (t_id) VALUES (10004); DELETE FROM c_deferred WHERE t_id = 10004; COMMIT;
BEGIN; SET CONSTRAINTS c_deferrable_t DEFERRED; INSERT INTO c_deferrable (t_id) VALUES (10005); INSERT INTO t (id, at) VALUES (10005, '2024-03-01'); COMMIT;
SELECT t_id_at = t.at AS filled FROM c_deferrable JOIN t ON id = t_id WHERE id = 10005;
\set VERBOSITY sqlstate
BEGIN; DELETE FROM c_deferred WHERE t_id = 10003; DELETE FROM t WHERE id = 10005; ROLLBACK;
\set VERBOSITY default
-- Two rows with one id: one is meant if the statement says which.
INSERT INTO t (id, at) VALUES (10005, '2024-04-01');
INSERT INTO c_plain (t_id) VALUES (10005);
INSERT INTO c_plain (t_id, t_id_at) SELECT id, at FROM t WHERE id = 10005 RETURNING t_id;
UPDATE c_plain SET touched = 0 WHERE t_id = 10005 RETURNING t_id;
UPDATE c_plain SET t_id = 10005 WHERE n = 3003;
-- One of late is taken, unless the statement says otherwise; the id of another changes to the same, and stays its own.
INSERT INTO t (id) VALUES (10005), (7000);
INSERT INTO c_plain (t_id) VALUES (10005) RETURNING t_id_at > '2026-01-01' AS of_late;
INSERT INTO t (id, at) VALUES (6999, '2024-05-01'); INSERT INTO c_cascade (t_id) VALUES (6999);
UPDATE t SET id = 7000 WHERE id = 6999;
SELECT t_id, t_id_at FROM c_cascade WHERE t_id = 7000;
UPDATE t SET id = 7001, at = now() WHERE id = 7000 AND at = '2024-05-01';
SELECT t_id, t_id_at = (SELECT at FROM t WHERE id = 7001) AS moved FROM c_cascade WHERE t_id = 7001;
-- A trigger that sets what references comes first.
CREATE FUNCTION redirect() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.t_id := 7; RETURN NEW; END $$;
CREATE TRIGGER z_redirect BEFORE INSERT ON c_cascade FOR EACH ROW EXECUTE FUNCTION redirect();
INSERT INTO c_cascade (t_id) VALUES (8) RETURNING t_id, t_id_at;
DROP TRIGGER z_redirect ON c_cascade;
SET plan_cache_mode = force_generic_plan;
INSERT INTO c_plain (t_id) SELECT id FROM t WHERE id BETWEEN 300 AND 320;
RESET plan_cache_mode;
RESET ROLE;
-- No row is without its own.
SELECT count(*) FROM c_plain WHERE t_id IS NOT NULL AND (t_id_at IS NULL OR (t_id, t_id_at) NOT IN (SELECT id, at FROM t));
SELECT count(*) FROM c_many WHERE (from_id, from_id_at_1) NOT IN (SELECT id, at FROM t) OR (to_id, to_id_at) NOT IN (SELECT id, at FROM t) OR (code, code_at) NOT IN (SELECT code, at FROM t);
-- It goes on without the extension's catalog: nothing of it is used.
REVOKE USAGE ON SCHEMA concertmaster FROM PUBLIC;
SET ROLE regress_composite_writer;
INSERT INTO c_plain (t_id) VALUES (8) RETURNING t_id_at;
RESET ROLE;
GRANT USAGE ON SCHEMA concertmaster TO PUBLIC;

-- 4. What is refused, each with its reason.
CREATE TABLE r (id bigint PRIMARY KEY, x integer, y integer, up bigint CONSTRAINT r_up REFERENCES r, at timestamptz NOT NULL DEFAULT now(), UNIQUE (x, y));
ALTER TABLE r OWNER TO regress_composite_owner;
INSERT INTO r (id, x, y) VALUES (1, 1, 1);
CREATE FUNCTION why(name text) RETURNS TABLE (status text, detail text, remedy text) LANGUAGE sql AS $$
    SELECT status, detail, remedy FROM concertmaster.explain_conversion('r', 'at', '1 month', 'composite') WHERE code = 'incoming_foreign_key' AND object ~ name $$;
SELECT * FROM why('r_up');
CREATE TABLE f (r bigint CONSTRAINT f_r REFERENCES r);
SELECT * FROM why('f_r');
ALTER TABLE f OWNER TO regress_composite_child;
SELECT * FROM why('f_r');
ALTER TABLE f DROP CONSTRAINT f_r, ADD CONSTRAINT f_r FOREIGN KEY (r) REFERENCES r NOT VALID;
SELECT * FROM why('f_r');
ALTER TABLE f VALIDATE CONSTRAINT f_r;
ALTER TABLE f ADD CONSTRAINT f_check CHECK (r > 0) NOT VALID;
SELECT * FROM why('f_r');
ALTER TABLE f VALIDATE CONSTRAINT f_check;
ALTER TABLE f FORCE ROW LEVEL SECURITY;
SELECT status FROM why('f_r');
ALTER TABLE f ENABLE ROW LEVEL SECURITY;
SELECT * FROM why('f_r');
ALTER TABLE f NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
CREATE RULE f_rule AS ON UPDATE TO f DO ALSO NOTIFY f;
SELECT * FROM why('f_r');
DROP RULE f_rule ON f;
CREATE TABLE f_child () INHERITS (f);
SELECT * FROM why('f_r');
DROP TABLE f_child;
ALTER TABLE f DROP CONSTRAINT f_r, ADD CONSTRAINT f_r FOREIGN KEY (r) REFERENCES r ON UPDATE SET DEFAULT;
SELECT * FROM why('f_r');
DROP TABLE f;
CREATE TABLE f (r bigint CONSTRAINT f_r REFERENCES r) PARTITION BY LIST (r);
ALTER TABLE f OWNER TO regress_composite_owner;
SELECT * FROM why('f_r');
DROP TABLE f;
CREATE TABLE f (n bigint, r bigint GENERATED ALWAYS AS (n) STORED CONSTRAINT f_r REFERENCES r);
ALTER TABLE f OWNER TO regress_composite_owner;
SELECT * FROM why('f_r');
DROP TABLE f;
CREATE TABLE f (x integer, y integer, CONSTRAINT f_r FOREIGN KEY (x, y) REFERENCES r (x, y) DEFERRABLE);
ALTER TABLE f OWNER TO regress_composite_owner;
SELECT * FROM why('f_r');
ALTER TABLE f ALTER x SET NOT NULL, ALTER y SET NOT NULL;
SELECT status FROM why('f_r');
ALTER TABLE f SET SCHEMA public;
SELECT status, detail LIKE '%no index%' FROM why('f_r');
CREATE INDEX ON public.f (y, x);
SELECT status FROM why('f_r');
REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC;
SELECT * FROM why('f_r');
GRANT USAGE ON LANGUAGE plpgsql TO PUBLIC;
-- The warning about wal_level is worded by version.
SET client_min_messages = error;
CREATE PUBLICATION regress_composite_all FOR TABLE public.f;
CREATE PUBLICATION regress_composite_list FOR TABLE public.f (x, y);
CREATE PUBLICATION regress_composite_schema FOR TABLES IN SCHEMA public;
SELECT object, status, detail, remedy FROM concertmaster.explain_conversion('r', 'at', '1 month', 'composite') WHERE code = 'referencing_table_published';
DROP PUBLICATION regress_composite_all, regress_composite_list, regress_composite_schema;
CREATE SUBSCRIPTION regress_composite_in CONNECTION 'dbname=none' PUBLICATION p WITH (connect = false, slot_name = NONE);
INSERT INTO pg_subscription_rel SELECT oid, 'public.f'::regclass, 'r', NULL FROM pg_subscription WHERE subname = 'regress_composite_in';
SELECT * FROM why('f_r');
DELETE FROM pg_subscription_rel WHERE srrelid = 'public.f'::regclass;
DROP SUBSCRIPTION regress_composite_in;
SET client_min_messages = warning;
\set VERBOSITY terse
SET ROLE regress_composite_owner;
CALL concertmaster.convert_to_partitioned('r', 'at', '1 month', 'composite', accept => '{unique_index_without_column}');
RESET ROLE;
\set VERBOSITY default
SELECT count(*) FROM pg_attribute WHERE attrelid = 'public.f'::regclass AND attnum > 0;

-- Tidy up.
SELECT concertmaster.forget_partition_set('t');
SET client_min_messages = error;
ALTER SYSTEM RESET concertmaster.ddl_deadline;
SELECT pg_reload_conf();
DROP TABLE public.f;
DROP SCHEMA conv_composite, conv_other CASCADE;
DELETE FROM concertmaster.job WHERE kind = 'convert';
DELETE FROM concertmaster.conversion;
DROP OWNED BY regress_composite_owner, regress_composite_child, regress_composite_writer;
DROP ROLE regress_composite_owner, regress_composite_child, regress_composite_writer;
