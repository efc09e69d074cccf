# What the TAP tests share: nodes that find the staged extension, and waiting
# for a condition instead of sleeping.  Used by test/t/*.pl, which dev/test.sh
# runs; each node lives in the test's own folder and ends with the test.
package ConcertmasterTest;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

our @EXPORT = qw(new_node new_standby poll_sql poll_until psql_ok psql_error);

# A new node, started, with the extension findable.
#   preload => 0    shared_preload_libraries stays empty
#   start   => 0    only initialised
#   streaming => 1  standbys can be made of it
#   conf    => "name = value\n..."  settings on top
#   database => 'd' made, with the extension created in it
sub new_node
{
	my ($name, %opts) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init($opts{streaming} ? (allows_streaming => 1) : ());
	$node->append_conf('postgresql.conf', _staged_conf($opts{preload} // 1));
	$node->append_conf('postgresql.conf', $opts{conf}) if $opts{conf};
	$node->start if $opts{start} // 1;
	if (my $database = $opts{database})
	{
		$node->safe_psql('postgres', "CREATE DATABASE $database")
		  if $database ne 'postgres';
		$node->safe_psql($database, 'CREATE EXTENSION concertmaster');
	}
	return $node;
}

# A started streaming standby of a node made with streaming => 1.
sub new_standby
{
	my ($primary, $name, %opts) = @_;
	my $standby = PostgreSQL::Test::Cluster->new($name);

	$primary->backup("for_$name");
	$standby->init_from_backup($primary, "for_$name", has_streaming => 1);
	$standby->append_conf('postgresql.conf', $opts{conf}) if $opts{conf};
	$standby->start if $opts{start} // 1;
	return $standby;
}

# Ask until the answer is what is expected (default 't'); says what it was
# otherwise.  Returns whether it came in time; a test of its own if named.
sub poll_sql
{
	my ($node, $database, $sql, $expected, $test, $timeout) = @_;
	my ($answer, $errors) = ('', '');
	$expected //= 't';

	my $came = poll_until(
		sub {
			my ($stdout, $stderr);
			$node->psql($database, $sql, stdout => \$stdout, stderr => \$stderr);
			($answer, $errors) = ($stdout // '', $stderr // '');
			return $answer eq $expected;
		},
		$timeout);
	ok($came, $test) if defined $test;
	diag("waited for: $sql\nexpected: $expected\nlast answer: $answer\n$errors")
	  unless $came;
	return $came;
}

# Call until true, at most timeout seconds (default PG_TEST_TIMEOUT_DEFAULT).
sub poll_until
{
	my ($condition, $timeout) = @_;
	my $deadline = time() + ($timeout || $PostgreSQL::Test::Utils::timeout_default);

	while (1)
	{
		return 1 if $condition->();
		return 0 if time() > $deadline;
		usleep(50_000);
	}
}

# A statement that must succeed; returns what it printed.
sub psql_ok
{
	my ($node, $database, $sql, $test) = @_;
	my ($status, $stdout, $stderr) = $node->psql($database, $sql);

	ok($status == 0, $test // $sql) or diag($stderr);
	return $stdout;
}

# A statement that must fail with a message like the pattern.
sub psql_error
{
	my ($node, $database, $sql, $pattern, $test) = @_;
	my ($status, $stdout, $stderr) = $node->psql($database, $sql);

	isnt($status, 0, ($test // $sql) . ': fails');
	like($stderr, $pattern, ($test // $sql) . ': message');
	return $stderr;
}

# The settings that dev/test.sh had dev/server.sh write for this run.
sub _staged_conf
{
	my ($preload) = @_;
	my $folder = $ENV{CONCERTMASTER_CONF}
	  or die 'run the TAP tests through dev/test.sh tap';

	return slurp_file("$folder/node" . ($preload ? '' : '_no_preload') . '.conf');
}

1;
