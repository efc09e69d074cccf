# A conversion beside writers and readers that never pause: none of their
# transactions fails, every row that they wrote is there once.  A subscriber
# goes on receiving, and a table that is locked puts the conversion off.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;

my $node = new_node('main', database => 'd', streaming => 1, conf => "wal_level = logical\nconcertmaster.retry_delay = 1s\n");
my $subscriber = new_node('subscriber', preload => 0);

$node->safe_psql('d', slurp_file('test/fixtures/partition_violations.sql'));
$node->safe_psql('d', q{
	CREATE TABLE forms (id integer PRIMARY KEY, name text);
	INSERT INTO forms SELECT g, 'f' || g FROM generate_series(1, 50) g;
	CREATE TABLE answers (id bigserial PRIMARY KEY, form integer NOT NULL REFERENCES forms, client integer, data jsonb,
		at timestamptz NOT NULL DEFAULT now());
	CREATE INDEX answers_form ON answers (form, at);
	INSERT INTO answers (form, client, data, at)
	SELECT 1 + g % 50, 0, '{"a": 1}', now() - g * interval '1 minute' FROM generate_series(1, 100000) g;
	CREATE VIEW recent AS SELECT form, count(*) AS n FROM answers GROUP BY form;
	CREATE MATERIALIZED VIEW days AS SELECT form, (at AT TIME ZONE 'UTC')::date AS day, count(*) AS n FROM answers GROUP BY 1, 2;
	CREATE UNIQUE INDEX ON days (form, day);
	CREATE PUBLICATION p FOR TABLE answers WITH (publish_via_partition_root = true);
	VACUUM ANALYZE;
});
$node->safe_psql('d', "SELECT concertmaster.manage_matview('days', '1 second')");
poll_sql($node, 'd', 'SELECT mode FROM concertmaster.matviews', 'incremental', 'a view of it is incremental');

$subscriber->safe_psql('postgres', 'CREATE TABLE answers (id bigint PRIMARY KEY, form integer, client integer, data jsonb, at timestamptz)');
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION s CONNECTION '" . $node->connstr . " dbname=d' PUBLICATION p");
poll_sql($subscriber, 'postgres', "SELECT srsubstate IN ('r', 's') FROM pg_subscription_rel", 't', 'a subscriber has the table');

my $call = "CALL concertmaster.convert_to_partitioned('answers', 'at', '1 month', accept => '{unique_index_without_column}')";

# Locked by a transaction that stays: put off, and done when it has ended.
my $locker = $node->background_psql('d');
$locker->query_safe('BEGIN; LOCK TABLE forms IN ROW EXCLUSIVE MODE; SELECT count(*) FROM answers');
my ($status, $stdout, $stderr) = $node->psql('d', $call);
is($status, 0, 'beside a transaction that stays the call comes back');
like($stderr, qr/WARNING:  the conversion of public\.answers was put off\nDETAIL:  put off: .*\nHINT:  The job tries again/, '... and says that it was put off');
is($node->safe_psql('d', "SELECT state FROM concertmaster.conversions"), 'preparing', '... before the exchange');
is($node->safe_psql('d', "SELECT relkind FROM pg_class WHERE oid = 'answers'::regclass"), 'r', '... the table is what it was');

# Writers and readers, prepared; the transaction that stays ends among them.
my $scripts = $node->basedir;
append_to_file("$scripts/write.sql", "\\set form random(1, 50)\nINSERT INTO answers (form, client, data) VALUES (:form, :client_id + 1, '{}');\n");
append_to_file("$scripts/change.sql", "\\set id random(1, 100000)\nUPDATE answers SET data = '{\"a\": 2}' WHERE id = :id;\n");
append_to_file("$scripts/read.sql", "\\set form random(1, 50)\nSELECT n FROM recent WHERE form = :form;\nSELECT count(*) FROM answers WHERE form = :form AND at > now() - interval '1 hour';\n");
my @load;
my @output;
for my $kind ('write', 'change', 'read')
{
	my ($in, $out) = ('', '');
	push @load, IPC::Run::start([ 'pgbench', '-n', '-M', 'prepared', '-c', $kind eq 'write' ? 2 : 1, '-R', $kind eq 'read' ? 20 : 200, '-T', 20,
			'-f', "$scripts/$kind.sql", '-h', $node->host, '-p', $node->port, 'd' ], '<', \$in, '>&', \$out);
	push @output, \$out;
}
poll_sql($node, 'd', 'SELECT count(*) > 100 FROM answers WHERE client > 0', 't', 'writers write');
$locker->query_safe('COMMIT');
$locker->quit;
poll_sql($node, 'd', 'SELECT state FROM concertmaster.conversions', 'converted', 'the job has converted the table by itself');
my $since = $node->safe_psql('d', 'SELECT count(*) FROM answers');
poll_sql($node, 'd', "SELECT count(*) > $since + 100 FROM answers", 't', 'writers write on');
my $transactions = 0;
for my $i (0 .. $#load)
{
	$load[$i]->finish;
	is($load[$i]->result(0), 0, "load $i ended without an error") or diag(${ $output[$i] });
	unlike(${ $output[$i] }, qr/aborted|ERROR/, "load $i: no transaction failed");
	$transactions = $1 if $i == 0 && ${ $output[$i] } =~ /transactions actually processed: (\d+)/;
}
is($node->safe_psql('d', 'SELECT count(*) FROM answers WHERE client > 0'), $transactions, 'every row that was written is there');
is($node->safe_psql('d', 'SELECT count(*) - count(DISTINCT id) FROM answers'), '0', '... once');
is($node->safe_psql('d', "SELECT count(*) FROM public.partition_violations('answers')"), '0', 'the set is sound');
is($node->safe_psql('d', 'SELECT sum(n) = (SELECT count(*) FROM answers) FROM recent'), 't', 'the view reads all of it');
$node->safe_psql('d', "CALL concertmaster.run_job('refresh public.days')");
is($node->safe_psql('d', "SELECT count(*) FROM concertmaster.verify_matview('days')"), '0', 'the materialized view is what its query says');

$node->wait_for_catchup('s');
is($subscriber->safe_psql('postgres', 'SELECT count(*) FROM answers WHERE client > 0'), $transactions, 'the subscriber has every row');
$node->safe_psql('d', "INSERT INTO answers (form, client, at) VALUES (1, 99, now() + interval '2 months')");
$node->wait_for_catchup('s');
is($subscriber->safe_psql('postgres', 'SELECT count(*) FROM answers WHERE client = 99'), '1', '... also one of a later partition');

$subscriber->stop;
$node->stop;
done_testing();
