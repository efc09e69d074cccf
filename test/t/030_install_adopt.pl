# install() over the strategy's schema on a busy database: nobody waits, no row
# is touched, what cannot be had now is had later, and a view that pg_cron
# refreshes is refreshed by nobody else.

use strict;
use warnings;

use FindBin;
use IPC::Run qw(start);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use ConcertmasterTest;

my $library = `pg_config --pkglibdir`;
chomp $library;
my $have_cron = -e "$library/pg_cron.so";

my $node = new_node('main', start => 0, conf => <<'END');
concertmaster.ddl_attempts = 3
concertmaster.retry_delay = 1
END
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'concertmaster, pg_cron'\n"
	  . "cron.database_name = 'app'\ncron.use_background_workers = on\n") if $have_cron;
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', slurp_file("$FindBin::RealBin/../fixtures/strategy_schema.sql"));
$node->safe_psql('app', <<'END') if $have_cron;
CREATE EXTENSION pg_cron;
SELECT cron.schedule('refresh-form-stats', '*/15 * * * *',
    'REFRESH MATERIALIZED VIEW CONCURRENTLY form_completion_stats;');
END
$node->safe_psql('app', 'CREATE EXTENSION concertmaster');

# Where each row is, and who wrote it.
my $fingerprint = <<'END';
SELECT md5(string_agg(r, '' ORDER BY r)) FROM (
    SELECT 'w' || ctid || xmin || id FROM workflows
    UNION ALL SELECT 'r' || ctid || xmin || id FROM workflow_runs
    UNION ALL SELECT 's' || ctid || xmin || id FROM form_schemas
    UNION ALL SELECT 'f' || ctid || xmin || id FROM form_responses) x (r)
END
my $rows_before = $node->safe_psql('app', $fingerprint);

my $pending = "SELECT count(*) FROM concertmaster.plan_install() WHERE action = 'pending' AND object !~ '^index'";
my $plan = $node->safe_psql('app', "SELECT object, action, detail FROM concertmaster.plan_install()");
if ($have_cron)
{
	like($plan, qr/job refresh public\.form_completion_stats\|create\|only on request, because pg_cron job 'refresh-form-stats'/,
		'the plan sees pg_cron\'s job');
}
like($plan, qr/partition set public\.form_responses\|remains\|public\.form_responses is not partitioned/, 'the plan says what remains');
is($node->safe_psql('app', "SELECT to_regclass('node_executions') IS NULL, to_regnamespace('concertmaster') IS NOT NULL"),
	't|t', 'the plan did nothing');

# Somebody has read and somebody has written, and neither has committed.
sub start_session
{
	my ($name, $sql) = @_;
	my $handle = start([ 'psql', '-XAtq', '-d', $node->connstr('app') . " application_name='$name'", '-c', "BEGIN; $sql" ],
		'>', '/dev/null', '2>', '/dev/null');
	poll_sql($node, 'app', "SELECT count(*) FROM pg_stat_activity WHERE application_name = '$name' AND wait_event = 'PgSleep'", '1')
	  or die "$name did not come";
	return $handle;
}

sub end_session
{
	my ($name, $handle) = @_;
	$node->safe_psql('app', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '$name'");
	$handle->finish;
}
my $reader = start_session('a reader', 'SELECT count(*) FROM workflow_runs; SELECT pg_sleep(600);');
my $writer = start_session('a writer', "INSERT INTO workflows (id) VALUES (md5('uncommitted')::uuid); SELECT pg_sleep(600);");

# install() does not wait for them.
my $started = time();
my $done = psql_ok($node, 'app', "SET statement_timeout = '20s'; SELECT object, action FROM concertmaster.install()",
	'install() beside an open reader and an open writer');
diag(sprintf('install() took %.3f s', time() - $started));
like($done, qr/table public\.node_executions\|created/, 'it creates what is missing');
like($done, qr/default of public\.workflows\.id\|pending/, 'it leaves what would lock to the job');
like($done, qr/materialized view public\.form_completion_stats\|created/, 'it creates the view');

# The job is put off, says by whom, and meanwhile nobody waits for it.
poll_sql($node, 'app', "SELECT count(*) > 0 FROM concertmaster.job_run r JOIN concertmaster.job j USING (job_id)"
	  . " WHERE j.name = 'adopt public' AND r.status = 'deferred'", 't', 'the job is put off');
like($node->safe_psql('app', "SELECT message FROM concertmaster.job_run WHERE status = 'deferred' LIMIT 1"),
	qr/\d+ done, [1-9]\d* put off/, 'and says so');
my $slowest = 0;
for my $n (1 .. 50)
{
	my $begin = time();
	$node->safe_psql('app', "INSERT INTO workflow_runs (id, status) VALUES (md5('meanwhile $n')::uuid, 'running');"
		  . "SELECT count(*) FROM workflows");
	$slowest = time() - $begin if time() - $begin > $slowest;
}
cmp_ok($slowest, '<', 5, 'writers and readers go on meanwhile');
$node->safe_psql('app', "DELETE FROM workflow_runs WHERE id IN (SELECT md5('meanwhile ' || n)::uuid FROM generate_series(1, 50) n)");
isnt($node->safe_psql('app', $pending), '0', 'something is pending');

# They go, it is done.
end_session('a reader', $reader);
end_session('a writer', $writer);
poll_sql($node, 'app', $pending, '0', 'the job finishes when they are gone');
poll_sql($node, 'app', "SELECT last_status FROM concertmaster.job_state JOIN concertmaster.job USING (job_id) WHERE name = 'adopt public'",
	'succeeded', 'and says so');
is($node->safe_psql('app', $fingerprint), $rows_before, 'no row was touched');
is($node->safe_psql('app', "INSERT INTO workflow_runs (trigger_data) VALUES ('{}') RETURNING status, created_at = now(), updated_at = now()"),
	'pending|t|t', 'the new columns and defaults are there');

# The indexes follow, which need the new columns.
poll_sql($node, 'app', "SELECT string_agg(DISTINCT state, ' '), count(*) FROM concertmaster.indexes", 'valid|12', 'all twelve indexes get built');

# The view is filled, once.
poll_sql($node, 'app', "SELECT relispopulated FROM pg_class WHERE relname = 'form_completion_stats'", 't', 'the view is filled');
SKIP:
{
	skip 'pg_cron is not installed', 4 unless $have_cron;
	is($node->safe_psql('app', "SELECT every IS NULL, paused FROM concertmaster.job WHERE kind = 'refresh'"),
		't|f', 'our job has no schedule');
	poll_sql($node, 'app', "SELECT next_run IS NULL AND last_status = 'succeeded' FROM concertmaster.job_state JOIN concertmaster.job USING (job_id) WHERE kind = 'refresh'",
		't', 'and is not due again');
	psql_ok($node, 'app', 'REFRESH MATERIALIZED VIEW CONCURRENTLY form_completion_stats;', "pg_cron's command works to the letter");
	is($node->safe_psql('app', "SELECT action FROM concertmaster.install() WHERE object = 'job refresh public.form_completion_stats'"),
		'exists', 'a second install() does not give it one');
}
is($node->safe_psql('app', "SELECT count(*) FROM concertmaster.plan_install() WHERE action IN ('create', 'pending')"), '0', 'nothing is left to do');

# As the owner of the tables, not as who looks after them.
$node->safe_psql('app', <<'END');
CREATE ROLE app_owner;
CREATE SCHEMA theirs AUTHORIZATION app_owner;
CREATE TABLE theirs.workflows (id uuid PRIMARY KEY, name text);
ALTER TABLE theirs.workflows OWNER TO app_owner;
GRANT app_owner TO CURRENT_USER;
END
$node->safe_psql('app', "SELECT concertmaster.install('theirs')");
poll_sql($node, 'app', "SELECT count(*) FROM concertmaster.plan_install('theirs') WHERE action = 'pending' AND object !~ '^index'", '0',
	'a superuser can adopt what another role owns');
is($node->safe_psql('app', "SELECT count(*) FROM pg_class WHERE relnamespace = 'theirs'::regnamespace AND relname = 'workflows' AND relowner = 'app_owner'::regrole"),
	'1', 'which keeps its owner');

SKIP:
{
	skip 'pg_cron is not installed', 2 unless $have_cron;
	$node->safe_psql('app', 'CREATE ROLE stranger; CREATE SCHEMA fresh AUTHORIZATION app_owner');
	my $ask = "SET LOCAL ROLE app_owner; SELECT detail FROM concertmaster.plan_install('fresh') WHERE object ~ '^job refresh'; ROLLBACK";
	is($node->safe_psql('app', "BEGIN; $ask"), 'only on request, because a pg_cron job of another role refreshes the view',
		'the name of another role\'s pg_cron job is not told');
	is($node->safe_psql('app', "BEGIN; UPDATE cron.job SET username = 'stranger'; $ask"), 'every 15 minutes',
		'a pg_cron job of a role that cannot refresh the view does not count');
}

$node->stop;
done_testing();
