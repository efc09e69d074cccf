# A statement of a build that fails gives back every lock of its session: what
# follows it, tidying up or another way to build, takes the table's lock anew.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";

use ConcertmasterTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('failed', conf => "concertmaster.enabled = off\nconcertmaster.ddl_attempts = 2\n", database => 'd');
my $invalid = 'SELECT count(*) FROM pg_index WHERE NOT indisvalid';

$node->safe_psql('d', <<'END');
CREATE TABLE twice (id integer);
INSERT INTO twice VALUES (1), (1);
CREATE TABLE bare (id integer);
CREATE TABLE parts (id integer, k integer) PARTITION BY LIST (k);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
INSERT INTO parts VALUES (1, 1), (1, 1);
INSERT INTO concertmaster.index_plan (phase, schema_name, table_name, index_name, is_unique, definition)
VALUES (1, 'public', 'twice', 'twice_id', true, '(id)'),
       (2, 'public', 'bare', 'bare_id', false, '(id)'),
       (3, 'public', 'parts', 'parts_id', true, '(id, k)');
END

# What a server process warns of when it gives back a lock that it has lost.
sub lost_locks
{
	my ($from) = @_;
	my @lost = slurp_file($node->logfile, $from) =~ /(you don't own a lock of type.*)/g;

	return "@lost";
}

# A build that fails.
my $log = -s $node->logfile;
psql_error($node, 'd', 'CALL concertmaster.build_indexes(1)', qr/could not create unique index/, 'duplicates');
is(lost_locks($log), '', 'a build that fails: the lock was had to the end');
is($node->safe_psql('d', $invalid), '0', 'and nothing invalid is left');

# A rebuild in place that fails.
$node->safe_psql('d', 'CREATE UNIQUE INDEX parts_id ON ONLY parts (id, k)');
$node->psql('d', 'CREATE UNIQUE INDEX CONCURRENTLY parts_1_parts_id ON parts_1 (id, k)');
$node->safe_psql('d', 'ALTER INDEX parts_id ATTACH PARTITION parts_1_parts_id');
$log = -s $node->logfile;
psql_error($node, 'd', 'CALL concertmaster.build_indexes(3)', qr/could not create unique index/, 'duplicates, attached');
is(lost_locks($log), '', 'a rebuild that fails: the lock was had to the end');
is($node->safe_psql('d', "SELECT string_agg(indexrelid::regclass::text, ' ' ORDER BY indexrelid::regclass::text) FROM pg_index WHERE NOT indisvalid"),
	'parts_1_parts_id parts_id', 'and no copy is left');
$node->safe_psql('d', 'TRUNCATE parts');
psql_ok($node, 'd', 'CALL concertmaster.build_indexes(3)', 'without duplicates it is rebuilt');
is($node->safe_psql('d', $invalid), '0', 'and all is valid');

# The plain build of an empty table gives way to a writer; the concurrent one
# that follows waits for it, and keeps others away all the same.
my $writer = $node->background_psql('d');
$writer->query_safe('BEGIN');
$writer->query_safe('LOCK TABLE bare IN ROW EXCLUSIVE MODE');
$log = -s $node->logfile;
my $builder = $node->background_psql('d');
$builder->query_until(qr/called/, "\\echo called\nCALL concertmaster.build_indexes(2);\n");
poll_sql($node, 'd', 'SELECT phase FROM pg_stat_progress_create_index', 'waiting for writers before build',
	'the concurrent build waits for the writer');
$writer->query_safe('COMMIT');
$builder->quit;
$writer->quit;
is($node->safe_psql('d', "SELECT state FROM concertmaster.indexes WHERE phase = 2"), 'valid', 'then it is built');
is(lost_locks($log), '', 'a plain build put off: the lock was had to the end');

$node->stop;
done_testing();
