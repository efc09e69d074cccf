# Foreign keys that get the partition key when their table is converted: killed
# and cancelled at every step, beside writers that never pause, and by a dump.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;
use ConversionTest;

my $node = new_node('main', database => 'd',
	conf => "restart_after_crash = on\nconcertmaster.enabled = off\nconcertmaster.ddl_deadline = 60s\n");

$node->safe_psql('d', slurp_file('test/fixtures/partition_violations.sql'));

hold_statements($node);
$node->safe_psql('d', 'CREATE FUNCTION s.hold_batch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM s.hold_now(); RETURN NULL; END $$');
my $call = "CALL concertmaster.convert_to_partitioned('s.t', 'at', '1 month', foreign_keys => 'composite', accept => '{unique_index_without_column}')";

# Killed at a step, of tables of its own each, the next call goes on.  Statement
# 1 builds an index, 2 to 9 add the column and what is with it, 10 to 12 are
# batches, 13 builds another index, 14 validates, 15 and 16 are the bound's,
# 17 and 18 make the copy; then every fifth of the exchange and after.
my $steps = 0;
my $swaps = 0;
my $number = 0;
for (;;)
{
	$number += $number == 2 ? 7 : $swaps > 0 ? 5 : 1;
	make_tables('t');
	last unless kill_held($node, $number, $call);
	$steps++;
	is(works('t'), 'ok', '... both tables work');
	$swaps++ if $node->safe_psql('d', "SELECT fingerprint IS NOT NULL FROM concertmaster.conversion WHERE relid = 's.t'::regclass") eq 't';
	$node->safe_psql('d', 'UPDATE s.hold SET number = 0');
	psql_ok($node, 'd', $call, '... the next call goes on');
	is(works('t'), 'ok', '... both tables work then');
	is($node->safe_psql('d', q{SELECT c.state, k.conname, k.convalidated, (SELECT count(*) FROM s.c_t WHERE t_id IS NOT NULL AND t_id_at IS NULL)
		FROM concertmaster.conversions c, pg_constraint k WHERE k.conrelid = 's.c_t'::regclass AND k.contype = 'f' AND k.conparentid = 0}),
		'converted|c_t_fk|t|0', '... all is filled, with one foreign key, validated');
	drop_tables('t');
}
cmp_ok($steps, '>', 13, "killed at $steps steps");
is($node->safe_psql('d', "SELECT count(*) FROM pg_constraint WHERE conname LIKE 'concertmaster%'"), '0', 'nothing made meanwhile is left');
is($node->safe_psql('d', 'SELECT count(*) FROM pg_index WHERE NOT indisvalid'), '0', 'no index is invalid');
is($node->safe_psql('d', "SELECT count(*) FROM public.partition_violations('s.t')"), '0', 'the set is sound');

# Cancelled at each step before the exchange, everything is as it was.
for my $number (1, 2, 9, 10, 12, 13, 14, 16, 18)
{
	make_tables("k$number");
	my $before = definition("k$number");
	my ($session, $pid) = begin_held($node, $number, $call =~ s/s\.t'/s.k$number'/r);
	ok($pid, "held at $number");
	psql_ok($node, 'd', "CALL concertmaster.cancel_conversion('s.k$number')", "cancelled at $number");
	eval { $session->quit };
	is(definition("k$number"), $before, '... both tables are as they were');
	drop_tables("k$number");
}
is($node->safe_psql('d', 'SELECT count(*) FROM concertmaster.conversion_key'), '0', 'our catalog says nothing of them');
is($node->safe_psql('d', "SELECT count(*) FROM pg_proc WHERE proname LIKE 'fill%k%'"), '0', 'no function is left');

# Asked for otherwise by the next call, what was made is taken back.
make_tables('other');
my ($session, $pid) = begin_held($node, 13, $call =~ s/s\.t'/s.other'/r);
$node->safe_psql('d', "SELECT pg_terminate_backend($pid)");
eval { $session->quit };
is($node->safe_psql('d', "SELECT count(*) FROM pg_attribute WHERE attrelid = 's.c_other'::regclass AND attname = 't_id_at'"), '1', 'the column is there');
psql_ok($node, 'd', ($call =~ s/s\.t'/s.other'/r) =~ s/composite/drop/r, 'the next call has the key dropped');
is($node->safe_psql('d', "SELECT count(*) FROM pg_attribute WHERE attrelid = 's.c_other'::regclass AND attname = 't_id_at'"), '0', '... the column has gone with it');
is($node->safe_psql('d', "SELECT count(*) FROM pg_trigger WHERE tgrelid = 's.c_other'::regclass AND tgname ~* 'fill'"), '0', '... and the triggers');

# What others do to it meanwhile: a row that is locked is waited for, a foreign key that comes up is not lost, one that goes is forgotten.
make_tables('busy');
($session, $pid) = begin_held($node, 10, $call =~ s/s\.t'/s.busy'/r);
ok($pid, 'the first batch is being filled');
my $locker = $node->background_psql('d');
$locker->query_safe('BEGIN; SELECT FROM s.c_busy WHERE n = 390 FOR UPDATE; SELECT FROM s.busy WHERE id = 300 FOR UPDATE');
release_held();
poll_sql($node, 'd', 'SELECT count(*) FROM s.c_busy WHERE t_id IS NOT NULL AND t_id_at IS NULL', '2', 'all are filled but a locked row, and one that references such');
$locker->query_safe('COMMIT');
$locker->quit;
finish($session);
is($node->safe_psql('d', "SELECT relkind FROM pg_class WHERE oid = 's.busy'::regclass"), 'p', 'it is converted when that is free');
is(orphans('busy'), '0', '... with that row');

make_tables('late');
($session, $pid) = begin_held($node, 17, $call =~ s/s\.t'/s.late'/r);
ok($pid, 'the copy is being made');
is($node->safe_psql('d', 'SELECT activity, total - done FROM concertmaster.progress_jobs'), 'making the partitioned table "late_partitioned"|5', '... with this one and four more to come');
$node->safe_psql('d', 'CREATE TABLE s.late_more (id integer REFERENCES s.late); INSERT INTO s.late_more VALUES (7)');
release_held();
finish($session);
is($node->safe_psql('d', "SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 's.late_more'::regclass AND contype = 'f' AND conparentid = 0"),
	'late_more_id_fkey FOREIGN KEY (id, id_at) REFERENCES s.late(id, at) MATCH FULL ON UPDATE CASCADE', 'a key that came up meanwhile has the partition key, too');

# Rows are filled in the window for builds alone; what is written meanwhile is filled.
make_tables('paced');
($session, $pid) = begin_held($node, 9, $call =~ s/s\.t'/s.paced'/r);
ok($pid, 'indexes are built, and the column is being added');
$node->safe_psql('d', "SELECT pg_terminate_backend($pid)");
eval { $session->quit };
$node->safe_psql('d', "UPDATE s.hold SET number = 0");
my $later = $node->safe_psql('d', q{SELECT to_char(now() AT TIME ZONE 'UTC' + interval '6 hours', 'HH24:00') || '-' || to_char(now() AT TIME ZONE 'UTC' + interval '8 hours', 'HH24:00') || ' UTC'});
$node->safe_psql('d', "ALTER SYSTEM SET concertmaster.build_window = '$later'");
$node->reload;
poll_sql($node, 'd', 'SHOW concertmaster.build_window', $later, 'there is a window');
my ($status, $stdout, $stderr) = $node->psql('d', $call =~ s/s\.t'/s.paced'/r);
like($stderr, qr/WARNING:  the conversion of s\.paced was put off\nDETAIL:  put off: .*window/, 'out of it, filling is put off');
is($node->safe_psql('d', 'SELECT count(t_id_at) FROM s.c_paced'), '0', '... no row is filled');
is(works('paced'), 'ok', '... both tables work');
$node->safe_psql('d', 'ALTER SYSTEM RESET concertmaster.build_window');
$node->reload;
poll_sql($node, 'd', 'SHOW concertmaster.build_window', '', 'there is none');
psql_ok($node, 'd', $call =~ s/s\.t'/s.paced'/r, '... the next call goes on');
is(orphans('paced'), '0', '... and fills all');

# A dump has all of it, and needs nothing of ours.
$node->safe_psql('d', 'DROP EVENT TRIGGER hold; CREATE DATABASE e');
my $dump = $node->basedir . '/dump.sql';
command_ok([ 'pg_dump', '-n', 's', '-f', $dump, $node->connstr . ' dbname=d' ], 'a dump');
command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $node->connstr . ' dbname=e' ], '... is restored where the extension is not');
is($node->safe_psql('e', "INSERT INTO s.c_t (t_id) VALUES (4) RETURNING t_id_at = (SELECT at FROM s.t WHERE id = 4)"), 't', '... and works there');
psql_error($node, 'e', 'INSERT INTO s.c_t (t_id) VALUES (999999)', qr/violates foreign key constraint "c_t_fk"/, '... and refuses');
$node->safe_psql('d', 'SELECT concertmaster.uninstall(); DROP EXTENSION concertmaster');
is($node->safe_psql('d', "INSERT INTO s.c_t (t_id) VALUES (4) RETURNING t_id_at = (SELECT at FROM s.t WHERE id = 4)"), 't', 'it works when the extension is gone');

$node->stop;
done_testing();

# A table, and another that references it: some hundred rows, in several batches.
sub make_tables
{
	my ($name) = @_;
	$node->safe_psql('d', qq{
		CREATE TABLE s.$name (id integer PRIMARY KEY, note text, at timestamptz NOT NULL DEFAULT now());
		CREATE TABLE s.c_$name (n integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, t_id integer CONSTRAINT c_${name}_fk REFERENCES s.$name, filler text);
		INSERT INTO s.$name SELECT g, 'n' || g, now() - g * interval '1 hour' FROM generate_series(1, 500) g;
		INSERT INTO s.c_$name (t_id, filler) SELECT CASE WHEN g % 9 > 0 THEN 1 + g % 500 END, repeat('x', 400) FROM generate_series(1, 400) g;
		CREATE TRIGGER hold_batch AFTER UPDATE ON s.c_$name FOR EACH STATEMENT EXECUTE FUNCTION s.hold_batch();
		ALTER TABLE s.c_$name ENABLE ALWAYS TRIGGER hold_batch;});
	return;
}

sub drop_tables
{
	my ($name) = @_;
	$node->safe_psql('d', qq{
		SELECT concertmaster.forget_partition_set('s.$name') FROM concertmaster.partition_sets WHERE table_name = '$name';
		DROP TABLE s.c_$name, s.$name;
		DELETE FROM concertmaster.job WHERE kind = 'convert'; DELETE FROM concertmaster.conversion;
		DROP FUNCTION IF EXISTS s.fill_c_${name}_t_id_at()});
	return;
}

# Write what has to go, and what has not; ok, or what was wrong.
sub works
{
	my ($name) = @_;
	$node->safe_psql('d', qq{
		CREATE OR REPLACE FUNCTION s.works() RETURNS text LANGUAGE plpgsql AS \$\$
		BEGIN
			INSERT INTO s.c_$name (t_id) VALUES (3), (NULL);
			UPDATE s.c_$name SET t_id = 1 + (t_id + 1) % 500 WHERE n % 50 = 0;
			UPDATE s.$name SET at = at - interval '1 minute' WHERE id = 3;
			BEGIN
				INSERT INTO s.c_$name (t_id) VALUES (999999);
				RETURN 'a row without its own';
			EXCEPTION WHEN foreign_key_violation THEN
				IF SQLERRM !~ 'foreign key constraint "c_${name}_fk"' THEN
					RETURN SQLERRM;
				END IF;
			END;
			BEGIN
				DELETE FROM s.$name WHERE id = 3;
				RETURN 'a row that is referenced goes';
			EXCEPTION WHEN foreign_key_violation THEN
			END;
			BEGIN
				UPDATE s.$name SET id = 1000 WHERE id = 3;
				RETURN 'the id of a row that is referenced changes';
			EXCEPTION WHEN foreign_key_violation THEN
			END;
			RETURN 'ok';
		END \$\$});
	my $answer = $node->safe_psql('d', 'SELECT s.works()');
	return $answer eq 'ok' && orphans($name) ne '0' ? 'orphans' : $answer;
}

# Rows that reference nothing, or are filled with what is not so.
sub orphans
{
	my ($name) = @_;
	my $filled = $node->safe_psql('d', "SELECT count(*) FROM pg_attribute WHERE attrelid = 's.c_$name'::regclass AND attname = 't_id_at'");
	return $node->safe_psql('d', "SELECT count(*) FROM s.c_$name c WHERE t_id IS NOT NULL AND NOT EXISTS (SELECT FROM s.$name t WHERE t.id = c.t_id" .
		  ($filled ? ' AND (c.t_id_at IS NULL OR c.t_id_at = t.at))' : ')'));
}

# All that is on the two tables, as text; the number of a dropped column does not matter.
sub definition
{
	my ($name) = @_;
	return $node->safe_psql('d', qq{
		SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid IN ('s.$name'::regclass, 's.c_$name'::regclass)
		UNION ALL SELECT conname || pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid IN ('s.$name'::regclass, 's.c_$name'::regclass)
		UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid IN ('s.$name'::regclass, 's.c_$name'::regclass) AND NOT tgisinternal
		UNION ALL SELECT attname || format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid IN ('s.$name'::regclass, 's.c_$name'::regclass) AND attnum > 0 AND NOT attisdropped
		UNION ALL SELECT proname::text FROM pg_proc WHERE pronamespace = 's'::regnamespace
		UNION ALL SELECT relkind::text || relname FROM pg_class WHERE relnamespace = 's'::regnamespace AND relname LIKE '%$name%'
		UNION ALL SELECT md5(string_agg(c::text, ' ' ORDER BY n)) FROM s.c_$name c ORDER BY 1});
}
