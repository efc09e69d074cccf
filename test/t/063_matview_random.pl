# Random writes and DDL in several sessions, and after each refresh the views
# must hold what their queries say.
#
# The steps follow from a seed, which is printed; CONCERTMASTER_SEED=n repeats
# a run, CONCERTMASTER_STEPS=n makes it longer (make test-soak).  Writers keep
# to rows of their own, so that none waits for another; DDL comes when no
# transaction is open.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;

my $steps = $ENV{CONCERTMASTER_STEPS} || 1000;
my $seed = $ENV{CONCERTMASTER_SEED} || int(rand(1_000_000_000));
my $WRITERS = 3;
my @MONTHS = map { sprintf('2026-%02d-01', $_) } 1 .. 5;
my @VIEWS = qw(by_day by_form by_month named distinct_labels recent unlike);

note "seed $seed, $steps steps: CONCERTMASTER_SEED=$seed CONCERTMASTER_STEPS=$steps";
srand($seed);

my $node = new_node('main', database => 'd',
	conf => "max_prepared_transactions = 10\ntimezone = 'UTC'\nconcertmaster.enabled = off\n");

# With every other seed the table has so many partitions that they have triggers of their own.
my $many = $seed % 2 ? 70 : 0;

$node->safe_psql('d', q{
	CREATE TABLE dim (id integer PRIMARY KEY, name text, remark text);
	INSERT INTO dim SELECT n, 'form ' || n % 4 FROM generate_series(1, 6) n;
	CREATE TABLE fact (id bigint NOT NULL, form integer, at timestamptz NOT NULL, n integer, label text, remark text,
		PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
	CREATE TABLE fact_1 PARTITION OF fact FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
	CREATE TABLE fact_2 PARTITION OF fact FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
	CREATE TABLE fact_3 PARTITION OF fact FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');
	-- another order of columns, and a dropped one
	CREATE TABLE fact_4 (label text, gone text, at timestamptz NOT NULL, remark text, n integer, id bigint NOT NULL, form integer);
	ALTER TABLE fact_4 DROP COLUMN gone;
	ALTER TABLE fact ATTACH PARTITION fact_4 FOR VALUES FROM ('2026-04-01') TO ('2026-05-01');
	INSERT INTO fact SELECT g, g % 7, '2026-01-01'::timestamptz + g * interval '37 minutes', g % 11, 'label ' || g % 5
	  FROM generate_series(1, 4000) g;
});
$node->safe_psql('d', "CREATE TABLE old_$_ PARTITION OF fact FOR VALUES FROM (date '2025-01-01' + $_) TO (date '2025-01-02' + $_)")
  for 1 .. $many;
$node->safe_psql('d', q{
	CREATE MATERIALIZED VIEW by_day AS
	SELECT f.form, d.name, (f.at AT TIME ZONE 'UTC')::date AS day, count(*) AS rows, sum(f.n) AS n, avg(f.n) AS mean
	  FROM fact f JOIN dim d ON d.id = f.form GROUP BY f.form, d.name, (f.at AT TIME ZONE 'UTC')::date;
	CREATE UNIQUE INDEX ON by_day (form, name, day);
	CREATE MATERIALIZED VIEW by_form AS
	SELECT form, count(*) AS rows, max(at) AS last, array_agg(n ORDER BY n) FILTER (WHERE n > 8) AS high FROM fact GROUP BY form;
	CREATE UNIQUE INDEX ON by_form (form);
	CREATE MATERIALIZED VIEW by_month AS
	SELECT date_trunc('month', f.at, 'Europe/Berlin') AS month, d.name, count(*) AS rows, count(d.id) AS known
	  FROM fact f LEFT JOIN dim d ON d.id = f.form GROUP BY 1, 2;
	CREATE UNIQUE INDEX ON by_month (month, name);
	CREATE MATERIALIZED VIEW named AS
	SELECT d.id, d.name, count(f.id) AS rows FROM dim d LEFT JOIN fact f ON f.form = d.id GROUP BY d.id, d.name;
	CREATE UNIQUE INDEX ON named (id);
	CREATE MATERIALIZED VIEW distinct_labels AS
	SELECT date_bin('6 hours', at, '2026-01-01') AS bin, count(DISTINCT label) AS labels FROM fact WHERE n <> 3
	 GROUP BY 1 HAVING count(*) > 5;
	CREATE UNIQUE INDEX ON distinct_labels (bin);
	CREATE MATERIALIZED VIEW recent AS
	SELECT form, date_trunc('day', at) AS day, count(*) AS rows FROM fact
	 WHERE at >= date_trunc('day', now()) - (now() - '2026-02-10') GROUP BY 1, 2;
	CREATE UNIQUE INDEX ON recent (form, day);
	CREATE MATERIALIZED VIEW unlike AS
	SELECT lower(label) AS label, form, count(*) AS rows FROM fact GROUP BY 1, 2;
	CREATE UNIQUE INDEX ON unlike (label, form);
});
for my $view (@VIEWS)
{
	$node->safe_psql('d', "SELECT concertmaster.manage_matview('$view', NULL)");
	$node->safe_psql('d', "CALL concertmaster.run_job('refresh public.$view')");
	is($node->safe_psql('d', "SELECT mode FROM concertmaster.matviews WHERE view_name = '$view'"),
		'incremental', "$view is incremental");
}

# --- sessions

my $main = $node->background_psql('d');
my @writers = map { { number => $_, session => $node->background_psql('d'), open => 0, savepoints => 0 } } 0 .. $WRITERS - 1;
my @prepared;
my $next_id = 10_000;
my $next_gid = 1;
my @history;
my %modes;

sub pick { return $_[ int(rand(@_)) ]; }

sub run
{
	my ($session, $sql) = @_;
	push @history, $sql;
	shift @history if @history > 200;
	return $session->query_safe($sql);
}

# A time in the months that have a partition; often near those of other steps.
sub random_time
{
	return sprintf("'2026-%02d-%02d %02d:%02d+00'", 1 + int(rand(4)), 1 + int(rand(pick(3, 28))), int(rand(24)), int(rand(60)));
}

sub own_rows
{
	my ($writer) = @_;
	return "id % $WRITERS = $writer->{number} AND form " . pick('= ' . int(rand(7)), 'IS NULL', '> 4')
	  . " AND id % 37 = " . int(rand(37));
}

sub values_of
{
	my ($writer) = @_;
	my $id = $WRITERS * $next_id++ + $writer->{number};
	return "($id, " . pick('NULL', int(rand(8)), int(rand(8)), int(rand(8))) . ', ' . random_time() . ', '
	  . pick('NULL', int(rand(12))) . ", '" . pick('label', 'Label') . ' ' . int(rand(5)) . "')";
}

my @writes = (
	sub { 'INSERT INTO fact VALUES ' . join(', ', map { values_of($_[0]) } 1 .. pick(1, 1, 3, 30)) },
	sub { 'INSERT INTO fact VALUES ' . values_of($_[0]) . ' ON CONFLICT (id, at) DO UPDATE SET n = excluded.n' },
	sub { "INSERT INTO fact SELECT id, form, at, 1, label FROM fact WHERE " . own_rows($_[0]) . ' ON CONFLICT (id, at) DO UPDATE SET n = excluded.n + fact.n' },
	sub { 'UPDATE fact SET n = n + 1 WHERE ' . own_rows($_[0]) },
	sub { "UPDATE fact SET remark = 'seen' WHERE " . own_rows($_[0]) },
	sub { 'UPDATE fact SET form = ' . pick('NULL', int(rand(8))) . ' WHERE ' . own_rows($_[0]) },
	sub { 'UPDATE fact SET at = ' . random_time() . ' WHERE ' . own_rows($_[0]) },
	sub { 'DELETE FROM fact WHERE ' . own_rows($_[0]) },
	sub { 'DELETE FROM fact_' . pick(1 .. 4) . ' WHERE ' . own_rows($_[0]) },
	sub { 'UPDATE fact_' . pick(1 .. 4) . ' SET n = 5 WHERE ' . own_rows($_[0]) },
	sub { "SET session_replication_role = replica; UPDATE fact SET n = 7 WHERE " . own_rows($_[0]) . '; RESET session_replication_role' },
	sub { 'MERGE INTO fact USING (VALUES ' . join(', ', map { values_of($_[0]) } 1 .. 3)
		  . ") AS v (id, form, at, n, label) ON fact.id = v.id AND fact.at = v.at::timestamptz WHEN NOT MATCHED THEN INSERT (id, form, at, n, label) VALUES (v.id, v.form::integer, v.at::timestamptz, v.n::integer, v.label)" },
	sub { "DO \$do\$BEGIN BEGIN DELETE FROM fact WHERE " . own_rows($_[0]) . "; RAISE EXCEPTION 'no'; EXCEPTION WHEN raise_exception THEN NULL; END; UPDATE fact SET n = 2 WHERE " . own_rows($_[0]) . '; END$do$' },
);

sub end_transaction
{
	my ($writer, $how) = @_;
	$how //= pick('COMMIT', 'COMMIT', 'COMMIT', 'ROLLBACK', 'PREPARE');
	if ($how eq 'PREPARE' && @prepared < 8)
	{
		my $gid = 'g' . $next_gid++;
		run($writer->{session}, "PREPARE TRANSACTION '$gid'");
		push @prepared, { gid => $gid, writer => $writer->{number} };
	}
	else
	{
		run($writer->{session}, $how eq 'ROLLBACK' ? 'ROLLBACK' : 'COMMIT');
	}
	@$writer{qw(open savepoints)} = (0, 0);
}

sub write_step
{
	my $writer = pick(@writers);
	my $what = rand();

	# A transaction that is prepared keeps its rows: its writer must not touch them.
	return rand() < 0.3 ? end_prepared() : ()
	  if grep { $_->{writer} == $writer->{number} } @prepared;
	if (!$writer->{open} && $what < 0.5)
	{
		run($writer->{session}, 'BEGIN' . pick('', '', ' ISOLATION LEVEL REPEATABLE READ'));
		$writer->{open} = 1;
	}
	elsif ($writer->{open} && $what < 0.2)
	{
		return end_transaction($writer);
	}
	elsif ($writer->{open} && $what < 0.35)
	{
		run($writer->{session}, 'SAVEPOINT s' . ++$writer->{savepoints});
	}
	elsif ($writer->{savepoints} && $what < 0.5)
	{
		my $to = 1 + int(rand($writer->{savepoints}));
		run($writer->{session}, pick('ROLLBACK TO', 'ROLLBACK TO', 'RELEASE') . " s$to");
		$writer->{savepoints} = $to - 1;
		run($writer->{session}, 'SAVEPOINT s' . ++$writer->{savepoints}) if rand() < 0.5;
	}
	run($writer->{session}, pick(@writes)->($writer));
}

sub end_prepared
{
	my $transaction = shift @prepared or return;
	run($main, pick('COMMIT', 'COMMIT', 'ROLLBACK') . " PREPARED '$transaction->{gid}'");
}

sub dim_step
{
	my $id = 1 + int(rand(8));
	run($main, pick("INSERT INTO dim VALUES ($id, 'form " . int(rand(4)) . "') ON CONFLICT (id) DO UPDATE SET name = excluded.name",
		"UPDATE dim SET name = name || 'x' WHERE id = $id", "UPDATE dim SET remark = 'r' WHERE id = $id",
		"UPDATE dim SET name = 'form 1' WHERE id = $id", "DELETE FROM dim WHERE id = $id"));
}

sub close_all
{
	end_transaction($_) for grep { $_->{open} } @writers;
	end_prepared() while @prepared;
}

my @ddl = (
	sub { 'TRUNCATE fact_' . pick(1 .. 4) },
	sub { rand() < 0.2 ? 'TRUNCATE fact' : 'VACUUM FULL fact_' . pick(1 .. 4) },
	sub { my $n = pick(1 .. 4); "ALTER TABLE fact DETACH PARTITION fact_$n; UPDATE fact_$n SET n = 9 WHERE id % 5 = 0; DELETE FROM fact_$n WHERE id % 7 = 1; "
		  . "ALTER TABLE fact ATTACH PARTITION fact_$n FOR VALUES FROM ('$MONTHS[$n - 1]') TO ('$MONTHS[$n]')" },
	sub { my $n = pick(1 .. 3); "DROP TABLE fact_$n; CREATE TABLE fact_$n PARTITION OF fact FOR VALUES FROM ('$MONTHS[$n - 1]') TO ('$MONTHS[$n]')" },
	# One that is new, of many, has none.
	sub { my $n = pick(1 .. 4); "ALTER TABLE fact_$n DISABLE TRIGGER ALL; UPDATE fact_$n SET n = 4 WHERE id % 11 = 3; "
		  . "DO \$\$DECLARE name name; BEGIN FOR name IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'fact_$n'::regclass AND tgname ~ '^concertmaster_log_' "
		  . "LOOP EXECUTE format('ALTER TABLE fact_$n ENABLE ALWAYS TRIGGER %I', name); END LOOP; END\$\$" },
	sub { "SET client_min_messages = warning; CALL concertmaster.run_job('refresh public." . pick(@VIEWS) . "'); RESET client_min_messages" },
	sub { 'REFRESH MATERIALIZED VIEW ' . pick('', 'CONCURRENTLY ') . pick(@VIEWS) },
	sub { "SET timezone = 'Asia/Tokyo'; REFRESH MATERIALIZED VIEW CONCURRENTLY recent; RESET timezone" },
	sub { 'CLUSTER fact_1 USING fact_1_pkey' },
);

sub ddl_step
{
	close_all();
	run($main, pick(@ddl)->());
}

my $failed = 0;

# Refresh some views; each must then be what its query says.
sub refresh_step
{
	my @some = rand() < 0.3 ? @VIEWS : (pick(@VIEWS));

	for my $view (@some)
	{
		my $mode = run($main, "SELECT mode FROM concertmaster.refresh('$view')");
		my $differ = run($main, "SELECT count(*) FROM concertmaster.verify_matview('$view')");

		$modes{"$view $mode"}++;
		next if $differ eq '0';
		$failed++;
		fail("$view as its query says, seed $seed");
		diag(run($main, "SELECT * FROM concertmaster.verify_matview('$view') LIMIT 20"));
		diag("last steps, the last one last:\n" . join("\n", @history));
		return;
	}
}

for my $step (1 .. $steps)
{
	my $what = rand();

	if ($what < 0.70) { write_step() }
	elsif ($what < 0.76) { dim_step() }
	elsif ($what < 0.79) { ddl_step() }
	else { refresh_step() }
	last if $failed;
}
close_all();
refresh_step() unless $failed;

# The helper checks the helper: plain SQL finds no difference either.
for my $view ($failed ? () : grep { $_ ne 'recent' } @VIEWS)
{
	$node->safe_psql('d', "SELECT concertmaster.refresh('$view')");
	is($node->safe_psql('d', "SELECT format('SELECT count(*) FROM ((TABLE $view EXCEPT ALL (%1\$s)) UNION ALL ((%1\$s) EXCEPT ALL TABLE $view)) x',
			rtrim(pg_get_viewdef('$view'), ';')) \\gexec"), '0', "$view: EXCEPT ALL both ways");
}
ok(!$failed, "$steps steps, every refreshed view as its query says");
cmp_ok($modes{"$_ incremental"} // 0, '>', 0, "$_ was refreshed incrementally") for @VIEWS;
note join(', ', map { "$_: $modes{$_}" } sort keys %modes);
$_->{session}->quit for @writers;
$main->quit;
done_testing();
