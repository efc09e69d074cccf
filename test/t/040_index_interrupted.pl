# A build that is cancelled, terminated or killed half way leaves nothing
# invalid after the next run, which goes on where it stopped.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";

use ConcertmasterTest;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('interrupted', conf => "restart_after_crash = on\nconcertmaster.enabled = off\n", database => 'd');

$node->safe_psql('d', <<'END');
CREATE TABLE items (id integer, name text);
INSERT INTO items SELECT g, 'n' || g FROM generate_series(1, 20000) g;
CREATE TABLE events (id integer, k integer) PARTITION BY LIST (k);
CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2);
CREATE TABLE events_3 PARTITION OF events FOR VALUES IN (3);
INSERT INTO events SELECT g, 1 + g % 3 FROM generate_series(1, 20000) g;
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition)
VALUES (1, 'public', 'items', 'items_name', '(name)'), (2, 'public', 'events', 'events_id', '(id)');
END

# A psql that we talk to through its input; sql => what it starts with.
sub session
{
	my ($sql) = @_;
	my %s = (in => "$sql\n", out => '', err => '');

	$s{psql} = IPC::Run::start(
		[ 'psql', '-XAtq', '-d', $node->connstr('d') ],
		'<', \$s{in}, '>', \$s{out}, '2>', \$s{err}, IPC::Run::timeout(60));
	$s{psql}->pump until $s{in} eq '';
	return \%s;
}

# Send it more until it has answered a marker.
sub say_to
{
	my ($s, $sql) = @_;

	$s->{in} .= "$sql\n\\echo answered\n";
	$s->{psql}->pump until $s->{out} =~ s/answered//;
	return;
}

sub finish
{
	my ($s) = @_;

	$s->{in} .= "\\q\n";
	eval { $s->{psql}->finish; };
	return $s->{err};
}

my $invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid AND indrelid >= 16384";

# Start building a phase while a writer on the table is in the way, interrupt
# it there, and let the writer go.  Returns what the caller got to see.
sub interrupt_build
{
	my ($phase, $table, $how) = @_;
	my $writer = session('BEGIN;');
	my $builder;

	say_to($writer, "INSERT INTO $table VALUES (0, 2);");
	$builder = session("CALL concertmaster.build_indexes($phase);");
	poll_sql($node, 'd', "SELECT phase FROM pg_stat_progress_create_index WHERE relid = '$table'::regclass",
		'waiting for writers before build', "phase $phase: build waits for the writer");
	is($node->safe_psql('d', "SELECT state FROM concertmaster.indexes WHERE phase = $phase"),
		'building', 'and the view says that it is being built');
	$how->();

	# Nothing more is written to it: a psql that has gone would break the pipe.
	eval { $builder->{psql}->finish; };
	eval { say_to($writer, 'COMMIT;'); };
	finish($writer);
	poll_sql($node, 'd', 'SELECT 1', '1');
	return $builder->{err};
}

my $worker = "SELECT pid FROM pg_stat_progress_create_index";
my %ways = (
	'worker cancelled' => sub { $node->safe_psql('d', "SELECT pg_cancel_backend(pid) FROM ($worker) w") },
	'worker terminated' => sub { $node->safe_psql('d', "SELECT pg_terminate_backend(pid) FROM ($worker) w") },
	'worker killed' => sub { kill 'KILL', $node->safe_psql('d', $worker) },
	'caller cancelled' => sub {
		$node->safe_psql('d', "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query ~ '^CALL'");
	},
	'caller terminated' => sub {
		$node->safe_psql('d', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ '^CALL'");
	},);
my %errors = (
	'worker cancelled' => qr/canceling statement due to user request/,
	'worker terminated' => qr/ended before it recorded an outcome/,
	'worker killed' => qr/crash of another server process|connection to server was lost|server closed the connection/,
	'caller cancelled' => qr/canceling statement due to user request/,
	'caller terminated' => qr/terminating connection/,);

for my $way (sort keys %ways)
{
	note $way;

	# on a plain table
	like(interrupt_build(1, 'items', $ways{$way}), $errors{$way}, "$way: caller is told");
	poll_sql($node, 'd', 'SELECT count(*) FROM pg_stat_progress_create_index', '0', "$way: nothing builds on");
	is($node->safe_psql('d', $invalid), '1', "$way: a leftover is there");
	like($node->safe_psql('d', 'SELECT state FROM concertmaster.indexes WHERE phase = 1'),
		qr/^invalid$/, "$way: and is seen");
	psql_ok($node, 'd', 'CALL concertmaster.build_indexes(1)', "$way: the next run builds");
	is($node->safe_psql('d', $invalid), '0', "$way: nothing invalid is left");
	is($node->safe_psql('d', 'SELECT state, percent_done, sqlstate FROM concertmaster.indexes WHERE phase = 1'),
		'valid|100.0|', "$way: and all is valid");

	# on a partitioned table, in the second of three partitions
	$node->safe_psql('d', 'CREATE INDEX events_id ON ONLY events (id)');
	like(interrupt_build(2, 'events_2', $ways{$way}), $errors{$way}, "$way: caller is told, partitions");
	poll_sql($node, 'd', 'SELECT count(*) FROM pg_stat_progress_create_index', '0', "$way: nothing builds on");
	is($node->safe_psql('d', 'SELECT state, percent_done FROM concertmaster.indexes WHERE phase = 2'),
		'invalid|33.3', "$way: one of three partitions is done");
	my $first = $node->safe_psql('d', "SELECT 'events_1_events_id'::regclass::oid");
	psql_ok($node, 'd', 'CALL concertmaster.build_indexes(2)', "$way: the next run goes on");
	is($node->safe_psql('d', $invalid), '0', "$way: nothing invalid is left in partitions");
	is($node->safe_psql('d', 'SELECT state, percent_done FROM concertmaster.indexes WHERE phase = 2'),
		'valid|100.0', "$way: all partitions have it");
	is($node->safe_psql('d', "SELECT 'events_1_events_id'::regclass::oid"), $first,
		"$way: what was done was not done again");

	$node->safe_psql('d', 'DROP INDEX items_name, events_id');
}

# Cancelled without anybody in the way of tidying up, nothing is left at once.
{
	my $reader = session('BEGIN ISOLATION LEVEL REPEATABLE READ;');
	my $builder;

	say_to($reader, 'SELECT 1;');
	$builder = session('CALL concertmaster.build_indexes(1);');
	poll_sql($node, 'd', "SELECT phase FROM pg_stat_progress_create_index", 'waiting for old snapshots',
		'a build waits for an old snapshot');
	$ways{'worker cancelled'}->();
	finish($builder);
	is($node->safe_psql('d', $invalid), '0', 'cancelled there, it tidies up by itself');
	finish($reader);
}

# A build that fails tidies up by itself, too.
$node->safe_psql('d', 'INSERT INTO items SELECT * FROM items LIMIT 1');
$node->safe_psql('d', "UPDATE concertmaster.index_plan SET is_unique = true WHERE phase = 1");
psql_error($node, 'd', 'CALL concertmaster.build_indexes(1)', qr/could not build 1 of 1 indexes of phase 1\nDETAIL:  "items_name": could not create unique index/,
	'a build that fails');
is($node->safe_psql('d', $invalid), '0', 'leaves nothing invalid at once');

$node->stop;
done_testing();
