# A library beside SQL of another version: clear errors, quiet workers.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;
use JobsTest;

my $node = new_node('main', database => 'd');
my $version = $node->safe_psql('d', "SELECT extversion FROM pg_extension WHERE extname = 'concertmaster'");
make_job($node, 'd', 'quick', 'SELECT 1 AS a', '1s');
arm($node, 'd');
poll_sql($node, 'd', "SELECT count(*) > 1 FROM concertmaster.job_runs WHERE status = 'succeeded'", 't', 'jobs run');

# What is there after the files were replaced, before ALTER EXTENSION UPDATE.
sub set_version
{
	my ($to) = @_;
	$node->safe_psql('d',
		"SET allow_system_table_mods = on; UPDATE pg_extension SET extversion = '$to' WHERE extname = 'concertmaster'");
}

my $log = -s $node->logfile;
set_version('0.0.1');
psql_error($node, 'd', $_,
	qr/extension "concertmaster" is of version 0\.0\.1, its library of version \Q$version\E\nHINT:  Run ALTER EXTENSION concertmaster UPDATE/, $_)
  for "CALL concertmaster.run_job('refresh public.quick')",
  "SELECT concertmaster.request_job('refresh public.quick')",
  'SELECT concertmaster.resume_all()', 'SELECT concertmaster.run_due_jobs()';
$node->wait_for_log(qr/concertmaster does nothing in database "d": the extension is of version 0\.0\.1/, $log);
launcher_served($node);
my $said = slurp_file($node->logfile, $log);
my @times = $said =~ /concertmaster does nothing in database/g;
is(scalar @times, 1, 'a worker says it once');
unlike($said, qr/concertmaster worker.*ERROR/, 'and raises nothing');
is($node->safe_psql('d', 'SELECT count(*) > 1 FROM concertmaster.job_runs'), 't', 'the views still show the history');
psql_ok($node, 'd', 'DROP DATABASE IF EXISTS other', 'other commands work');

# ALTER EXTENSION wakes the launcher.
set_version($version);
my $before = runs($node, 'd', 'quick', 'succeeded');
psql_ok($node, 'd', 'ALTER EXTENSION concertmaster UPDATE', 'ALTER EXTENSION UPDATE');
poll_sql($node, 'd', "SELECT count(*) > $before FROM concertmaster.job_runs WHERE status = 'succeeded'", 't',
	'then jobs run again, without a restart');

$node->stop;
done_testing();
