-- explain_refresh(): which queries can be refreshed incrementally, and what is in the way of others
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS concertmaster;
DROP SCHEMA IF EXISTS matview_explain, "Odd ""Explain""" CASCADE;
DROP ROLE IF EXISTS regress_explain_owner, regress_explain_other;
CREATE SCHEMA matview_explain;
SET search_path = matview_explain;
\set SHOW_CONTEXT never

CREATE TABLE form (id integer PRIMARY KEY, name text NOT NULL, code varchar(20), price numeric, owner_id integer);
CREATE TABLE response (id bigint PRIMARY KEY, form_id integer, at timestamptz NOT NULL, local timestamp NOT NULL, day date NOT NULL,
                       took interval, score double precision, points integer, price numeric, code varchar(20), note text, data jsonb);
CREATE TABLE answer (response_id bigint, n integer, price numeric, code varchar(20), text text);
CREATE TABLE part (id bigint, at timestamptz NOT NULL, amount numeric) PARTITION BY RANGE (at);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM ('2025-01-01') TO ('2025-02-01');
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM ('2025-02-01') TO ('2025-03-01') PARTITION BY RANGE (at);
CREATE TABLE part_2a PARTITION OF part_2 FOR VALUES FROM ('2025-02-01') TO ('2025-02-10');

-- what stands in the way of a view of this query, and which groups its tables mark
CREATE FUNCTION look(query text) RETURNS TABLE (check_name text, ok boolean, reason_code text, detail text, hint text)
LANGUAGE plpgsql SET client_min_messages = warning AS $$
BEGIN
    EXECUTE 'CREATE MATERIALIZED VIEW matview_explain.looked_at AS ' || query || ' WITH NO DATA';
    RETURN QUERY SELECT * FROM concertmaster.explain_refresh('matview_explain.looked_at') e
                  WHERE e.check_name NOT IN ('setting', 'contents', 'unique index')
                    AND (NOT e.ok OR e.check_name ~ '^changes' OR e.check_name = 'ORDER BY');
    DROP MATERIALIZED VIEW matview_explain.looked_at;
END $$;
\pset format unaligned
\pset footer off

-- 1. everything at once
CREATE MATERIALIZED VIEW stats AS SELECT form_id, day AS "The Day", count(*) FROM response GROUP BY 1, 2 WITH NO DATA;
SELECT * FROM concertmaster.explain_refresh('stats');
REFRESH MATERIALIZED VIEW stats;
CREATE UNIQUE INDEX ON stats (form_id, "The Day");
SELECT concertmaster.manage_matview('stats', '1 hour');
SELECT * FROM concertmaster.explain_refresh('stats');
UPDATE concertmaster.matview SET incremental = false WHERE view_name = 'stats';
SELECT * FROM concertmaster.explain_refresh('stats') WHERE NOT ok;
UPDATE concertmaster.matview SET incremental = true, allow_inexact = true WHERE view_name = 'stats';

-- 2. which groups a table's rows mark
\t on
-- each table what it can: the form by the equality, and its name
SELECT * FROM look('SELECT r.form_id, f.name, date_trunc(''day'', r.at, ''UTC'') AS d, count(*) FROM response r JOIN form f ON f.id = r.form_id GROUP BY 1, 2, 3');
SELECT * FROM look('SELECT f.id, r.day, count(*) FROM response r, form f WHERE r.form_id = f.id GROUP BY 1, 2');
-- an outer join nulls the name, not the id
SELECT * FROM look('SELECT r.form_id, f.name, r.day, count(*) FROM response r LEFT JOIN form f ON f.id = r.form_id GROUP BY 1, 2, 3');
SELECT * FROM look('SELECT r.form_id, f.name, r.day, count(*) FROM form f RIGHT JOIN response r ON f.id = r.form_id GROUP BY 1, 2, 3');
SELECT * FROM look('SELECT f.id, f.name, count(r.id) FROM form f LEFT JOIN response r ON f.id = r.form_id GROUP BY 1, 2');
-- the id of the nullable side is told by nobody else, and not by itself
SELECT * FROM look('SELECT f.id, count(*) FROM response r LEFT JOIN form f ON f.id = r.form_id GROUP BY 1');
SELECT * FROM look('SELECT f.id, r.day, count(*) FROM response r LEFT JOIN form f ON f.id = r.form_id GROUP BY 1, 2');
-- ON of an outer join says nothing of rows of the other side
SELECT * FROM look('SELECT r.form_id, count(*) FROM response r LEFT JOIN form f ON f.id = r.form_id AND r.id = f.owner_id GROUP BY 1');
SELECT * FROM look('SELECT f.owner_id, r.day, count(*) FROM form f LEFT JOIN response r ON r.points = f.owner_id GROUP BY 1, 2');
-- WHERE does, whatever is nullable
SELECT * FROM look('SELECT r.form_id, r.day, count(*) FROM response r LEFT JOIN form f ON true WHERE f.id = r.form_id GROUP BY 1, 2');
-- two tables nulled by one join, and by two
SELECT * FROM look('SELECT r.id, a.n, count(*) FROM response r LEFT JOIN (answer a JOIN form f ON f.id = a.n) ON a.response_id = r.id GROUP BY 1, 2');
SELECT * FROM look('SELECT r.id, a.n, count(*) FROM response r LEFT JOIN answer a ON a.response_id = r.id LEFT JOIN form f ON f.id = r.form_id WHERE f.owner_id = a.n GROUP BY 1, 2');
-- USING, aliases of joins, a self-join, three tables
SELECT * FROM look('SELECT code, count(*) FROM response JOIN form USING (code) GROUP BY code');
SELECT * FROM look('SELECT j.form_id, j.name, count(*) FROM (response r JOIN form f ON f.id = r.form_id) AS j GROUP BY 1, 2');
SELECT * FROM look('SELECT code, j.n, count(*) FROM form f LEFT JOIN (answer a LEFT JOIN response r USING (code)) AS j USING (code) GROUP BY 1, 2');
SELECT * FROM look('SELECT j.id, count(*) FROM answer a LEFT JOIN (form f FULL JOIN response r USING (id)) AS j ON j.id = a.n GROUP BY 1');
SELECT * FROM look('SELECT a.id, count(*) FROM form a JOIN form b ON b.owner_id = a.id GROUP BY 1');
SELECT * FROM look('SELECT r.day, f.name, count(*) FROM answer a JOIN response r ON r.id = a.response_id JOIN form f ON f.id = r.form_id GROUP BY 1, 2');
-- equal is not alike: an expression over a numeric column, or a shorter varchar
SELECT * FROM look('SELECT r.price, count(*) FROM response r JOIN form f ON f.price = r.price GROUP BY 1');
SELECT * FROM look('SELECT r.price::text AS p, count(*) FROM response r JOIN form f ON f.price = r.price GROUP BY 1');
SELECT * FROM look('SELECT upper(r.code) AS c, count(*) FROM response r JOIN form f ON f.code = r.code GROUP BY 1');
SELECT * FROM look('SELECT r.points + 1 AS p, count(*) FROM response r JOIN form f ON f.id = r.points GROUP BY 1');
-- not the operator that GROUP BY uses, not one type, not for sure
SELECT * FROM look('SELECT r.form_id, count(*) FROM response r JOIN form f ON f.id >= r.form_id GROUP BY 1');
SELECT * FROM look('SELECT r.id, count(*) FROM response r JOIN form f ON f.id = r.id GROUP BY 1');
SELECT * FROM look('SELECT r.form_id, count(*) FROM response r JOIN form f ON f.id = r.form_id OR f.name IS NULL GROUP BY 1');
SELECT * FROM look('SELECT r.form_id, count(*) FROM response r JOIN form f ON NOT f.id <> r.form_id GROUP BY 1');
SELECT * FROM look('SELECT r.code, count(*) FROM response r JOIN form f ON f.code = r.code COLLATE "C" GROUP BY 1');
-- an expression over two tables that one of them tells, and one that none does
SELECT * FROM look('SELECT r.points + f.id AS s, count(*) FROM response r JOIN form f ON f.id = r.form_id GROUP BY 1');
SELECT * FROM look('SELECT r.points + f.owner_id AS s, count(*) FROM response r JOIN form f ON f.id = r.form_id GROUP BY 1');
-- a partitioned table
SELECT * FROM look('SELECT date_trunc(''month'', at, ''UTC'') AS month, sum(amount) FROM part GROUP BY 1');
-- more columns than a key has; the rest is no key
SELECT detail ~ 'c16$' AS sixteen FROM look((SELECT format('SELECT %s, count(*) FROM response GROUP BY %s',
    string_agg(format('points + %s AS c%s', i, i), ', ' ORDER BY i), string_agg(i::text, ', ' ORDER BY i)) FROM generate_series(1, 20) i));

-- 3. accepted: aggregates, HAVING, ORDER BY, grouping without aggregates, functions
SELECT * FROM look('SELECT day, (count(*), count(DISTINCT note), sum(points), avg(points), stddev(points), sum(price), avg(price), variance(price), sum(took), avg(took), min(note), max(score),
    bool_and(points > 1), every(points > 1), bit_or(points), percentile_cont(0.5) WITHIN GROUP (ORDER BY score), mode() WITHIN GROUP (ORDER BY note), rank(5) WITHIN GROUP (ORDER BY points),
    array_agg(note ORDER BY id), string_agg(note, '','' ORDER BY id), array_agg(DISTINCT points), jsonb_agg(at ORDER BY id), sum(DISTINCT score), range_agg(int4range(points, points + 1)), regr_count(score, score)) IS NULL AS all_of_them
    FROM response GROUP BY day HAVING count(*) > 1 ORDER BY day');
SELECT * FROM look('SELECT form_id, day FROM response GROUP BY 1, 2');
SELECT * FROM look('SELECT f.id, f.name, f.code, count(*) FROM form f JOIN response r ON r.form_id = f.id GROUP BY f.id');
SELECT * FROM look('SELECT day, count(*) FILTER (WHERE data ->> ''a'' = ''b'' AND note ~ ''x'' AND data ? ''c''), max(concat(note, points)) AS m, max(note || points) AS n, jsonb_build_object(''n'', count(*), ''to'', max(at)) FROM response GROUP BY day');
-- the time zone of the view
SELECT * FROM look('SELECT date_trunc(''day'', at) AS d, count(*) FROM response GROUP BY 1');
SELECT * FROM look('SELECT at::date AS d, extract(hour FROM at) AS h, count(*) FROM response WHERE at < local + interval ''1 day'' GROUP BY 1, 2');
SELECT * FROM look('SELECT extract(hour FROM at) AS h, count(*) FROM response GROUP BY 1');

-- 4. accepted: windows that move with now()
SELECT * FROM look('SELECT at::date AS d, count(*) FROM response WHERE at >= now() - interval ''30 days'' AND at < CURRENT_DATE + 1 GROUP BY 1');
SELECT * FROM look('SELECT day, count(*) FROM response WHERE (day BETWEEN CURRENT_DATE - 30 AND LOCALTIMESTAMP AND points > 1) AND now() > day GROUP BY 1');
SELECT * FROM look('SELECT date_trunc(''hour'', local) AS h, count(*) FROM response WHERE transaction_timestamp() - interval ''1 week'' < date_trunc(''day'', local) GROUP BY 1');
-- but not elsewhere
SELECT * FROM look('SELECT form_id, count(*) FROM response WHERE at >= now() - interval ''30 days'' GROUP BY 1');
SELECT * FROM look('SELECT day, count(*) FROM response WHERE day = CURRENT_DATE GROUP BY 1');
SELECT * FROM look('SELECT day, count(*) FROM response WHERE day > CURRENT_DATE - 7 OR points > 1 GROUP BY 1');
SELECT * FROM look('SELECT day, count(*) FROM response WHERE day > CURRENT_DATE - points GROUP BY 1');
SELECT * FROM look('SELECT day, count(*) FROM response WHERE at + took > now() GROUP BY 1');
SELECT * FROM look('SELECT day, count(*), max(now() - at) AS age FROM response GROUP BY 1 HAVING max(at) > CURRENT_TIMESTAMP');
SELECT * FROM look('SELECT date_trunc(''day'', now()) AS today, day, count(*) FROM response GROUP BY 1, 2');
SELECT * FROM look('SELECT r.day, count(*) FROM response r JOIN form f ON f.id = r.form_id AND r.day > CURRENT_DATE GROUP BY 1');

-- 5. refused: clauses
SELECT * FROM look('SELECT count(*) FROM response');
SELECT * FROM look('SELECT id, note FROM response');
SELECT * FROM look('SELECT count(*) FROM response GROUP BY day, form_id');
SELECT * FROM look('SELECT DISTINCT day, form_id FROM response GROUP BY 1, 2');
SELECT * FROM look('SELECT DISTINCT ON (day) day, form_id FROM response GROUP BY 1, 2 ORDER BY 1, 2');
SELECT * FROM look('SELECT day, count(*) FROM response GROUP BY 1 ORDER BY 1 LIMIT 10');
SELECT * FROM look('SELECT day, count(*) FROM response GROUP BY 1 OFFSET 1');
SELECT * FROM look('SELECT day, form_id, grouping(day), count(*) FROM response GROUP BY ROLLUP (1, 2)');
SELECT * FROM look('SELECT count(*) FROM response GROUP BY ()');
SELECT * FROM look('SELECT day FROM response GROUP BY 1 UNION ALL SELECT day FROM response GROUP BY 1');
SELECT * FROM look('WITH r AS (SELECT * FROM response) SELECT day, count(*) FROM r GROUP BY 1');
SELECT * FROM look('SELECT day, count(*) FROM response r WHERE EXISTS (SELECT FROM form f WHERE f.id = r.form_id) GROUP BY 1');
SELECT * FROM look('SELECT day, count(*), sum(count(*)) OVER (ORDER BY day) FROM response GROUP BY 1');
SELECT * FROM look('SELECT day, generate_series(1, 3) FROM response GROUP BY 1');
SELECT * FROM look('SELECT r.day, count(*) FROM (SELECT * FROM response FOR UPDATE) r GROUP BY 1');
SELECT * FROM look('SELECT day, count(*) FROM response TABLESAMPLE BERNOULLI (10) REPEATABLE (1) GROUP BY 1');
SELECT * FROM look('SELECT f.id, count(*) FROM form f FULL JOIN response r ON r.form_id = f.id GROUP BY 1');

-- 6. refused: FROM
CREATE VIEW "A View" AS SELECT * FROM response;
CREATE TABLE parent (day date);
CREATE TABLE child () INHERITS (parent);
CREATE UNLOGGED TABLE unlogged (day date);
CREATE FOREIGN DATA WRAPPER matview_explain;
CREATE SERVER matview_explain FOREIGN DATA WRAPPER matview_explain;
CREATE FOREIGN TABLE far (day date) SERVER matview_explain;
CREATE TABLE mixed (day date) PARTITION BY LIST (day);
CREATE FOREIGN TABLE mixed_1 PARTITION OF mixed FOR VALUES IN ('2025-01-01') SERVER matview_explain;
CREATE UNLOGGED TABLE mixed_2 PARTITION OF mixed FOR VALUES IN ('2025-01-02');
SELECT * FROM look('SELECT 1 AS one GROUP BY 1');
SELECT * FROM look('SELECT day, count(*) FROM "A View" GROUP BY 1');
SELECT * FROM look('SELECT "The Day", sum(count) FROM stats GROUP BY 1');
SELECT * FROM look('SELECT s.day, count(*) FROM (SELECT day FROM response) s GROUP BY 1');
SELECT * FROM look('SELECT g, count(*) FROM generate_series(1, 3) g GROUP BY 1');
SELECT * FROM look('SELECT v.a, count(*) FROM (VALUES (1), (2)) v(a) GROUP BY 1');
SELECT * FROM look('VALUES (1)');
SELECT * FROM look('SELECT day, count(*) FROM parent GROUP BY 1');
SELECT * FROM look('SELECT day, count(*) FROM ONLY parent GROUP BY 1');
SELECT * FROM look('SELECT day, count(*) FROM child GROUP BY 1');
SELECT * FROM look('SELECT day, count(*) FROM unlogged GROUP BY 1');
SELECT * FROM look('SELECT day, count(*) FROM far GROUP BY 1');
SELECT * FROM look('SELECT day, count(*) FROM mixed GROUP BY 1');
-- once its DETACH is pending, nobody reads it any more
UPDATE pg_inherits SET inhdetachpending = true WHERE inhrelid = 'mixed_1'::regclass;
SELECT * FROM look('SELECT day, count(*) FROM mixed GROUP BY 1');
UPDATE pg_inherits SET inhdetachpending = false WHERE inhrelid = 'mixed_1'::regclass;
SELECT * FROM look('SELECT at::date AS day, count(*) FROM ONLY part GROUP BY 1');
SELECT * FROM look('SELECT at::date AS day, count(*) FROM part_1 GROUP BY 1');
SELECT * FROM look('SELECT relnamespace, count(*) FROM pg_class GROUP BY 1');
SELECT * FROM look('SELECT kind, count(*) FROM concertmaster.job GROUP BY 1');
SELECT * FROM look('SELECT day, count(*), max(ctid) AS m, max(tableoid) AS n FROM response GROUP BY 1');

-- 7. refused: functions and aggregates
CREATE FUNCTION f_volatile(integer) RETURNS integer LANGUAGE sql VOLATILE AS 'SELECT $1';
CREATE FUNCTION f_stable(integer) RETURNS integer LANGUAGE sql STABLE AS 'SELECT $1';
CREATE FUNCTION f_immutable(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION f_state(integer, integer) RETURNS integer LANGUAGE sql VOLATILE AS 'SELECT $1 + $2';
CREATE AGGREGATE mine(integer) (SFUNC = int4pl, STYPE = integer, INITCOND = '0');
CREATE AGGREGATE loose(integer) (SFUNC = f_state, STYPE = integer, INITCOND = '0');
CREATE OPERATOR @@@ (LEFTARG = integer, RIGHTARG = integer, FUNCTION = f_state);
SELECT * FROM look('SELECT f_immutable(points) AS p, count(*) FROM response GROUP BY 1');
SELECT * FROM look('SELECT day, f_stable(max(points)), count(*) FROM response WHERE f_volatile(points) > 1 GROUP BY 1 HAVING random() < 2');
SELECT * FROM look('SELECT f_stable(points) AS p, points @@@ 1 AS q, count(*) FROM response GROUP BY 1, 2');
SELECT * FROM look('SELECT day, loose(points ORDER BY id) FROM response GROUP BY 1');
SELECT * FROM look('SELECT r.day, count(*) FROM response r JOIN form f ON f_stable(f.id) = r.form_id GROUP BY 1');
SELECT * FROM look('SELECT day, count(*) FROM response WHERE note = CURRENT_USER AND local::text > note AND at > clock_timestamp() GROUP BY 1');
SELECT * FROM look('SELECT to_char(at, ''YYYY-MM'') AS month, max(concat(at, note)) AS m, max(note || score) AS n, jsonb_agg(data ORDER BY id) AS o, jsonb_agg(score ORDER BY id) AS p FROM response GROUP BY 1');
SELECT * FROM look('SELECT day, max(xmlelement(name a, note)::text) FROM response GROUP BY 1');
SELECT * FROM look('SELECT day, sum(score), avg(score::real), stddev(score), corr(score, score), array_agg(note), string_agg(note, '',''), jsonb_agg(data), mine(points), mine(points ORDER BY id) AS sorted FROM response GROUP BY 1');

-- 8. whose tables they are
\t off
CREATE ROLE regress_explain_owner;
CREATE ROLE regress_explain_other;
CREATE SCHEMA "Odd ""Explain""" AUTHORIZATION regress_explain_owner;
CREATE TABLE "Odd ""Explain"""."My Table" ("The Day" date, n integer);
ALTER TABLE "Odd ""Explain"""."My Table" OWNER TO regress_explain_other;
GRANT SELECT ON "Odd ""Explain"""."My Table" TO regress_explain_owner;
GRANT USAGE ON SCHEMA "Odd ""Explain""" TO regress_explain_other;
SET ROLE regress_explain_owner;
CREATE MATERIALIZED VIEW "Odd ""Explain"""."My View" AS SELECT "The Day", count(*) AS "N" FROM "Odd ""Explain"""."My Table" GROUP BY 1;
SELECT * FROM concertmaster.explain_refresh('"Odd ""Explain"""."My View"') WHERE check_name = 'unique index' OR check_name ~ '^changes' OR check_name = 'FROM';
RESET ROLE;
GRANT regress_explain_other TO regress_explain_owner;
SELECT * FROM concertmaster.explain_refresh('"Odd ""Explain"""."My View"') WHERE check_name = 'FROM';
ALTER TABLE "Odd ""Explain"""."My Table" ENABLE ROW LEVEL SECURITY;
SELECT * FROM concertmaster.explain_refresh('"Odd ""Explain"""."My View"') WHERE check_name = 'FROM';
ALTER TABLE "Odd ""Explain"""."My Table" FORCE ROW LEVEL SECURITY;
SELECT * FROM concertmaster.explain_refresh('"Odd ""Explain"""."My View"') WHERE check_name = 'FROM';
-- errors
\pset format aligned
SELECT * FROM concertmaster.explain_refresh('response');
SELECT * FROM concertmaster.explain_refresh(0);
SELECT * FROM concertmaster.explain_refresh(NULL);
SET ROLE regress_explain_other;
SELECT * FROM concertmaster.explain_refresh('"Odd ""Explain"""."My View"');
RESET ROLE;
\pset format unaligned

-- 9. the bundled view is incremental, with times of either type
CREATE TABLE form_schemas (id uuid PRIMARY KEY, name text);
CREATE TABLE form_responses (form_schema_id uuid, submitted_at timestamptz, data jsonb);
SELECT * FROM look(concertmaster._bundled_view_query('matview_explain', true));
ALTER TABLE form_responses ALTER submitted_at TYPE timestamp;
SELECT * FROM look(concertmaster._bundled_view_query('matview_explain', false));

SET client_min_messages = warning;
SELECT concertmaster.unmanage_matview('stats');
DROP SCHEMA matview_explain, "Odd ""Explain""" CASCADE;
DROP FOREIGN DATA WRAPPER matview_explain CASCADE;
DROP ROLE regress_explain_owner, regress_explain_other;
