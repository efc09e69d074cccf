# Index builds begin when the window is open, the standbys follow and the disk
# has room.  Until then they wait, holding nothing, or are put off or refused,
# and leave nothing behind.
use strict;
use warnings;

use ConcertmasterTest;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('primary', database => 'd', streaming => 1);
my $standby = new_standby($node, 'follower');
# A busy machine shall not put off what is asked here.
set_for_database('ddl_deadline', '2s');

$node->safe_psql('d', <<'END');
CREATE TABLE items (id integer, name text);
INSERT INTO items SELECT g, 'n' || g FROM generate_series(1, 50000) g;
CREATE TABLE empty (id integer);
CREATE TABLE events (id integer, k integer) PARTITION BY LIST (k);
CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2);
INSERT INTO events SELECT g, 1 + g % 2 FROM generate_series(1, 50000) g;
CREATE TABLE filler (v text);
ANALYZE;
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition)
VALUES (1, 'public', 'items', 'items_name', '(name)'), (2, 'public', 'events', 'events_id', '(id)'),
       (3, 'public', 'items', 'items_id', '(id)'), (3, 'public', 'empty', 'empty_id', '(id)'),
       (4, 'public', 'items', 'items_both', '(id, name)'), (5, 'public', 'items', 'items_hash', 'USING hash (id)');
END
$node->wait_for_catchup($standby);

sub set_for_database
{
	my ($name, $value) = @_;
	$node->safe_psql('d', defined $value ? "ALTER DATABASE d SET concertmaster.$name = '$value'" : "ALTER DATABASE d RESET concertmaster.$name");
	return;
}

# A CALL in the background; finish_call() gives its messages.
sub start_call
{
	my ($sql) = @_;
	my %call = (out => '', err => '');
	$call{psql} = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('d'), '-c', $sql ],
		'<', \undef, '>', \$call{out}, '2>', \$call{err}, IPC::Run::timeout(180));
	return \%call;
}

sub finish_call
{
	my ($call) = @_;
	$call->{psql}->finish;
	return $call->{err};
}

sub call_now
{
	my ($sql) = @_;
	my ($stdout, $stderr);
	$node->psql('d', $sql, stdout => \$stdout, stderr => \$stderr);
	return $stderr;
}

# What there is of an index, by pg_index itself.
sub indexes_on
{
	my ($table) = @_;
	return $node->safe_psql('d', "SELECT count(*) FROM pg_index x JOIN pg_class c ON c.oid = x.indrelid WHERE c.relname LIKE '$table%'");
}

sub state_of
{
	my ($index) = @_;
	return $node->safe_psql('d', "SELECT state FROM concertmaster.indexes WHERE index_name = '$index'");
}

my $worker = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'concertmaster worker' AND datname = 'd'";
my $waits = "SELECT count(*) FROM concertmaster.progress_jobs WHERE activity LIKE '%waits: standby \"follower\" is%'";

# 1. A standby whose replay stands still, by bytes.
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
poll_sql($standby, 'postgres', 'SELECT pg_get_wal_replay_pause_state()', 'paused', 'the standby replays no more');
set_for_database('max_replica_lag_bytes', '1MB');
$node->safe_psql('d', "INSERT INTO filler SELECT repeat(md5(g::text), 30) FROM generate_series(1, 5000) g");
is($node->safe_psql('d', "SELECT ok, lag_bytes > 1024 * 1024, detail ~ '^standby \"follower\" is .* behind, and 1024 kB are allowed\$' FROM concertmaster.build_conditions WHERE condition = 'standby'"),
	'f|t|t', 'the view shows that it is too far behind');
my $call = start_call('CALL concertmaster.build_indexes(1)');
poll_sql($node, 'd', $waits, '1', 'a build waits, and says for whom');
my $pid = $node->safe_psql('d', $worker);
# The job's own lock, of the advisory kind, is no other's business.
is($node->safe_psql('d', "SELECT a.xact_start IS NULL AND a.backend_xid IS NULL AND a.backend_xmin IS NULL,
	(SELECT count(*) FROM pg_locks l WHERE l.pid = a.pid AND l.locktype NOT IN ('advisory', 'virtualxid')) FROM pg_stat_activity a WHERE pid = $pid AND query LIKE '%waits:%'"),
	't|0', 'meanwhile it has no transaction, no snapshot and no lock');
$node->safe_psql('d', "SET lock_timeout = '1s'; BEGIN; LOCK TABLE items; ROLLBACK");
is(state_of('items_name'), 'building', 'nothing is made yet');
is(indexes_on('items'), '0', 'indeed');
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
like(finish_call($call), qr/phase 1: 1 built/, 'it goes on when the standby follows again');
is(state_of('items_name'), 'valid', 'and is built');

# 2. By time.
set_for_database('max_replica_lag_bytes', undef);
set_for_database('max_replica_lag', '300ms');
$node->wait_for_catchup($standby);
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
poll_sql($standby, 'postgres', 'SELECT pg_get_wal_replay_pause_state()', 'paused', 'it stands still again');
$node->safe_psql('d', 'INSERT INTO filler VALUES (0)');
$call = start_call('CALL concertmaster.build_indexes(2)');
poll_sql($node, 'd', $waits, '1', 'a build waits, however little there is to replay');
is(indexes_on('events'), '0', 'not even the parent index is made');
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
like(finish_call($call), qr/phase 2: 1 built/, 'it goes on');
is(state_of('events_id'), 'valid', 'and is built on all partitions');

# 3. One that is behind on purpose does not count.
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
poll_sql($standby, 'postgres', 'SELECT pg_get_wal_replay_pause_state()', 'paused', 'it stands still once more');
$node->safe_psql('d', 'INSERT INTO filler VALUES (0)');
set_for_database('delayed_standbys', 'somebody, Follower');
like(call_now('CALL concertmaster.build_indexes(3)'), qr/phase 3: 2 built/, 'delayed_standbys leaves it out');
is($node->safe_psql('d', "SELECT ok, detail FROM concertmaster.build_conditions WHERE condition = 'standby'"),
	't|does not count: it is in concertmaster.delayed_standbys', 'and the view says so');
set_for_database('delayed_standbys', undef);
# A run that is cancelled while it waits.
$call = start_call('CALL concertmaster.build_indexes(4)');
poll_sql($node, 'd', $waits, '1', 'the next build waits');
$node->safe_psql('d', "SELECT pg_cancel_backend(($worker))");
like(finish_call($call), qr/canceling statement due to user request/, 'it can be cancelled while it waits');
is(state_of('items_both'), 'planned', 'and leaves nothing');
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
set_for_database('max_replica_lag', undef);

# 4. The window.
my $closed = $node->safe_psql('d', q{SELECT to_char(now() AT TIME ZONE 'UTC' + interval '6 hours', 'HH24:MI') || '-' || to_char(now() AT TIME ZONE 'UTC' + interval '7 hours', 'HH24:MI') || ' UTC'});
set_for_database('build_window', $closed);
my $said = call_now('CALL concertmaster.build_indexes(4)');
like($said, qr/WARNING:  some indexes of phase 4 were put off\nDETAIL:  .*1 put off: the build window opens at \d{4}-\d\d-\d\d \d\d:\d\d:00/, 'outside of the window the call says when it opens');
is($node->safe_psql('d', "SELECT state, sqlstate, message ~ '^put off: the build window opens at', hint FROM concertmaster.indexes WHERE index_name = 'items_both'"),
	'planned|55000|t|CALL concertmaster.build_indexes(4, ignore_window => true) does not wait for that.', 'the view too');
poll_sql($node, 'd', "SELECT last_status FROM concertmaster.jobs WHERE name = 'build phase 4' AND next_run > now() + interval '3 minutes' AND next_run < now() + interval '6 minutes'",
	'deferred', 'the job comes again in some minutes, not at once');
is(indexes_on('items'), '2', 'nothing was begun');
# What an interrupted build has left goes all the same.
$node->safe_psql('d', "CREATE INDEX items_both ON items (id, name); UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'items_both'::regclass");
like(call_now('CALL concertmaster.build_indexes(4)'), qr/put off: the build window/, 'a leftover makes no difference');
is(indexes_on('items'), '2', 'but it is dropped');
like(call_now('CALL concertmaster.build_indexes(5, ignore_window => true)'), qr/phase 5: 1 built/, 'who says so builds all the same');
set_for_database('build_window', undef);
$node->safe_psql('d', "SELECT concertmaster.request_job('build phase 4')");
poll_sql($node, 'd', "SELECT state FROM concertmaster.indexes WHERE index_name = 'items_both'", 'valid', 'with the window open the job builds it');
# An index on a table without rows is nothing large.
set_for_database('build_window', $closed);
$node->safe_psql('d', "INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition) VALUES (6, 'public', 'empty', 'empty_hash', 'USING hash (id)')");
like(call_now('CALL concertmaster.build_indexes(6)'), qr/phase 6: 1 built/, 'an empty table needs no window');
set_for_database('build_window', undef);

# 5. The disk.  A file system of its own: that of shared memory.  A standby on
# this machine would have its tablespace in the very same folder, so it goes.
$standby->stop;
my $folder = "/dev/shm/concertmaster_pace_$$";
mkdir $folder or die "mkdir $folder: $!";
$node->safe_psql('d', "CREATE TABLESPACE small LOCATION '$folder'");
$node->safe_psql('d', <<'END');
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, definition)
VALUES (7, 'public', 'events', 'events_small', '(k, id) TABLESPACE small'), (8, 'public', 'events', 'events_here', '(id, k)');
END
my $small = $node->safe_psql('d', q{SELECT free_bytes FROM concertmaster.build_conditions WHERE object LIKE '%tablespace "small"%'});
my $here = $node->safe_psql('d', q{SELECT free_bytes FROM concertmaster.build_conditions WHERE object LIKE '%tablespace "pg_default"%'});
is($node->safe_psql('d', q{SELECT count(*) FROM concertmaster.build_conditions WHERE condition = 'disk'}), '2', 'there are two file systems');
# Others come and go in shared memory, but not with so much.
set_for_database('min_free_disk', int($small / 1024 + 64 * 1024) . 'kB');
my $before = indexes_on('events');
is($node->safe_psql('d', "SELECT has_room FROM concertmaster.indexes WHERE index_name = 'events_small'"), 'f', 'the view shows before that there is no room');
is($node->safe_psql('d', "SELECT has_room FROM concertmaster.indexes WHERE index_name = 'events_here'"), $here > $small + 128 * 1024 * 1024 ? 't' : 'f', 'in another one there may be');
$said = call_now('CALL concertmaster.build_indexes(7)');
like($said, qr/ERROR:  could not build 1 of 1 indexes of phase 7\nDETAIL:  "events_small": too little free disk space for building index "events_small" on public\.events\n/, 'a build is refused');
like($node->safe_psql('d', "SELECT sqlstate, detail, hint FROM concertmaster.indexes WHERE index_name = 'events_small'"),
	qr/^53100\|tablespace "small": \d+ [kMG]B of \d+ [kMG]B are free, about \d+ [kM]B are needed, and \d+ [kMG]B have to stay free\.\|Make room there, or lower concertmaster\.min_free_disk, which is "\d+kB"\.$/,
	'the view says what is free, needed, and the floor');
is(indexes_on('events'), $before, 'no index was left, not even the parent');
is($node->safe_psql('d', "SELECT last_sqlstate FROM concertmaster.jobs WHERE name = 'build phase 7'"), '53100', 'the job has failed');
set_for_database('min_free_disk', undef);
like(call_now('CALL concertmaster.build_indexes(7)'), qr/phase 7: 1 built/, 'with a floor that is lower it is built');
is($node->safe_psql('d', "SELECT count(*) FROM pg_class c JOIN pg_tablespace t ON t.oid = c.reltablespace WHERE t.spcname = 'small' AND c.relkind = 'i'"), '2', 'there');

# WAL that is kept for a slot that nobody reads counts once more.
$node->safe_psql('d', "SELECT pg_create_physical_replication_slot('forgotten', true)");
is($node->safe_psql('d', "SELECT detail FROM concertmaster.build_conditions WHERE object LIKE '%WAL%'"),
	'WAL is kept for replication slot "forgotten", from which nobody reads.', 'a forgotten slot is named');
$node->safe_psql('d', "SELECT pg_drop_replication_slot('forgotten')");

# 6. The estimates of tables that somebody has locked are left out, without a wait.
my $lock = $node->background_psql('d');
my $all = $node->safe_psql('d', "SELECT estimated_bytes FROM concertmaster.indexes WHERE index_name = 'events_here'");
$lock->query_safe('BEGIN; LOCK TABLE events_2');
is($node->safe_psql('d', "SET statement_timeout = '20s'; SELECT estimated_bytes < $all FROM concertmaster.indexes WHERE index_name = 'events_here'"), 't', 'a locked partition is left out of the estimate');
$lock->query_safe('ROLLBACK');
$lock->quit;

# 7. A conversion's index, put off by the window and refused for the disk; the table is untouched.
$node->safe_psql('d', <<'END');
CREATE TABLE answers (id integer PRIMARY KEY, at timestamptz NOT NULL);
INSERT INTO answers SELECT g, now() - g * interval '1 minute' FROM generate_series(1, 20000) g;
ANALYZE answers;
END
my $convert = "CALL concertmaster.convert_to_partitioned('answers', 'at', '1 month', accept => '{unique_index_without_column}')";
set_for_database('build_window', $closed);
like(call_now($convert), qr/WARNING:  the conversion of public\.answers was put off\nDETAIL:  put off: the build window opens at/, 'a conversion waits for the window');
set_for_database('build_window', undef);
set_for_database('min_free_disk', '1000TB');
like(call_now($convert), qr/ERROR:  too little free disk space for building unique index "answers_pkey_with_key" on public\.answers/, 'and is refused for the disk');
is($node->safe_psql('d', "SELECT relkind, (SELECT count(*) FROM pg_index WHERE indrelid = 'answers'::regclass), (SELECT count(*) FROM pg_constraint WHERE conrelid = 'answers'::regclass AND contype = 'c') FROM pg_class WHERE oid = 'answers'::regclass"),
	'r|1|0', 'the table is as it was');
set_for_database('min_free_disk', undef);
call_now($convert);
poll_sql($node, 'd', "SELECT relkind FROM pg_class WHERE oid = 'answers'::regclass", 'p', 'then it is done');

$node->stop;
done_testing();

# Only of the test itself, not of a process that it started.
END
{
	local $? = $?;
	system('rm', '-rf', $folder) if defined $folder && $folder =~ /_$$\z/;
}
