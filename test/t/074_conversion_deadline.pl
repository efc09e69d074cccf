# A conversion on a machine that is too slow for the deadline: what nobody waits
# for is not under it, and what is put off for no other reason says so.

use strict;
use warnings;

use Test::More;
use ConcertmasterTest;

my $node = new_node('main', database => 'd', conf => "concertmaster.retry_delay = 1h\n");

$node->safe_psql('d', q{
	CREATE TABLE forms (id integer PRIMARY KEY);
	CREATE TABLE answers (id bigserial PRIMARY KEY, form integer CONSTRAINT answers_form REFERENCES forms, at timestamptz NOT NULL DEFAULT now());
	INSERT INTO answers (at) SELECT now() - g * interval '1 minute' FROM generate_series(1, 1000) g;
});
$node->safe_psql('d', "CREATE INDEX ON answers ((id + $_))") for (1 .. 40);

my $call = "CALL concertmaster.convert_to_partitioned('answers', 'at', '1 month', accept => '{unique_index_without_column}')";

# All is done but what needs the referenced table, which is locked.
my $locker = $node->background_psql('d');
$locker->query_safe('BEGIN; LOCK TABLE forms IN ROW EXCLUSIVE MODE');
my ($status, $stdout, $stderr) = $node->psql('d', $call);
like($stderr, qr/DETAIL:  put off: a table that this one references was locked/, 'a lock in the way is named');
$locker->query_safe('COMMIT');
$locker->quit;
my $copies = "SELECT count(*) FROM pg_class WHERE relname = 'answers_partitioned'";
is($node->safe_psql('d', $copies), '0', 'the partitioned table is not there');

# Nobody waits for the making of a table with 42 indexes, which references nothing.
$node->safe_psql('d', 'ALTER TABLE answers DROP CONSTRAINT answers_form');
$node->safe_psql('d', "ALTER DATABASE d SET concertmaster.ddl_deadline = '5ms'");
($status, $stdout, $stderr) = $node->psql('d', $call);
is($node->safe_psql('d', $copies), '1', 'a table is made that takes longer than the deadline');
like($stderr, qr/DETAIL:  put off: a step takes longer than concertmaster\.ddl_deadline, 5 ms, with no lock in its way/,
	'a deadline that is too short for the exchange is named');
is($node->safe_psql('d', 'SELECT last_error, deferred FROM (SELECT last_error, (SELECT message FROM concertmaster.job_runs r WHERE r.name = j.name ORDER BY start_time DESC LIMIT 1) AS deferred FROM concertmaster.jobs j WHERE kind = \'convert\') x'),
	'|put off: a step takes longer than concertmaster.ddl_deadline, 5 ms, with no lock in its way', 'also in the views');

$node->safe_psql('d', "ALTER DATABASE d SET concertmaster.ddl_deadline = '10s'");
($status, $stdout, $stderr) = $node->psql('d', "SET statement_timeout = '60s'; $call");
poll_sql($node, 'd', "SELECT state FROM concertmaster.conversions", 'converted', 'with one that is long enough it is converted');

$node->stop;
done_testing();
