# Retirement under the worst: workers killed at every step, users who change
# what is on its way out, transactions in the way.  What was noted is finished
# by the next run, and nothing else is ever dropped.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;
use JobsTest;
use PartitionTest;

my $node = partition_node('main', streaming => 1);

# All that are older than two months go; what: the columns of the settings.
sub retain
{
	my ($table, $settings) = @_;
	$node->safe_psql('d', "UPDATE concertmaster.partition_set SET retention = '2 months', $settings WHERE table_name = '$table'");
	return;
}

sub noted
{
	my ($table) = @_;
	return "EXISTS (SELECT FROM concertmaster.partition_state WHERE table_name = '$table' AND state = 'retiring')";
}

sub pending
{
	my ($table) = @_;
	return "EXISTS (SELECT FROM pg_inherits WHERE inhparent = 's.$table'::regclass AND inhdetachpending)";
}

# Wait until a set of make_set() has retired its three oldest, and look at it.
sub retired_ok
{
	my ($table, $test) = @_;
	poll_sql($node, 'd', "SELECT count(*) FROM pg_inherits WHERE inhparent = 's.$table'::regclass", '4', "$test: three have retired");
	poll_sql($node, 'd', "SELECT NOT " . noted($table), 't', "$test: and are done with");
	poll_sql($node, 'd', "SELECT deferred IS NULL AND failures = 0 FROM concertmaster.partition_sets WHERE table_name = '$table'", 't', "$test: nothing is put off");
	is($node->safe_psql('d', "SELECT count(*), min(id), max(id) FROM s.$table"), '30|-19|10', "$test: the rows of the others are there");
	set_ok($node, $table, "$test: all is well");
	return;
}

# Where the tables went that were detached, and with how many rows.
sub tables_of
{
	my ($table, $schema) = @_;
	my $count = $node->safe_psql('d', "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND NOT relispartition AND relname ~ '^${table}_\\d' AND relnamespace = '$schema'::regnamespace");
	return $count if $count == 0;
	my $rows = $node->safe_psql('d', "SELECT sum((xpath('//c/text()', query_to_xml(format('SELECT count(*) AS c FROM %s', oid::regclass), false, true, '')))[1]::text::int)
		FROM pg_class WHERE relkind = 'r' AND NOT relispartition AND relname ~ '^${table}_\\d' AND relnamespace = '$schema'::regnamespace");
	return "$count|$rows";
}

$node->safe_psql('d', 'CREATE SCHEMA archive');

# 1. Killed at every step.

# noted, but the detaching not begun: somebody's lock on the parent
make_set($node, 'a');
retain('a', 'retention_keep = false');
set_for_database($node, 'ddl_deadline', '60s');
my $other = lock_session($node, 'LOCK TABLE s.a IN SHARE UPDATE EXCLUSIVE MODE');
request($node, 'a');
poll_pass($node, 'a', noted('a') . ' AND NOT ' . pending('a'), 'before: noted, not begun');
kill_pass($node, 'a', 'before');
eval { $other->quit };
retired_ok('a', 'before');
is(tables_of('a', 's'), '0', 'before: dropped');

# in the wait of DETACH CONCURRENTLY for the parent's readers
make_set($node, 'b');
retain('b', 'retention_keep = false');
$other = lock_session($node, 'SELECT FROM s.b LIMIT 1');
request($node, 'b');
poll_pass($node, 'b', pending('b'), 'waiting: pending');
kill_pass($node, 'b', 'waiting');
eval { $other->quit };
retired_ok('b', 'waiting');
is(tables_of('b', 's'), '0', 'waiting: dropped');
set_for_database($node, 'ddl_deadline', undef);

# before FINALIZE: an old snapshot
make_set($node, 'c');
retain('c', 'retention_keep = true');
set_for_database($node, 'ddl_attempts', 10000);
$other = session($node, 'BEGIN ISOLATION LEVEL REPEATABLE READ', 'SELECT count(*) FROM s.c');
request($node, 'c');
poll_pass($node, 'c', pending('c') . " AND EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'concertmaster worker' AND xact_start IS NULL)", 'pending: before FINALIZE');
is($other->query_safe('SELECT count(*) FROM s.c'), '60', 'pending: the old snapshot sees what it saw');
is($node->safe_psql('d', "SET lock_timeout = '5s'; SELECT count(*) FROM s.c"), '50', 'pending: new ones see the partition no more');
psql_ok($node, 'd', "SET lock_timeout = '5s'; INSERT INTO s.c (id, at) VALUES (99, now()); DELETE FROM s.c WHERE id = 99", 'pending: writers go on');
kill_pass($node, 'c', 'pending');
eval { $other->quit };
retired_ok('c', 'pending');
is(tables_of('c', 's'), '3|30', 'pending: kept');

# detached, and not dropped: a reader of a referenced table
make_set($node, 'd');
retain('d', 'retention_keep = false');
$other = lock_session($node, 'SELECT FROM s.r');
request($node, 'd');
poll_pass($node, 'd', noted('d') . " AND (SELECT NOT relispartition FROM pg_class WHERE oid = (SELECT relid FROM concertmaster.partition_state WHERE table_name = 'd'))", 'detached: not dropped');
is(tables_of('d', 's'), '1|10', 'detached: the table is there');
is($node->safe_psql('d', "SELECT state FROM concertmaster.partitions WHERE table_name = 'd' AND state <> 'attached'"), 'detached', 'detached: and shown');
kill_pass($node, 'd', 'detached');
eval { $other->quit };
retired_ok('d', 'detached');
is(tables_of('d', 's'), '0', 'detached: dropped');

# detached, and not moved: somebody is about to drop the schema
make_set($node, 'e');
retain('e', "retention_schema = 'archive'");
$other = lock_session($node, 'DROP SCHEMA archive');
request($node, 'e');
poll_pass($node, 'e', noted('e') . " AND (SELECT NOT relispartition FROM pg_class WHERE oid = (SELECT relid FROM concertmaster.partition_state WHERE table_name = 'e'))", 'unmoved: not moved');
kill_pass($node, 'e', 'unmoved');
eval { $other->quit };
retired_ok('e', 'unmoved');
is(tables_of('e', 'archive'), '3|30', 'unmoved: moved');
is(tables_of('e', 's'), '0', 'unmoved: none left');

# a plain DETACH beside a default partition
make_set($node, 'f', rest => 1);
retain('f', 'retention_keep = false');
$other = lock_session($node, 'SELECT FROM s.f LIMIT 1');
request($node, 'f');
poll_pass($node, 'f', noted('f'), 'beside a default partition: not detached');
is($node->safe_psql('d', "SET lock_timeout = '5s'; SELECT count(*) FROM s.f"), '60', 'beside a default partition: readers go on');
kill_pass($node, 'f', 'beside a default partition');
eval { $other->quit };
poll_sql($node, 'd', "SELECT count(*) FROM pg_inherits WHERE inhparent = 's.f'::regclass", '5', 'beside a default partition: three have retired');
poll_sql($node, 'd', "SELECT NOT " . noted('f'), 't', 'beside a default partition: and are done with');
set_ok($node, 'f', 'beside a default partition: all is well');
is(tables_of('f', 's'), '0', 'beside a default partition: dropped');

# 2. Users who change their mind while a table is detached and not dropped yet.
# A reader of the referenced table holds the step open; a locked table shows
# that what counts is what stands when the lock is there.

sub detached_set
{
	my ($table, %opts) = @_;
	make_set($node, $table, %opts);
	retain($table, 'retention_keep = false');
	my $reader = lock_session($node, 'SELECT FROM s.r');
	request($node, $table);
	poll_pass($node, $table, noted($table) . " AND (SELECT NOT relispartition FROM pg_class WHERE oid = (SELECT relid FROM concertmaster.partition_state WHERE table_name = '$table'))", "$table: detached");
	return $reader;
}

# The statements of a user while the first partition is detached, let go one
# after the other: the reader, then the user.
sub change_meanwhile
{
	my ($table, @sql) = @_;
	my $reader = detached_set($table);
	my $user = lock_session($node, 'LOCK TABLE s.' . month($node, $table, -5) . ' IN ACCESS EXCLUSIVE MODE');
	$reader->query_safe('COMMIT');
	$reader->quit;
	$user->query_safe($_) for @sql;
	$user->query_safe('COMMIT');
	$user->quit;
	poll_sql($node, 'd', 'SELECT NOT ' . noted($table), 't', "$table: forgotten");
	poll_sql($node, 'd', "SELECT NOT EXISTS (SELECT FROM concertmaster.progress_jobs WHERE name = 'roll s.$table')", 't');
	set_ok($node, $table, "$table: all is well");
	return;
}

sub count_of
{
	my ($relation) = @_;
	my ($stdout, $stderr);
	$node->psql('d', "SELECT count(*) FROM $relation", stdout => \$stdout, stderr => \$stderr);
	return $stdout || $stderr;
}

my $leaf = month($node, 'ra', -5);
change_meanwhile('ra', "ALTER TABLE s.$leaf RENAME TO ra_precious");
is(count_of('s.ra_precious'), '10', 'what was renamed is left alone');

$leaf = month($node, 'rb', -5);
change_meanwhile('rb', "ALTER TABLE s.$leaf RENAME TO rb_old", "CREATE TABLE s.$leaf AS SELECT 1 AS precious");
is(count_of('s.rb_old'), '10', 'what was exchanged is left alone');
is(count_of("s.$leaf"), '1', 'and so is what has its name now');

$leaf = month($node, 'rc', -5);
change_meanwhile('rc', "SET LOCAL timezone = 'UTC'",
	"DO \$\$ BEGIN EXECUTE format('ALTER TABLE s.rc ATTACH PARTITION s.$leaf FOR VALUES FROM (%L) TO (%L)',
		date_trunc('month', now()) - interval '5 months', date_trunc('month', now()) - interval '4 months'); END \$\$",
	"UPDATE concertmaster.partition_set SET retention = '1 year' WHERE table_name = 'rc'");
is(count_of("s.$leaf"), '10', 'what was attached again is left alone');
is(count_of('s.rc'), '60', 'and all is seen');

# retention switched off meanwhile
{
	$leaf = month($node, 'rd', -5);
	my $reader = detached_set('rd');
	$node->safe_psql('d', "UPDATE concertmaster.partition_set SET retention = NULL WHERE table_name = 'rd'");
	$reader->query_safe('COMMIT');
	$reader->quit;
	poll_sql($node, 'd', "SELECT NOT " . noted('rd'), 't', 'retention switched off: forgotten');
	is($node->safe_psql('d', "SELECT count(*) FROM s.$leaf"), '10', 'retention switched off: not dropped');
}

# 3. What others do with DETACH themselves.

# One that was interrupted is finished, and what it detached is the user's.
make_set($node, 'ua');
{
	$leaf = month($node, 'ua', -5);
	my $reader = lock_session($node, 'SELECT FROM s.ua LIMIT 1');
	psql_error($node, 'd', "SET statement_timeout = '200ms'; ALTER TABLE s.ua DETACH PARTITION s.$leaf CONCURRENTLY", qr/canceling statement/, 'a DETACH that is interrupted');
	$reader->query_safe('COMMIT');
	$reader->quit;
	roll($node, 'ua');
	is(count_of("s.$leaf"), '10', 'what a user began to detach is finished and kept');
	is($node->safe_psql('d', 'SELECT ' . pending('ua')), 'f', 'and not pending any more');
}

# One that goes on: no failure, done afterwards.
make_set($node, 'ub');
{
	$leaf = month($node, 'ub', -3);
	retain('ub', 'retention_keep = false');
	set_for_database($node, 'ddl_attempts', 2);
	my $reader = lock_session($node, 'SELECT FROM s.ub LIMIT 1');
	my $call = start_call($node, 'd', "ALTER TABLE s.ub DETACH PARTITION s.$leaf CONCURRENTLY");
	poll_sql($node, 'd', 'SELECT ' . pending('ub'), 't', 'a user is at work on a DETACH');
	roll($node, 'ub');
	is($node->safe_psql('d', "SELECT failures, sqlstate, deferred IS NOT NULL FROM concertmaster.partition_sets WHERE table_name = 'ub'"), '0||t', 'the pass is put off');
	$reader->query_safe('COMMIT');
	$reader->quit;
	$call->{handle}->finish;
	is($call->{err}, '', 'the user got through');
	poll_sql($node, 'd', "SELECT count(*) FROM pg_inherits WHERE inhparent = 's.ub'::regclass", '4', 'and the pass afterwards');
	is(count_of("s.$leaf"), '10', 'the table of the user is there');
}

# 4. Roles.
set_for_database($node, 'ddl_attempts', undef);
$node->safe_psql('d', 'CREATE ROLE keeper; CREATE ROLE other; GRANT ALL ON SCHEMA s TO keeper, other; GRANT ALL ON s.r TO keeper, other');

# Code of the owner's that DETACH runs does not become anybody else.
make_set($node, 'ca', owner => 'keeper');
$node->safe_psql('d', q{
	SET ROLE keeper;
	CREATE TYPE s.wrapped AS (id integer);
	CREATE TABLE s.who (role name, became name);
	-- Called by a function that is declared IMMUTABLE, so that joins hash by it.
	CREATE FUNCTION s.try_it() RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		was name := current_user;
	BEGIN
		BEGIN
			PERFORM set_config('role', 'none', false);
		EXCEPTION WHEN OTHERS THEN NULL;
		END;
		INSERT INTO s.who VALUES (was, current_user);
	END $$;
	CREATE FUNCTION s.unwrap(w s.wrapped) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM s.try_it();
		RETURN w.id;
	END $$;
	CREATE CAST (s.wrapped AS integer) WITH FUNCTION s.unwrap(s.wrapped) AS IMPLICIT;
	CREATE TABLE s.ca_use (id s.wrapped, at timestamptz, FOREIGN KEY (id, at) REFERENCES s.ca);
	INSERT INTO s.ca_use SELECT ROW (id)::s.wrapped, at FROM s.ca WHERE id = 1;
	TRUNCATE s.who;});
retain('ca', 'retention_keep = false');
roll($node, 'ca');
is($node->safe_psql('d', q{SELECT DISTINCT role, became FROM s.who}), 'keeper|keeper', 'code of the owner runs as the owner');
retired_ok('ca', 'code of the owner');

# A referencing table that the owner may not read keeps partitions from
# retiring, but not from being made.
make_set($node, 'cb', owner => 'keeper');
$node->safe_psql('d', q{
	SET ROLE keeper; GRANT REFERENCES, SELECT ON s.cb TO other; RESET ROLE;
	SET ROLE other;
	CREATE TABLE s.cb_use (id integer, at timestamptz, FOREIGN KEY (id, at) REFERENCES s.cb);
	INSERT INTO s.cb_use SELECT id, at FROM s.cb WHERE id = 1;});
retain('cb', 'retention_keep = false, ahead = 3');
roll($node, 'cb');
is($node->safe_psql('d', "SELECT partitions, kept_back, failures, last_error FROM concertmaster.partition_sets WHERE table_name = 'cb'"), '9|3|0|', 'kept, and new ones made');
like($node->safe_psql('d', "SELECT DISTINCT detail FROM concertmaster.partition_state WHERE table_name = 'cb'"), qr/^referenced by table s\.cb_use \(foreign key "cb_use_id_at_fkey"\), which role "keeper" may not read$/, 'and why');
$node->safe_psql('d', 'GRANT SELECT ON s.cb_use TO keeper');
roll($node, 'cb');
is($node->safe_psql('d', "SELECT partitions, kept_back, failures, last_error FROM concertmaster.partition_sets WHERE table_name = 'cb'"), '6|0|0|', 'with the privilege they retire');
set_ok($node, 'cb', 'all is well');

# Referenced partitions retire when the references are gone.
make_set($node, 'cc');
$node->safe_psql('d', q{
	CREATE TABLE s.cc_use (id integer, at timestamptz, FOREIGN KEY (id, at) REFERENCES s.cc);
	INSERT INTO s.cc_use SELECT id, at FROM s.cc WHERE id BETWEEN -39 AND -38;});
retain('cc', 'retention_keep = false');
roll($node, 'cc');
is($node->safe_psql('d', "SELECT partitions, kept_back, failures FROM concertmaster.partition_sets WHERE table_name = 'cc'"), '5|1|0', 'one is kept back');
is($node->safe_psql('d', "SELECT state, detail FROM concertmaster.partitions WHERE table_name = 'cc' AND state <> 'attached'"), 'referenced|referenced by 2 rows of table s.cc_use (foreign key "cc_use_id_at_fkey")', 'and says by what');
$node->safe_psql('d', 'DELETE FROM s.cc_use');
roll($node, 'cc');
retired_ok('cc', 'references gone');

# No privilege on the schema for what is kept.
make_set($node, 'cd', owner => 'keeper');
make_set($node, 'ce', owner => 'keeper');
retain('cd', "retention_schema = 'archive'");
$node->safe_psql('d', "UPDATE concertmaster.partition_set SET ahead = 2 WHERE table_name = 'ce'");
$node->psql('d', "SET statement_timeout = '120s'; CALL concertmaster.roll_partitions()");
is($node->safe_psql('d', "SELECT failures > 0, sqlstate, last_error FROM concertmaster.partition_sets WHERE table_name = 'cd'"), 't|42501|permission denied for schema archive', 'no privilege: reported');
is($node->safe_psql('d', "SELECT partitions, failures FROM concertmaster.partition_sets WHERE table_name = 'ce'"), '8|0', 'no privilege: other sets are rolled');
$node->safe_psql('d', 'GRANT ALL ON SCHEMA archive TO keeper');
roll($node, 'cd');
retired_ok('cd', 'with the privilege');
is(tables_of('cd', 'archive'), '3|30', 'with the privilege: moved');

# 5. A prepared transaction in the way.
make_set($node, 'pa');
retain('pa', 'retention_keep = false');
set_for_database($node, 'ddl_attempts', 2);
$node->safe_psql('d', q{BEGIN; DELETE FROM s.pa WHERE id = -49; PREPARE TRANSACTION 'p'});
like(roll($node, 'pa'), qr/a prepared transaction is in the way/, 'a prepared transaction: in words');
is($node->safe_psql('d', "SELECT deferred IS NOT NULL, blocked_by FROM concertmaster.partition_sets WHERE table_name = 'pa'"), 't|', 'a prepared transaction: put off');
$node->safe_psql('d', q{ROLLBACK PREPARED 'p'});
retired_ok('pa', 'a prepared transaction is gone');
set_for_database($node, 'ddl_attempts', undef);

# 6. An autovacuum in the way, which would be there for minutes, is cancelled
# by the server as soon as it is waited for.
make_set($node, 'av', rest => 1);
$leaf = month($node, 'av', -5);
$node->safe_psql('d', "INSERT INTO s.av (id, at) SELECT 1000 + i, (SELECT min(at) FROM s.av) FROM generate_series(1, 50000) i;
	ALTER TABLE s.$leaf SET (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1);
	ALTER SYSTEM SET autovacuum_naptime = '1s'");
$node->reload;
$node->safe_psql('d', "DELETE FROM s.$leaf WHERE id > 1000");
poll_sql($node, 'd', "SELECT count(*) FROM pg_stat_progress_vacuum WHERE relid = 's.$leaf'::regclass", '1', 'an autovacuum is at work');
retain('av', 'retention_keep = false');
roll($node, 'av');
is($node->safe_psql('d', "SELECT deferred, count(*) FROM concertmaster.partition_sets, pg_inherits WHERE table_name = 'av' AND inhparent = 's.av'::regclass GROUP BY 1"),
	'|5', 'an autovacuum is not waited for');
set_ok($node, 'av', 'an autovacuum: all is well');
$node->safe_psql('d', 'ALTER SYSTEM RESET autovacuum_naptime');
$node->reload;

# 7. A standby shows how far it is.
make_set($node, 'sa');
retain('sa', 'retention_keep = false');
set_for_database($node, 'ddl_attempts', 2);
$other = session($node, 'BEGIN ISOLATION LEVEL REPEATABLE READ', 'SELECT count(*) FROM s.sa');
roll($node, 'sa');
my $standby = new_standby($node, 'standby');
$node->wait_for_catchup($standby);
is($standby->safe_psql('d', "SELECT state, count(*) FROM concertmaster.partitions WHERE table_name = 'sa' GROUP BY 1 ORDER BY 1"), "attached|6\ndetaching|1", 'on a standby it is seen');
psql_error($standby, 'd', "CALL concertmaster.roll_partitions('s.sa')", qr/cannot execute roll_partitions\(\) during recovery/, 'and is not rolled');
is($standby->safe_psql('d', 'SELECT count(*) FROM s.sa'), '50', 'rows of what is detaching are not seen');
$other->quit;
retired_ok('sa', 'the primary');
$node->wait_for_catchup($standby);
is($standby->safe_psql('d', "SELECT string_agg(v, '') FROM public.partition_violations('s.sa') v"), '', 'all is well there too');
$standby->stop;

done_testing();
