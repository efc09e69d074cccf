# Transactions that stay open over a job's rows stop no other job; the end of
# a run, of whatever kind, is told to the launcher.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;
use JobsTest;

my $node = new_node('main', database => 'd', conf => "concertmaster.max_workers = 3\nmax_worker_processes = 16\n");

# No worker but those of running jobs: whoever published has published.
sub await_quiet
{
	my ($database, $running) = @_;
	return poll_sql($node, $database,
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'concertmaster worker'", $running);
}

# An ordinary role asks for one of its jobs, another drops a job, a third is
# made to follow a rename; all of these jobs are due, and no transaction ends.
$node->safe_psql('d', 'CREATE ROLE joe; GRANT CREATE ON SCHEMA public TO joe');
make_job($node, 'd', $_, 'SELECT 1 AS a', '1h') for qw(asked dropped);
make_job($node, 'd', 'quick', 'SELECT 1 AS a', '1s');
$node->safe_psql('d', q{
	ALTER MATERIALIZED VIEW asked OWNER TO joe;
	UPDATE concertmaster.job SET owner = 'joe' WHERE name = 'refresh public.asked'});
my $joe = $node->background_psql('d');
$joe->query_safe("SET client_min_messages = error; SET ROLE joe; BEGIN; SELECT concertmaster.request_job('refresh public.asked')");
my $dropper = $node->background_psql('d');
$dropper->query_safe("BEGIN; DELETE FROM concertmaster.job WHERE name = 'refresh public.dropped'");
$node->safe_psql('d', q{
	INSERT INTO concertmaster.armed SELECT oid FROM pg_database WHERE datname = current_database();
	SELECT concertmaster.request_job('refresh public.quick')});
poll_sql($node, 'd', "SELECT count(*) > 2 FROM concertmaster.job_runs WHERE name LIKE '%quick' AND status = 'succeeded'",
	't', 'jobs run beside transactions that hold rows of others');
is($node->safe_psql('d', "SELECT count(*) FROM concertmaster.job_runs WHERE name NOT LIKE '%quick'"), '0', 'those are passed over');
$joe->query_safe('COMMIT');
$dropper->query_safe('ROLLBACK');
poll_sql($node, 'd', "SELECT count(DISTINCT name) FROM concertmaster.job_runs WHERE name ~ 'asked|dropped' AND status = 'succeeded'",
	'2', 'until the transactions have ended', 30);

# A request that stays open over the end of a run: the run's outcome is known
# all the same, and the request is served.
make_job($node, 'd', 'gated', 'SELECT pg_advisory_xact_lock_shared(77)::text AS a', undef);
my $gate = $node->background_psql('d');
$gate->query_safe('SELECT pg_advisory_lock(77)');
$node->safe_psql('d', "SELECT concertmaster.request_job('refresh public.gated')");
job_pid($node, 'd', 'gated');
$joe->query_safe("RESET ROLE; BEGIN; SELECT concertmaster.request_job('refresh public.gated')");
$gate->query_safe('SELECT pg_advisory_unlock(77)');
poll_sql($node, 'd', "SELECT count(*) FROM concertmaster.job_runs WHERE name LIKE '%gated' AND status = 'succeeded'",
	'1', 'the end of a run is recorded beside an open request');
poll_sql($node, 'd', 'SELECT count(*) FROM concertmaster.progress_jobs WHERE name LIKE \'%gated\'', '0', 'and its worker goes');
$joe->query_safe('COMMIT');
poll_sql($node, 'd', "SELECT count(*) FROM concertmaster.job_runs WHERE name LIKE '%gated' AND status = 'succeeded'",
	'2', 'the request is served when it is committed', 30);

# So is one that a transaction made which is older than the run.
$gate->query_safe('SELECT pg_advisory_lock(77)');
$joe->query_safe('BEGIN; SELECT now()');
$node->safe_psql('d', "SELECT concertmaster.request_job('refresh public.gated')");
job_pid($node, 'd', 'gated');
$joe->query_safe("UPDATE concertmaster.job_state SET next_run = now(), requests = requests + 1 WHERE job_id = (SELECT job_id FROM concertmaster.job WHERE name LIKE '%gated')");
$joe->query_safe('COMMIT');
$gate->query_safe('SELECT pg_advisory_unlock(77)');
poll_sql($node, 'd', "SELECT count(*) FROM concertmaster.job_runs WHERE name LIKE '%gated' AND status = 'succeeded'",
	'4', 'a request by an older transaction is served by a run of its own', 30);

# A run by hand waits for such a transaction, and can be cancelled.
$joe->query_safe("BEGIN; SELECT concertmaster.request_job('refresh public.gated')");
{
	local $ENV{PGOPTIONS} = '-c statement_timeout=2s';
	my $call = start_call($node, 'd', "CALL concertmaster.run_job('refresh public.gated')");
	$call->{handle}->finish;
	like($call->{err}, qr/NOTICE: .*waiting for a transaction that changes this job/, 'a run by hand says what it waits for');
	like($call->{err}, qr/57014: canceling statement due to statement timeout/, 'and can be cancelled');
}
$joe->query_safe('ROLLBACK');
psql_ok($node, 'd', "SET client_min_messages = error; CALL concertmaster.run_job('refresh public.gated')", 'afterwards it runs');
$node->safe_psql('d', "SELECT concertmaster.pause_job('refresh public.quick')");

# A run by hand, during which a worker published the database's times, leaves
# the job on its schedule.
$node->safe_psql('postgres', 'CREATE DATABASE e');
$node->safe_psql('e', 'CREATE EXTENSION concertmaster');
make_job($node, 'e', 'often', 'SELECT pg_advisory_xact_lock_shared(77)::text AS a', '3s');
make_job($node, 'e', 'other', 'SELECT 1 AS a', undef);
my $gate_e = $node->background_psql('e');
$gate_e->query_safe('SELECT pg_advisory_lock(77)');
my $call = start_call($node, 'e', "CALL concertmaster.run_job('refresh public.often')");
job_pid($node, 'e', 'often');
arm($node, 'e');
$node->safe_psql('e', "SELECT concertmaster.request_job('refresh public.other')");
poll_sql($node, 'e', "SELECT count(*) FROM concertmaster.job_runs WHERE name LIKE '%other' AND status = 'succeeded'", '1');
await_quiet('e', '1');
$gate_e->query_safe('SELECT pg_advisory_unlock(77)');
$call->{handle}->finish;
poll_sql($node, 'e', "SELECT count(*) > 1 FROM concertmaster.job_runs WHERE name LIKE '%often' AND status = 'succeeded'",
	't', 'a run by hand leaves the job on its schedule', 30);

# The end of a worker that the launcher did not start gives its slot to what
# waits for one.
$node->append_conf('postgresql.conf', "concertmaster.max_workers = 1\n");
$node->reload;
make_job($node, 'e', 'waiting', 'SELECT 1 AS a', undef);
$node->safe_psql('e', "UPDATE concertmaster.job_state SET next_run = NULL WHERE job_id IN (SELECT job_id FROM concertmaster.job WHERE name LIKE '%often')");
await_quiet('e', '0');
$node->safe_psql('e', "UPDATE concertmaster.armed SET driver = 'pg_cron'");
$gate_e->query_safe('SELECT pg_advisory_lock(77)');
make_job($node, 'e', 'started', 'SELECT pg_advisory_xact_lock_shared(77)::text AS a', '1h');
is($node->safe_psql('e', 'SET client_min_messages = warning; SELECT concertmaster.run_due_jobs()'), '1', 'a job is started by another driver');
job_pid($node, 'e', 'started');
$node->safe_psql('e', "UPDATE concertmaster.armed SET driver = 'launcher'; SELECT concertmaster.request_job('refresh public.waiting')");
poll_sql($node, 'd', "SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'concertmaster launcher'", 'Extension');
is(runs($node, 'e', 'waiting', 'succeeded'), '0', 'another waits for its slot');
$gate_e->query_safe('SELECT pg_advisory_unlock(77)');
poll_sql($node, 'e', "SELECT count(*) FROM concertmaster.job_runs WHERE name LIKE '%waiting' AND status = 'succeeded'",
	'1', 'and gets it at once', 30);

$_->quit for $joe, $dropper, $gate, $gate_e;
$node->stop;
done_testing();
