# Restarts and deaths: of the server, of a worker, of the launcher.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;
use JobsTest;
use Time::HiRes qw(time);

my $node = new_node('main', database => 'd',
	conf => "restart_after_crash = on\nconcertmaster.retry_delay = 1s\n");

# A job that sleeps as long as the table says.
$node->safe_psql('d', 'CREATE TABLE nap (seconds float8)');
$node->safe_psql('d', 'INSERT INTO nap VALUES (0)');
make_job($node, 'd', 'napping', 'SELECT pg_sleep(seconds)::text AS slept FROM nap', '1s');
arm($node, 'd');
poll_sql($node, 'd', "SELECT count(*) > 1 FROM concertmaster.job_runs WHERE status = 'succeeded'",
	't', 'a job with a period runs again and again');

$node->restart;
my $before = runs($node, 'd', 'napping', 'succeeded');
poll_sql($node, 'd', "SELECT count(*) > $before FROM concertmaster.job_runs WHERE status = 'succeeded'",
	't', 'after a restart of the server it goes on');

# kill -9 of a worker takes the server down and up.
$node->safe_psql('d', 'UPDATE nap SET seconds = 600');
my $pid = job_pid($node, 'd', 'napping');
$node->safe_psql('d', 'UPDATE nap SET seconds = 0');
kill 'KILL', $pid;
my $killed_at = time();
ok(poll_until(sub { $node->psql('d', 'SELECT 1') == 0 }), 'the server is back');
poll_sql($node, 'postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'concertmaster launcher'",
	'1', 'the launcher is back');
cmp_ok(time() - $killed_at, '<', 5, 'within 5 seconds');
poll_sql($node, 'd', "SELECT count(*) FROM concertmaster.job_runs WHERE status = 'crashed' AND pid = $pid",
	'1', 'the dead run is recorded as crashed');
is($node->safe_psql('d', "SELECT message FROM concertmaster.job_runs WHERE status = 'crashed'"),
	'worker ended before it recorded an outcome', 'with a message');
$before = runs($node, 'd', 'napping', 'succeeded');
poll_sql($node, 'd', "SELECT count(*) > $before FROM concertmaster.job_runs WHERE status = 'succeeded'",
	't', 'the job runs again');
is($node->safe_psql('d', "SELECT count(*) FROM concertmaster.job_runs WHERE status = 'running' AND pid = $pid"),
	'0', 'no run is left running');
is($node->safe_psql('d', "SELECT failures, failures_in_row FROM concertmaster.jobs WHERE name = 'refresh public.napping'"),
	'1|0', 'it counts as a failure, ended by the success');

# kill -9 of the launcher, likewise.
my $launcher = launcher_pid($node);
kill 'KILL', $launcher;
$killed_at = time();
ok(poll_until(sub {
	my ($status, $out) = $node->psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'concertmaster launcher'");
	return $status == 0 && $out ne '' && $out ne $launcher;
}), 'a killed launcher comes back');
cmp_ok(time() - $killed_at, '<', 5, 'within 5 seconds');
$before = runs($node, 'd', 'napping', 'succeeded');
poll_sql($node, 'd', "SELECT count(*) > $before FROM concertmaster.job_runs WHERE status = 'succeeded'",
	't', 'and starts jobs again');

# Terminated politely, it comes back without a restart of the server.
$launcher = launcher_pid($node);
my $postmaster_start = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher)");
poll_sql($node, 'postgres',
	"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'concertmaster launcher' AND pid <> $launcher",
	'1', 'a terminated launcher comes back');
is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $postmaster_start,
	'the server was not restarted for that');

# A terminated worker's run is closed and made up for.
$node->safe_psql('d', 'UPDATE nap SET seconds = 600');
$pid = job_pid($node, 'd', 'napping');
$node->safe_psql('d', 'UPDATE nap SET seconds = 0');
$node->safe_psql('d', "SELECT pg_terminate_backend($pid)");
poll_sql($node, 'd', "SELECT status FROM concertmaster.job_runs WHERE pid = $pid AND status <> 'running' LIMIT 1",
	'crashed', 'the run of a terminated worker is closed');
$before = runs($node, 'd', 'napping', 'succeeded');
poll_sql($node, 'd', "SELECT count(*) > $before FROM concertmaster.job_runs WHERE status = 'succeeded'",
	't', 'and the job runs again');

# A worker killed under a waiting caller ends the wait with an error.
make_job($node, 'd', 'called', 'SELECT pg_sleep(600)::text AS slept', undef);
my $call = start_call($node, 'd', "CALL concertmaster.run_job('refresh public.called')");
$pid = job_pid($node, 'd', 'called');
$node->safe_psql('d', "SELECT pg_terminate_backend($pid)");
$call->{handle}->finish;
like($call->{err}, qr/57P01: worker of job "refresh public.called" ended before it recorded an outcome/,
	'a caller learns that its worker is gone');

# A caller that goes takes its worker along.
$call = start_call($node, 'd', "CALL concertmaster.run_job('refresh public.called')");
$pid = job_pid($node, 'd', 'called');
$node->safe_psql('d', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL%called%'");
$call->{handle}->finish;
poll_sql($node, 'd', "SELECT status, sqlstate FROM concertmaster.job_runs WHERE pid = $pid AND name LIKE '%called' ORDER BY run_id DESC LIMIT 1",
	'failed|57014', 'the worker of a caller that went is cancelled');

# Nothing in the background while switched off.
$node->append_conf('postgresql.conf', "concertmaster.enabled = off\n");
$node->reload;
poll_sql($node, 'd', "SELECT count(*) FROM concertmaster.progress_jobs", '0', 'switched off, what runs is finished');
my $last = $node->safe_psql('d', 'SELECT max(run_id) FROM concertmaster.job_run');
poll_sql($node, 'd', "SELECT next_run < now() - interval '1s' FROM concertmaster.jobs WHERE name LIKE '%napping'", 't', 'it is due again');
is($node->safe_psql('d', 'SELECT max(run_id) FROM concertmaster.job_run'), $last, 'and nothing is started');
$node->append_conf('postgresql.conf', "concertmaster.enabled = on\n");
$node->reload;
poll_sql($node, 'd', "SELECT max(run_id) > $last FROM concertmaster.job_run", 't', 'switched on, it goes on');

$node->stop;
done_testing();
