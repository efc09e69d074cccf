# A drop from a partition that has aged out, interrupted in either of its two
# waits for open transactions, is found and finished by the next run.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";

use ConcertmasterTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('hot', conf => "restart_after_crash = on\nconcertmaster.enabled = off\n", database => 'd');

$node->safe_psql('d', <<'END');
CREATE TABLE events (id integer, at date) PARTITION BY RANGE (at);
CREATE TABLE events_old PARTITION OF events FOR VALUES FROM ('2001-01-01') TO ('2002-01-01');
CREATE TABLE events_older PARTITION OF events FOR VALUES FROM ('2000-01-01') TO ('2001-01-01');
CREATE TABLE events_now PARTITION OF events FOR VALUES FROM ('2002-01-01') TO ('9000-01-01');
INSERT INTO events SELECT g, date '2000-06-01' + g FROM generate_series(1, 1000) g;
END

# Plan the index with this window, and build.
sub build
{
	my ($window) = @_;

	$node->safe_psql('d', "DELETE FROM concertmaster.index_plan");
	$node->safe_psql('d',
		"INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition, hot_window)"
		  . " VALUES (1, 'public', 'events', 'events_id', '(id)', '$window')");
	return;
}

# A session with an open transaction that has read the partition.
sub reader
{
	my $session = $node->background_psql('d', on_error_stop => 0);

	$session->query('BEGIN');
	$session->query('SELECT count(*) FROM events_old');
	return $session;
}

my $index = "SELECT CASE WHEN indisvalid THEN 'valid' WHEN indislive THEN 'invalid' ELSE 'dead' END"
  . " FROM pg_index WHERE indexrelid = to_regclass('events_old_events_id')";
my $all = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relname ~ 'events_id'";
my $worker = "SELECT pid FROM concertmaster.jobs WHERE status = 'running'";
my %ways = (
	cancelled => sub { $node->safe_psql('d', "SELECT pg_cancel_backend(pid) FROM ($worker) w") },
	terminated => sub { $node->safe_psql('d', "SELECT pg_terminate_backend(pid) FROM ($worker) w") },
	killed => sub { kill 'KILL', $node->safe_psql('d', $worker) },);

for my $way (sort keys %ways)
{
	for my $stage ('invalid', 'dead')
	{
		build('1000 years');
		psql_ok($node, 'd', 'CALL concertmaster.build_indexes(1)', "$way, $stage: built everywhere");
		is($node->safe_psql('d', $all), 'events_now_events_id events_old_events_id events_older_events_id',
			"$way, $stage: all partitions have it");

		# Each wait of the drop is for another reader.
		build('90 days');
		my $first = reader();
		my $dropper = $node->background_psql('d', on_error_stop => 0);
		$dropper->query_until(qr/called/, "\\echo called\nCALL concertmaster.build_indexes(1);\n");
		poll_sql($node, 'd', $index, 'invalid', "$way, $stage: the drop waits for a reader");
		is($node->safe_psql('d', 'SELECT state FROM concertmaster.indexes'), 'building', "$way, $stage: the view says so");
		my $second = reader();
		if ($stage eq 'dead')
		{
			$first->query('COMMIT');
			poll_sql($node, 'd', $index, 'dead', "$way, $stage: the drop waits for another");
		}
		$ways{$way}->();
		poll_sql($node, 'd', "SELECT count(*) FROM pg_stat_activity WHERE query ~ '^CALL' AND state = 'active'", '0',
			"$way, $stage: the caller is told");
		is($node->safe_psql('d', $index), $stage, "$way, $stage: a leftover is there");
		for my $session ($first, $second, $dropper)
		{
			eval { $session->quit };
		}

		psql_ok($node, 'd', 'CALL concertmaster.build_indexes(1)', "$way, $stage: the next run");
		is($node->safe_psql('d', $all), 'events_now_events_id', "$way, $stage: finishes it");
		like($node->safe_psql('d', 'SELECT state, percent_done, sqlstate, message FROM concertmaster.indexes'),
			qr/^valid\|100\.0\|\|found valid, dropped from [12]$/, "$way, $stage: and says so");
	}
}

$node->stop;
done_testing();
