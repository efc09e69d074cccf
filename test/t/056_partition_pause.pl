# Splitting a default partition waits for its window, pauses in the middle while
# a standby is behind, follows what others write meanwhile, and gives up, leaving
# nothing, where the disk comes near full.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;
use PartitionTest;

my $rows = 150_000;
my $node = partition_node('primary', streaming => 1, conf => "concertmaster.enabled = off\n");
my $standby = new_standby($node, 'follower');

# Two months that are over, and one that is far ahead, so that some rows stay.
$node->safe_psql('d', qq{
	CREATE TABLE s.t (id bigint, at timestamptz, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
	CREATE TABLE s.rest PARTITION OF s.t DEFAULT;
	INSERT INTO s.t SELECT i, date_trunc('month', now()) - (1 + 2 * (i % 2)) * interval '1 month' + CASE WHEN i % 10 = 0 THEN interval '3 years' ELSE '0' END, repeat(md5(i::text), 8)
		FROM generate_series(1, $rows) i;
	CREATE TABLE s.expected AS SELECT * FROM s.t;
	ANALYZE;
	SELECT count(*) FROM concertmaster.create_partition_set('s.t', '1 month', ahead => 1)});
$node->wait_for_catchup($standby);

my $leftovers = q{SELECT (SELECT count(*) FROM pg_class c WHERE c.relnamespace = 's'::regnamespace AND (relname LIKE '%concertmaster%' OR obj_description(c.oid, 'pg_class') LIKE 'concertmaster:%'))
	+ (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'concertmaster%')};
my $differences = q{SELECT count(*) FROM ((TABLE s.expected EXCEPT ALL TABLE s.t) UNION ALL (TABLE s.t EXCEPT ALL TABLE s.expected)) x};

sub write_both
{
	my ($id) = @_;
	$node->safe_psql('d', join('', map { qq{
		UPDATE s.$_ SET v = 'changed' WHERE id = $id;
		UPDATE s.$_ SET at = date_trunc('month', now()) - interval '5 months' WHERE id = $id + 1;
		DELETE FROM s.$_ WHERE id = $id + 2;
		INSERT INTO s.$_ VALUES ($rows + $id, date_trunc('month', now()) - interval '1 month', 'new');} } qw(t expected)));
	return;
}

sub partitions
{
	return $node->safe_psql('d', "SELECT count(*) FROM pg_inherits WHERE inhparent = 's.t'::regclass");
}

# 1. Not begun outside of the window, nor without room for copies.
set_for_database($node, 'build_window', $node->safe_psql('d',
	q{SELECT to_char(now() AT TIME ZONE 'UTC' + interval '6 hours', 'HH24:MI') || '-' || to_char(now() AT TIME ZONE 'UTC' + interval '7 hours', 'HH24:MI') || ' UTC'}));
like(roll($node, 't'), qr/put off: splitting the default partition: the build window opens at/, 'outside of the window it is put off');
is($node->safe_psql('d', $leftovers), '0', 'nothing was begun');
my $months = partitions();
cmp_ok($months, '>', 1, 'but partitions without rows are made');
is($node->safe_psql('d', "SELECT deferred ~ 'the build window opens at' FROM concertmaster.partition_sets WHERE table_name = 't'"), 't', 'the view says why');
set_for_database($node, 'build_window', undef);
set_for_database($node, 'min_free_disk', '1000TB');
like(roll($node, 't'), qr/ERROR:  too little free disk space for splitting the default partition of s\.t\n/, 'without room it fails');
like($node->safe_psql('d', "SELECT last_error FROM concertmaster.jobs WHERE name = 'roll s.t'"), qr/too little free disk space/, 'and is shown');
is($node->safe_psql('d', $leftovers), '0', 'nothing was begun');
set_for_database($node, 'min_free_disk', undef);

# 2. A pause in the middle: the copies themselves get the standby behind.
my $waits = "EXISTS (SELECT FROM concertmaster.progress_jobs WHERE activity LIKE 'splitting the default partition of s.t waits: standby \"follower\" is%')";

sub pause_replay
{
	$node->wait_for_catchup($standby);
	$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
	poll_sql($standby, 'postgres', 'SELECT pg_get_wal_replay_pause_state()', 'paused', 'the standby replays no more');
	return;
}

pause_replay();
set_for_database($node, 'max_replica_lag_bytes', '4MB');
$node->safe_psql('d', 'ALTER SYSTEM SET concertmaster.enabled = on');
$node->reload;
my $pid = poll_pass($node, 't', $waits, 'a split pauses, and says for whom');
is($node->safe_psql('d', "SELECT count(*) FROM s.t_concertmaster_split") > 0, 1, 'in the middle: some rows are copied');
poll_sql($node, 'd', "SELECT xact_start IS NULL AND backend_xid IS NULL AND backend_xmin IS NULL
	AND NOT EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype NOT IN ('advisory', 'virtualxid')) FROM pg_stat_activity a WHERE pid = $pid",
	't', 'it has no transaction, no snapshot and no lock');
write_both(10);
write_both(1000);
$node->safe_psql('d', "SET lock_timeout = '5s'; BEGIN; LOCK TABLE s.t; ROLLBACK");
poll_sql($node, 'd', "SELECT count(*) FROM s.t_concertmaster_log", '0', 'it follows what is written meanwhile');
is(partitions(), $months, 'nothing has changed for others');
is($node->safe_psql('d', $differences), '0', 'who reads sees all rows');

# 3. The disk: a reload is heard in the pause.
$node->safe_psql('d', q{ALTER SYSTEM SET concertmaster.min_free_disk = '1000TB'});
$node->reload;
poll_sql($node, 'd', "SELECT last_status || ' ' || last_sqlstate FROM concertmaster.jobs WHERE name = 'roll s.t'", 'failed 53100', 'where the disk comes near full it gives up');
poll_sql($node, 'd', $leftovers, '0', 'and gives back what the copies took');
is($node->safe_psql('d', $differences), '0', 'no row is lost');
$node->safe_psql('d', q{ALTER SYSTEM RESET concertmaster.min_free_disk});
$node->reload;

# 4. Again; the limit is taken away in the pause, for this database alone.
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
pause_replay();
request($node, 't');
poll_pass($node, 't', $waits, 'the next one pauses too');
write_both(2000);
set_for_database($node, 'max_replica_lag_bytes', '0');
poll_sql($node, 'd', "SELECT count(*) > $months FROM pg_inherits WHERE inhparent = 's.t'::regclass", 't', 'a setting of the database is heard too: it goes on');
poll_sql($node, 'd', $leftovers, '0', 'nothing is left over');
is($node->safe_psql('d', $differences), '0', 'every row is there once');
poll_sql($node, 'd', q{SELECT count(*) FROM s.rest WHERE at < now()}, '0', 'each in its partition');
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
$node->wait_for_catchup($standby);
is($standby->safe_psql('d', $differences), '0', 'on the standby as well');

$standby->stop;
$node->stop;
done_testing();
