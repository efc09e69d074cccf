--
-- The row triggers, on tables of one's own.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
RESET client_min_messages;
CREATE SCHEMA install_trigger;
SET search_path = install_trigger;

CREATE TABLE t (a integer, updated_at timestamptz, changed timestamp, created_at timestamptz DEFAULT '2020-01-01', born date DEFAULT '2020-01-01');
CREATE TRIGGER follow BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION concertmaster.set_updated_at();
CREATE TRIGGER follow_changed BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION concertmaster.set_updated_at('changed');
CREATE TRIGGER keep BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION concertmaster.keep_created_at();
CREATE TRIGGER keep_born BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION concertmaster.keep_created_at('born');
INSERT INTO t VALUES (1);
SELECT updated_at, changed FROM t;

-- The time of change is the transaction's, whatever the UPDATE says.
BEGIN;
UPDATE t SET a = 2, updated_at = '2000-01-01';
SELECT a, updated_at = now() AS follows, changed = now()::timestamp AS follows_without_zone FROM t;
COMMIT;

-- The time of birth stays; writing the same is no change.
UPDATE t SET created_at = now();
\echo :SQLSTATE
UPDATE t SET created_at = NULL;
\echo :SQLSTATE
UPDATE t SET born = '2021-01-01';
\echo :SQLSTATE
UPDATE t SET created_at = '2020-01-01', born = '2020-01-01', a = 3;
\echo :SQLSTATE

-- A column that is not there, or not of the type.
CREATE TABLE u (a integer);
CREATE TRIGGER follow BEFORE UPDATE ON u FOR EACH ROW EXECUTE FUNCTION concertmaster.set_updated_at();
INSERT INTO u VALUES (1);
UPDATE u SET a = 2;
\echo :SQLSTATE
ALTER TABLE u ADD COLUMN updated_at integer;
UPDATE u SET a = 2;
\echo :SQLSTATE
DROP TRIGGER follow ON u;
CREATE TRIGGER keep BEFORE UPDATE ON u FOR EACH ROW EXECUTE FUNCTION concertmaster.keep_created_at();
UPDATE u SET a = 2;
\echo :SQLSTATE
DROP TRIGGER keep ON u;

-- Wrong uses.
CREATE TRIGGER wrong BEFORE INSERT ON u FOR EACH ROW EXECUTE FUNCTION concertmaster.set_updated_at();
INSERT INTO u VALUES (1);
DROP TRIGGER wrong ON u;
CREATE TRIGGER wrong AFTER UPDATE ON u FOR EACH ROW EXECUTE FUNCTION concertmaster.keep_created_at();
UPDATE u SET a = 2;
\echo :SQLSTATE
DROP TRIGGER wrong ON u;
CREATE TRIGGER wrong BEFORE UPDATE ON u FOR EACH STATEMENT EXECUTE FUNCTION concertmaster.set_updated_at();
UPDATE u SET a = 2;
\echo :SQLSTATE
SELECT concertmaster.set_updated_at();
\echo :SQLSTATE

-- Leaves may number their columns differently.
CREATE TABLE p (a integer, created_at date NOT NULL, updated_at timestamptz) PARTITION BY RANGE (created_at);
CREATE TABLE p1 (updated_at timestamptz, dropped text, created_at date NOT NULL, a integer);
ALTER TABLE p1 DROP COLUMN dropped;
ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TRIGGER follow BEFORE UPDATE ON p FOR EACH ROW EXECUTE FUNCTION concertmaster.set_updated_at();
CREATE TRIGGER keep BEFORE UPDATE ON p FOR EACH ROW WHEN (OLD.created_at IS DISTINCT FROM NEW.created_at) EXECUTE FUNCTION concertmaster.keep_created_at();
INSERT INTO p VALUES (1, '2020-05-05');
BEGIN;
UPDATE p SET a = 2;
SELECT a, created_at, updated_at = now() AS follows FROM p;
COMMIT;
UPDATE p SET created_at = '2020-05-06';

\set VERBOSITY terse
DROP SCHEMA install_trigger CASCADE;
