# When jobs run: requests, periods without drift, the history's bounds.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;
use JobsTest;

my $node = new_node('main', database => 'd', conf => "concertmaster.history_runs = 5\nmax_prepared_transactions = 4\n");
my $prune = "INSERT INTO concertmaster.job (name, kind, owner, every) VALUES ('prune', 'prune', current_user, '1h')";

# Periods: every start within a tenth of a second of the grid.
make_job($node, 'd', 'quick', 'SELECT 1 AS a', '1s');
arm($node, 'd');
poll_sql($node, 'd', "SELECT count(*) > 6 FROM concertmaster.job_runs WHERE status = 'succeeded'", 't', 'a job runs each second');
is($node->safe_psql('d', q{
	SELECT count(*) FROM (SELECT extract(epoch FROM r.start_time - s.scheduled) AS off
	  FROM concertmaster.job_run r JOIN concertmaster.job_state s USING (job_id)) t
	 WHERE off - floor(off) BETWEEN 0.5 AND 0.9999}), '0', 'no run is late by half a period, or early');

# A job whose period is over before it ends misses times, and makes up by one
# run, at the next time: of two runs in a row, each in the second of its own time
# or late, the seconds are never next to each other.
make_job($node, 'd', 'slow', 'SELECT pg_sleep(1.3)::text AS slept', '1s');
arm($node, 'd');
poll_sql($node, 'd', "SELECT count(*) > 2 FROM concertmaster.job_runs WHERE name = 'refresh public.slow' AND status = 'succeeded'", 't', 'a slow job runs again and again');
is($node->safe_psql('d', q{
	SELECT count(*) FROM (SELECT slot - lag(slot) OVER (ORDER BY run_id) AS gap
	  FROM (SELECT r.run_id, floor(extract(epoch FROM r.start_time - s.scheduled)) AS slot
	          FROM concertmaster.job_run r JOIN concertmaster.job_state s USING (job_id) JOIN concertmaster.job j USING (job_id)
	         WHERE j.name = 'refresh public.slow') x) t WHERE gap < 2}), '0',
	'times that it missed are skipped');
$node->safe_psql('d', "SELECT concertmaster.pause_job('refresh public.slow')");

# The grid is reckoned from its first time, so that no month is too short for
# it.  Paused, or the launcher could run the job between our calls.
make_job($node, 'd', 'monthly', 'SELECT 1 AS a', undef);
$node->safe_psql('d', q{
	BEGIN;
	UPDATE concertmaster.job SET every = '1 month', paused = true WHERE name LIKE '%monthly';
	INSERT INTO concertmaster.job_state (job_id, next_run)
	SELECT job_id, '2024-01-31 12:00 UTC' FROM concertmaster.job WHERE name LIKE '%monthly';
	COMMIT});
$node->safe_psql('d', "CALL concertmaster.run_job('refresh public.monthly')");
$node->safe_psql('d', q{
	UPDATE concertmaster.job_state s SET next_run = '2024-02-29 12:00 UTC', scheduled = '2024-02-29 12:00 UTC'
	  FROM concertmaster.job j WHERE j.job_id = s.job_id AND j.name LIKE '%monthly'});
$node->safe_psql('d', "CALL concertmaster.run_job('refresh public.monthly')");
is($node->safe_psql('d', q{
	SELECT s.origin = '2024-01-31 12:00 UTC', s.scheduled = s.next_run,
	       s.next_run = concertmaster._next_run('1 month', NULL, 'UTC', '2024-01-31 12:00 UTC', s.last_success)
	  FROM concertmaster.job_state s JOIN concertmaster.job j USING (job_id) WHERE j.name LIKE '%monthly'}),
	't|t|t', 'a monthly job keeps its day');

# A job on request.
make_job($node, 'd', 'asked', 'SELECT pg_sleep(1)::text AS slept', undef);
is($node->safe_psql('d', "SELECT status FROM concertmaster.jobs WHERE name LIKE '%asked'"), 'on request', 'a job without a period waits');
$node->safe_psql('d', "SELECT concertmaster.request_job('refresh public.asked')");
job_pid($node, 'd', 'asked');
$node->safe_psql('d', "SELECT concertmaster.request_job('refresh public.asked')");
poll_sql($node, 'd', "SELECT count(*) FROM concertmaster.job_runs WHERE name LIKE '%asked' AND status = 'succeeded'", '2',
	'asked for while it runs, it runs once more');
launcher_served($node);
is($node->safe_psql('d', "SELECT count(*), max(status) FROM concertmaster.job_runs WHERE name LIKE '%asked'"), '2|succeeded', 'and then no more');
is($node->safe_psql('d', "SELECT status FROM concertmaster.jobs WHERE name LIKE '%asked'"), 'on request', 'it waits again');

# A request in a transaction counts from its commit, and not if there is none.
$node->safe_psql('d', "BEGIN; SELECT concertmaster.request_job('refresh public.asked'); ROLLBACK");
is($node->safe_psql('d', "SELECT next_run IS NULL FROM concertmaster.jobs WHERE name LIKE '%asked'"), 't', 'a request rolled back is none');

# A prepared one counts from its commit in whatever session, even after a
# restart; a prepared DROP EXTENSION that is rolled back stops nothing.
my $asked = runs($node, 'd', 'asked', 'succeeded');
$node->safe_psql('d', "BEGIN; SELECT concertmaster.request_job('refresh public.asked'); PREPARE TRANSACTION 'asks'");
$node->safe_psql('d', "COMMIT PREPARED 'asks'");
poll_sql($node, 'd', "SELECT count(*) = $asked + 1 FROM concertmaster.job_runs WHERE name LIKE '%asked' AND status = 'succeeded'", 't',
	'a prepared request counts from its commit', 30);
$node->safe_psql('d', "BEGIN; SELECT concertmaster.request_job('refresh public.asked'); PREPARE TRANSACTION 'asks'");
$node->restart;
my $started = $node->safe_psql('d', 'SELECT pg_postmaster_start_time()');
poll_sql($node, 'd', "SELECT count(*) > 0 FROM concertmaster.job_runs WHERE name LIKE '%quick' AND start_time > '$started'", 't');
$node->safe_psql('d', "SELECT concertmaster.pause_job('refresh public.quick')");
poll_sql($node, 'd', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'concertmaster worker'", '0');
$node->safe_psql('d', "COMMIT PREPARED 'asks'");
poll_sql($node, 'd', "SELECT count(*) = $asked + 2 FROM concertmaster.job_runs WHERE name LIKE '%asked' AND status = 'succeeded'", 't',
	'after a restart too', 30);
$node->safe_psql('d', "SELECT concertmaster.resume_job('refresh public.quick')");
my $dropper = $node->background_psql('d');
$dropper->query_safe("SET client_min_messages = error; BEGIN; DROP EXTENSION concertmaster CASCADE; PREPARE TRANSACTION 'drops'");
$node->safe_psql('d', "ROLLBACK PREPARED 'drops'");
my $quick = $node->safe_psql('d', 'SELECT max(run_id) FROM concertmaster.job_run');
poll_sql($node, 'd', "SELECT count(*) > 0 FROM concertmaster.job_runs WHERE name LIKE '%quick' AND run_id > $quick", 't',
	'a prepared DROP EXTENSION that is rolled back stops nothing', 30);
$dropper->quit;

# Settings of the database do not disturb the workers.
$node->safe_psql('postgres', "ALTER DATABASE d SET default_transaction_read_only = on");
$node->safe_psql('postgres', "ALTER DATABASE d SET default_transaction_isolation = 'serializable'");
$node->safe_psql('postgres', "ALTER DATABASE d SET statement_timeout = '1ms'");
$node->safe_psql('postgres', "ALTER DATABASE d SET search_path = nowhere");
my $from = $node->safe_psql('postgres', 'SELECT clock_timestamp()');
$node->safe_psql('postgres', 'ALTER DATABASE d RESET ALL') if poll_until(sub { $node->safe_psql('postgres',
	"SELECT clock_timestamp() > '$from'::timestamptz + interval '2.5s'") eq 't' });
is($node->safe_psql('d', "SELECT count(*) > 0, bool_and(status IN ('succeeded', 'running')) FROM concertmaster.job_runs WHERE name LIKE '%quick' AND start_time > '$from'"),
	't|t', 'settings of the database do not disturb the workers');

# Paused and resumed.
$node->safe_psql('d', "SELECT concertmaster.pause_job('refresh public.quick')");
poll_sql($node, 'd', 'SELECT count(*) FROM concertmaster.progress_jobs', '0');
my $last = $node->safe_psql('d', 'SELECT max(run_id) FROM concertmaster.job_run');
poll_sql($node, 'd', "SELECT next_run < now() FROM concertmaster.jobs WHERE name LIKE '%quick'");
launcher_served($node);
is($node->safe_psql('d', 'SELECT max(run_id) FROM concertmaster.job_run'), $last, 'a paused job is not started');
$node->safe_psql('d', "SELECT concertmaster.resume_job('refresh public.quick')");
poll_sql($node, 'd', "SELECT max(run_id) > $last FROM concertmaster.job_run", 't', 'a resumed one is');

# The history.
poll_sql($node, 'd', "SELECT count(*) > 8 FROM concertmaster.job_runs WHERE name LIKE '%quick'", 't', 'there is some history');
$node->safe_psql('d', "SELECT concertmaster.pause_job('refresh public.quick')");
poll_sql($node, 'd', 'SELECT count(*) FROM concertmaster.progress_jobs', '0');
$node->safe_psql('d', $prune);
$last = $node->safe_psql('d', "SELECT max(run_id) FROM concertmaster.job_runs WHERE name LIKE '%quick'");
my (undef, undef, $stderr) = $node->psql('d', "CALL concertmaster.run_job('prune')");
like($stderr, qr/NOTICE:  prune: \d+ runs removed from the history/, 'the prune job says what it did');
is($node->safe_psql('d', "SELECT count(*), max(run_id) FROM concertmaster.job_runs WHERE name LIKE '%quick'"), "5|$last",
	'the newest runs are kept');
$node->safe_psql('d', "UPDATE concertmaster.job_run SET end_time = now() - interval '31 days' WHERE run_id <> $last");
$node->safe_psql('d', "CALL concertmaster.run_job('prune')");
is($node->safe_psql('d', "SELECT count(*), max(run_id) FROM concertmaster.job_runs WHERE name LIKE '%quick'"), "1|$last",
	'old ones are not');

$node->stop;
done_testing();
