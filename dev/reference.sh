#!/usr/bin/env bash
# doc/reference.md, made from the catalog: what COMMENT ON and pg_settings say.
#
#   dev/reference.sh              print it, from a throwaway server of this tree
#   dev/reference.sh --write      the same into doc/reference.md
#   dev/reference.sh --connected  print it, from the server and database that
#                                 PGHOST, PGPORT, PGUSER, PGDATABASE name; the
#                                 extension is there already
#
# Needs only psql when --connected.  The text is the same on every version of
# PostgreSQL; test/t/091_docs_reference.pl compares it with the file.  Leaves
# nothing behind: the throwaway server is removed at the end.
set -euo pipefail

# psql prints one line per row; everything below is SELECTs that make Markdown.
print_reference() {
    psql -XqAt -v ON_ERROR_STOP=1 <<'SQL'
SET client_min_messages = warning;
SET search_path = pg_catalog;
SET intervalstyle = postgres;
LOAD 'concertmaster';

-- A cell of a table: one line, no bare pipe.
CREATE FUNCTION pg_temp.cell(text) RETURNS text LANGUAGE sql IMMUTABLE AS
$$ SELECT coalesce(replace(regexp_replace($1, '\s*\n\s*', ' ', 'g'), '|', '\|'), '') $$;

-- Running text: what Markdown would swallow, a name such as table_YYYY_MM or <name>.
CREATE FUNCTION pg_temp.prose(text) RETURNS text LANGUAGE sql IMMUTABLE AS
$$ SELECT regexp_replace(regexp_replace($1, '<', '&lt;', 'g'), '([*`])', '\\\1', 'g') $$;

CREATE TEMP TABLE chapter (position int, title text, anchor text, pattern text);
INSERT INTO chapter VALUES
    -- titles differ from every object's name, or the links would
    (1, 'Installing', 'installing', '(install|uuid_v7|updated_at|created_at)'),
    (2, 'Building indexes', 'building-indexes', 'index(_plan|_state|es)|unplan_index'),
    (3, 'Rolling partitions', 'rolling-partitions', 'partition|partman|conversion'),
    (4, 'Refreshing materialized views', 'refreshing-materialized-views', '(matview|refresh)'),
    (5, 'Running jobs', 'running-jobs', '(job|cron|launcher|resume_all|armed|worker)'),
    (6, 'Watching', 'watching', '.');

-- Every object of the extension in its schema that people call or read.
CREATE TEMP TABLE object AS
SELECT o.*, CASE WHEN o.name LIKE '\_%' OR o.internal THEN 7
                 ELSE (SELECT min(c.position) FROM chapter c WHERE o.name ~ c.pattern) END AS chapter
FROM (
    SELECT p.oid, 'pg_proc'::regclass AS catalog, p.proname::text AS name,
           CASE p.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END AS kind,
           replace(regexp_replace(pg_get_function_arguments(p.oid), '(^|, )IN ', '\1', 'g'),
                   'timestamp with time zone', 'timestamptz') AS arguments,
           replace(pg_get_function_result(p.oid), 'timestamp with time zone', 'timestamptz') AS result,
           'internal'::regtype = ANY (p.proargtypes) AS internal
    FROM pg_proc p WHERE p.pronamespace = 'concertmaster'::regnamespace
    UNION ALL
    SELECT c.oid, 'pg_class'::regclass, c.relname::text,
           CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' ELSE 'table' END,
           NULL, NULL,
           c.relname IN ('armed', 'relation_map', 'managed_names')
    FROM pg_class c
    WHERE c.relnamespace = 'concertmaster'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition) o
JOIN pg_depend d ON d.classid = o.catalog AND d.objid = o.oid AND d.deptype = 'e'
                AND d.refclassid = 'pg_extension'::regclass
JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'concertmaster';

-- The signature as it is written in SQL, wrapped when long: what goes in, what comes out.
CREATE FUNCTION pg_temp.wrapped(list text) RETURNS text LANGUAGE sql AS
$$ SELECT CASE WHEN length(list) <= 70 THEN '(' || list || ')'
               ELSE E'(\n    ' || regexp_replace(list, ', (?=\w+ [a-z])', E',\n    ', 'g') || ')' END $$;

CREATE FUNCTION pg_temp.signature(object) RETURNS text LANGUAGE sql AS
$$ SELECT CASE WHEN $1.kind = 'procedure' THEN 'CALL ' ELSE '' END || $1.name
       || pg_temp.wrapped(regexp_replace(regexp_replace($1.arguments, '(^|, )OUT .*$', ''),
                                         '(DEFAULT [^,]*?)::[a-z ]+(?=,|$)', '\1', 'g'))
       || CASE WHEN $1.result IS NULL THEN ''
               WHEN $1.arguments ~ '(^|, )OUT ' AND $1.result ~ 'record'
                   THEN ' → ' || replace($1.result, 'record', '')
                        || pg_temp.wrapped(replace(substring($1.arguments FROM '\mOUT .*$'), 'OUT ', ''))
               WHEN $1.result LIKE 'TABLE(%'
                   THEN ' → SETOF ' || pg_temp.wrapped(substr($1.result, 7, length($1.result) - 7))
               ELSE ' → ' || $1.result END $$;

-- A comment: arguments as a list, then what it does, then the errors, SQLSTATEs marked.
CREATE FUNCTION pg_temp.described(comment text) RETURNS text LANGUAGE sql AS
$$ SELECT regexp_replace(
       CASE WHEN body ~ '^\w+: '
            THEN '- `' || regexp_replace(regexp_replace(pg_temp.prose(substr(body, 1, ends - 1)),
                                                        '; (\w+): ', E'\n- `\\1`: ', 'g'), '^(\w+): ', '\1`: ')
                 || E'\n\n' || pg_temp.prose(ltrim(substr(body, ends + 1)))
            ELSE upper(substr(body, 1, 1)) || substr(pg_temp.prose(body), 2) END
       || CASE WHEN errors = '' THEN '' ELSE E'\n\n' || pg_temp.prose(errors) END,
       '\m(0A000|[2-5][0-9BDFP][0-9A-Z]{3})\M', '`\1`', 'g')
   FROM (SELECT body, errors,
                coalesce(nullif(regexp_instr(body, '\.\s'), 0), length(body) + 1) AS ends
         FROM (SELECT rtrim(substr(comment, 1, at - 1)) AS body, ltrim(substr(comment, at)) AS errors
               FROM (SELECT coalesce(nullif(regexp_instr(comment, '\s+Errors?:? '), 0), length(comment) + 1) AS at) x) y) z $$;

-- Who may call or read it, beside its owner.
CREATE FUNCTION pg_temp.audience(object) RETURNS text LANGUAGE sql AS
$$ SELECT CASE WHEN bool_or(a.grantee = 0) THEN 'everyone'
               WHEN count(*) FILTER (WHERE a.grantee <> a.owner) = 0 THEN 'superusers'
               ELSE string_agg(DISTINCT '`' || a.grantee::regrole::text || '`', ', ')
                        FILTER (WHERE a.grantee <> a.owner) END
   FROM (SELECT x.grantee, p.proowner AS owner
         FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x
         WHERE $1.catalog = 'pg_proc'::regclass AND p.oid = $1.oid AND x.privilege_type = 'EXECUTE'
         UNION ALL
         SELECT x.grantee, c.relowner
         FROM pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) x
         WHERE $1.catalog = 'pg_class'::regclass AND c.oid = $1.oid AND x.privilege_type = 'SELECT') a $$;

-- Keys and checks of a table.
CREATE FUNCTION pg_temp.constraints(object) RETURNS text LANGUAGE sql AS
$$ SELECT E'\n' || string_agg('`' || pg_get_constraintdef(oid) || '`', '; ' ORDER BY position('PRIMARY' IN pg_get_constraintdef(oid)) = 0, contype, conname)
   FROM pg_constraint WHERE conrelid = $1.oid AND contype IN ('p', 'u', 'f', 'c', 'x') $$;

CREATE FUNCTION pg_temp.columns(object) RETURNS SETOF text LANGUAGE sql AS
$$ SELECT '| Column | Type | What it says |' UNION ALL SELECT '|---|---|---|'
   UNION ALL
   (SELECT '| `' || a.attname || '` | ' || replace(format_type(a.atttypid, a.atttypmod), 'timestamp with time zone', 'timestamptz') || ' | '
           || pg_temp.cell(pg_temp.prose(col_description(a.attrelid, a.attnum)))
           || CASE WHEN $1.kind = 'table' AND pg_get_expr(d.adbin, d.adrelid) IS NOT NULL
                   THEN ' (default `' || pg_temp.cell(pg_get_expr(d.adbin, d.adrelid)) || '`)' ELSE '' END || ' |'
    FROM pg_attribute a
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = $1.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) $$;

\qecho '# Reference'
\qecho
\qecho 'Every object of schema `concertmaster` and every setting, as the catalog describes them.'
\qecho 'This file is generated by `dev/reference.sh --write` and compared with the catalog by a test: change the `COMMENT ON` instead.'
\qecho 'Functions and views are called with their schema, for instance `SELECT concertmaster.install();`.'
\qecho
\qecho '| Chapter | Functions and procedures | Views | Tables |'
\qecho '|---|---|---|---|'
SELECT format('| [%s](#%s) | %s | %s | %s |', c.title, c.anchor,
       coalesce(string_agg(DISTINCT format('[`%s`](#%s)', o.name, o.name), ' ') FILTER (WHERE o.kind NOT IN ('view', 'table')), ''),
       coalesce(string_agg(DISTINCT format('[`%s`](#%s)', o.name, o.name), ' ') FILTER (WHERE o.kind = 'view'), ''),
       coalesce(string_agg(DISTINCT format('[`%s`](#%s)', o.name, o.name), ' ') FILTER (WHERE o.kind = 'table'), ''))
FROM chapter c JOIN object o ON o.chapter = c.position
GROUP BY c.position, c.title, c.anchor ORDER BY c.position;
\qecho '| [Settings](#settings) | | | |'

SELECT line FROM (
    -- chapter headings
    SELECT c.position, 0 AS rank, '' AS name, 0::oid AS oid, n AS part, t AS line
    FROM chapter c, LATERAL (VALUES (1, ''), (2, '## ' || c.title)) v (n, t)
    WHERE EXISTS (SELECT FROM object o WHERE o.chapter = c.position)
    UNION ALL
    -- objects: functions, then views, then tables
    SELECT o.chapter, CASE o.kind WHEN 'view' THEN 2 WHEN 'table' THEN 3 ELSE 1 END, o.name, o.oid, v.n, v.t
    FROM object o, LATERAL (
        SELECT 1 AS n, '' AS t
        UNION ALL SELECT 2, E'### ' || o.name || E'\n'
                  WHERE o.oid = (SELECT min(x.oid) FROM object x WHERE x.name = o.name AND x.catalog = o.catalog)
        UNION ALL SELECT 4, E'```sql\n' || pg_temp.signature(o) || E'\n```\n' WHERE o.catalog = 'pg_proc'::regclass
        UNION ALL SELECT 5, CASE WHEN o.catalog = 'pg_class'::regclass THEN initcap(o.kind) || ': ' ELSE '' END
                            || coalesce(CASE WHEN o.catalog = 'pg_class'::regclass THEN pg_temp.prose(obj_description(o.oid, 'pg_class'))
                                             ELSE pg_temp.described(obj_description(o.oid, 'pg_proc')) END, '(no comment)')
        UNION ALL SELECT 6, E'\nMay be called by: ' || pg_temp.audience(o) || '.'
                            WHERE o.catalog = 'pg_proc'::regclass AND pg_temp.audience(o) <> 'everyone'
        UNION ALL SELECT 6, E'\nOpen to: ' || pg_temp.audience(o) || '.'
                            || CASE WHEN o.kind <> 'table' THEN ''
                                    WHEN o.oid = ANY (SELECT unnest(extconfig) FROM pg_extension WHERE extname = 'concertmaster')
                                    THEN ' Part of a dump.' ELSE ' Not part of a dump.' END
                            WHERE o.catalog = 'pg_class'::regclass
        UNION ALL SELECT 7, pg_temp.constraints(o) WHERE o.kind = 'table'
        UNION ALL SELECT 8, ''  WHERE o.catalog = 'pg_class'::regclass
        UNION ALL SELECT 8 + row_number() OVER (), x FROM pg_temp.columns(o) x WHERE o.catalog = 'pg_class'::regclass
    ) v
    WHERE o.chapter < 7) lines
ORDER BY position, rank, name COLLATE "C", oid, part;

\qecho
\qecho '## Settings'
\qecho
\qecho 'In `postgresql.conf`, or by `ALTER SYSTEM SET`. *reload*: takes effect with `SELECT pg_reload_conf()`; *superuser*: also by `SET` in a superuser''s session; *user*: by anyone; *restart*: at server start only.'
\qecho
\qecho '| Setting | What it does | Default | Bounds | Change |'
\qecho '|---|---|---|---|---|'
SELECT format('| `%s` | %s | %s | %s | %s |', name,
       pg_temp.cell(pg_temp.prose(short_desc || coalesce(' ' || extra_desc, ''))),
       CASE WHEN vartype = 'string' THEN '`''' || boot_val || '''`'
            WHEN boot_val = '-1' THEN '-1'
            ELSE boot_val || coalesce(' ' || unit, '') END,
       CASE WHEN enumvals IS NOT NULL THEN array_to_string(enumvals, ', ')
            WHEN vartype = 'bool' THEN 'on, off'
            WHEN min_val IS NULL THEN '' ELSE min_val || ' to ' || max_val || coalesce(' ' || unit, '') END,
       CASE context WHEN 'sighup' THEN 'reload' WHEN 'postmaster' THEN 'restart' ELSE context END)
FROM pg_settings WHERE name LIKE 'concertmaster.%' ORDER BY name COLLATE "C";

\qecho
\qecho '## Internal'
\qecho
\qecho 'Part of the machinery; not to be called or written, and free to change.'
\qecho
\qecho '| Object | Kind | What it is |'
\qecho '|---|---|---|'
SELECT format('| `%s` | %s | %s |', name || CASE WHEN catalog = 'pg_proc'::regclass THEN '(' || pg_temp.cell(regexp_replace(arguments, '(^|, )OUT .*$', '')) || ')' ELSE '' END, kind,
              pg_temp.cell(pg_temp.prose(obj_description(oid, catalog::text))))
FROM object WHERE chapter = 7 ORDER BY name COLLATE "C", oid;
SQL
}

# From a throwaway server of our own, which ends with us.
print_from_own_server() {
    local tree dir
    tree=$(cd "$(dirname "$0")/.." && pwd)
    "$tree/dev/server.sh" stage >&2
    dir=$(mktemp -d /tmp/concertmaster-reference.XXXXXX)
    chmod 755 "$dir"
    # shellcheck disable=SC2064
    trap "'$tree/dev/server.sh' stop --remove '$dir' >&2; rm -rf '$dir'" EXIT
    "$tree/dev/server.sh" start --fresh "$dir" >&2
    eval "$("$tree/dev/server.sh" env "$dir")"
    export PGDATABASE=postgres
    psql -Xq -c 'CREATE EXTENSION concertmaster'
    print_reference
}

case ${1:-} in
    --connected) print_reference ;;
    --write)
        text=$(print_from_own_server)
        printf '%s\n' "$text" >"$(dirname "$0")/../doc/reference.md"
        ;;
    '') print_from_own_server ;;
    *) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 2 ;;
esac
