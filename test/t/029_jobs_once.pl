# One job never runs twice at once, different jobs do; a waiting caller holds
# no snapshot, so that its worker can build an index concurrently.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
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
poll_sql($node, 'd', "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 3 AND NOT granted", '1',
	'the other worker waits for it');
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
poll_sql($node, 'd', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'concertmaster worker'", '2',
	'its worker is gone');

$gate->query_safe('SELECT pg_advisory_unlock(77)');
$_->{handle}->finish for @calls;
is($_->{err} =~ /ERROR/ ? $_->{err} : '', '', 'a caller ends well') for @calls;
like($calls[0]{err} . $calls[1]{err}, qr/NOTICE: .*waiting for the run of this job that is going on/, 'one was told to wait');
is($node->safe_psql('d', "SELECT count(*), bool_and(after) FROM (SELECT start_time >= lag(end_time) OVER (ORDER BY run_id) AS after FROM concertmaster.job_runs WHERE name = 'refresh public.gated' AND status = 'succeeded') t"),
	'2|t', 'they ran one after the other');

# Different jobs run at the same time.
make_job($node, 'd', "gated$_", "SELECT pg_advisory_xact_lock_shared(77)::text AS a, $_ AS n", '1h') for 1 .. 3;
$gate->query_safe('SELECT pg_advisory_lock(77)');
arm($node, 'd');
poll_sql($node, 'd', "SELECT count(*) FROM concertmaster.progress_jobs", '3', 'different jobs run in parallel');

# The launcher and a caller do not run the same job at once either.
my $call = start_call($node, 'd', "CALL concertmaster.run_job('refresh public.gated1')");
poll_sql($node, 'd', "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 3 AND NOT granted", '1',
	'a caller waits for the launcher\'s run');
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

$node->stop;
done_testing();
