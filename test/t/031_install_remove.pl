# uninstall() against a busy table, what is left when the extension is gone, and
# that it dumps and restores; what a standby says.

use strict;
use warnings;

use IPC::Run qw(start);
use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;

my $node = new_node('main', streaming => 1, database => 'd', conf => <<'END');
concertmaster.ddl_attempts = 3
END

#
# A standby
#
my $standby = new_standby($node, 'standby');
$node->wait_for_catchup($standby);
psql_error($standby, 'd', 'SELECT concertmaster.install()',
	qr/cannot execute install\(\) during recovery\nDETAIL:  .*standby.*\nHINT:  Connect to the primary/, 'install() on a standby');
psql_error($standby, 'd', 'SELECT concertmaster.uninstall()', qr/cannot execute uninstall\(\) during recovery/, 'uninstall() on a standby');
is($standby->safe_psql('d', "SELECT count(*) > 20 FROM concertmaster.plan_install() WHERE action IN ('create', 'pending')"),
	't', 'plan_install() on a standby');
$standby->stop;

#
# A busy table
#
$node->safe_psql('d', 'SELECT concertmaster.install()');
$node->safe_psql('d', 'CALL concertmaster.build_indexes()');
$node->safe_psql('d', <<'END');
INSERT INTO workflows (name, definition) SELECT 'w' || n, '{"type": "manual"}' FROM generate_series(1, 20) n;
INSERT INTO workflow_runs (workflow_id) SELECT id FROM workflows;
INSERT INTO node_executions (workflow_run_id, node_id) SELECT id, 'n' FROM workflow_runs;
INSERT INTO form_schemas (name) VALUES ('f');
INSERT INTO form_responses (form_schema_id, data) SELECT id, '{"status": "complete"}' FROM form_schemas, generate_series(1, 50);
INSERT INTO audit_events (entity_type, action) VALUES ('workflow', 'made');
REFRESH MATERIALIZED VIEW CONCURRENTLY form_completion_stats;
ALTER TABLE workflows ADD COLUMN mine text DEFAULT 'x';
CREATE INDEX mine ON form_responses (submitted_at);
END
my $counts = <<'END';
SELECT (SELECT count(*) FROM workflows), (SELECT count(*) FROM workflow_runs), (SELECT count(*) FROM node_executions),
       (SELECT count(*) FROM form_schemas), (SELECT count(*) FROM form_responses), (SELECT count(*) FROM audit_events),
       (SELECT sum(submissions) FROM form_completion_stats), (SELECT count(mine) FROM workflows),
       (SELECT count(*) FROM pg_index WHERE indrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace) AND indisvalid)
END
my $before = $node->safe_psql('d', $counts);

# Let no job come between.
poll_sql($node, 'd', "SELECT count(*) FROM concertmaster.job_state WHERE last_status = 'running'", '0');
my $reader = start([ 'psql', '-XAtq', '-d', $node->connstr('d') . " application_name='a reader'", '-c',
		'BEGIN; SELECT count(*) FROM workflow_runs; SELECT pg_sleep(600)' ], '>', '/dev/null', '2>', '/dev/null');
poll_sql($node, 'd', "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'a reader' AND wait_event = 'PgSleep'", '1',
	'somebody reads and does not commit');
my $pid = $node->safe_psql('d', "SELECT pid FROM pg_stat_activity WHERE application_name = 'a reader'");
psql_error($node, 'd', '\set VERBOSITY verbose' . "\nSELECT concertmaster.uninstall()",
	qr/55P03: could not get the locks that uninstall\(\) needs\nDETAIL:  Process $pid holds one\.\nHINT:  Call it again/,
	'uninstall() does not wait for ever');
is($node->safe_psql('d', "SELECT count(*) > 0 FROM pg_trigger WHERE tgname = 'concertmaster_updated_at'"), 't', 'and changed nothing');
is($node->safe_psql('d', "SELECT count(*) > 0 FROM concertmaster.job"), 't', 'nor forgot a job');
$node->safe_psql('d', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'a reader'");
$reader->finish;

# Of one partition alone: its parent can be locked, but not altered.
$node->safe_psql('d', <<'END');
CREATE TABLE own (at date, updated_at timestamptz) PARTITION BY RANGE (at);
CREATE TABLE own_leaf PARTITION OF own FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TRIGGER follow BEFORE UPDATE ON own FOR EACH ROW EXECUTE FUNCTION concertmaster.set_updated_at();
END
my $refused = qr/55P03: could not get the locks that uninstall\(\) needs/;
my $try = '\set VERBOSITY verbose' . "\nSET statement_timeout = '30s'; SELECT concertmaster.uninstall()";
my $other = $node->background_psql('d');
$other->query_safe('BEGIN');
$other->query_safe('SELECT count(*) FROM own_leaf');
psql_error($node, 'd', $try, $refused, 'uninstall() beside a reader of one partition');
$other->query_safe('COMMIT');

# A row of ours that somebody holds: no table is locked meanwhile.
$other->query_safe('BEGIN');
$other->query_safe("SELECT concertmaster.pause_job('refresh public.form_completion_stats')");
psql_error($node, 'd', $try, qr/$refused\nDETAIL:  Others held them at each of 3 tries of 50 ms\./, 'uninstall() while a job is being changed');
my $waiting = start([ 'psql', '-XAtq', '-d', $node->connstr('d') . " application_name='the leaver'", '-c',
		'SET concertmaster.ddl_deadline = 60000; SELECT concertmaster.uninstall()' ], '>', '/dev/null', '2>', '/dev/null');
poll_sql($node, 'd', "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'the leaver' AND wait_event_type = 'Lock'", '1',
	'it waits for the row');
is($node->safe_psql('d', "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND locktype = 'relation' AND granted"),
	'0', 'and holds up nobody');
$node->safe_psql('d', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'the leaver'");
$waiting->finish;
$other->query_safe('ROLLBACK');

# A worker that waits for a snapshot with its table locked, as it can for ours.
$other->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
$other->query_safe('SELECT 1');
$node->safe_psql('d', <<'END');
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition)
VALUES (9, 'public', 'workflow_runs', 'late', '(status, id)');
END
my $building = start([ 'psql', '-XAtq', '-d', $node->connstr('d'), '-c', 'CALL concertmaster.build_indexes(9)' ], '>', '/dev/null', '2>', '/dev/null');
poll_sql($node, 'd', 'SELECT phase FROM pg_stat_progress_create_index', 'waiting for old snapshots', 'an index is being built');
$pid = $node->safe_psql('d', 'SELECT pid FROM concertmaster.progress_jobs');
psql_error($node, 'd', $try,
	qr/$refused\nDETAIL:  Process $pid holds one; it runs job "build phase 9": building "late" on "workflow_runs"\.\nHINT:  End this transaction, .*concertmaster\.progress_jobs/,
	'uninstall() beside a worker');
$other->query_safe('COMMIT');
$building->finish;
$other->quit;
$node->safe_psql('d', 'DROP TABLE own; DROP INDEX late');

#
# Out
#
like(psql_ok($node, 'd', 'SELECT * FROM concertmaster.uninstall()', 'uninstall() when he has gone'),
	qr/extension concertmaster\|remains\|nothing depends on it: DROP EXTENSION concertmaster$/, 'says how to go on');
psql_ok($node, 'd', 'DROP EXTENSION concertmaster', 'DROP EXTENSION');
is($node->safe_psql('d', $counts), $before, 'nothing is lost');

sub life_goes_on
{
	my ($database, $where) = @_;
	psql_ok($node, $database, <<'END', "inserts, updates and refreshes $where");
INSERT INTO workflows (name) VALUES ('after');
INSERT INTO workflow_runs (workflow_id) SELECT id FROM workflows WHERE name = 'after';
UPDATE workflow_runs SET status = 'completed';
INSERT INTO node_executions (workflow_run_id, node_id) SELECT id, 'n' FROM workflow_runs LIMIT 1;
INSERT INTO form_responses (form_schema_id) SELECT id FROM form_schemas;
REFRESH MATERIALIZED VIEW CONCURRENTLY form_completion_stats;
END
}

# The dump has nothing of the extension.
my $dump = $node->basedir . '/dump.sql';
$node->command_ok([ 'pg_dump', '-f', $dump, '-d', $node->connstr('d') ], 'pg_dump');
unlike(slurp_file($dump), qr/concertmaster\./, 'names nothing of the extension');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $dump, '-d', $node->connstr('restored') ], 'and restores');
is($node->safe_psql('restored', $counts), $before, 'to the same');
life_goes_on('d', 'without the extension');
life_goes_on('restored', 'in the restored database');

$node->stop;
done_testing();
