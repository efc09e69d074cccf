# Commands that need a database to themselves, with an idle and a busy worker;
# and DROP EXTENSION under a running worker.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;
use JobsTest;
use Time::HiRes qw(time);

my $node = new_node('main', conf => "concertmaster.retry_delay = 1s\nrestart_after_crash = on\n");
$node->safe_psql('postgres', 'CREATE ROLE plain LOGIN');

# A database with a job of this period, napping for as long as told.
sub make_database
{
	my ($name, $every, $seconds) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql($name, 'CREATE EXTENSION concertmaster');
	$node->safe_psql($name, "CREATE TABLE nap AS SELECT ${seconds}::float8 AS seconds");
	make_job($node, $name, 'napping', 'SELECT pg_sleep(seconds)::text AS slept FROM nap', $every);
	arm($node, $name);
}

# Run a command and tell whether it took less than 4 seconds.
sub quick_ok
{
	my ($sql, $test) = @_;
	my $start = time();
	psql_ok($node, 'postgres', $sql, $test);
	cmp_ok(time() - $start, '<', 4, "$test: within seconds");
}

# Idle: the job comes every second and is over at once.
make_database('idle', '1s', 0);
poll_sql($node, 'idle', "SELECT count(*) > 1 FROM concertmaster.job_runs WHERE status = 'succeeded'");
quick_ok('CREATE DATABASE copy TEMPLATE idle', 'CREATE DATABASE TEMPLATE, idle');
quick_ok('ALTER DATABASE idle RENAME TO idle2', 'RENAME, idle');
my $before = runs($node, 'idle2', 'napping', 'succeeded');
poll_sql($node, 'idle2', "SELECT count(*) > $before FROM concertmaster.job_runs WHERE status = 'succeeded'", 't',
	'jobs go on in the renamed database');
quick_ok('DROP DATABASE idle2', 'DROP DATABASE, idle');

# The copy knows that it is one.
is($node->safe_psql('copy', "SELECT status FROM concertmaster.jobs WHERE name = 'refresh public.napping'"),
	'unarmed', 'the jobs of a copy are not armed');
$before = $node->safe_psql('copy', 'SELECT count(*) FROM concertmaster.job_run');
is($node->safe_psql('copy', "UPDATE concertmaster.job_state SET next_run = now() RETURNING job_id"), '1', 'due as they are');
launcher_served($node);
is($node->safe_psql('copy', 'SELECT count(*) FROM concertmaster.job_run'), $before, 'and do not run');
arm($node, 'copy');
poll_sql($node, 'copy', "SELECT count(*) > $before FROM concertmaster.job_runs WHERE status = 'succeeded'", 't',
	'until resume_all()');
$node->safe_psql('postgres', 'DROP DATABASE copy');

# Busy: a run that would take ten minutes.
make_database('busy', '1s', 600);
my $pid = job_pid($node, 'busy', 'napping');
psql_error($node, 'postgres', 'SET ROLE plain; DROP DATABASE busy', qr/must be owner of database busy/,
	'DROP DATABASE by a stranger');
is(job_pid($node, 'busy', 'napping'), $pid, 'a stranger does not stop the worker');
psql_error($node, 'postgres', 'BEGIN; DROP DATABASE busy', qr/cannot run inside a transaction block/,
	'DROP DATABASE in a transaction block');
is(job_pid($node, 'busy', 'napping'), $pid, 'which does not stop it either');

quick_ok('CREATE DATABASE copy TEMPLATE busy', 'CREATE DATABASE TEMPLATE, busy');
is($node->safe_psql('busy', "SELECT status, message FROM concertmaster.job_runs WHERE pid = $pid"),
	'deferred|made way for a command that needs the database to itself', 'the run that made way is recorded');
isnt(job_pid($node, 'busy', 'napping'), $pid, 'and the job runs again');
$pid = job_pid($node, 'busy', 'napping');
quick_ok('ALTER DATABASE busy RENAME TO busy2', 'RENAME, busy');
isnt(job_pid($node, 'busy2', 'napping'), $pid, 'the job runs again in the renamed database');
mkdir $node->basedir . '/space';
$node->safe_psql('postgres', "CREATE TABLESPACE space LOCATION '" . $node->basedir . "/space'");
quick_ok('ALTER DATABASE busy2 SET TABLESPACE space', 'SET TABLESPACE, busy');
job_pid($node, 'busy2', 'napping');
quick_ok('DROP DATABASE busy2', 'DROP DATABASE, busy');

# A called run makes way too, and its caller is in the way like any session.
$node->safe_psql('copy', 'UPDATE nap SET seconds = 600');
my $call = start_call($node, 'copy', "CALL concertmaster.run_job('refresh public.napping')");
$pid = job_pid($node, 'copy', 'napping');
quick_ok('DROP DATABASE copy WITH (FORCE)', 'DROP DATABASE WITH (FORCE), busy');
$call->{handle}->finish;
like($call->{err}, qr/terminating connection|was put off/, 'its caller was told');

# DROP EXTENSION while a worker runs.
make_database('gone', '1s', 600);
$pid = job_pid($node, 'gone', 'napping');
my $log = -s $node->logfile;
my $start = time();
psql_ok($node, 'gone', 'DROP EXTENSION concertmaster CASCADE', 'DROP EXTENSION while a worker runs');
cmp_ok(time() - $start, '<', 4, 'DROP EXTENSION: within seconds');
poll_sql($node, 'gone', "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid", '0', 'its worker ends');
$node->safe_psql('gone', 'CREATE EXTENSION concertmaster');
is($node->safe_psql('gone', 'SELECT count(*) FROM concertmaster.job_runs'), '0', 'nothing is recorded in a new one');
my $said = slurp_file($node->logfile, $log);
unlike($said, qr/terminated by signal/, 'no crash');
unlike($said, qr/concertmaster\.\w+" does not exist/, 'nothing missed the tables');

$node->stop;
done_testing();
