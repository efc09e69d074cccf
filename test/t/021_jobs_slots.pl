# Two databases, all slots taken, the server's workers taken.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;
use JobsTest;

my $node = new_node('main', database => 'one',
	conf => "concertmaster.max_workers = 2\nmax_worker_processes = 12\nconcertmaster.retry_delay = 1s\n");
$node->safe_psql('postgres', 'CREATE DATABASE two');
$node->safe_psql('postgres', 'CREATE DATABASE without');
$node->safe_psql('two', 'CREATE EXTENSION concertmaster');

make_job($node, 'one', 'quick', 'SELECT 1 AS a', '1s');
make_job($node, 'two', 'quick', 'SELECT 1 AS a', '1s');
arm($node, 'one');
arm($node, 'two');
poll_sql($node, $_, "SELECT count(*) > 1 FROM concertmaster.job_runs WHERE status = 'succeeded'",
	't', "jobs run in database $_")
  for qw(one two);

# A job that fails stops no other, and waits longer each time.
make_job($node, 'one', 'broken', 'SELECT 1 / (random() * 0)::int AS a', '1s');
arm($node, 'one');
poll_sql($node, 'one', "SELECT failures_in_row > 1 FROM concertmaster.jobs WHERE name = 'refresh public.broken'",
	't', 'a failing job is tried again');
is($node->safe_psql('one', "SELECT last_sqlstate, last_error, status, next_run > last_run + interval '1.4s' FROM concertmaster.jobs WHERE name = 'refresh public.broken'"),
	'22012|division by zero|failing|t', 'its failure is recorded and its pause grows');
my $before = runs($node, 'one', 'quick', 'succeeded');
poll_sql($node, 'one', "SELECT count(*) > $before FROM concertmaster.job_runs WHERE status = 'succeeded'",
	't', 'another job goes on');
$node->safe_psql('one', "SELECT concertmaster.pause_job('refresh public.broken')");

# Both slots taken: the rest waits, and is not lost.
make_job($node, 'one', "long$_", "SELECT pg_sleep(600)::text AS slept, $_ AS n", '1h') for 1 .. 4;
arm($node, 'one');
poll_sql($node, 'one', "SELECT count(*) FROM concertmaster.progress_jobs WHERE name LIKE '%long%'",
	'2', 'max_workers jobs run in parallel');
$before = runs($node, 'two', 'quick', 'succeeded');
poll_sql($node, 'one', "SELECT bool_and(next_run < now() - interval '1s') FROM concertmaster.jobs WHERE name LIKE '%long%' AND pid IS NULL",
	't', 'others have been due for more than a second');
is($node->safe_psql('one', 'SELECT count(*) FROM concertmaster.progress_jobs'), '2', 'and no more');
is(runs($node, 'two', 'quick', 'succeeded'), $before, 'the other database waits for a slot');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'concertmaster worker'"),
	'2', 'there are two workers in the server');

# A CALL has a worker of its own all the same.
is(psql_ok($node, 'two', "SET client_min_messages = warning; CALL concertmaster.run_job('refresh public.quick')",
	'run_job() needs none of the slots'), '', 'and says nothing');

# More slots by a reload.
$node->append_conf('postgresql.conf', "concertmaster.max_workers = 5\n");
$node->reload;
poll_sql($node, 'one', "SELECT count(*) FROM concertmaster.progress_jobs WHERE name LIKE '%long%'",
	'4', 'more slots by a reload');
$before = runs($node, 'two', 'quick', 'succeeded');
poll_sql($node, 'two', "SELECT count(*) > $before FROM concertmaster.job_runs WHERE status = 'succeeded'",
	't', 'the other database is served again');
$node->safe_psql('one', "SELECT concertmaster.pause_job(name) FROM concertmaster.jobs WHERE name LIKE '%long%'");
$node->safe_psql('one', 'SELECT pg_cancel_backend(pid) FROM concertmaster.progress_jobs');
poll_sql($node, 'one', "SELECT count(*) FROM concertmaster.progress_jobs WHERE name LIKE '%long%'",
	'0', 'a cancelled run ends');
is($node->safe_psql('one', "SELECT DISTINCT status, sqlstate FROM concertmaster.job_runs WHERE name LIKE '%long%'"),
	'failed|57014', 'and is recorded as failed');
is($node->safe_psql('one', "SELECT DISTINCT status FROM concertmaster.jobs WHERE name LIKE '%long%'"),
	'paused', 'a paused job is not tried again');

# The server has no worker to give: said once, and not by error.
$node->append_conf('postgresql.conf', "max_worker_processes = 3\nconcertmaster.max_workers = 4\nmax_logical_replication_workers = 0\n");
$node->safe_psql('one', "SELECT concertmaster.resume_job(name) FROM concertmaster.jobs WHERE name LIKE '%long%'");
$node->safe_psql('one', "SELECT concertmaster.request_job(name) FROM concertmaster.jobs WHERE name LIKE '%long%'");
my $log = -s $node->logfile;
$node->restart;
poll_sql($node, 'one', "SELECT count(*) FROM concertmaster.progress_jobs WHERE name LIKE '%long%'",
	'2', 'as many run as the server has workers');
$node->wait_for_log(qr/no background worker is free, due jobs wait/, $log);
$node->safe_psql('one', 'SELECT pg_sleep(3)');
my @said = slurp_file($node->logfile, $log) =~ /no background worker is free/g;
is(scalar @said, 1, 'the launcher says once that it has no worker');
$node->psql('two', "CALL concertmaster.run_job('refresh public.quick')", stderr => \my $stderr);
like($stderr, qr/could not start a background worker for job "refresh public.quick"\nDETAIL:  All background worker slots are taken\.\nHINT:  /,
	'run_job() says so too');
is($node->safe_psql('one', "SET client_min_messages = error; SELECT concertmaster.run_due_jobs()"), '0',
	'run_due_jobs() starts nothing');
$node->psql('two', "SELECT concertmaster.run_due_jobs()", stderr => \$stderr);
like($stderr, qr/due job(s were| was) put off: no background worker is free/, 'and says that');
$node->safe_psql('one', "SELECT concertmaster.pause_job(name) FROM concertmaster.jobs WHERE name LIKE '%long%'");
$node->safe_psql('one', 'SELECT pg_cancel_backend(pid) FROM concertmaster.progress_jobs');
$before = runs($node, 'two', 'quick', 'succeeded');
poll_sql($node, 'two', "SELECT count(*) > $before FROM concertmaster.job_runs WHERE status = 'succeeded'",
	't', 'with workers free again, jobs run again');

$node->stop;
done_testing();
