/*
 * concertmaster: workflows and forms on PostgreSQL that keep themselves fast.
 *
 * The parts in sql/ are concatenated in name order into the extension's
 * script.  Objects are created in schema concertmaster, which belongs to the
 * extension; tables of the users' data are made by install(), never here.
 */
\echo Use "CREATE EXTENSION concertmaster" to load this file. \quit

SET LOCAL search_path TO pg_catalog, pg_temp;

CREATE SCHEMA concertmaster;
COMMENT ON SCHEMA concertmaster IS 'workflows and forms on PostgreSQL: catalog, functions and views of extension concertmaster';

-- Every function checks who owns what it is asked about; views show a role its own rows.
GRANT USAGE ON SCHEMA concertmaster TO PUBLIC;
