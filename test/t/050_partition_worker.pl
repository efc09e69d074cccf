# Sets are rolled by workers: on schedule, after a crash at the worst moment,
# for an owner that cannot log in, and never on a standby.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;

# A zone far from UTC, so that a bound read in the wrong zone shows.
my $node = new_node('main', database => 'd', streaming => 1,
	conf => "timezone = 'Asia/Tokyo'\nrestart_after_crash = on\nconcertmaster.retry_delay = 1s\n");

$node->safe_psql('d', q{
	CREATE ROLE keeper NOLOGIN;
	CREATE SCHEMA s AUTHORIZATION keeper;
	SET ROLE keeper;
	CREATE TABLE s.r (id integer PRIMARY KEY);
	CREATE TABLE s.t (at timestamptz NOT NULL, r_id integer REFERENCES s.r) PARTITION BY RANGE (at);
	SELECT count(*) FROM concertmaster.create_partition_set('s.t', '1 month', ahead => 0, timezone => 'Europe/Berlin');
});

my $leaves = "SELECT count(*) FROM pg_inherits WHERE inhparent = 's.t'::regclass";
my $marked = q{SELECT count(*) FROM pg_class c WHERE relnamespace = 's'::regnamespace
	AND obj_description(c.oid, 'pg_class') LIKE 'concertmaster: becoming%'};

# Set how many partitions are wanted, behind the door's back, and wake the job.
sub want
{
	my ($ahead) = @_;
	$node->safe_psql('d', "UPDATE concertmaster.partition_set SET ahead = $ahead");
	$node->safe_psql('d', "SELECT concertmaster.request_job('roll s.t')");
	return;
}

# 1. by the launcher, as an owner without LOGIN
want(2);
poll_sql($node, 'd', $leaves, '3', 'the launcher rolls the set');
is($node->safe_psql('d', q{SELECT DISTINCT relowner::regrole FROM pg_class WHERE relnamespace = 's'::regnamespace}),
	'keeper', 'partitions belong to the owner');
is($node->safe_psql('d', q{SELECT bool_and(extract(day FROM range_from AT TIME ZONE 'Europe/Berlin') = 1
	AND (range_from AT TIME ZONE 'Europe/Berlin')::time = '00:00') FROM concertmaster.partitions}),
	't', 'months begin at midnight in the zone of the set');
is($node->safe_psql('d', q{SELECT count(*) FROM concertmaster.partitions p JOIN concertmaster.partitions q ON p.range_to = q.range_from}),
	'2', 'without a gap');
poll_sql($node, 'd', "SELECT last_status FROM concertmaster.job_state s JOIN concertmaster.job USING (job_id) WHERE name = 'roll s.t'",
	'succeeded', 'the run is recorded');

# 2. put off while somebody writes to the referenced table, done by itself later
my $writer = $node->background_psql('d');
$writer->query_safe('BEGIN');
$writer->query_safe('INSERT INTO s.r VALUES (1)');
$node->safe_psql('d', 'ALTER DATABASE d SET concertmaster.ddl_attempts = 2');
want(3);
poll_sql($node, 'd', 'SELECT deferred_since IS NOT NULL AND blocked_by IS NOT NULL FROM concertmaster.partition_sets',
	't', 'what is put off says so');
like($node->safe_psql('d', 'SELECT a.query FROM concertmaster.partition_sets s JOIN pg_stat_activity a ON a.pid = s.blocked_by'),
	qr/^INSERT INTO s\.r VALUES \(1\)/, 'and who is in the way');
is($node->safe_psql('d', $leaves), '3', 'nothing is attached yet');
$node->safe_psql('d', "INSERT INTO s.t VALUES (now(), NULL)");
$writer->query_safe('COMMIT');
poll_sql($node, 'd', $leaves, '4', 'it is tried again by itself');
poll_sql($node, 'd', 'SELECT deferred_since IS NULL AND blocked_by IS NULL AND failures = 0 FROM concertmaster.partition_sets',
	't', 'and is put off no more');
is($node->safe_psql('d', $marked), '0', 'nothing is left over');

# the same for a function, which leaves the rest to the job
$writer->query_safe('BEGIN');
$writer->query_safe('LOCK TABLE s.t IN SHARE UPDATE EXCLUSIVE MODE');
is($node->safe_psql('d', "SET concertmaster.ddl_attempts = 2; SELECT action, count(*) FROM concertmaster.alter_partition_set('s.t', ahead => 5) GROUP BY 1 ORDER BY 1"),
	"deferred|2\nkept|4", 'alter_partition_set() does not wait for ever');
psql_error($node, 'd', "SET concertmaster.ddl_attempts = 2; SELECT concertmaster.create_monthly_partition('s.t', '2020-01-01')",
	qr/ERROR:  could not make partition "t_2020_01" of table "t" in time\nDETAIL:  Process \d+ holds a lock that is needed\.\nHINT:/,
	'create_monthly_partition()');
$writer->query_safe('COMMIT');
poll_sql($node, 'd', $leaves, '6', 'the job makes the rest');

# somebody's open transaction about one set, and a rename, stop no job
$node->safe_psql('d', q{CREATE TABLE s.u (at date NOT NULL) PARTITION BY RANGE (at); ALTER TABLE s.u OWNER TO keeper});
$writer->query_safe('BEGIN');
$writer->query_safe("SELECT count(*) FROM concertmaster.create_partition_set('s.u', '1 month', ahead => 0)");
$node->safe_psql('d', 'ALTER TABLE s.t RENAME TO renamed');
psql_ok($node, 'd', "SET statement_timeout = '30s'; CALL concertmaster.run_job('prune')", 'a job runs beside an open transaction');
$writer->query_safe('ROLLBACK');
$node->safe_psql('d', 'ALTER TABLE s.renamed RENAME TO t; DROP TABLE s.u');
# (a door that follows names, so that the job goes by its own again)
poll_sql($node, 'd', "SELECT count(*) FROM concertmaster.alter_partition_set('s.t') WHERE action <> 'kept'", '0', 'all partitions are there');
poll_sql($node, 'd', "SELECT count(*) FROM concertmaster.job WHERE name = 'roll s.t'", '1', 'the job has its name back');

# 3. kill -9 between CREATE TABLE and ATTACH
$node->safe_psql('d', 'ALTER DATABASE d SET concertmaster.ddl_attempts = 10000');
$writer->query_safe('BEGIN');
$writer->query_safe('INSERT INTO s.r VALUES (2)');
want(6);
poll_sql($node, 'd', $marked, '1', 'a table waits to be attached');
my $pid = $node->safe_psql('d', "SELECT pid FROM concertmaster.progress_jobs WHERE name = 'roll s.t'");
like($pid, qr/^\d+$/, 'its worker is there');
kill 'KILL', $pid;
eval { $writer->quit };
ok(poll_until(sub { $node->psql('d', 'SELECT 1') == 0 }), 'the server is back');
poll_sql($node, 'd', $leaves, '7', 'the next run makes the partition');
is($node->safe_psql('d', $marked), '0', 'and nothing is left over');
is($node->safe_psql('d', q{SELECT count(*) FROM pg_class WHERE relnamespace = 's'::regnamespace AND relkind = 'r' AND NOT relispartition AND relname <> 'r'}),
	'0', 'no table either');
poll_sql($node, 'd', "SELECT count(*) FROM concertmaster.job_runs WHERE status = 'crashed' AND pid = $pid", '1', 'the dead run is recorded');
$node->safe_psql('d', 'ALTER DATABASE d RESET concertmaster.ddl_attempts');

# 4. the listing views never wait
$writer = $node->background_psql('d');
$writer->query_safe('BEGIN');
$writer->query_safe('LOCK TABLE s.t IN ACCESS EXCLUSIVE MODE');
is($node->safe_psql('d', q{SET lock_timeout = '1s'; SELECT partitions, runway > interval '3 months' FROM concertmaster.partition_sets}),
	'7|t', 'partition_sets while everything is locked');
is($node->safe_psql('d', q{SET lock_timeout = '1s'; SELECT count(*), count(size) FROM concertmaster.partitions}),
	'7|0', 'partitions while everything is locked: no sizes');
$writer->query_safe('ROLLBACK');
$writer->quit;
is($node->safe_psql('d', 'SELECT count(*), count(size) FROM concertmaster.partitions'), '7|7', 'sizes are back');

# 5. a standby shows everything and changes nothing
my $standby = new_standby($node, 'standby');
$node->wait_for_catchup($standby);
is($standby->safe_psql('d', 'SELECT partitions FROM concertmaster.partition_sets'), '7', 'partition_sets on a standby');
for my $call ("SELECT concertmaster.create_monthly_partition('s.t', '2020-01-01')",
	"SELECT * FROM concertmaster.create_partition_set('s.t', '1 month')",
	"SELECT * FROM concertmaster.alter_partition_set('s.t', ahead => 9)",
	"SELECT concertmaster.forget_partition_set('s.t')",
	"CALL concertmaster.roll_partitions()",
	"CALL concertmaster.roll_partitions('s.t')")
{
	psql_error($standby, 'd', $call, qr/ERROR:  cannot execute \w+\(\) during recovery\nDETAIL:  This server is a standby\.\nHINT:/, $call);
}
is($standby->safe_psql('d', "SELECT count(*) FROM concertmaster.plan_partitions('s.t') WHERE action = 'create'"), '0', 'plan_partitions on a standby');

# 6. without preload, calls work the same
$standby->stop;
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
$node->safe_psql('d', 'UPDATE concertmaster.partition_set SET ahead = 7');
psql_ok($node, 'd', "CALL concertmaster.roll_partitions('s.t')", 'roll_partitions() without preload');
is($node->safe_psql('d', $leaves), '8', 'made its partition');

done_testing();
