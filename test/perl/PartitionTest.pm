# What the TAP tests of the partition room share: sets by the month with rows
# in them, workers that are killed at a known step, and what must hold
# afterwards (test/fixtures/partition_violations.sql).
package PartitionTest;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;

our @EXPORT = qw(partition_node make_set month set_ok roll request pass_pid poll_pass
  kill_pass session lock_session set_for_database blocked_by_ok);

# A node with database d, schema s and the function that finds what is wrong.
sub partition_node
{
	my ($name, %opts) = @_;
	my $node = new_node($name, database => 'd', %opts,
		conf => "restart_after_crash = on\nmax_prepared_transactions = 5\nconcertmaster.retry_delay = 1s\n" . ($opts{conf} // ''));

	$node->safe_psql('d', slurp_file('test/fixtures/partition_violations.sql'));
	$node->safe_psql('d', 'CREATE SCHEMA s; CREATE TABLE s.r (id integer PRIMARY KEY); INSERT INTO s.r VALUES (1)');
	return $node;
}

# The name of a set's partition so many months from now.
sub month
{
	my ($node, $table, $months) = @_;
	return $node->safe_psql('d', "SELECT '${table}_' || to_char(date_trunc('month', now() AT TIME ZONE 'UTC') + interval '$months months', 'YYYY_MM')");
}

# A set s.$table of months from five ago to the next, with ten rows in each
# but the last, referencing s.r.  Nothing has retired yet.
#   owner => 'role'     who owns it
#   rest => 1           with a default partition s.${table}_rest
#   columns => '...'    more of CREATE TABLE
sub make_set
{
	my ($node, $table, %opts) = @_;
	my $more = $opts{columns} ? ", $opts{columns}" : '';
	my $sql = $opts{owner} ? "SET ROLE $opts{owner};" : '';

	$sql .= qq{
		CREATE TABLE s.$table (id integer, at timestamptz NOT NULL, r_id integer DEFAULT 1 REFERENCES s.r, note text$more, PRIMARY KEY (id, at))
			PARTITION BY RANGE (at);
		CREATE INDEX ${table}_note ON s.$table (note);
		SELECT concertmaster.create_monthly_partition('s.$table', (date_trunc('month', now() AT TIME ZONE 'UTC') + m * interval '1 month')::date)
		  FROM generate_series(-5, 1) m;};
	$sql .= "CREATE TABLE s.${table}_rest PARTITION OF s.$table DEFAULT;" if $opts{rest};
	$sql .= qq{
		INSERT INTO s.$table (id, at)
		SELECT m * 10 + i, date_trunc('month', now(), 'UTC') + m * interval '1 month' + i * interval '1 hour'
		  FROM generate_series(-5, 0) m, generate_series(1, 10) i;
		SELECT count(*) FROM concertmaster.create_partition_set('s.$table', '1 month', ahead => 1);};
	# Months are those of UTC.
	$node->safe_psql('d', "SET timezone = 'UTC'; $sql");
	roll($node, $table);
	$node->safe_psql('d', "SELECT last_success IS NOT NULL FROM concertmaster.partition_sets WHERE table_name = '$table'") eq 't'
	  or die "the set $table is not rolled";
	return;
}

# Nothing is wrong with the set.
sub set_ok
{
	my ($node, $table, $test, $settled) = @_;
	$settled = defined $settled ? ", $settled" : '';
	is($node->safe_psql('d', "SELECT string_agg(v, E'\\n') FROM public.partition_violations('s.$table'$settled) v"), '', $test);
	return;
}

# CALL roll_partitions() for the set; its messages.
sub roll
{
	my ($node, $table) = @_;
	my ($stdout, $stderr);
	$node->psql('d', "SET statement_timeout = '120s'; CALL concertmaster.roll_partitions('s.$table')", stdout => \$stdout, stderr => \$stderr);
	return $stderr;
}

# Have the launcher roll the set now.
sub request
{
	my ($node, $table) = @_;
	$node->safe_psql('d', "SELECT concertmaster.request_job('roll s.$table')");
	return;
}

# The pid of the worker that rolls the set, '' if there is none.
sub pass_pid
{
	my ($node, $table) = @_;
	return $node->safe_psql('d', "SELECT pid FROM concertmaster.progress_jobs WHERE name = 'roll s.$table'");
}

# Wait until the set's worker is there and the condition holds; its pid.
sub poll_pass
{
	my ($node, $table, $condition, $test) = @_;
	poll_sql($node, 'd', "SELECT EXISTS (SELECT FROM concertmaster.progress_jobs WHERE name = 'roll s.$table') AND ($condition)", 't', $test);
	return pass_pid($node, $table);
}

# Kill the set's worker as the kernel would, and wait for the server.
sub kill_pass
{
	my ($node, $table, $test) = @_;
	my $pid = pass_pid($node, $table);
	like($pid, qr/^\d+$/, "$test: its worker is there") or return;
	kill 'KILL', $pid;
	# Every other process goes as well, then the server comes back by itself.
	ok(poll_until(sub {
		my ($stdout, $stderr);
		return $node->psql('d', "SELECT count(*) FROM concertmaster.progress_jobs WHERE pid = $pid",
			stdout => \$stdout, stderr => \$stderr) == 0 && $stdout eq '0';
	}), "$test: the server is back");
	return;
}

# A session that stays.  Close it by ->quit, in an eval after a crash.
sub session
{
	my ($node, @sql) = @_;
	my $session = $node->background_psql('d');
	$session->query_safe($_) for @sql;
	return $session;
}

# A session whose transaction holds what these statements took.
sub lock_session
{
	my ($node, @sql) = @_;
	return session($node, 'BEGIN', @sql);
}

# A setting of the database, undef: its default.
sub set_for_database
{
	my ($node, $name, $value) = @_;
	$node->safe_psql('d', defined $value ? "ALTER DATABASE d SET concertmaster.$name = '$value'" : "ALTER DATABASE d RESET concertmaster.$name");
	return;
}

# The set is put off, and it says by whom.
sub blocked_by_ok
{
	my ($node, $table, $pattern, $test) = @_;
	poll_sql($node, 'd', "SELECT deferred_since IS NOT NULL FROM concertmaster.partition_sets WHERE table_name = '$table'", 't', "$test: put off");
	like($node->safe_psql('d', "SELECT deferred || ' | ' || coalesce(a.query, '-') FROM concertmaster.partition_sets s LEFT JOIN pg_stat_activity a ON a.pid = s.blocked_by WHERE table_name = '$table'"),
		$pattern, "$test: by whom");
	return;
}

1;
