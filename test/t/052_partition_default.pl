# Beside a default partition under the worst: workers killed while they move
# its rows, while it becomes a partition itself, and while it is proved to be
# free of rows.  No row is lost or doubled, and the next run finishes.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;
use PartitionTest;

my $node = partition_node('main');

# A step is held open by an event trigger that waits for this lock when the
# condition holds, in the worker and nowhere else.
my $gate;
$node->safe_psql('d', q{
	CREATE TABLE public.gate (condition text NOT NULL);
	CREATE FUNCTION public.gate() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
	SET search_path = pg_catalog AS $$
	DECLARE
		closed boolean;
	BEGIN
		IF (SELECT backend_type FROM pg_stat_activity WHERE pid = pg_backend_pid()) = 'concertmaster worker' THEN
			EXECUTE 'SELECT ' || coalesce((SELECT condition FROM public.gate), 'false') INTO closed;
			IF closed THEN
				PERFORM pg_advisory_xact_lock(1);
			END IF;
		END IF;
	END $$;
	CREATE EVENT TRIGGER gate ON ddl_command_start EXECUTE FUNCTION public.gate();
	CREATE TABLE public.ddl (tag text);
	CREATE FUNCTION public.audit() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
	BEGIN
		INSERT INTO public.ddl SELECT command_tag || ' ' || object_identity FROM pg_event_trigger_ddl_commands();
	END $$;
	CREATE EVENT TRIGGER audit ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION public.audit();});

sub close_gate
{
	my ($condition) = @_;
	$gate = session($node, 'SELECT pg_advisory_lock(1)');
	$node->safe_psql('d', "INSERT INTO public.gate VALUES (\$gate\$$condition\$gate\$)");
	set_for_database($node, 'ddl_deadline', '60s');
	return;
}

sub open_gate
{
	$node->safe_psql('d', 'DELETE FROM public.gate');
	set_for_database($node, 'ddl_deadline', undef);
	eval { $gate->quit };
	return;
}

my $at_gate = "EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)";

# A table s.$table with nothing but a default partition, which holds so many
# rows of each of this month and the two before, ids from 1.
sub make_rest
{
	my ($table, $rows) = @_;
	$node->safe_psql('d', qq{
		SET timezone = 'UTC';
		CREATE TABLE s.$table (id integer, at timestamptz NOT NULL, r_id integer DEFAULT 1 REFERENCES s.r, pad text, PRIMARY KEY (id, at))
			PARTITION BY RANGE (at);
		CREATE INDEX ${table}_pad ON s.$table (left(pad, 10));
		CREATE TABLE s.${table}_rest PARTITION OF s.$table DEFAULT;
		INSERT INTO s.$table (id, at)
		SELECT (2 - m) * $rows + i, date_trunc('month', now()) - m * interval '1 month' + i * interval '1 second'
		  FROM generate_series(0, 2) m, generate_series(1, $rows) i;});
	return;
}

# Make it a set, whose job is due at once.
sub make_set_of
{
	my ($table) = @_;
	$node->safe_psql('d', "SET timezone = 'UTC'; SET concertmaster.ddl_attempts = 1; SET concertmaster.ddl_deadline = '50ms'; SELECT count(*) FROM concertmaster.create_partition_set('s.$table', '1 month', ahead => 1)");
	request($node, $table);
	return;
}

# Everything is done, and every row there once.
sub done_ok
{
	my ($table, $rows, $test, $rest) = @_;
	my $all = 3 * $rows;
	poll_sql($node, 'd', "SELECT coalesce(last_success > coalesce(last_failure, '-infinity') AND deferred IS NULL AND default_rows = $rest, false) FROM concertmaster.partition_sets WHERE table_name = '$table'", 't', "$test: the next run finishes");
	poll_sql($node, 'd', "SELECT NOT EXISTS (SELECT FROM concertmaster.progress_jobs WHERE name = 'roll s.$table')", 't');
	is($node->safe_psql('d', "SELECT count(*), count(DISTINCT id), min(id), max(id) FROM s.$table WHERE id <= $all"), "$all|$all|1|$all", "$test: every row is there once");
	is($node->safe_psql('d', "SELECT count(*) FROM s.${table}_rest"), $rest, "$test: what is left in the default partition");
	set_ok($node, $table, "$test: all is well");
	is($node->safe_psql('d', "SELECT count(*) FROM pg_class c WHERE relnamespace = 's'::regnamespace AND relkind = 'r' AND NOT relispartition AND relname <> 'r'"), '0', "$test: no table is left over");
	return;
}

# 1. Rows are moved.

# made, not attached: a reader of the default partition
set_for_database($node, 'ddl_attempts', 10000);
make_rest('a', 10);
my $other = lock_session($node, 'SELECT FROM s.a_rest');
make_set_of('a');
poll_pass($node, 'a', "EXISTS (SELECT FROM pg_description WHERE description LIKE 'concertmaster: becoming%')", 'made: waits to be attached');
is($node->safe_psql('d', "SET lock_timeout = '5s'; INSERT INTO s.a (id, at) VALUES (1000, now()); DELETE FROM s.a WHERE id = 1000; SELECT count(*) FROM s.a"), '30', 'made: others go on');
kill_pass($node, 'a', 'made');
eval { $other->quit };
done_ok('a', 10, 'made', 0);

# moved, not attached
make_rest('b', 10);
close_gate(q{EXISTS (SELECT FROM pg_class c JOIN pg_description d ON d.objoid = c.oid WHERE d.description LIKE 'concertmaster: becoming%s.b')
	AND (SELECT count(*) FROM s.b_rest) < 30});
make_set_of('b');
poll_pass($node, 'b', $at_gate, 'moved: not attached');
is($node->safe_psql('d', "SET lock_timeout = '5s'; SELECT count(*), count(DISTINCT id) FROM s.b"), '30|30', 'moved: readers see every row once');
kill_pass($node, 'b', 'moved');
open_gate();
done_ok('b', 10, 'moved', 0);

# 2. It becomes a partition itself.

# being proved
make_rest('c', 500);
close_gate("EXISTS (SELECT FROM pg_constraint WHERE conname = 'concertmaster_proof' AND NOT convalidated)");
make_set_of('c');
poll_pass($node, 'c', "$at_gate AND EXISTS (SELECT FROM pg_constraint WHERE conname = 'concertmaster_proof')", 'being proved: the constraint is there');
is($node->safe_psql('d', "SET lock_timeout = '5s'; INSERT INTO s.c (id, at) VALUES (10000, now()); DELETE FROM s.c WHERE id = 10000; SELECT count(*) FROM s.c"), '1500', 'being proved: others go on');
kill_pass($node, 'c', 'being proved');
open_gate();
done_ok('c', 500, 'being proved', 0);
is($node->safe_psql('d', "SELECT count(*) FROM pg_inherits WHERE inhparent = 's.c'::regclass"), '3', 'being proved: one partition of all, the next and an empty default partition');

# proved, and not exchanged: a reader of the parent, who came meanwhile
make_rest('d', 500);
close_gate("EXISTS (SELECT FROM pg_constraint WHERE conname = 'concertmaster_proof' AND NOT convalidated)");
make_set_of('d');
poll_pass($node, 'd', $at_gate, 'proved: being proved');
$other = lock_session($node, 'LOCK TABLE ONLY s.d IN ACCESS SHARE MODE');
open_gate();
poll_pass($node, 'd', "to_regclass('s.d_concertmaster_rest') IS NOT NULL", 'proved: the empty one waits to take its place');
is($node->safe_psql('d', "SET lock_timeout = '5s'; INSERT INTO s.d (id, at) VALUES (10000, now()); DELETE FROM s.d WHERE id = 10000; SELECT count(*) FROM s.d"), '1500', 'proved: others go on');
kill_pass($node, 'd', 'proved');
eval { $other->quit };
done_ok('d', 500, 'proved', 0);

# in the exchange
make_rest('e', 500);
close_gate(q{(SELECT partdefid = 0 FROM pg_partitioned_table WHERE partrelid = to_regclass('s.e'))});
make_set_of('e');
poll_pass($node, 'e', $at_gate, 'exchange: half done');
kill_pass($node, 'e', 'exchange');
open_gate();
done_ok('e', 500, 'exchange', 0);

# 3. It is large, and proved to be free of rows.
# Rows of the far future stay in it.
sub make_large
{
	my ($table) = @_;
	make_rest($table, 0);
	$node->safe_psql('d', "INSERT INTO s.$table (id, at, pad) SELECT i, now() + interval '5 years', repeat('x', 1000) FROM generate_series(1, 2500) i");
	return;
}

my $in_two_years = "date_trunc('month', now()) + interval '1 month 3 days'";

make_large('f');
close_gate("EXISTS (SELECT FROM pg_constraint WHERE conname = 'concertmaster_proof' AND NOT convalidated)");
make_set_of('f');
poll_pass($node, 'f', "$at_gate AND EXISTS (SELECT FROM pg_constraint WHERE conname = 'concertmaster_proof')", 'large: being proved');
kill_pass($node, 'f', 'large');
open_gate();
poll_sql($node, 'd', "SELECT coalesce(last_success > coalesce(last_failure, '-infinity') AND deferred IS NULL AND partitions = 3, false) FROM concertmaster.partition_sets WHERE table_name = 'f'", 't', 'large: the next run finishes');
is($node->safe_psql('d', 'SELECT count(*), count(DISTINCT id) FROM s.f'), '2500|2500', 'large: every row is there once');
set_ok($node, 'f', 'large: all is well');

# put off: it is not even begun to be proved, again and again, and rows are not refused
set_for_database($node, 'ddl_attempts', 2);
make_large('g');
$other = lock_session($node, 'INSERT INTO s.r VALUES (2)');
make_set_of('g');
blocked_by_ok($node, 'g', qr/^looking whether the default partition is free of rows \| INSERT INTO s\.r/, 'large and put off');
is($node->safe_psql('d', "SELECT count(*) FROM pg_constraint WHERE conname LIKE 'concertmaster%'"), '0', 'large and put off: no proof is left');
psql_ok($node, 'd', "INSERT INTO s.g (id, at) VALUES (5000, now()), (5001, $in_two_years)", 'large and put off: rows are not refused');
$other->query_safe('ROLLBACK');
$other->quit;
poll_sql($node, 'd', "SELECT coalesce(deferred IS NULL AND partitions = 3, false) FROM concertmaster.partition_sets WHERE table_name = 'g'", 't', 'large and put off: done afterwards');
is($node->safe_psql('d', 'SELECT count(*), count(DISTINCT id) FROM s.g'), '2502|2502', 'large and put off: every row is there once');
set_ok($node, 'g', 'large and put off: all is well');

# put off when it is proved: the proof goes
make_large('k');
close_gate("EXISTS (SELECT FROM pg_constraint WHERE conname = 'concertmaster_proof' AND NOT convalidated)");
set_for_database($node, 'ddl_deadline', undef);
set_for_database($node, 'ddl_attempts', 10000);
make_set_of('k');
poll_pass($node, 'k', $at_gate, 'large and in the way later: being proved');
$other = lock_session($node, 'INSERT INTO s.r VALUES (2)');
open_gate();
poll_pass($node, 'k', "EXISTS (SELECT FROM pg_description WHERE description LIKE 'concertmaster: becoming%s.k')", 'large and in the way later: waits to be attached');
$node->safe_psql('d', "SELECT pg_cancel_backend(" . pass_pid($node, 'k') . ")");
poll_sql($node, 'd', "SELECT count(*) FROM pg_constraint WHERE conname LIKE 'concertmaster%'", '0', 'large and in the way later: cancelled, and no proof is left');
$other->query_safe('ROLLBACK');
$other->quit;
set_for_database($node, 'ddl_attempts', 2);
poll_sql($node, 'd', "SELECT coalesce(deferred IS NULL AND partitions = 3, false) FROM concertmaster.partition_sets WHERE table_name = 'k'", 't', 'large and in the way later: done afterwards');
set_ok($node, 'k', 'large and in the way later: all is well');

# an error after it: likewise
make_large('h');
$node->safe_psql('d', 'CREATE VIEW s.' . month($node, 'h', 1) . ' AS SELECT 1');
$node->psql('d', "SELECT count(*) FROM concertmaster.create_partition_set('s.h', '1 month', ahead => 0)");
$node->safe_psql('d', "UPDATE concertmaster.partition_set SET ahead = 1 WHERE table_name = 'h'");
roll($node, 'h');
is($node->safe_psql('d', "SELECT failures > 0, sqlstate FROM concertmaster.partition_sets WHERE table_name = 'h'"), 't|42P07', 'large and failed: reported');
is($node->safe_psql('d', "SELECT count(*) FROM pg_constraint WHERE conname LIKE 'concertmaster%'"), '0', 'large and failed: no proof is left');
psql_ok($node, 'd', "INSERT INTO s.h (id, at) VALUES (5001, $in_two_years)", 'large and failed: rows are not refused');

# 4. Rows that the owner may not see, and triggers that would take notice.
set_for_database($node, 'ddl_attempts', undef);
make_rest('i', 10);
$node->safe_psql('d', q{
	CREATE ROLE keeper; GRANT ALL ON SCHEMA s TO keeper; GRANT ALL ON s.r TO keeper;
	ALTER TABLE s.i OWNER TO keeper; ALTER TABLE s.i_rest OWNER TO keeper;
	ALTER TABLE s.i_rest ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
	CREATE POLICY half ON s.i_rest USING (id % 2 = 0);
	CREATE TABLE s.seen (what text); GRANT ALL ON s.seen TO keeper;
	CREATE FUNCTION s.see() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO s.seen VALUES (TG_OP || ' by ' || current_user); RETURN coalesce(NEW, OLD); END$$;
	CREATE TRIGGER see BEFORE INSERT OR DELETE ON s.i FOR EACH ROW EXECUTE FUNCTION s.see();});
$node->psql('d', "SELECT count(*) FROM concertmaster.create_partition_set('s.i', '1 month', ahead => 1)");
is($node->safe_psql('d', "SELECT count(*) FROM concertmaster.partition_sets WHERE table_name = 'i'"), '0', 'policies: refused by the function');
$node->safe_psql('d', 'ALTER TABLE s.i_rest NO FORCE ROW LEVEL SECURITY');
$node->safe_psql('d', "SET timezone = 'UTC'; SELECT count(*) FROM concertmaster.create_partition_set('s.i', '1 month', ahead => 1)");
$node->safe_psql('d', 'ALTER TABLE s.i_rest FORCE ROW LEVEL SECURITY');
roll($node, 'i');
is($node->safe_psql('d', "SELECT failures > 0, sqlstate, last_error FROM concertmaster.partition_sets WHERE table_name = 'i'"),
	't|42501|query would be affected by row-level security policy for table "i_rest"', 'policies: reported by the pass');
is($node->safe_psql('d', 'SELECT count(*), count(DISTINCT id) FROM s.i'), '30|30', 'policies: every row is there once');
$node->safe_psql('d', 'ALTER TABLE s.i_rest NO FORCE ROW LEVEL SECURITY');
roll($node, 'i');
is($node->safe_psql('d', 'SELECT count(*), count(DISTINCT id) FROM s.i'), '30|30', 'no policies: every row is there once');
is($node->safe_psql('d', 'SELECT count(*) FROM s.i_rest'), '0', 'no policies: all are moved');
is($node->safe_psql('d', 'SELECT count(*) FROM s.seen'), '0', 'no trigger has taken notice');
is($node->safe_psql('d', "SELECT count(*) > 0 FROM public.ddl WHERE tag = 'ALTER TABLE s.i'"), 't', 'but event triggers see that it is attached');
set_ok($node, 'i', 'no policies: all is well');

done_testing();
