# Materialized views are refreshed by workers, and by pg_cron as the strategy
# has it.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;

my $node = new_node('main', database => 'd', streaming => 1,
	conf => "concertmaster.retry_delay = 1s\n");

$node->safe_psql('d', q{
	CREATE ROLE keeper NOLOGIN;
	CREATE SCHEMA s AUTHORIZATION keeper;
	SET ROLE keeper;
	CREATE TABLE s.facts (k integer, n integer);
	INSERT INTO s.facts VALUES (1, 1);
	CREATE MATERIALIZED VIEW s.v AS SELECT k, sum(n) AS n FROM s.facts GROUP BY k WITH NO DATA;
	CREATE UNIQUE INDEX ON s.v (k);
});

# 1. filled at once, then on schedule, for an owner without LOGIN
is($node->safe_psql('d', "SELECT concertmaster.manage_matview('s.v', '1 day')"), 'first fill', 'managed');
poll_sql($node, 'd', "SELECT populated FROM concertmaster.matviews", 't', 'filled at once, though it is due in a day');
is($node->safe_psql('d', 'SELECT * FROM s.v'), '1|1', 'with what it shall hold');
$node->safe_psql('d', "INSERT INTO s.facts VALUES (1, 10)");
$node->safe_psql('d', "SELECT concertmaster.manage_matview('s.v', '1 second')");
poll_sql($node, 'd', 'SELECT * FROM s.v', '1|11', 'refreshed on schedule');
poll_sql($node, 'd', "SELECT last_mode IN ('full', 'incremental') AND lag < interval '30 s' AND last_duration > 0 AND failures = 0 FROM concertmaster.matviews",
	't', 'and that is shown');

# 2. a failure is shown and stops when its cause does
$node->safe_psql('d', 'DROP INDEX s.v_k_idx');
poll_sql($node, 'd', "SELECT mode, sqlstate, last_error, failures > 0 FROM concertmaster.matviews",
	'none|55000|cannot refresh materialized view "v" without blocking its readers|t', 'no index: it fails and says why');
$node->safe_psql('d', 'CREATE UNIQUE INDEX ON s.v (k); INSERT INTO s.facts VALUES (1, 100)');
poll_sql($node, 'd', 'SELECT * FROM s.v', '1|111', 'and goes on when the index is there');
poll_sql($node, 'd', 'SELECT failures, sqlstate, last_error FROM concertmaster.matviews', '0||', 'the failure is over');

# 3. given to somebody else to drive: we do not refresh it
$node->safe_psql('d', "SELECT concertmaster.manage_matview('s.v', NULL)");
is($node->safe_psql('d', "SELECT count(*) FROM concertmaster.job_state s JOIN concertmaster.job j USING (job_id) WHERE j.kind = 'refresh' AND next_run IS NOT NULL"),
	'0', 'no schedule of ours');

# 4. the view matviews does not wait; a standby refuses
my $session = $node->background_psql('d');
$session->query_safe('BEGIN');
$session->query_safe('LOCK TABLE s.facts IN ACCESS EXCLUSIVE MODE');
$session->query_safe('REFRESH MATERIALIZED VIEW s.v');
is($node->safe_psql('d', "SET lock_timeout = '1s'; SELECT view_name, mode, size IS NULL FROM concertmaster.matviews"),
	'v|incremental|t', 'matviews while the view is locked');
$session->query_safe('ROLLBACK');
$session->quit;
my $standby = new_standby($node, 'standby');
$node->wait_for_catchup($standby);
is($standby->safe_psql('d', 'SELECT view_name, size > 0 FROM concertmaster.matviews'), 'v|t', 'matviews on a standby');
for my $call ("SELECT concertmaster.refresh('s.v')",
	"SELECT concertmaster.manage_matview('s.v', '1 day')",
	"SELECT concertmaster.unmanage_matview('s.v')")
{
	psql_error($standby, 'd', $call, qr/ERROR:  cannot execute \w+\(\) during recovery\nDETAIL:  This server is a standby\.\nHINT:/, $call);
}
$standby->stop;

# 5. the strategy's line, to the letter
SKIP:
{
	my $library = `pg_config --pkglibdir`;
	chomp $library;
	skip 'pg_cron is not installed', 7 unless -e "$library/pg_cron.so";

	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_cron, concertmaster'\n"
		  . "cron.database_name = 'd'\ncron.use_background_workers = on\n");
	$node->restart;
	$node->safe_psql('d', 'CREATE EXTENSION pg_cron');
	$node->safe_psql('d', 'SELECT count(*) FROM concertmaster.install()');
	like(psql_ok($node, 'd', q{SELECT cron.schedule('refresh-form-stats', '*/15 * * * *', 
    'REFRESH MATERIALIZED VIEW CONCURRENTLY form_completion_stats;');}), qr/^\d+$/, 'cron.schedule() as written');
	poll_sql($node, 'd', 'SELECT relispopulated FROM pg_class WHERE oid = \'public.form_completion_stats\'::regclass', 't', 'the view is filled');
	my $command = $node->safe_psql('d', "SELECT command FROM cron.job WHERE jobname = 'refresh-form-stats'");
	is($command, 'REFRESH MATERIALIZED VIEW CONCURRENTLY form_completion_stats;', 'the command is the strategy\'s');
	# The same, every minute, so that we need not wait for a quarter of an hour.
	$node->safe_psql('d', q{SELECT cron.schedule('refresh-form-stats', '* * * * *', 'REFRESH MATERIALIZED VIEW CONCURRENTLY form_completion_stats;')});
	poll_sql($node, 'd', "SELECT status, return_message FROM cron.job_run_details WHERE status IN ('succeeded', 'failed') ORDER BY runid LIMIT 1",
		'succeeded|REFRESH MATERIALIZED VIEW', 'pg_cron refreshes the view', 150);
}

done_testing();
