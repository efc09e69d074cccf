# Materialized views where rows come from elsewhere: restored from a dump, by
# logical replication, and with pg_cron refreshing them beside us.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;
use JobsTest;

my $node = new_node('main', database => 'd', conf => "wal_level = logical\nmax_wal_senders = 5\nmax_replication_slots = 5\n");
my $query = q{SELECT f.k, (f.at AT TIME ZONE 'UTC')::date AS day, d.name, sum(f.n) AS n FROM s.facts f JOIN s.dim d ON d.id = f.k GROUP BY 1, 2, 3};
my $tables = q{
	CREATE SCHEMA s;
	CREATE TABLE s.dim (id integer PRIMARY KEY, name text);
	CREATE TABLE s.facts (id integer, k integer, at timestamptz, n integer, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
	CREATE TABLE s.facts_1 PARTITION OF s.facts FOR VALUES FROM ('2026-01-01 00:00+00') TO ('2026-02-01 00:00+00');
	CREATE TABLE s.facts_2 PARTITION OF s.facts FOR VALUES FROM ('2026-02-01 00:00+00') TO ('2026-03-01 00:00+00')};
my $rows = q{
	INSERT INTO s.dim SELECT g, 'dim ' || g FROM generate_series(1, 5) g;
	INSERT INTO s.facts SELECT g, 1 + g % 5, '2026-01-01 00:00+00'::timestamptz + g * interval '1 hour', g FROM generate_series(1, 1000) g};
my $view = qq{
	CREATE MATERIALIZED VIEW s.v AS $query;
	CREATE UNIQUE INDEX ON s.v (k, day, name);
	SELECT concertmaster.manage_matview('s.v', '1 day')};

# A refresh's mode, and then what the view holds too much or too little.
sub refreshed
{
	my ($database) = @_;
	my $mode = $node->safe_psql($database, "SELECT mode FROM concertmaster.refresh('s.v')");

	return $mode . ' ' . $node->safe_psql($database, qq{
		SELECT (SELECT count(*) FROM concertmaster.verify_matview('s.v')),
		       (SELECT count(*) FROM (TABLE s.v EXCEPT ALL ($query)) x),
		       (SELECT count(*) FROM (($query) EXCEPT ALL TABLE s.v) x)});
}

sub wait_until_incremental
{
	my ($database, $what) = @_;
	return poll_sql($node, $database, "SELECT count(*) FROM concertmaster.matview_track WHERE view = 's.v'::regclass AND stale IS NULL", '1', $what);
}

$node->safe_psql('d', $_) for $tables, $rows, $view;
wait_until_incremental('d', 'the view is tracked');

# 1. dumped with changes in the log, and restored
$node->safe_psql('d', q{INSERT INTO s.facts VALUES (2000, 3, '2026-01-20', 5); UPDATE s.dim SET name = 'other' WHERE id = 2});
is($node->safe_psql('d', 'SELECT pending FROM concertmaster.matviews'), '3', 'something is pending');
my $file = $node->basedir . '/dump.sql';
command_ok([ 'pg_dump', '-d', $node->connstr('d'), '-f', $file ], 'dumps');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('restored'), '-f', $file ], 'restores without an error');
is($node->safe_psql('restored', q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'concertmaster\_log\_%' AND tgenabled = 'A'}), '4', 'with the triggers, on partitions too');
$node->safe_psql('restored', q{INSERT INTO s.facts VALUES (3000, 1, '2026-02-02', 1); INSERT INTO s.facts_1 VALUES (3001, 1, '2026-01-02', 1); DELETE FROM s.dim WHERE id = 5});
my $ours = q{SELECT (SELECT count(*) FROM concertmaster.matview_track), (SELECT count(*) FROM concertmaster.matview_source), (SELECT count(*) FROM concertmaster.matview_leaf), (SELECT count(*) FROM concertmaster.matview_log)};
launcher_served($node);
is($node->safe_psql('restored', $ours), '0|0|0|0', 'they let writers write, log nothing, and no view is tracked');
like(refreshed('restored'), qr/^concurrently 0\|0\|0$/, 'a refresh is a full one, and right');
is($node->safe_psql('restored', $ours), '0|0|0|0', 'and still nothing is tracked');
$node->safe_psql('restored', 'SELECT concertmaster.resume_all()');
$node->safe_psql('restored', "SELECT concertmaster.request_job('refresh s.v')");
wait_until_incremental('restored', 'when its jobs are let go, it is tracked again');
$node->safe_psql('restored', q{INSERT INTO s.facts VALUES (3002, 4, '2026-02-03', 1)});
is(refreshed('restored'), 'incremental 0|0|0', 'it is incremental, and right');
$node->safe_psql('restored', q{UPDATE s.dim SET name = 'again' WHERE id = 1; TRUNCATE s.facts_1});
like(refreshed('restored'), qr/^(incremental|full) 0\|0\|0$/, 'after TRUNCATE too');
is($node->safe_psql('restored', q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'concertmaster\_log\_%'}), '4', 'by the same triggers');
is(refreshed('d'), 'incremental 0|0|0', 'where it came from nothing is different');

# The archive format, with its schema and its data apart, as for a parallel restore.
command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('d'), '-f', "$file.fc" ], 'dumps to an archive');
$node->safe_psql('postgres', 'CREATE DATABASE parallel');
command_ok([ 'pg_restore', '-j', '3', '--exit-on-error', '-d', $node->connstr('parallel'), "$file.fc" ], 'which is restored by three at once');
is($node->safe_psql('parallel', $ours), '0|0|0|0', 'untracked there too');
$node->safe_psql('parallel', "CALL concertmaster.run_job('refresh s.v')");
wait_until_incremental('parallel', 'until its job is run by hand');
$node->safe_psql('parallel', q{DELETE FROM s.facts WHERE k = 3});
is(refreshed('parallel'), 'incremental 0|0|0', 'then right');

# 2. a subscriber: the first copy, changes, transactions that are rolled back in part, TRUNCATE
$node->safe_psql('postgres', 'CREATE DATABASE subscriber');
$node->safe_psql('subscriber', 'CREATE EXTENSION concertmaster');
$node->safe_psql('subscriber', $_) for $tables, $view;
wait_until_incremental('subscriber', 'an empty view is tracked on a subscriber');
$node->safe_psql('d', q{
	CREATE PUBLICATION p FOR TABLE s.facts, s.dim;
	SELECT pg_create_logical_replication_slot('slot', 'pgoutput')});
my $from = $node->connstr('d');
$from =~ s/'/''/g;
$node->safe_psql('subscriber', "CREATE SUBSCRIPTION sub CONNECTION '$from' PUBLICATION p WITH (create_slot = false, slot_name = 'slot')");
poll_sql($node, 'subscriber', "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'", '0', 'the first copy has come');
like(refreshed('subscriber'), qr/^(incremental|full) 0\|0\|0$/, 'and is in the view');

sub replicated
{
	my ($sql, $test) = @_;

	$node->safe_psql('d', $sql);
	my $lsn = $node->safe_psql('d', 'SELECT pg_current_wal_lsn()');
	poll_sql($node, 'd', "SELECT confirmed_flush_lsn >= '$lsn' FROM pg_replication_slots WHERE slot_name = 'slot'", 't') or die 'the subscriber does not follow';
	like(refreshed('subscriber'), qr/^(incremental|full) 0\|0\|0$/, $test);
	is($node->safe_psql('subscriber', 'SELECT count(*), sum(n) FROM s.v'), $node->safe_psql('d', "SELECT count(*), sum(n) FROM ($query) q"), 'as the publisher says');
}
replicated(q{
	BEGIN;
	INSERT INTO s.facts VALUES (4000, 1, '2026-01-05', 7);
	SAVEPOINT a;
	DELETE FROM s.facts WHERE k = 4;
	ROLLBACK TO a;
	UPDATE s.facts SET at = at + interval '30 days' WHERE id = 100;
	DELETE FROM s.facts WHERE id = 101;
	COMMIT;
	UPDATE s.dim SET name = 'replicated' WHERE id = 4}, 'changes that were replicated');
replicated(q{TRUNCATE s.facts_1}, 'a partition that was emptied');
replicated(q{TRUNCATE s.facts, s.dim; INSERT INTO s.dim VALUES (1, 'new'); INSERT INTO s.facts VALUES (1, 1, '2026-02-05', 7)}, 'all of it, and something new');
$node->safe_psql('subscriber', 'DROP SUBSCRIPTION sub');

# 3. pg_cron runs a plain REFRESH beside ours
SKIP:
{
	my $library = `pg_config --pkglibdir`;
	chomp $library;
	skip 'pg_cron is not installed', 3 unless -e "$library/pg_cron.so";

	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_cron, concertmaster'\ncron.database_name = 'd'\ncron.use_background_workers = on\n");
	$node->restart;
	$node->safe_psql('d', q{
		CREATE EXTENSION pg_cron;
		SELECT cron.schedule('plain', '* * * * *', 'REFRESH MATERIALIZED VIEW s.v');
		SELECT cron.schedule('concurrent', '* * * * *', 'REFRESH MATERIALIZED VIEW CONCURRENTLY s.v')});
	my $id = 10_000;
	my $failed = 0;
	my $done = poll_until(sub {
		$id++;
		$node->safe_psql('d', "INSERT INTO s.facts VALUES ($id, 1, '2026-02-01'::timestamptz + $id % 27 * interval '1 day', 1)");
		$failed++ if $node->psql('d', "SELECT concertmaster.refresh('s.v')") != 0;
		return $node->safe_psql('d', q{SELECT count(DISTINCT jobid) FROM cron.job_run_details WHERE status = 'succeeded'}) eq '2';
	}, 150);
	ok($done, 'pg_cron has refreshed the view, plainly and concurrently');
	is($failed, 0, 'ours went on meanwhile');
	$node->safe_psql('d', q{SELECT cron.unschedule('plain'), cron.unschedule('concurrent')});
	poll_sql($node, 'd', q{SELECT count(*) FROM cron.job_run_details WHERE status NOT IN ('succeeded', 'failed')}, '0') or die 'pg_cron does not end';
	$node->safe_psql('d', q{INSERT INTO s.facts VALUES (9999, 1, '2026-02-03', 1)});
	like(refreshed('d'), qr/^(incremental|full) 0\|0\|0$/, 'and the view is right after the next');
}
$node->stop;
done_testing();
