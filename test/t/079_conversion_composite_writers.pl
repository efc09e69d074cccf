# A conversion with foreign_keys => 'composite' beside writers of both tables
# that never pause: none of their transactions fails, no row loses its own, and
# a subscriber of the referencing table goes on.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;

my $node = new_node('main', database => 'd', streaming => 1, conf => "wal_level = logical\nconcertmaster.retry_delay = 1s\n");
my $subscriber = new_node('subscriber', preload => 0);

# Ids below 1000 have keys that change; rows are made to reference others.
$node->safe_psql('d', q{
	CREATE TABLE runs (id bigserial PRIMARY KEY, note text, at timestamptz NOT NULL DEFAULT now());
	INSERT INTO runs (note, at) SELECT 'n', now() - g * interval '1 minute' FROM generate_series(1, 20000) g;
	CREATE TABLE steps (id bigserial PRIMARY KEY, run_id bigint CONSTRAINT steps_run REFERENCES runs ON DELETE CASCADE, client integer, touched integer NOT NULL DEFAULT 0, filler text);
	CREATE INDEX steps_run ON steps (run_id);
	INSERT INTO steps (run_id, client, filler) SELECT CASE WHEN g % 20 > 0 THEN 1 + g % 20000 END, 0, repeat('x', 100) FROM generate_series(1, 60000) g;
	CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.touched := OLD.touched + 1; RETURN NEW; END $$;
	CREATE TRIGGER touch BEFORE UPDATE ON steps FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION touch();
	CREATE PUBLICATION p FOR TABLE steps;
	VACUUM ANALYZE;
});
$subscriber->safe_psql('postgres', 'CREATE TABLE steps (id bigint PRIMARY KEY, run_id bigint, client integer, touched integer, filler text)');
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION s CONNECTION '" . $node->connstr . " dbname=d' PUBLICATION p");
poll_sql($subscriber, 'postgres', "SELECT srsubstate IN ('r', 's') FROM pg_subscription_rel", 't', 'a subscriber has the referencing table');

my $call = "CALL concertmaster.convert_to_partitioned('runs', 'at', '1 month', foreign_keys => 'composite', accept => '{%s}')";
psql_error($node, 'd', sprintf($call, 'unique_index_without_column'), qr/to accept: referencing_table_published, public\.steps by p/, 'that it lacks the column has to be accepted');
is($subscriber->safe_psql('postgres', 'ALTER TABLE steps ADD COLUMN run_id_at timestamptz; SELECT 1'), '1', 'it is given the column');

my $scripts = $node->basedir;
my %scripts = (
	insert => "\\set id random(1, 20000)\nINSERT INTO steps (run_id, client) VALUES (:id, 1);\n",
	both => "WITH run AS (INSERT INTO runs (note) VALUES ('new') RETURNING id) INSERT INTO steps (run_id, client) SELECT id, 2 FROM run;\n",
	move => "\\set n random(1, 60000)\n\\set id random(1001, 20000)\nUPDATE steps SET run_id = :id WHERE id = :n;\n",
	clear => "\\set n random(1, 60000)\nUPDATE steps SET run_id = NULL WHERE id = :n;\n",
	change => "\\set id random(1, 1000)\nUPDATE runs SET at = at - interval '1 second' WHERE id = :id;\n",
	note => "\\set id random(1, 20000)\nUPDATE runs SET note = 'm' WHERE id = :id;\n",
);
my %load;
my %done;
for my $kind (sort keys %scripts)
{
	my ($in, $out) = ('', '');
	append_to_file("$scripts/$kind.sql", $scripts{$kind});
	$load{$kind} = { output => \$out, handle => IPC::Run::start([ pgbench($kind, '-R', 50, '-T', 30) ], '<', \$in, '>&', \$out) };
}
poll_sql($node, 'd', 'SELECT count(*) > 50 FROM steps WHERE client = 2', 't', 'writers write');
my ($status, $stdout, $stderr) = $node->psql('d', sprintf($call, 'unique_index_without_column,referencing_table_published'));
is($status, 0, 'it is converted beside them') or diag($stderr);
like($stderr, qr/NOTICE:  convert public\.runs: filling column run_id_at of public\.steps/, '... and tells what it does');
poll_sql($node, 'd', 'SELECT state FROM concertmaster.conversions', 'converted', 'it is done');
for my $kind (sort keys %load)
{
	$load{$kind}{handle}->finish;
	my $output = ${ $load{$kind}{output} };
	is($load{$kind}{handle}->result(0), 0, "$kind ended without an error") or diag($output);
	unlike($output, qr/aborted|ERROR/, "$kind: no transaction failed");
	($done{$kind}) = $output =~ /transactions actually processed: (\d+)/;
	command_ok([ pgbench($kind, '-t', 20) ], "$kind goes on after it");
	$done{$kind} += 20;
}
is($node->safe_psql('d', 'SELECT count(*) FROM steps WHERE client = 1'), $done{insert}, 'every row that was written is there');
is($node->safe_psql('d', 'SELECT count(*) FROM steps WHERE client = 2'), $done{both}, '... also with its own in one statement');
is($node->safe_psql('d', 'SELECT count(*) FROM steps s WHERE run_id IS NOT NULL AND NOT EXISTS (SELECT FROM runs r WHERE r.id = s.run_id AND r.at = s.run_id_at)'),
	'0', 'no row has lost its own');
is($node->safe_psql('d', 'SELECT count(*) FROM steps WHERE run_id IS NULL AND run_id_at IS NOT NULL'), '0', '... or kept what it gave up');
is($node->safe_psql('d', 'SELECT sum(touched) FROM steps'), $done{move} + $done{clear}, 'no trigger took filling for a change');
is($node->safe_psql('d', "SELECT conname || ' ' || convalidated || ' ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'steps'::regclass AND contype = 'f' AND conparentid = 0"),
	'steps_run true FOREIGN KEY (run_id, run_id_at) REFERENCES runs(id, at) MATCH FULL ON UPDATE CASCADE ON DELETE CASCADE', 'the foreign key');
$node->wait_for_catchup('s');
is($subscriber->safe_psql('postgres', "SELECT count(*), md5(string_agg((id, run_id, run_id_at)::text, ' ' ORDER BY id)) FROM steps"),
	$node->safe_psql('d', "SELECT count(*), md5(string_agg((id, run_id, run_id_at)::text, ' ' ORDER BY id)) FROM steps"), 'the subscriber has every row');

$subscriber->stop;
$node->stop;
done_testing();

# A writer's call.
sub pgbench
{
	my ($kind, @length) = @_;
	return ('pgbench', '-n', '-M', 'prepared', '-c', 1, @length, '-f', "$scripts/$kind.sql", '-h', $node->host, '-p', $node->port, 'd');
}
