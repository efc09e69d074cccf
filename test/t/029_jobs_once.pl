# One job never runs twice at once, different jobs do; a waiting caller holds
# no snapshot, so that its worker can build an index concurrently.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use ConcertmasterTest;
use JobsTest;

my $node = new_node('main', database => 'd');
make_job($node, 'd', 'gated', 'SELECT pg_advisory_xact_lock(77)::text AS a', undef);

# Two callers of one job: the second waits for the run that goes on.
my $gate = $node->background_psql('d');
$gate->query_safe('SELECT pg_advisory_lock(77)');
my @calls = map { start_call($node, 'd', "CALL concertmaster.run_job('refresh public.gated')") } 1 .. 2;
poll_sql($node, 'd', "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 3 AND granted", '1',
	'the running job holds its lock');
my $both = sub { $_->{handle}->pump_nb for @calls; return $calls[0]{err} . $calls[1]{err} };
for (1 .. 600) { last if $both->() =~ /waiting for the run/; usleep(100_000) }
like($both->(), qr/waiting for the run of this job that is going on/, 'the other caller waits for it');
is($node->safe_psql('d', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'concertmaster worker'"), '1',
	'in no worker of its own');
is($node->safe_psql('d', "SELECT status, count(*) OVER () FROM concertmaster.job_runs WHERE name = 'refresh public.gated'"),
	'running|1', 'there is one run');
is($node->safe_psql('d', "SELECT count(*), count(backend_xmin), count(backend_xid) FROM pg_stat_activity WHERE query LIKE 'CALL%'"),
	'2|0|0', 'the callers hold no snapshot');
is($node->safe_psql('d', "SELECT status FROM concertmaster.jobs WHERE name = 'refresh public.gated'"), 'running', 'the view shows it');

# A third one is cancelled while it waits; the run is not touched.
{
	local $ENV{PGOPTIONS} = '-c statement_timeout=1s';
	my $third = start_call($node, 'd', "CALL concertmaster.run_job('refresh public.gated')");
	$third->{handle}->finish;
	like($third->{err}, qr/57014: canceling statement due to statement timeout/, 'a waiting caller can be cancelled');
}
is($node->safe_psql('d', "SELECT status, count(*) OVER () FROM concertmaster.job_runs WHERE name = 'refresh public.gated'"),
	'running|1', 'the run goes on');

$gate->query_safe('SELECT pg_advisory_unlock(77)');
$_->{handle}->finish for @calls;
is($_->{err} =~ /ERROR/ ? $_->{err} : '', '', 'a caller ends well') for @calls;
is($node->safe_psql('d', "SELECT count(*), bool_and(after) FROM (SELECT start_time >= lag(end_time) OVER (ORDER BY run_id) AS after FROM concertmaster.job_runs WHERE name = 'refresh public.gated' AND status = 'succeeded') t"),
	'2|t', 'they ran one after the other');

# Different jobs run at the same time.
make_job($node, 'd', "gated$_", "SELECT pg_advisory_xact_lock_shared(77)::text AS a, $_ AS n", '1h') for 1 .. 3;
$gate->query_safe('SELECT pg_advisory_lock(77)');
arm($node, 'd');
poll_sql($node, 'd', "SELECT count(*) FROM concertmaster.progress_jobs", '3', 'different jobs run in parallel');

# The launcher and a caller do not run the same job at once either.
my $call = start_call($node, 'd', "CALL concertmaster.run_job('refresh public.gated1')");
for (1 .. 600) { $call->{handle}->pump_nb; last if $call->{err} =~ /waiting for the run/; usleep(100_000) }
like($call->{err}, qr/waiting for the run of this job/, 'a caller waits for the launcher\'s run');
$gate->query_safe('SELECT pg_advisory_unlock(77)');
$call->{handle}->finish;
is($call->{err} =~ /ERROR/ ? $call->{err} : '', '', 'and then runs it');
poll_sql($node, 'd', "SELECT count(*), bool_and(status = 'succeeded') FROM concertmaster.job_runs WHERE name = 'refresh public.gated1'",
	'2|t', 'once each');
$gate->quit;

# run_due_jobs() beside the launcher starts no job twice.
make_job($node, 'd', 'each', 'SELECT 1 AS a', '1s');
arm($node, 'd');
$node->safe_psql('d', "SELECT concertmaster.run_due_jobs(); SELECT pg_sleep(0.05)") for 1 .. 40;
is($node->safe_psql('d', q{
	SELECT count(*) FROM (SELECT start_time < lag(end_time) OVER (ORDER BY run_id) AS lapped, start_time - lag(start_time) OVER (ORDER BY run_id) < interval '0.5s' AS twice
	  FROM concertmaster.job_runs WHERE name = 'refresh public.each') t WHERE lapped OR twice}), '0', 'two drivers start no run twice');

# What was run by hand and put off is tried again by itself.
make_job($node, 'd', 'read', 'SELECT 1 AS a', undef);
$node->safe_psql('d', "CALL concertmaster.run_job('refresh public.read')");
my $reader = $node->background_psql('d');
$reader->query_safe('BEGIN; SELECT * FROM read');
my ($code, $out, $err) = $node->psql('d', "CALL concertmaster.run_job('refresh public.read')");
like($err, qr/was put off/, 'a refresh is put off by a reader');
$reader->query_safe('COMMIT');
poll_sql($node, 'd', "SELECT count(*) FROM concertmaster.job_runs WHERE name = 'refresh public.read' AND status = 'succeeded'", '2',
	'and tried again in the background');
$reader->quit;

# One role cannot take all workers of the server.
$node->safe_psql('d', q{CREATE ROLE greedy LOGIN; GRANT CREATE ON SCHEMA public TO greedy; GRANT USAGE ON SCHEMA concertmaster TO greedy;
	ALTER SYSTEM SET concertmaster.max_workers = 2; SELECT pg_reload_conf()});
poll_sql($node, 'd', 'SHOW concertmaster.max_workers', '2', 'max_workers is 2');
make_job($node, 'd', "slow$_", "SELECT pg_advisory_xact_lock_shared(78)::text AS a, $_ AS n", undef) for 1 .. 4;
$node->safe_psql('d', "ALTER MATERIALIZED VIEW slow$_ OWNER TO greedy; UPDATE concertmaster.job SET owner = 'greedy' WHERE name = 'refresh public.slow$_'") for 1 .. 4;
$gate = $node->background_psql('d');
$gate->query_safe('SELECT pg_advisory_lock(78)');
my @greedy;
{
	local $ENV{PGUSER} = 'greedy';
	@greedy = map { start_call($node, 'd', "CALL concertmaster.run_job('refresh public.slow$_')") } 1 .. 4;
}
my $greeds = sub { $_->{handle}->pump_nb for @greedy; return scalar grep { $_->{err} =~ /waiting for one of the workers/ } @greedy };
for (1 .. 600) { last if $greeds->() == 2; usleep(100_000) }
is($greeds->(), 2, 'two of four callers of one role wait for their turn');
$node->safe_psql('d', "CALL concertmaster.run_job('refresh public.read')");
is(runs($node, 'd', 'read', 'succeeded'), '3', 'somebody else\'s job runs meanwhile');
$gate->query_safe('SELECT pg_advisory_unlock(78)');
$_->{handle}->finish for @greedy;
is(runs($node, 'd', "slow$_", 'succeeded'), '1', "job $_ ran in its turn") for 1 .. 4;
$gate->quit;

# An open transaction that holds rows of its own jobs stops no other job.
make_job($node, 'd', 'held', 'SELECT 1 AS a', '1h');
make_job($node, 'd', 'other', 'SELECT 1 AS a', '1h');
poll_sql($node, 'd', "SELECT count(*) FROM concertmaster.job_runs WHERE name IN ('refresh public.held', 'refresh public.other') AND status = 'succeeded'", '2', 'both have run')
  if $node->safe_psql('d', 'SELECT concertmaster.resume_all()');
my $holder = $node->background_psql('d');
$holder->query_safe("BEGIN; SELECT concertmaster.pause_job('refresh public.held')");
$node->safe_psql('d', 'ALTER MATERIALIZED VIEW held RENAME TO held2');
$holder->query_safe("UPDATE concertmaster.job_state SET next_run = now() WHERE job_id = (SELECT job_id FROM concertmaster.job WHERE name = 'refresh public.held')");
$node->safe_psql('d', "SELECT concertmaster.request_job('refresh public.other')");
poll_sql($node, 'd', "SELECT count(*) FROM concertmaster.job_runs WHERE name = 'refresh public.other' AND status = 'succeeded'", '2',
	'another job runs while a job row is locked and names are out of step');
$holder->query_safe('ROLLBACK');
poll_sql($node, 'd', "SELECT count(*) FROM concertmaster.jobs WHERE name = 'refresh public.held2'", '1', 'and the name follows afterwards')
  if $node->safe_psql('d', "SELECT concertmaster.request_job('refresh public.other')") eq '';
$holder->quit;

$node->stop;
done_testing();
