# The log of changed groups: prepared transactions, logical replication, an
# unclean stop, and its bound while nobody refreshes.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;

my $node = new_node('main', database => 'd',
	conf => "max_prepared_transactions = 5\nwal_level = logical\nmax_wal_senders = 5\nmax_replication_slots = 5\nconcertmaster.matview_log_rows = 100\n");

sub track
{
	return $node->safe_psql('d', q{
		INSERT INTO concertmaster.matview_track (view, stale, timezone) VALUES ('s.v'::regclass, NULL, 'UTC');
		INSERT INTO concertmaster.matview_source (relid, view) VALUES ('s.facts'::regclass, 's.v'::regclass);
		CREATE TRIGGER concertmaster_log_changes AFTER INSERT OR UPDATE OR DELETE ON s.facts FOR EACH ROW EXECUTE FUNCTION concertmaster.log_changes();
		ALTER TABLE s.facts ENABLE ALWAYS TRIGGER concertmaster_log_changes;
	});
}
sub logged { return $node->safe_psql('d', "SELECT string_agg(key, ' ' ORDER BY key) FROM concertmaster._log_patterns('s.v'::regclass)") }
sub forget { return $node->safe_psql('d', 'DELETE FROM concertmaster.matview_log') }

$node->safe_psql('d', q{
	CREATE SCHEMA s;
	CREATE TABLE s.facts (id serial PRIMARY KEY, k integer, n integer);
	CREATE MATERIALIZED VIEW s.v AS SELECT k, sum(n) AS n FROM s.facts GROUP BY k;
	CREATE UNIQUE INDEX ON s.v (k);
});
track();

# 1. a prepared transaction: its log comes and goes with it
$node->safe_psql('d', q{
	BEGIN;
	INSERT INTO s.facts (k, n) VALUES (1, 1);
	SAVEPOINT a;
	INSERT INTO s.facts (k, n) VALUES (2, 1);
	ROLLBACK TO a;
	INSERT INTO s.facts (k, n) VALUES (3, 1), (1, 5);
	PREPARE TRANSACTION 'p';
	INSERT INTO s.facts (k, n) VALUES (1, 1);
});
is(logged(), 'k=1', 'prepared: not there yet; the next transaction of the session logs for itself');
forget();
$node->stop('immediate');
$node->start;
is(logged(), '', 'after a crash');
$node->safe_psql('d', "COMMIT PREPARED 'p'");
is(logged(), 'k=1 k=3', 'committed after a crash: there');
forget();
$node->safe_psql('d', "BEGIN; INSERT INTO s.facts (k, n) VALUES (7, 1); PREPARE TRANSACTION 'p'");
$node->safe_psql('d', "ROLLBACK PREPARED 'p'");
is(logged(), '', 'rolled back: never there');

# 2. rows that come by logical replication, first all of them, then changes
$node->safe_psql('postgres', q{
	CREATE DATABASE source;
});
$node->safe_psql('source', q{
	CREATE SCHEMA s;
	CREATE TABLE s.facts (id serial PRIMARY KEY, k integer, n integer);
	INSERT INTO s.facts VALUES (9100, 20, 1), (9101, 21, 1);
	CREATE PUBLICATION p FOR TABLE s.facts;
	SELECT pg_create_logical_replication_slot('slot', 'pgoutput');
});
my $from = 'dbname=source port=' . $node->port . ' host=' . $node->host;
$node->safe_psql('d', "CREATE SUBSCRIPTION sub CONNECTION '$from' PUBLICATION p WITH (create_slot = false, slot_name = 'slot', copy_data = true)");
poll_sql($node, 'd', "SELECT string_agg(key, ' ' ORDER BY key) FROM concertmaster._log_patterns('s.v'::regclass)", 'k=20 k=21', 'the first copy is logged');
forget();
$node->safe_psql('source', "INSERT INTO s.facts VALUES (9102, 22, 1); UPDATE s.facts SET k = 30 WHERE id = 9100; DELETE FROM s.facts WHERE id = 9101");
poll_sql($node, 'd', "SELECT string_agg(DISTINCT key, ' ' ORDER BY key) FROM concertmaster._log_patterns('s.v'::regclass)", 'k=20 k=21 k=22 k=30', 'changes are');
$node->safe_psql('d', 'DROP SUBSCRIPTION sub');
forget();

# 3. nobody refreshes, and writing goes on: the log stays bounded, even where it is published
$node->safe_psql('d', 'CREATE PUBLICATION everything FOR ALL TABLES');
$node->safe_psql('d', "SELECT concertmaster.manage_matview('s.v', '1 day')");
$node->safe_psql('d', "SELECT concertmaster.pause_job('refresh s.v')");
$node->safe_psql('d', "DELETE FROM concertmaster.matview_track; DELETE FROM concertmaster.matview_source; DROP TRIGGER concertmaster_log_changes ON s.facts");
track();
for my $i (1 .. 40)
{
	$node->safe_psql('d', "INSERT INTO s.facts (k, n) SELECT $i * 1000 + j, 1 FROM generate_series(1, 50) j");
}
poll_sql($node, 'd', "SELECT stale, (SELECT count(*) < 1900 FROM concertmaster.matview_log) FROM concertmaster.matview_track",
	'more than 100 changed groups were logged|t', 'the view became stale and its log was emptied');
$node->safe_psql('d', "INSERT INTO s.facts (k, n) VALUES (-1, 1)");
like(logged(), qr/k=-1/, 'and goes on');

# 4. what is left of a view that is gone goes with the next run of the job
$node->safe_psql('d', 'DROP MATERIALIZED VIEW s.v');
$node->safe_psql('d', "INSERT INTO s.facts (k, n) VALUES (-2, 1)");
$node->safe_psql('d', "CALL concertmaster.run_job('prune')");
is($node->safe_psql('d', "SELECT (SELECT count(*) FROM concertmaster.matview_track), (SELECT count(*) FROM concertmaster.matview_source), (SELECT count(*) FROM concertmaster.matview_log), (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'concertmaster%')"),
	'0|0|0|0', 'rows and trigger are gone');

# 5. uninstall() drops triggers of ours
$node->safe_psql('d', 'CREATE MATERIALIZED VIEW s.v AS SELECT k, sum(n) AS n FROM s.facts GROUP BY k');
track();
$node->safe_psql('d', "SELECT concertmaster.uninstall()");
is($node->safe_psql('d', "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'concertmaster%'"), '0', 'by uninstall() too');
$node->safe_psql('d', 'DROP EXTENSION concertmaster');
$node->safe_psql('d', 'REFRESH MATERIALIZED VIEW s.v');
is($node->safe_psql('d', 'SELECT count(*) FROM pg_event_trigger'), '0', 'nothing is left after DROP EXTENSION');

done_testing();
