# Builds beside writers: nobody stalls, nothing is missing from the indexes,
# and partitions attached meanwhile have them too.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";

use ConcertmasterTest;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# More than any lock of ours may be held or awaited, with room for a busy machine.
my $longest_stall_ms = 1000;

my $node = new_node('writers', database => 'd');
my $folder = PostgreSQL::Test::Utils::tempdir();

$node->safe_psql('d', <<'END');
CREATE EXTENSION amcheck;
CREATE TABLE items (id bigint GENERATED ALWAYS AS IDENTITY, name text, data jsonb);
INSERT INTO items (name, data)
SELECT md5(g::text), jsonb_build_object('a', g % 100, 'b', md5((g % 1000)::text), 'c', md5(g::text)) FROM generate_series(1, 150000) g;
CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY, k integer, name text) PARTITION BY LIST (k);
CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2);
INSERT INTO events (k, name) SELECT 1 + g % 2, md5(g::text) FROM generate_series(1, 150000) g;
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition)
VALUES (1, 'public', 'items', 'items_data', 'USING gin (data)'),
       (1, 'public', 'items', 'items_name', '(name)'),
       (1, 'public', 'items', 'items_lower', '(lower(name)) INCLUDE (id) WHERE id > 100'),
       (1, 'public', 'events', 'events_name', '(name, id DESC)'),
       (1, 'public', 'events', 'events_id', '(id)');
END

append_to_file("$folder/write.sql", <<'END');
\set n random(1, 150000)
\set k random(1, 2)
BEGIN;
INSERT INTO items (name, data) VALUES (md5(:n::text), jsonb_build_object('a', :n, 'd', md5(:n::text)));
UPDATE items SET name = md5(name) WHERE id = :n;
INSERT INTO events (k, name) VALUES (:k, md5(:n::text));
END;
END
$node->safe_psql('d', 'CREATE UNIQUE INDEX items_id ON items (id)');

my ($out, $err) = ('', '');
my $pgbench = IPC::Run::start(
	[
		'pgbench', '-n', '-c', 2, '-T', 600, '-R', 100, '-f', "$folder/write.sql",
		'-l', '--log-prefix', "$folder/writes", $node->connstr('d')
	],
	'>', \$out, '2>', \$err);
poll_sql($node, 'd', 'SELECT count(*) > 150050 FROM items', 't', 'writers write');

my ($caller_out, $caller_err) = ('', '');
my $caller = IPC::Run::start(
	[ 'psql', '-XAtq', '-d', $node->connstr('d'), '-c', 'CALL concertmaster.build_indexes(1)' ],
	'>', \$caller_out, '2>', \$caller_err, IPC::Run::timeout(120));

# Partitions attached while the build goes on.
my $attached = 2;
while ($caller->pumpable && $attached < 40)
{
	$attached++;
	$node->safe_psql('d',
		"CREATE TABLE events_$attached (LIKE events INCLUDING ALL EXCLUDING IDENTITY);"
		  . "ALTER TABLE events ATTACH PARTITION events_$attached FOR VALUES IN ($attached);");
	$caller->pump_nb;
}
ok($caller->finish, 'the build succeeds beside writers') or diag($caller_err);
like($caller_err, qr/NOTICE:  build phase 1: building "/, 'and shows its progress');
cmp_ok($attached, '>', 2, 'partitions were attached meanwhile');

# What was put off, if anything, is finished by the job.
poll_sql($node, 'd', "SELECT count(*) FROM concertmaster.indexes WHERE state <> 'valid'", '0', 'all indexes are valid');
$pgbench->signal('INT');
eval { $pgbench->finish; };
unlike($err, qr/ERROR/, 'no writer failed') or diag($err);

is($node->safe_psql('d', 'SELECT count(*) FROM pg_index WHERE NOT indisvalid'), '0', 'nothing is invalid');
is($node->safe_psql('d', "SELECT count(*) FROM pg_inherits WHERE inhparent IN ('events_name'::regclass, 'events_id'::regclass)"),
	2 * $attached, 'every partition has both');
psql_ok($node, 'd', <<'END', 'every row is in every btree');
SELECT bt_index_check(i.indexrelid, true)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
 WHERE i.indrelid IN (SELECT oid FROM pg_class WHERE relname ~ '^(items|events)') AND c.relkind = 'i' AND a.amname = 'btree'
END
is($node->safe_psql('d', "SET enable_seqscan = off; SELECT count(*) FROM items WHERE data ? 'd'"),
	$node->safe_psql('d', "SET enable_indexscan = off; SET enable_bitmapscan = off; SELECT count(*) FROM items WHERE data ? 'd'"),
	'every row is in the GIN index');

# pgbench's log: client, transaction, time in microseconds, ...
my $longest = 0;
my $writes = 0;
for my $log (glob "$folder/writes.*")
{
	for (split /\n/, slurp_file($log))
	{
		# With -R the time counts from the schedule, so what it lagged is in it.
		my (undef, undef, $us) = split;
		$writes++;
		$longest = $us / 1000 if $us / 1000 > $longest;
	}
}
note sprintf('%d writes, the longest took %.1f ms', $writes, $longest);
cmp_ok($writes, '>', 100, 'there were writes');
cmp_ok($longest, '<', $longest_stall_ms, 'no writer stalled');

$node->stop;
done_testing();
