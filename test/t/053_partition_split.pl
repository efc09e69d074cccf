# Many rows in a default partition, in several gaps and beyond the horizon, are
# moved into their own partitions while others read and write: nobody misses a
# row, none is lost or doubled, and a crash at any point costs nothing but the
# work.

use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use ConcertmasterTest;

my $rows = 200_000;
my $node = new_node('main', database => 'd',
	conf => "restart_after_crash = on\nconcertmaster.retry_delay = 1s\nautovacuum_naptime = 1s\n");

# Six alternating months that are over, from k and d; a month that has not come yet in one of eight rows.
my $month = "date_trunc('month', now())";
my $when = sub {
	my ($k, $d) = @_;
	return "CASE WHEN $k < 6 THEN $month - (1 + 2 * $k) * interval '1 month' + $d * interval '1 day'
		WHEN $k = 6 THEN $month + interval '3 years' ELSE $month + $d * interval '1 day' END";
};

$node->safe_psql('d', qq{
	CREATE SCHEMA s;
	CREATE SEQUENCE s.ids START 1000001;
	CREATE TABLE s.t (id bigint, at timestamptz, n integer NOT NULL DEFAULT 0, v text,
		twice integer GENERATED ALWAYS AS (n * 2) STORED, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
	CREATE INDEX ON s.t (at);
	CREATE TABLE s.rest PARTITION OF s.t DEFAULT WITH (fillfactor = 80);
	COMMENT ON TABLE s.rest IS 'of ours';
	INSERT INTO s.t (id, at, v) SELECT i, @{[$when->('(i % 7)', '(i % 27)')]}, 'row ' || i FROM generate_series(1, $rows) i;
	CREATE TABLE s.expected AS SELECT id, at, n, v FROM s.t;
	ALTER TABLE s.expected ADD PRIMARY KEY (id);
	SELECT count(*) FROM concertmaster.job;
});

# pgbench scripts; what they do to the table they do to expected in the same transaction
my %script = (
	insert => qq{\\set k random(0, 7)
\\set d random(0, 26)
BEGIN;
SELECT nextval('s.ids') AS id \\gset
INSERT INTO s.t (id, at, v) VALUES (:id, @{[$when->(':k', ':d')]}, 'new');
INSERT INTO s.expected SELECT id, at, n, v FROM s.t WHERE id = :id;
END;
},
	update => qq{\\set k random(0, 7)
\\set d random(0, 26)
\\set id random(1, $rows)
BEGIN;
UPDATE s.t SET at = @{[$when->(':k', ':d')]}, n = n + 1 WHERE id = :id;
UPDATE s.expected SET at = @{[$when->(':k', ':d')]}, n = n + 1 WHERE id = :id;
END;
},
	change => qq{\\set id random(1, $rows)
BEGIN;
UPDATE s.t SET v = v || '+' WHERE id = :id;
UPDATE s.expected SET v = v || '+' WHERE id = :id;
END;
},
	delete => qq{BEGIN;
SELECT coalesce(min(id), 0) AS id FROM s.expected WHERE id > 1000000 + random() * 500 \\gset
DELETE FROM s.t WHERE id = :id;
DELETE FROM s.expected WHERE id = :id;
END;
},
	read => qq{SELECT 1 / (CASE WHEN count(*) = $rows AND count(DISTINCT id) = $rows THEN 1 ELSE 0 END) FROM s.t WHERE id <= $rows;
});
for my $name (keys %script)
{
	append_to_file("$ENV{TESTDATADIR}/$name.sql", $script{$name});
}

# A pgbench in the background.
sub start_pgbench
{
	my ($log, $options, @scripts) = @_;
	my ($out, $err) = ('', '');
	my @files = map { ('-f', "$ENV{TESTDATADIR}/$_") } @scripts;
	my $run = IPC::Run::start([ 'pgbench', '-n', '-l', "--log-prefix=$ENV{TESTDATADIR}/$log",
			@{$options}, @files, '-h', $node->host, '-p', $node->port, 'd' ],
		'<', \undef, '>', \$out, '2>', \$err);

	return { run => $run, out => \$out, err => \$err };
}

sub ends_well
{
	my ($bench, $name) = @_;
	my $well = $bench->{run}->finish;

	ok($well && ${ $bench->{err} } !~ /error|abort/i, $name) or diag(${ $bench->{err} }, ${ $bench->{out} });
	return;
}

# The longest transaction that a pgbench logged, in ms, and how many there were.
sub longest
{
	my ($log) = @_;
	my ($longest, $count) = (0, 0);

	for my $line (map { split /\n/, slurp_file($_) } glob("$ENV{TESTDATADIR}/$log.*"))
	{
		my @field = split / /, $line;
		my $took = ($field[2] - ($field[6] // 0)) / 1000;

		$longest = $took if $took > $longest;
		$count++;
	}
	return ($longest, $count);
}

my $differences = q{SELECT count(*) FROM ((SELECT id, at, n, v, n * 2 FROM s.expected EXCEPT ALL SELECT id, at, n, v, twice FROM s.t)
	UNION ALL (SELECT id, at, n, v, twice FROM s.t EXCEPT ALL SELECT id, at, n, v, n * 2 FROM s.expected)) x};
my $remains = q{SELECT count(*) FROM pg_class c WHERE relname LIKE '%concertmaster%' AND relnamespace = 's'::regnamespace AND relkind IN ('r', 'p', 'S')
	OR obj_description(c.oid, 'pg_class') LIKE 'concertmaster:%'};

# 1. while others read and write
my $writers = start_pgbench('writers', [ '-c', 4, '-T', 9, '-R', 600, '-M', 'prepared', '--max-tries=20' ],
	'insert.sql@3', 'update.sql@3', 'change.sql@3', 'delete.sql@1');
my $readers = start_pgbench('readers', [ '-c', 1, '-T', 9, '-R', 4 ], 'read.sql');
poll_sql($node, 'd', 'SELECT count(*) > 50 FROM s.expected WHERE id > 1000000', 't', 'others write');

$node->safe_psql('d', q{SELECT count(*) FROM concertmaster.create_partition_set('s.t', '1 month', ahead => 1)});
my $start = time();
poll_sql($node, 'd', "SELECT count(*) >= 8 FROM pg_inherits WHERE inhparent = 's.t'::regclass", 't', 'the default partition is split');
note(sprintf '%d rows split in %.1f s beside writers', $rows, time() - $start);
ok($writers->{run}->pumpable, 'while they still write');
ends_well($writers, 'no writer failed');
ends_well($readers, 'no reader missed a row or saw one twice');
note(sprintf 'longest of %2$d transactions of writers: %1$.0f ms', longest('writers'));
note(sprintf 'longest of %2$d reads: %1$.0f ms', longest('readers'));

is($node->safe_psql('d', $differences), '0', 'every row is there once, as expected');
is($node->safe_psql('d', q{SELECT count(*) FROM s.rest WHERE at < now()}), '0', 'none that has a partition is in the default partition');
is($node->safe_psql('d', q{SELECT count(*) > 10000 FROM s.rest}), 't', 'those that have none are');
is($node->safe_psql('d', q{SELECT obj_description('s.rest'::regclass, 'pg_class'), reloptions FROM pg_class WHERE oid = 's.rest'::regclass}),
	'of ours|{fillfactor=80}', 'which is as it was');
poll_sql($node, 'd', $remains, '0', 'nothing is left over');
poll_sql($node, 'd', q{SELECT count(*) FROM pg_constraint WHERE conname LIKE 'concertmaster%'}, '0', 'no constraint either');

# 2. a crash while copying, while waiting, while exchanging; rows without a key, which only their own index tells apart
$node->safe_psql('d', q{
	SELECT concertmaster.forget_partition_set('s.t'::regclass);
	DROP TABLE s.t, s.expected;
	ALTER DATABASE d SET concertmaster.ddl_attempts = 10000;
	CREATE TABLE s.t (id bigint NOT NULL, at timestamptz, v text) PARTITION BY RANGE (at);
	CREATE INDEX ON s.t (v);
	CREATE TABLE s.rest PARTITION OF s.t DEFAULT;
	CREATE UNIQUE INDEX ON s.rest (id);
	INSERT INTO s.t SELECT i, CASE WHEN i % 4 < 3 THEN date_trunc('month', now()) - (1 + 2 * (i % 4)) * interval '1 month' END, md5(i::text)
		FROM generate_series(1, 60000) i;
	CREATE TABLE s.expected AS SELECT * FROM s.t;
	CREATE TABLE s.other ();
});

sub worker_pid
{
	my ($doing) = @_;
	my $pid;

	poll_until(
		sub {
			$pid = $node->safe_psql('d', qq{SELECT pid FROM pg_stat_activity
				WHERE backend_type = 'concertmaster worker' AND datname = 'd' AND query LIKE '$doing'});
			return $pid =~ /^\d+$/;
		}) or diag("no worker does $doing");
	return $pid;
}

sub kill_worker
{
	my ($doing) = @_;
	my $pid = worker_pid($doing);

	like($pid, qr/^\d+$/, "a worker is $doing");
	kill 'KILL', $pid;
	ok(poll_until(sub { $node->psql('d', 'SELECT 1') == 0 }), 'the server is back');
	return;
}

sub write_both
{
	my ($id) = @_;

	$node->safe_psql('d', qq{
		BEGIN;
		UPDATE s.t SET at = date_trunc('month', now()) - interval '3 months', v = 'moved' WHERE id = $id;
		DELETE FROM s.t WHERE id = $id + 1;
		INSERT INTO s.t VALUES ($id + 100000, NULL, 'new');
		UPDATE s.expected SET at = date_trunc('month', now()) - interval '3 months', v = 'moved' WHERE id = $id;
		DELETE FROM s.expected WHERE id = $id + 1;
		INSERT INTO s.expected VALUES ($id + 100000, NULL, 'new');
		COMMIT;
	});
	return;
}

$differences =~ s/, n, v, n \* 2/, v/g;
$differences =~ s/, n, v, twice/, v/g;
my $plan = q{SELECT string_agg(DISTINCT action, ' ' ORDER BY action) FROM concertmaster.plan_partitions('s.t') WHERE rows_to_move > 0};

# (while copying: the staging table is locked as soon as there is something to copy)
my $holder = $node->background_psql('d');
$holder->query_safe(q{CREATE PROCEDURE s.hold() LANGUAGE plpgsql AS $$
	BEGIN
		WHILE NOT EXISTS (SELECT FROM pg_trigger WHERE tgname = 'concertmaster_split') LOOP
			PERFORM pg_sleep(0.002);
			COMMIT;
		END LOOP;
		LOCK TABLE s.t_concertmaster_split IN SHARE MODE;
		PERFORM pg_sleep(60);
	END $$});
$holder->{stdin} .= "CALL s.hold();\n";
$holder->{run}->pump_nb;
$node->safe_psql('d', q{SELECT count(*) FROM concertmaster.create_partition_set('s.t', '1 month', ahead => 0)});
is($node->safe_psql('d', $plan), 'split', 'the plan says so');
# No run comes before we have looked.
$node->safe_psql('d', 'ALTER SYSTEM SET concertmaster.enabled = off');
$node->reload;
kill_worker('%copying%');
eval { $holder->quit };
is($node->safe_psql('d', q{SELECT count(*) FROM pg_trigger WHERE tgname = 'concertmaster_split'}), '1', 'a trigger was left');
write_both(1);
$node->safe_psql('d', 'ALTER SYSTEM RESET concertmaster.enabled');
$node->reload;

# (while waiting for an old snapshot, with changes to follow)
$holder = $node->background_psql('d');
$holder->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
$holder->query_safe('TABLE s.other');
worker_pid('%waiting for process%');
write_both(11);
kill_worker('%waiting for process%');
eval { $holder->quit };
write_both(21);

# (while somebody reads the table, who came when the copies were there)
$holder = $node->background_psql('d');
$holder->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
$holder->query_safe('TABLE s.other');
worker_pid('%waiting for process%');
my $reader = $node->background_psql('d');
$reader->query_safe('BEGIN');
$reader->query_safe('SELECT FROM s.t LIMIT 1');
$holder->query_safe('COMMIT');
worker_pid('%exchanging%');
write_both(31);
kill_worker('%exchanging%');
eval { $holder->quit };
eval { $reader->quit };
is($node->safe_psql('d', $differences), '0', 'nothing has changed but what others did');

# and at last
$node->safe_psql('d', q{ALTER DATABASE d SET log_min_messages = debug1});
my $logged = -s $node->logfile;
write_both(41);
poll_sql($node, 'd', "SELECT count(*) > 3 FROM pg_inherits WHERE inhparent = 's.t'::regclass", 't', 'the next runs split it all the same');
is($node->safe_psql('d', $differences), '0', 'every row is there once, as expected');
is($node->safe_psql('d', q{SELECT count(*) FROM s.rest WHERE at IS NOT NULL}), '0', 'in its partition');
poll_sql($node, 'd', $remains, '0', 'nothing is left over');
my $log = slurp_file($node->logfile, $logged);
like($log, qr/partition constraint for table "rest" is implied by existing constraints/, 'the exchange reads no table');
unlike($log, qr/verifying table "rest"/, 'not the default partition either');
is($node->safe_psql('d', q{SELECT count(*) FROM pg_index WHERE indrelid = 's.rest'::regclass AND indisunique}), '1', 'the index of the default partition is there');
is($node->safe_psql('d', q{SELECT count(*) FROM pg_index JOIN pg_class ON pg_class.oid = indrelid WHERE relispartition AND relnamespace = 's'::regnamespace}),
	'6', 'and none too many');

done_testing();
