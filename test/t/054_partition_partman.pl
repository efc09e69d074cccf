# Sets of pg_partman are taken over with their settings, run on without a gap,
# and can be given back.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;

my $share = `pg_config --sharedir`;
chomp $share;
plan skip_all => 'pg_partman is not installed' unless -e "$share/extension/pg_partman.control";

my $node = new_node('main', database => 'd', conf => "timezone = 'Europe/Berlin'\n");
psql_error($node, 'd', 'SELECT * FROM concertmaster.take_over_partman()',
	qr/ERROR:  extension "pg_partman" is not installed in database "d"\nHINT:  .*create_partition_set/, 'without pg_partman');
$node->safe_psql('d', 'CREATE SCHEMA parts; CREATE SCHEMA s; CREATE SCHEMA attic; CREATE EXTENSION pg_partman SCHEMA parts');
my $four = $node->safe_psql('d', q{SELECT extversion LIKE '4.%' FROM pg_extension WHERE extname = 'pg_partman'}) eq 't';
note('pg_partman ' . $node->safe_psql('d', q{SELECT extversion FROM pg_extension WHERE extname = 'pg_partman'}));

# Have pg_partman make a set of a table with this key.
sub partman
{
	my ($table, $key, $interval, %more) = @_;
	my ($name) = split / /, $key;
	my $by = delete $more{by} // 'RANGE';
	my $type = $four ? 'native' : lc $by;
	my $rest = join '', map { ", $_ := '$more{$_}'" } sort keys %more;

	$node->safe_psql('d', qq{
		SET client_min_messages = error;
		CREATE TABLE s.$table (nr bigint, $key NOT NULL) PARTITION BY $by ($name);
		SELECT parts.create_parent(p_parent_table := 's.$table', p_control := '$name', p_type := '$type', p_interval := '$interval'$rest)});
	return;
}

sub config
{
	my ($table, $set) = @_;
	$node->safe_psql('d', "UPDATE parts.part_config SET $set WHERE parent_table = 's.$table'");
	return;
}

# Months, with rows of a year in and beside them, of which three months are kept.
my %word = $four ? (month => 'monthly', week => 'weekly', day => 'daily', hour => 'hourly') :
  (month => '1 month', week => '1 week', day => '1 day', hour => '1 hour');
partman('monthly', 'at timestamptz', $word{month}, p_start_partition => $node->safe_psql('d', q{SELECT (now() - interval '5 months')::date}));
config('monthly', q{retention = '3 months', retention_keep_table = false, premake = 6, constraint_cols = '{nr}'});
partman('kept', 'at timestamptz', $word{month}, p_start_partition => $node->safe_psql('d', q{SELECT (now() - interval '5 months')::date}));
config('kept', q{retention = '3 months', retention_keep_table = false, retention_schema = 'attic'});
partman('weekly', 'at timestamptz', $word{week});
config('weekly', q{premake = 9});
partman('daily', 'at date', $word{day});
config('daily', q{premake = 7, inherit_privileges = true});
partman('hourly', 'at timestamp', $word{hour});
config('hourly', q{premake = 30});
partman('epochs', 'at bigint', $word{month}, p_epoch => 'seconds');
config('epochs', q{premake = 6});
partman('millis', 'at bigint', $word{day}, p_epoch => 'milliseconds');
config('millis', q{premake = 6});
partman('ids', 'id bigint', '1000');
config('ids', q{premake = 6, retention = '2000'});
partman('odd_ids', 'id bigint', '1000');
config('odd_ids', q{partition_interval = '700'});
partman('uuids', 'id uuid', '1 month', p_time_encoder => 'parts.uuid7_time_encoder', p_time_decoder => 'parts.uuid7_time_decoder') unless $four;
config('uuids', q{premake = 6}) unless $four;
my @sets = (qw(monthly kept weekly daily hourly epochs millis ids odd_ids), $four ? () : 'uuids');

# What cannot be taken over, and what somebody else wrote into the settings.
for my $bad (qw(quoted never minus undone nowhere by_template))
{
	partman($bad, 'at timestamptz', $word{month});
}
config('quoted', q{partition_interval = $$1 month'); DROP TABLE s.ids; --$$});
config('never', q{retention = '0'});
config('minus', q{retention = '-1 month'});
config('undone', q{undo_in_progress = true});
config('nowhere', q{retention_schema = $$no"such'schema$$, retention = '1 year'});
$node->safe_psql('d', q{SELECT format('CREATE UNIQUE INDEX nr_once ON %s (nr)', template_table) FROM parts.part_config WHERE parent_table = 's.by_template' \gexec
	SELECT format('CREATE INDEX nr_find ON %s (nr)', template_table) FROM parts.part_config WHERE parent_table = 's.weekly' \gexec});
$node->safe_psql('d', q{
	CREATE TABLE s."It's" (at timestamptz NOT NULL) PARTITION BY RANGE (at);
	CREATE TABLE s.texts (at text NOT NULL) PARTITION BY RANGE (at);
	INSERT INTO parts.part_config (parent_table, control, partition_type, partition_interval)
	SELECT t, 'at', (SELECT min(partition_type) FROM parts.part_config), '1 month'
	  FROM unnest(ARRAY[$$s.It's$$, 's.texts', $$s.x'); DROP TABLE s.ids; --$$, 'no dot', repeat('s', 70) || '.t']) t});
partman('divided', 'at timestamptz', $four ? 'yearly' : '1 year');
$node->safe_psql('d', 'SET client_min_messages = error; ' . ($four ?
	  q{SELECT parts.create_sub_parent('s.divided', 'at', 'native', 'monthly', p_native_check := 'yes')} :
	  q{SELECT parts.create_sub_parent(p_top_parent := 's.divided', p_control := 'at', p_interval := '1 month', p_declarative_check := 'yes')}));
if ($four)
{
	$node->safe_psql('d', q{CREATE TABLE s.triggers (at timestamptz NOT NULL);
		SELECT parts.create_parent('s.triggers', 'at', 'partman', 'monthly')});
}
else
{
	partman('listed', 'id bigint', '1', by => 'LIST');
}

# Rows, some where there is no partition.
my $times = q{generate_series(now() - interval '7 months', now() + interval '5 days', interval '1 day')};
$node->safe_psql('d', qq{
	INSERT INTO s.monthly SELECT 1, t FROM $times t; INSERT INTO s.monthly VALUES (2, now() + interval '900 days');
	INSERT INTO s.kept SELECT 1, t FROM $times t;
	INSERT INTO s.weekly SELECT 1, t FROM $times t;
	INSERT INTO s.daily SELECT 1, t FROM $times t;
	INSERT INTO s.hourly SELECT 1, t FROM generate_series(now() - interval '2 days', now() + interval '1 day', interval '10 minutes') t;
	INSERT INTO s.epochs SELECT 1, extract(epoch FROM t) FROM $times t;
	INSERT INTO s.millis SELECT 1, extract(epoch FROM t) * 1000 FROM $times t;
	INSERT INTO s.ids SELECT i, i FROM generate_series(0, 4500, 10) i;
	INSERT INTO s.odd_ids SELECT i, i FROM generate_series(0, 4500, 10) i});
$node->safe_psql('d', q{INSERT INTO s.uuids SELECT i, concertmaster.uuid_v7() FROM generate_series(1, 100) i}) unless $four;
my %rows = map { $_ => $node->safe_psql('d', "SELECT count(*) FROM s.$_") } @sets;

# Leaves with their bounds.
sub leaves
{
	my ($table) = @_;
	return $node->safe_psql('d', qq{SELECT c.oid::regclass, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = 's.$table'::regclass ORDER BY 1, 2});
}

# How many lower bounds are no partition's upper bound: one, if there is no gap.
sub beginnings
{
	my ($table) = @_;
	return $node->safe_psql('d', qq{
		WITH b AS (SELECT regexp_match(pg_get_expr(c.relpartbound, c.oid), '^FOR VALUES FROM \\((.*)\\) TO \\((.*)\\)\$') AS b
		             FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 's.$table'::regclass)
		SELECT count(*) FROM b WHERE b IS NOT NULL AND b[1] NOT IN (SELECT b[2] FROM b WHERE b IS NOT NULL)});
}
my %leaves = map { $_ => leaves($_) } @sets;
my $before = $node->safe_psql('d', q{SELECT md5(string_agg(p::text, ',' ORDER BY parent_table)) FROM parts.part_config p});

# Who may.
$node->safe_psql('d', q{
	CREATE ROLE keeper; GRANT USAGE, CREATE ON SCHEMA s TO keeper;
	CREATE TABLE s.plain (at date NOT NULL) PARTITION BY RANGE (at); ALTER TABLE s.plain OWNER TO keeper});
psql_error($node, 'd', 'SET ROLE keeper; SELECT * FROM concertmaster.take_over_partman()',
	qr/ERROR:  permission denied for the tables of extension "pg_partman"\nDETAIL:  .*\nHINT:  GRANT USAGE ON SCHEMA parts TO keeper; GRANT SELECT, UPDATE ON parts\.part_config/,
	'a role without privileges');
$node->safe_psql('d', q{GRANT USAGE ON SCHEMA parts TO keeper; GRANT SELECT ON parts.part_config, parts.part_config_sub TO keeper});
psql_error($node, 'd', 'SET ROLE keeper; SELECT * FROM concertmaster.take_over_partman()',
	qr/ERROR:  permission denied for the tables/, 'a role that can only read');
psql_error($node, 'd', q{SET ROLE keeper; SELECT * FROM concertmaster.take_over_partman('s.ids')},
	qr/ERROR:  must be owner of table ids/, 'another role\'s table');
psql_error($node, 'd', q{SELECT * FROM concertmaster.take_over_partman('s.plain')},
	qr/ERROR:  table "plain" is not a set of pg_partman\nHINT:  .*create_partition_set/, 'a table that pg_partman does not know');
my $maintenance = $node->background_psql('d');
$maintenance->query_safe('BEGIN; SELECT parts.run_maintenance($$s.ids$$)');
psql_error($node, 'd', 'SELECT * FROM concertmaster.take_over_partman()',
	qr/ERROR:  the maintenance of pg_partman is running\nDETAIL:  .*\nHINT:  Try again/, 'while maintenance runs');
$maintenance->query_safe('ROLLBACK');
$maintenance->quit;
is($node->safe_psql('d', q{SELECT md5(string_agg(p::text, ',' ORDER BY parent_table)) FROM parts.part_config p}), $before, 'nothing was done');
is($node->safe_psql('d', q{SELECT count(*) FROM concertmaster.partition_set}), '0', 'no set was made');

# A session in another zone takes everything over.
$node->safe_psql('d', q{
	SET timezone = 'Asia/Tokyo'; SET client_min_messages = error;
	CREATE TABLE outcome AS SELECT * FROM concertmaster.take_over_partman()});
sub outcome
{
	my ($table, $column) = @_;
	return $node->safe_psql('d', "SELECT $column FROM outcome WHERE table_name = 's.$table'");
}
my %settings = (
	monthly => 'period 1 mon, 6 ahead, time zone Europe/Berlin, retention 3 mons: drop',
	kept => 'period 1 mon, 4 ahead, time zone Europe/Berlin, retention 3 mons: detach, move to schema attic',
	weekly => 'period 7 days, 9 ahead, time zone Europe/Berlin, no retention',
	daily => 'period 1 day, 7 ahead, time zone Europe/Berlin, no retention',
	hourly => 'period 01:00:00, 30 ahead, time zone Europe/Berlin, no retention',
	epochs => 'period 1 mon, 6 ahead, seconds since 1970, time zone Europe/Berlin, no retention',
	millis => 'period 1 day, 6 ahead, milliseconds since 1970, time zone Europe/Berlin, no retention',
	ids => 'width 1000, 6 ahead, retention 2000: detach',
	odd_ids => 'width 700, 4 ahead, no retention',
	uuids => 'period 1 mon, 6 ahead, time zone Europe/Berlin, no retention');
for my $set (@sets)
{
	is(outcome($set, 'action'), 'taken over', "$set is taken over") or diag(outcome($set, 'detail'));
	is(outcome($set, 'settings'), $settings{$set}, 'with its settings');
}
my %detail = (
	monthly => qr/^old partitions get no constraints on columns \{nr\} any more$/,
	weekly => qr/^(the partition from .*; )?new partitions are without indexes of the template parts\.\w+: nr_find$/,
	daily => qr/^new partitions take their privileges from the newest one, not from the table$/,
	odd_ids => qr/^the partition from \d+000 on is narrower than the others/);
like(outcome($_, 'detail'), $detail{$_}, "what is lost of $_") for sort keys %detail;
my %reason = (
	quoted => qr/^invalid input syntax for type interval: "1 month'\); DROP TABLE s\.ids; --"$/,
	never => qr/^its retention is 0/,
	minus => qr/^invalid retention for a partition set: It must be positive/,
	undone => qr/^its partitioning is being undone/,
	nowhere => qr/^schema "no"such'schema" does not exist$/,
	by_template => qr/^new partitions would be without unique indexes that the template parts\.\w+ gives them: nr_once; if /,
	divided => qr/^its partitions have partitions$/,
	texts => qr/^cannot manage the partitions of table "texts": .*type text/,
	$four ? (triggers => qr/^its partitions hang on triggers \(partition_type partman\)/) :
	  (listed => qr/^cannot manage the partitions of table "listed": It is partitioned by list\.$/));
for my $bad (sort keys %reason)
{
	is(outcome($bad, 'action'), 'skipped', "$bad is skipped");
	like(outcome($bad, 'detail'), $reason{$bad}, 'and why');
	is($node->safe_psql('d', "SELECT automatic_maintenance FROM parts.part_config WHERE parent_table = 's.$bad'"), 'on', 'pg_partman keeps it');
}
is($node->safe_psql('d', q{SELECT count(*) FROM outcome WHERE detail = 'there is no such table' AND action = 'skipped'}), '3', 'tables that are not there');
is($node->safe_psql('d', q{SELECT action, detail FROM outcome WHERE table_name = $$s."It's"$$}), 'taken over|', 'an odd name');
is($node->safe_psql('d', q{SELECT count(*) > 4 AND bool_and(detail = 'it is a partition itself') FROM outcome WHERE table_name LIKE 's.divided\_%'}),
	't', 'sets below a set');
is($node->safe_psql('d', 'SELECT count(*) FROM parts.part_config p JOIN outcome o ON o.table_name = p.parent_table WHERE (o.action = $$taken over$$) <> (automatic_maintenance = $$off$$)'),
	'0', 'pg_partman keeps what was skipped, and nothing else');

# Once more.
is($node->safe_psql('d', q{SELECT action, detail FROM concertmaster.take_over_partman('s.ids')}),
	'skipped|it is a partition set of concertmaster already', 'a second time');
config('ids', q{automatic_maintenance = 'on'});
is($node->safe_psql('d', q{SELECT action, settings, detail FROM concertmaster.take_over_partman('s.ids')}),
	'taken over||was a partition set already: its settings stay as they are', 'pg_partman is switched off again');

# By a role that may, but not for every row.
$node->safe_psql('d', q{
	GRANT UPDATE (automatic_maintenance) ON parts.part_config TO keeper;
	INSERT INTO parts.part_config (parent_table, control, partition_type, partition_interval)
	SELECT 's.plain', 'at', (SELECT min(partition_type) FROM parts.part_config), '1 month';
	CREATE POLICY look ON parts.part_config FOR SELECT USING (true);
	ALTER TABLE parts.part_config ENABLE ROW LEVEL SECURITY});
my $own = q{SET ROLE keeper; SELECT table_name, action, detail FROM concertmaster.take_over_partman() WHERE detail IS DISTINCT FROM 'there is no such table'};
is($node->safe_psql('d', $own), 's.plain|skipped|its row of part_config could not be updated', 'row security');
$node->safe_psql('d', 'ALTER TABLE parts.part_config DISABLE ROW LEVEL SECURITY; DROP POLICY look ON parts.part_config');
is($node->safe_psql('d', $own), 's.plain|taken over|', 'a role takes over its own');

# Roll: everything goes on from where it was.
psql_ok($node, 'd', 'CALL concertmaster.roll_partitions()', 'roll_partitions()');
psql_ok($node, 'd', 'CALL concertmaster.roll_partitions()', 'once more');
for my $set (@sets)
{
	is(beginnings($set), '1', "$set has no gap");
	my %now = map { $_ => 1 } split /\n/, leaves($set);
	my @gone = grep { !$now{$_} } split /\n/, $leaves{$set};
	my @new = grep { my $l = $_; index("\n$leaves{$set}\n", "\n$l\n") < 0 } sort keys %now;
	if ($set eq 'monthly' || $set eq 'kept') { cmp_ok(scalar @gone, '>=', 1, 'old partitions retire') }
	elsif ($set eq 'ids') { is(scalar @gone, 2, 'old partitions retire') }
	else { is("@gone", '', 'its partitions are as they were') }
	cmp_ok(scalar @new, '>=', 1, 'there are new ones') unless $set eq 'kept';
	is(join(' ', grep { !/^s\.${set}(_\d+)+\|/ } @new), '', 'with names of ours');
	is($node->safe_psql('d', "SELECT count(*) FROM s.$set"), $rows{$set}, 'all rows are there') unless @gone;
	is($node->safe_psql('d', qq{SELECT count(*) FROM s.$set t JOIN pg_class c ON c.oid = t.tableoid WHERE pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT'}),
		'0', 'none in the default partition') unless $set eq 'monthly' || $set eq 'kept';
}
is($node->safe_psql('d', q{SELECT count(*) FROM s.monthly t JOIN pg_class c ON c.oid = t.tableoid
	WHERE pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT' AND at > now() - interval '2 months'}), '1', 'what is too far ahead stays');
is($node->safe_psql('d', q{SELECT count(*) FROM s.monthly WHERE nr = 1 AND at > now() - interval '3 months'}),
	$node->safe_psql('d', qq{SELECT count(*) FROM $times t WHERE t > now() - interval '3 months'}), 'what is young enough is kept');
is($node->safe_psql('d', q{SELECT count(*) FROM pg_class WHERE relname LIKE 'monthly\_p%' AND NOT relispartition}), '0', 'dropped ones are gone');
cmp_ok($node->safe_psql('d', q{SELECT count(*) FROM pg_class WHERE relnamespace = 'attic'::regnamespace AND relname LIKE 'kept\_p%'}), '>=', 1, 'kept ones are moved');
is($node->safe_psql('d', q{SELECT count(*) FROM pg_class WHERE relname IN ('ids_p0', 'ids_p1000') AND relkind = 'r' AND NOT relispartition}), '2', 'detached ones stay');

# pg_partman leaves them alone.
my %after = map { $_ => leaves($_) } @sets;
config('quoted', q{partition_interval = '1 month'});
$node->safe_psql('d', q{DELETE FROM parts.part_config WHERE parent_table IN ('s.texts', $$s.x'); DROP TABLE s.ids; --$$, 'no dot', repeat('s', 70) || '.t', 's.never', 's.minus', 's.nowhere')});
psql_ok($node, 'd', 'SET client_min_messages = error; SELECT parts.run_maintenance()', 'run_maintenance()');
psql_ok($node, 'd', 'SET client_min_messages = error; CALL parts.run_maintenance_proc()', 'run_maintenance_proc()');
is(leaves($_), $after{$_}, "pg_partman leaves $_ alone") for @sets;

# And back.
$node->safe_psql('d', "SELECT concertmaster.forget_partition_set('s.$_')") for @sets;
is(leaves($_), $after{$_}, "forgetting leaves $_ as it is") for @sets;
is($node->safe_psql('d', q{SELECT count(*) FROM concertmaster.job WHERE name ~ '^roll s\.(monthly|ids)$'}), '0', 'the jobs are gone');
if ($four)
{
	# Version 4 goes by names.
	$node->safe_psql('d', qq{SELECT format('ALTER TABLE %s RENAME TO %I', c.oid::regclass, regexp_replace(c.relname, '^${_}_', '${_}_p'))
		FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 's.$_'::regclass AND c.relname ~ '^${_}_\\d' \\gexec})
	  for qw(monthly daily ids epochs);
}
$node->safe_psql('d', "UPDATE parts.part_config SET automatic_maintenance = 'on', premake = premake + 2, infinite_time_partitions = true WHERE parent_table = 's.$_'")
  for qw(monthly daily ids epochs);
$node->safe_psql('d', q{DELETE FROM s.monthly WHERE at > now() + interval '1 year'; INSERT INTO s.ids VALUES (5500, 5500)});
psql_ok($node, 'd', 'SET client_min_messages = error; SELECT parts.run_maintenance()', 'pg_partman goes on');
for my $set (qw(monthly daily ids epochs))
{
	my $made = grep { index("\n$after{$set}\n", "\n$_\n") < 0 } split /\n/, leaves($set);

	cmp_ok($made, '>=', 1, "pg_partman makes partitions of $set again");
	is(beginnings($set), '1', 'without a gap');
}

$node->stop;
done_testing();
