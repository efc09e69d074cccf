# A conversion that is killed at every step, one after the other, and goes on
# each time: the table is whole, what hangs on it works, and in the end it is
# partitioned.  And one that is cancelled leaves the table as it was.

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

make_table('t');
my $call = "CALL concertmaster.convert_to_partitioned('s.t', 'at', '1 month', foreign_keys => 'drop', accept => '{unique_index_without_column,trigger_sets_key}')";
my $rows = $node->safe_psql('d', 'SELECT count(*) FROM s.t');

my $steps = 0;
for (my $number = 1;; $number++)
{
	last unless kill_held($node, $number, $call);
	$steps++;
	$rows++;
	$node->safe_psql('d', "INSERT INTO s.t (form, note) VALUES (3, 'after $number')");
	is($node->safe_psql('d', 'SELECT count(*), (SELECT sum(n) FROM s.totals) FROM s.t'), "$rows|$rows", "killed at statement $number: every row is there, also for a view");
}
cmp_ok($steps, '>', 15, "killed at $steps steps");

is($node->safe_psql('d', 'SELECT state FROM concertmaster.conversions'), 'converted', 'in the end it is converted');
is($node->safe_psql('d', "SELECT count(*) FROM public.partition_violations('s.t')"), '0', 'the set is sound');
is($node->safe_psql('d', "SELECT relkind FROM pg_class WHERE oid = 's.t'::regclass"), 'p', 'the table is partitioned');
is( $node->safe_psql('d', "SELECT count(*) FROM pg_class WHERE relnamespace = 's'::regnamespace AND (relname LIKE '%partitioned%' OR relname LIKE 'concertmaster%')"),
	'0', 'nothing made meanwhile is left');
is($node->safe_psql('d', "SELECT count(*) FROM pg_constraint WHERE conrelid = 's.t_legacy'::regclass AND conname = 't_bound'"), '0', 'nor the constraint');
is($node->safe_psql('d', "SELECT status FROM concertmaster.jobs WHERE name = 'refresh s.days' AND next_run <= now()"), 'scheduled', 'the refresh of the materialized view is due');
$node->safe_psql('d', "CALL concertmaster.run_job('refresh s.days')");
$node->safe_psql('d', "INSERT INTO s.t (form, note) VALUES (7, 'later')");
is($node->safe_psql('d', "SELECT groups FROM concertmaster.refresh('s.days')"), '1', 'a row is in the materialized view after the next refresh');
is($node->safe_psql('d', "SELECT count(*) FROM concertmaster.verify_matview('s.days')"), '0', 'which is what its query says');
is($node->safe_psql('d', "SELECT count(*) - count(DISTINCT id), max(id) < (SELECT last_value FROM s.t_id_seq) + 1 FROM s.t"), '0|t', 'no id was given twice');

# Cancelled at a step before the exchange.
for my $number (1, 3, 4)
{
	make_table("c$number");
	my $before = definition("c$number");
	my ($session, $pid) = begin_held($node, $number, $call =~ s/s\.t'/s.c$number'/r);
	ok($pid, "statement $number is held");
	psql_ok($node, 'd', "CALL concertmaster.cancel_conversion('s.c$number')", "cancelled at statement $number");
	eval { $session->quit };
	is(definition("c$number"), $before, '... the table is as it was');
	is($node->safe_psql('d', "SELECT count(*) FROM concertmaster.conversions WHERE table_name = 's.c$number'::regclass"), '0', '... and no conversion is left');
}

# A bound that values come near is given up, also where something is in the way.
make_table('near');
my ($kept, $worker) = begin_held($node, 3, $call =~ s/s\.t'/s.near'/r);
ok($worker, 'the constraint is there');
$node->safe_psql('d', "SELECT pg_terminate_backend($worker)");
eval { $kept->quit };
$node->safe_psql('d', "UPDATE concertmaster.conversion SET bound = quote_literal('2020-01-01') WHERE relid = 's.near'::regclass; CREATE RULE r AS ON INSERT TO s.near DO ALSO NOTIFY x");
psql_error($node, 'd', "CALL concertmaster.run_job('convert s.near')", qr/cannot convert table "near"/, 'a run with something in the way');
is($node->safe_psql('d', "SELECT count(*) FROM pg_constraint WHERE conname = 'near_bound'"), '0', '... gives up the constraint all the same');

# A call that is cancelled stops the conversion, until it is taken back.
make_table('stop');
my $before = definition('stop');
my ($session, $pid) = begin_held($node, 4, $call =~ s/s\.t'/s.stop'/r);
ok($pid, 'a statement is held');
$node->safe_psql('d', "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL concertmaster.convert%' AND state = 'active'");
poll_sql($node, 'd', "SELECT state FROM concertmaster.conversions WHERE table_name = 's.stop'::regclass", 'stopped', 'a cancelled call stops it');
eval { $session->quit };
psql_ok($node, 'd', "CALL concertmaster.run_job('convert s.stop')", 'a run of the job');
is($node->safe_psql('d', "SELECT state FROM concertmaster.conversions WHERE table_name = 's.stop'::regclass"), 'stopped', '... does not go on');
is($node->safe_psql('d', "SELECT count(*) FROM pg_constraint WHERE conname = 'stop_bound'"), '0', '... and no constraint refuses rows meanwhile');
psql_ok($node, 'd', "CALL concertmaster.cancel_conversion('s.stop')", 'it can be taken back');
is(definition('stop'), $before, '... the table is as it was');

# What is done to the table between its copy and the exchange: nothing is lost.
$node->safe_psql('d', "CREATE TABLE s.late (id integer UNIQUE, at timestamptz NOT NULL); CREATE TABLE s.late_child (id integer)");
my $late = "CALL concertmaster.convert_to_partitioned('s.late', 'at', '1 month', accept => '{unique_index_without_column}')";
($session, $pid) = begin_held($node, 4, $late);
ok($pid, 'the copy is being made');
$node->safe_psql('d', "ALTER TABLE s.late_child ADD FOREIGN KEY (id) REFERENCES s.late (id); CREATE RULE late AS ON INSERT TO s.late DO ALSO NOTIFY x");
release_held();
finish($session);
is($node->safe_psql('d', "SELECT relkind FROM pg_class WHERE oid = 's.late'::regclass"), 'r', 'a foreign key and a rule that came up stop the exchange');
is($node->safe_psql('d', "SELECT count(*) FROM pg_constraint WHERE confrelid = 's.late'::regclass"), '1', '... the foreign key is there');
is($node->safe_psql('d', "SELECT count(*) FROM pg_rewrite WHERE ev_class = 's.late'::regclass"), '1', '... and the rule');

# Name, schema and owner can change: the next run, or cancelling, knows its own.
for my $change ('ALTER TABLE s.moved RENAME TO renamed', 'ALTER TABLE s.moved SET SCHEMA public', 'ALTER TABLE s.moved OWNER TO moved_owner')
{
	for my $end ('cancel', 'convert')
	{
		$node->safe_psql('d', q{CREATE TABLE s.moved (id integer, at timestamptz NOT NULL)});
		$node->safe_psql('d', q{CREATE ROLE moved_owner; GRANT CREATE, USAGE ON SCHEMA s TO moved_owner}) if $change =~ /OWNER/ && $end eq 'cancel';
		my $oid = $node->safe_psql('d', "SELECT 's.moved'::regclass::oid");
		($session, $pid) = begin_held($node, 4, "CALL concertmaster.convert_to_partitioned('s.moved', 'at', '1 month')");
		ok($pid, "$change: held in the exchange");
		$node->safe_psql('d', "SELECT pg_terminate_backend($pid)");
		eval { $session->quit };
		is($node->safe_psql('d', "SELECT count(*) FROM pg_class WHERE relname = 'moved_partitioned'"), '1', '... with its copy made');
		$node->safe_psql('d', $change);
		my $table = $node->safe_psql('d', "SELECT oid::regclass FROM pg_class WHERE oid = $oid");
		psql_ok($node, 'd', $end eq 'cancel' ? "CALL concertmaster.cancel_conversion('$table')" : "CALL concertmaster.convert_to_partitioned('$table', 'at', '1 month')", "... then $end");
		is($node->safe_psql('d', "SELECT relkind FROM pg_class WHERE oid = '$table'::regclass"), $end eq 'cancel' ? 'r' : 'p', '... is done');
		is($node->safe_psql('d', "SELECT (SELECT count(*) FROM pg_constraint WHERE conname LIKE 'moved_bound%') + (SELECT count(*) FROM pg_class WHERE relname ~ '^(moved|renamed)_partitioned')"), '0', '... and nothing is left');
		$node->safe_psql('d', "DROP TABLE $table");
	}
}

# Cancelled in the moment of the exchange: it is seen that it came too late.
$node->safe_psql('d', 'CREATE TABLE s.moment (id integer, at timestamptz NOT NULL)');
($session, $pid) = begin_held($node, 2, "CALL concertmaster.convert_to_partitioned('s.moment', 'at', '1 month')");
ok($pid, 'held before the exchange');
$node->safe_psql('d', "SELECT pg_terminate_backend($pid)");
eval { $session->quit };
my $swapping = $node->background_psql('d', on_error_stop => 0);
$swapping->query("BEGIN; UPDATE concertmaster.conversion SET state = 'swapped', swapped_at = now() WHERE relid = 's.moment'::regclass");
my $cancelling = $node->background_psql('d', on_error_stop => 0);
$cancelling->query_until(qr/begun/, "\\echo begun\nCALL concertmaster.cancel_conversion('s.moment');\n");
poll_sql($node, 'd', "SELECT wait_event_type FROM pg_stat_activity WHERE query LIKE 'CALL concertmaster.cancel_conversion%moment%' AND pid <> pg_backend_pid()", 'Lock', 'the call waits');
$swapping->query('COMMIT');
$swapping->quit;
eval { $cancelling->quit };
is($node->safe_psql('d', "SELECT state FROM concertmaster.conversion WHERE relid = 's.moment'::regclass"), 'swapped', 'a call that comes too late changes nothing');

$node->stop;
done_testing();

# A table with all sorts of things on it; rows of the last months.
sub make_table
{
	my ($name) = @_;
	$node->safe_psql('d', qq{
		CREATE TABLE s.$name (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, gone integer, form integer NOT NULL,
			note text, at timestamptz NOT NULL DEFAULT now());
		ALTER TABLE s.$name DROP COLUMN gone;
		CREATE INDEX ${name}_form ON s.$name (form, at);
		CREATE TABLE s.${name}_child (${name}_id integer REFERENCES s.$name);
		CREATE FUNCTION s.${name}_stamp() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN NEW.note := NEW.note || '.'; RETURN NEW; END \$\$;
		CREATE TRIGGER stamp BEFORE INSERT ON s.$name FOR EACH ROW EXECUTE FUNCTION s.${name}_stamp();
		INSERT INTO s.$name (form, note, at) SELECT g % 10, 'n' || g, now() - g * interval '1 hour' FROM generate_series(1, 2000) g;});
	return if $name ne 't';
	$node->safe_psql('d', q{
		CREATE VIEW s.totals AS SELECT form, count(*) AS n FROM s.t GROUP BY form;
		CREATE MATERIALIZED VIEW s.days AS SELECT form, (at AT TIME ZONE 'UTC')::date AS day, count(*) AS n FROM s.t GROUP BY 1, 2;
		CREATE UNIQUE INDEX ON s.days (form, day);
		SELECT concertmaster.manage_matview('s.days', NULL)});
	$node->safe_psql('d', "CALL concertmaster.run_job('refresh s.days')");
	is($node->safe_psql('d', 'SELECT mode FROM concertmaster.matviews'), 'incremental', 'a view of it is incremental');
	return;
}

# All that is on a table, as text.
sub definition
{
	my ($name) = @_;
	return $node->safe_psql('d', qq{
		SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 's.$name'::regclass
		UNION ALL SELECT conname || pg_get_constraintdef(oid) FROM pg_constraint WHERE 's.$name'::regclass IN (conrelid, confrelid)
		UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 's.$name'::regclass AND NOT tgisinternal
		UNION ALL SELECT relkind::text FROM pg_class WHERE relnamespace = 's'::regnamespace AND relname LIKE '$name%' ORDER BY 1});
}
