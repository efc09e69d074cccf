# doc/reference.md is what dev/reference.sh makes of the catalog, on every
# version; and every object and column in it has a comment.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use ConcertmasterTest;
use PostgreSQL::Test::Utils;
use Test::More;

# The tree, or the copy of it that dev/test.sh runs the tests in.
my $tree = "$FindBin::Bin/../..";
my $node = new_node('reference', database => 'postgres');

local $ENV{PGHOST} = $node->host;
local $ENV{PGPORT} = $node->port;
local $ENV{PGDATABASE} = 'postgres';
delete local $ENV{PGUSER};

my ($stdout, $stderr) = run_command([ 'bash', "$tree/dev/reference.sh", '--connected' ]);
is($stderr, '', 'the generator has nothing to complain of');

my @generated = split(/\n/, $stdout);
my @committed = split(/\n/, slurp_file("$tree/doc/reference.md"));
ok(@generated > 100, 'the generator prints a reference');

# Show the first lines that differ, not two whole files.
my $same = 1;
for my $i (0 .. ($#generated > $#committed ? $#generated : $#committed))
{
	my ($new, $old) = ($generated[$i] // '(nothing)', $committed[$i] // '(nothing)');
	next if $new eq $old;
	diag('line ' . ($i + 1) . "\n  catalog: $new\n  file:    $old");
	$same = 0;
	last;
}
ok($same, 'doc/reference.md is what the catalog says (if not: dev/reference.sh --write)');

is( $node->safe_psql(
		'postgres', q{
		SELECT pg_describe_object(d.classid, d.objid, 0)
		FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
		WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'concertmaster'
		  AND d.classid IN ('pg_proc'::regclass, 'pg_class'::regclass)
		  AND obj_description(d.objid, d.classid::regclass::text) IS NULL
		  AND NOT EXISTS (SELECT FROM pg_proc WHERE oid = d.objid AND proname LIKE '\_%')
		  AND NOT EXISTS (SELECT FROM pg_class WHERE oid = d.objid AND relkind IN ('S', 'i', 'c'))
		ORDER BY 1}),
	'', 'every public function, view and table has a comment');

is( $node->safe_psql(
		'postgres', q{
		SELECT a.attrelid::regclass || '.' || a.attname
		FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
		WHERE c.relnamespace = 'concertmaster'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
		  AND c.relname <> 'managed_names'
		  AND a.attnum > 0 AND NOT a.attisdropped AND col_description(c.oid, a.attnum) IS NULL
		ORDER BY 1}),
	'', 'every column of a view or table has a comment');

done_testing();
