-- The session of README.md, for psql, in a database without concertmaster:
--
--   createdb platform && psql -d platform -f doc/session.sql
--
-- test/t/092_docs_readme.pl runs it and compares its answers with README.md.

CREATE EXTENSION concertmaster;
