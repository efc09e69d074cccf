# A standby runs nothing, refuses the doors, and takes over when promoted.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;
use JobsTest;

my $primary = new_node('primary', database => 'd', streaming => 1);
make_job($primary, 'd', 'quick', 'SELECT 1 AS a', '1s');
arm($primary, 'd');
my $standby = new_standby($primary, 'standby');
poll_sql($primary, 'd', "SELECT count(*) > 1 FROM concertmaster.job_runs WHERE status = 'succeeded'", 't',
	'jobs run on the primary');
$primary->wait_for_catchup($standby);

is(launcher_pid($standby), '', 'no launcher on the standby');
cmp_ok(runs($standby, 'd', 'quick', 'succeeded'), '>', 1, 'the views show the jobs there');
is($standby->safe_psql('d', "SELECT status FROM concertmaster.jobs WHERE name = 'refresh public.quick'"),
	'scheduled', 'also the present state');
psql_error($standby, 'd', $_, qr/cannot execute \w+\(\) during recovery\nDETAIL:  This server is a standby\.\nHINT:  /, $_)
  for "CALL concertmaster.run_job('refresh public.quick')",
  "SELECT concertmaster.request_job('refresh public.quick')",
  "SELECT concertmaster.pause_job('refresh public.quick')",
  "SELECT concertmaster.resume_job('refresh public.quick')",
  'SELECT concertmaster.resume_all()', 'SELECT concertmaster.start_launcher()',
  'SELECT concertmaster.run_due_jobs()', 'SELECT concertmaster.use_pg_cron(true)';

$primary->stop;
my $before = runs($standby, 'd', 'quick', 'succeeded');
$standby->promote;
poll_sql($standby, 'postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'concertmaster launcher'",
	'1', 'promoted, it has a launcher');
poll_sql($standby, 'd', "SELECT count(*) > $before FROM concertmaster.job_runs WHERE status = 'succeeded'", 't',
	'and runs the jobs');
is($standby->safe_psql('d', "SELECT count(*) FROM concertmaster.job_run r WHERE status = 'running' AND start_time < (SELECT max(start_time) FROM concertmaster.job_run)"),
	'0', 'no run of the old primary is left running');
$standby->stop;
done_testing();
