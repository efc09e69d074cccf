# explain_conversion() and pg_stat_statements: statements that a conversion
# changes for, those that are hidden from the caller, and the module missing.
use strict;
use warnings;

use ConcertmasterTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main', database => 'd', conf => "shared_preload_libraries = 'pg_stat_statements, concertmaster'\n");
my $found = q{SELECT code || '|' || status || '|' || detail FROM concertmaster.explain_conversion('"Fo.rm"', 'at', '1 month')
	WHERE code IN ('on_conflict_target', 'lookup_by_id', 'system_column', 'only_or_copy', 'statements') ORDER BY code};

$node->safe_psql('d', q{CREATE ROLE clerk LOGIN; GRANT CREATE ON SCHEMA public TO clerk;
	CREATE TABLE "Fo.rm" (id bigint PRIMARY KEY, v text, at timestamptz NOT NULL); ALTER TABLE "Fo.rm" OWNER TO clerk});
like($node->safe_psql('d', $found), qr/^statements\|ok\|pg_stat_statements is not installed in this database/, 'not installed');

# In a schema of its own, with a hostile name, and a view of the same name that is nobody's.
$node->safe_psql('d', q{CREATE SCHEMA "Odd %s"; CREATE EXTENSION pg_stat_statements SCHEMA "Odd %s";
	CREATE VIEW public.pg_stat_statements AS SELECT 1 / 0 AS query, 1 AS calls, 0 AS dbid});
$node->safe_psql('d', $_) for (
	q{INSERT INTO "Fo.rm" VALUES (1, 'a', now()) ON CONFLICT (id) DO NOTHING},
	q{INSERT INTO "Fo.rm" VALUES (1, 'a', now()) ON CONFLICT DO NOTHING},
	q{INSERT INTO public."Fo.rm" VALUES (2, 'a', now()) RETURNING xmax},
	q{SELECT v FROM "Fo.rm" WHERE id = 1},
	q{SELECT v FROM "Fo.rm" WHERE at > now()},
	q{SELECT v FROM ONLY "Fo.rm" WHERE at > now()},
	q{COPY "Fo.rm" TO STDOUT},
	q{SELECT 'Foorm' WHERE 1 = 1});
my $out = $node->safe_psql('d', $found);
like($out, qr/^lookup_by_id\|to accept\|1 statements, run 1 times; most often: SELECT v FROM "Fo\.rm" WHERE id = \$1$/m, 'a look-up by id, and none with the key');
like($out, qr/^on_conflict_target\|to accept\|2 statements, /m, 'ON CONFLICT, with a target and without');
like($out, qr/^only_or_copy\|to accept\|2 statements, /m, 'ONLY and COPY');
like($out, qr/^system_column\|to accept\|1 statements, /m, 'RETURNING xmax');
like($out, qr/^statements\|ok\|\d+ statements of this database were looked at$/m, 'a superuser sees them all');

$node->safe_psql('d', q{GRANT USAGE ON SCHEMA "Odd %s" TO clerk});
like($node->safe_psql('d', "SET ROLE clerk; $found"), qr/^statements\|ok\|\d+ statements of this database were looked at; \d+ of other roles are hidden$/m,
	'the owner is told what is hidden');
$node->safe_psql('d', q{REVOKE SELECT ON "Odd %s".pg_stat_statements FROM PUBLIC});
like($node->safe_psql('d', "SET ROLE clerk; $found"), qr/^statements\|ok\|pg_stat_statements cannot be read: permission denied/, 'no right to read the view');

$node->append_conf('postgresql.conf', "shared_preload_libraries = 'concertmaster'\n");
$node->restart;
like($node->safe_psql('d', $found), qr/^statements\|ok\|pg_stat_statements cannot be read: pg_stat_statements must be loaded/, 'not loaded');

$node->stop;
done_testing();
