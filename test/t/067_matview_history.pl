# The history of a view under the worst: rows that come in while a partition
# retires, workers killed between keeping and detaching, writers who stay, a
# restored database.  No committed row is missed, and none is there twice.

use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;
use JobsTest;
use PartitionTest;

my $node = partition_node('main');

# A set of make_set(), with a view by the day and its history, and a copy of
# its rows that nothing retires from.
sub make_history
{
	my ($table) = @_;
	make_set($node, $table);
	$node->safe_psql('d', qq{
		SET timezone = 'UTC';
		CREATE TABLE s.${table}_all AS TABLE s.$table;
		CREATE MATERIALIZED VIEW s.${table}_days AS
		SELECT date_trunc('day', at) AS day, note, count(*) AS n, sum(id) AS total FROM s.$table GROUP BY 1, note;
		CREATE UNIQUE INDEX ON s.${table}_days (day, note);
		SELECT concertmaster.manage_matview('s.${table}_days', NULL, history => true);
	});
	$node->safe_psql('d', "CALL concertmaster.run_job('refresh s.${table}_days')");
	return;
}

# All that are older than two months go: three of them.
sub retain
{
	my ($table) = @_;
	$node->safe_psql('d', "UPDATE concertmaster.partition_set SET retention = '2 months', retention_keep = false WHERE table_name = '$table'");
	return;
}

# Where the union differs from what all rows would yield.
sub differences
{
	my ($table, $on) = @_;
	my $all = "SELECT date_trunc('day', at, 'UTC') AS day, note, count(*) AS n, sum(id) AS total FROM s.${table}_all GROUP BY 1, note";
	return $node->safe_psql($on // 'd', qq{
		SET timezone = 'UTC';
		(SELECT 'lost', * FROM ($all EXCEPT ALL TABLE s.${table}_days_with_history) x)
		UNION ALL
		(SELECT 'too much', * FROM (TABLE s.${table}_days_with_history EXCEPT ALL $all) x)});
}

# How many rows of the history are of partitions that are there.
sub too_early
{
	my ($table) = @_;
	return $node->safe_psql('d', qq{
		SELECT count(*) FROM s.${table}_days_history
		 WHERE to_char(day AT TIME ZONE 'UTC', '"$table"_YYYY_MM') IN (SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = 's.$table'::regclass)});
}

# Wait until a set has retired its three oldest; then all rows are there, before and after a refresh.
sub kept_ok
{
	my ($table, $test) = @_;
	poll_sql($node, 'd', "SELECT count(*) FROM pg_inherits WHERE inhparent = 's.$table'::regclass", '4', "$test: three have retired");
	poll_sql($node, 'd', "SELECT deferred IS NULL AND failures = 0 FROM concertmaster.partition_sets WHERE table_name = '$table'", 't', "$test: nothing is put off");
	$node->safe_psql('d', "CALL concertmaster.run_job('refresh s.${table}_days')");
	is(differences($table), '', "$test: the union is what all rows yield");
	is($node->safe_psql('d', "SELECT count(*) FROM s.${table}_days WHERE day < now() - interval '4 months'"), '0', "$test: the view is as its table is");
	is($node->safe_psql('d', "SELECT count(*) FROM concertmaster.verify_matview('s.${table}_days')"), '0', "$test: and right");
	set_ok($node, $table, "$test: all is well");
	return;
}

# The history waits for the test, once a row is about to be kept.
sub hold_history
{
	my ($table) = @_;
	$node->safe_psql('d', qq{
		CREATE OR REPLACE FUNCTION s.held() RETURNS trigger LANGUAGE plpgsql AS \$\$
		BEGIN
			PERFORM pg_advisory_lock_shared(4711);
			PERFORM pg_advisory_unlock_shared(4711);
			RETURN NEW;
		END \$\$;
		CREATE TRIGGER held BEFORE INSERT ON s.${table}_days_history FOR EACH ROW EXECUTE FUNCTION s.held();});
	return session($node, 'SELECT pg_advisory_lock(4711)');
}

my $waits = "EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)";

# A row of so many months ago, in the table and in the copy.
sub late_row
{
	my ($table, $id, $months) = @_;
	my $at = "date_trunc('month', now(), 'UTC') - interval '$months months' + interval '5 hours'";
	return "INSERT INTO s.$table (id, at, note) VALUES ($id, $at, 'late'); INSERT INTO s.${table}_all (id, at, note) VALUES ($id, $at, 'late');";
}

# 1. a row that is written when the others have been kept and nothing is locked yet
make_history('a');
retain('a');
set_for_database($node, 'ddl_deadline', '60s');
my $holder = hold_history('a');
request($node, 'a');
poll_pass($node, 'a', $waits, 'late row: the worker keeps rows');
$node->safe_psql('d', "SET statement_timeout = '30s'; " . late_row('a', 1001, 5));
pass('late row: its writer waits for nobody');
is($node->safe_psql('d', 'SELECT count(*) FROM s.a_days_history'), '0', 'late row: nothing is in the history before the partition is gone');
$holder->quit;
kept_ok('a', 'late row');
is($node->safe_psql('d', "SELECT count(*) FROM s.a_days_history WHERE note = 'late'"), '1', 'late row: it is in the history');

# 2. a trigger that is off for a moment, and a row that it does not see
make_history('b');
retain('b');
$holder = hold_history('b');
request($node, 'b');
poll_pass($node, 'b', $waits, 'trigger: the worker keeps rows');
my $oldest = 's.' . month($node, 'b', -5);
$node->safe_psql('d', "ALTER TABLE $oldest DISABLE TRIGGER USER; " . late_row('b', 1002, 5) . " ALTER TABLE $oldest ENABLE ALWAYS TRIGGER " . $node->safe_psql('d', "SELECT tgname FROM pg_trigger WHERE tgrelid = '$oldest'::regclass AND tgname ~ '^concertmaster_log_'"));
$holder->quit;
kept_ok('b', 'trigger');

# 3. killed between keeping and detaching
make_history('c');
retain('c');
$holder = hold_history('c');
request($node, 'c');
poll_pass($node, 'c', $waits, 'killed: the worker keeps rows');
kill_pass($node, 'c', 'killed');
eval { $holder->quit };
is(too_early('c'), '0', 'killed: nothing is kept of what is there');
kept_ok('c', 'killed');
set_for_database($node, 'ddl_deadline', undef);

# 4. a writer who stays has it put off, and what it writes is kept
make_history('e');
my $writer = lock_session($node, late_row('e', 1003, 5));
retain('e');
request($node, 'e');
blocked_by_ok($node, 'e', qr/retiring partition e_\d+_\d+ \| ./, 'writer');
is($node->safe_psql('d', 'SELECT count(*) FROM s.e_days_history'), '0', 'writer: nothing is kept meanwhile');
$writer->query_safe('COMMIT');
$writer->quit;
request($node, 'e');
kept_ok('e', 'writer');

# 5. writers all the time, with rows of all months, until what they write to has gone
make_history('f');
append_to_file($ENV{TESTDATADIR} . '/write.sql', q{
\set months random(-5, 0)
\set id random(2000, 2000000000)
\set minutes random(0, 38000)
SELECT s.write(:months, :id, :minutes);
});
$node->safe_psql('d', q{
	CREATE FUNCTION s.write(months integer, n integer, minutes integer) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		moment timestamptz := date_trunc('month', now(), 'UTC') + months * interval '1 month' + minutes * interval '1 minute';
	BEGIN
		INSERT INTO s.f (id, at, note) VALUES (n, moment, chr(97 + n % 5));
		INSERT INTO s.f_all (id, at, note) VALUES (n, moment, chr(97 + n % 5));
		IF n % 3 = 0 THEN
			UPDATE s.f SET note = 'z' WHERE (id, at) = (n, moment);
			UPDATE s.f_all SET note = 'z' WHERE (id, at) = (n, moment);
		END IF;
	EXCEPTION WHEN check_violation OR unique_violation THEN
		-- its month has retired
		NULL;
	END $$;
	CREATE INDEX ON s.f_all (id)});
my ($out, $err) = ('', '');
my $pgbench = IPC::Run::start([ 'pgbench', '-n', '-c', 3, '-T', 600, '-R', 150, '-f', "$ENV{TESTDATADIR}/write.sql", $node->connstr('d') ],
	'>', \$out, '2>', \$err);
poll_sql($node, 'd', 'SELECT count(*) > 300 FROM s.f_all', 't', 'writers: they write');
retain('f');
request($node, 'f');
my $early = 0;
ok(poll_until(sub {
	$early += too_early('f');
	return $node->safe_psql('d', "SELECT count(*) FROM pg_inherits WHERE inhparent = 's.f'::regclass") eq '4';
}), 'writers: three retire beside them');
is($early, 0, 'writers: each is in its partition or in the history');
$pgbench->signal('INT');
eval { $pgbench->finish };
unlike($err, qr/ERROR|FATAL/, 'writers: no errors');
kept_ok('f', 'writers');

# 6. dumped and restored
my $dump = "$ENV{TESTDATADIR}/history.sql";
make_history('g');
$node->safe_psql('d', "ALTER TABLE s.g_days_history RENAME TO old_days; SELECT concertmaster.request_job('roll s.g')");
poll_sql($node, 'd', "SELECT history FROM concertmaster.matviews WHERE view_name = 'g_days'", 's.old_days', 'dump: the new name is known');
command_ok([ 'pg_dump', '-d', $node->connstr('d'), '-f', $dump ], 'dump: dumped');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('copy'), '-f', $dump ], 'dump: restored');
$node->safe_psql('copy', "SELECT concertmaster.resume_all(); UPDATE concertmaster.partition_set SET retention = '2 months' WHERE table_name = 'g'");
$node->safe_psql('copy', "CALL concertmaster.roll_partitions('s.g')");
is($node->safe_psql('copy', "SELECT count(*) FROM pg_inherits WHERE inhparent = 's.g'::regclass"), '4', 'restored: three have retired');
isnt($node->safe_psql('copy', 'SELECT count(*) FROM s.old_days'), '0', 'restored: and are in the history');
is(differences('g', 'copy'), '', 'restored: the union is what all rows yield');
is($node->safe_psql('copy', "SELECT string_agg(history, ' ' ORDER BY history) FROM concertmaster.matviews WHERE view_name IN ('f_days', 'g_days')"),
	's.f_days_history s.old_days', 'restored: the histories are known');

# 7. everything of ours goes, and the histories stay
$node->safe_psql('copy', 'SELECT count(*) FROM concertmaster.uninstall(); DROP EXTENSION concertmaster');
is(differences('g', 'copy'), '', 'removed: the union is there');

done_testing();
