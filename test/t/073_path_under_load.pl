# The whole path of a platform that is in use, as bench/path.sh measures it, in
# a small size: the strategy's schema as written is adopted, gets both phases of
# indexes, form_responses is converted, its view is refreshed incrementally.
# Clients never pause meanwhile, and none of their transactions fails; every row
# that they wrote is there once, and everything is where it should be.

use strict;
use warnings;

use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;

my $responses = 30000;
# A deadline for a machine that does something else beside tests; what clients wait is
# measured by the benchmark.
my $node = new_node('main', conf => "timezone = 'UTC'\nconcertmaster.retry_delay = 1s\nconcertmaster.ddl_deadline = 500ms\n");
my $folder = $node->basedir;

# The strategy's schema; answers that its own view can read; its view.
$node->safe_psql('postgres', 'CREATE DATABASE d');
$node->safe_psql('d', "SET fixture.responses = $responses; " . slurp_file("$FindBin::RealBin/../fixtures/strategy_schema.sql"));
$node->safe_psql('d', slurp_file("$FindBin::RealBin/../fixtures/partition_violations.sql"));
$node->safe_psql('d', q{
	UPDATE form_responses SET data = data - 'completion_time' WHERE data ->> 'completion_time' !~ '^\d+$';
});
$node->safe_psql('d', slurp_file("$FindBin::RealBin/../fixtures/strategy_view.sql"));
$node->safe_psql('d', 'VACUUM ANALYZE');

# What clients do.  Each kind has two that start anew every so many seconds, at
# different times, until they are told to stop: so whatever happens, somebody
# has prepared his statements before it.
my %scripts = (
	submit => q{\set form random(1, 20)
		\set run random(1, 3000)
		BEGIN;
		INSERT INTO form_responses (id, form_schema_id, workflow_run_id, data, metadata, submitted_at)
		VALUES (gen_random_uuid(), md5('form ' || :form)::uuid, md5('run ' || :run)::uuid, '{"status": "complete", "completion_time": 42}', '{"client": "submit"}', now());
		UPDATE workflow_runs SET trigger_data = '{"answered": true}' WHERE id = md5('run ' || :run)::uuid;
		COMMIT;},
	correct => qq{\\set n random(1, $responses)
		UPDATE form_responses SET data = data || '{"status": "complete"}' WHERE id = md5('response ' || :n)::uuid;},
	start_run => q{\set workflow random(1, 100)
		INSERT INTO workflow_runs (id, workflow_id, status, trigger_data, started_at)
		VALUES (gen_random_uuid(), md5('workflow ' || :workflow)::uuid, 'running', '{"client": "start_run"}', now());},
	read => qq{\\set n random(1, $responses)
		\\set form random(1, 20)
		SELECT r.data, s.name FROM form_responses r JOIN form_schemas s ON s.id = r.form_schema_id WHERE r.id = md5('response ' || :n)::uuid;
		SELECT id, data FROM form_responses WHERE form_schema_id = md5('form ' || :form)::uuid ORDER BY submitted_at DESC LIMIT 50;
		SELECT id FROM form_responses WHERE data @> '{"completion_time": "77"}' LIMIT 10;
		SELECT day, submissions, completed, avg_completion_time FROM form_completion_stats WHERE form_schema_id = md5('form ' || :form)::uuid;
		SELECT id, name, definition FROM workflows WHERE (definition->>'type') = 'scheduled' AND (definition->>'status') = 'active' ORDER BY updated_at DESC LIMIT 50;
		SELECT status, count(*) FROM workflow_runs WHERE status IN ('running', 'failed', 'pending') GROUP BY status;});
(my $simple = $scripts{submit}) =~ s/"submit"/"submit_simple"/;
$scripts{submit_simple} = $simple;

my @load;
for my $kind (sort keys %scripts)
{
	append_to_file("$folder/$kind.sql", $scripts{$kind} . "\n");
	for my $seconds (3, 4)
	{
		my $mode = $kind eq 'submit_simple' ? 'simple' : 'prepared';
		my $pgbench = "pgbench -n -M $mode -c 1 -R 10 -T $seconds -f '$folder/$kind.sql' -h '" . $node->host . "' -p " . $node->port . ' d';
		my $client = { name => "$kind, every $seconds s", kind => $kind, output => '' };
		$client->{handle} = IPC::Run::start([ 'sh', '-c', "while [ ! -e '$folder/stop' ]; do $pgbench || exit 1; done" ],
			'<', '/dev/null', '>&', \$client->{output});
		push @load, $client;
	}
}

# A statement of the path; then what must have come of it, perhaps by a job.
sub walk
{
	my ($step, $sql, $done) = @_;
	psql_ok($node, 'd', $sql, "$step: done");
	poll_sql($node, 'd', $done, 't', "$step: has come about");
	return;
}

poll_sql($node, 'd', q{SELECT count(*) > 10 FROM form_responses WHERE metadata ->> 'client' = 'submit'}, 't', 'clients are there');
walk('extension', 'CREATE EXTENSION concertmaster', "SELECT to_regnamespace('concertmaster') IS NOT NULL");
walk('adopt', 'SELECT concertmaster.install()',
	"SELECT count(*) = 0 FROM concertmaster.plan_install() WHERE action IN ('create', 'pending') AND object !~ '^index'");
for my $phase (1, 2)
{
	walk("phase $phase", "CALL concertmaster.build_indexes($phase)", "SELECT bool_and(state = 'valid') FROM concertmaster.indexes WHERE phase = $phase");
}
is($node->safe_psql('d', "SELECT status, detail FROM concertmaster.explain_conversion('form_responses', 'submitted_at', '1 month', accept => '{unique_index_without_column,nullable_key}') WHERE code = 'verdict'"),
	'ok|0 refused, 0 to accept, 2 accepted, 3 carried over; 8 steps', 'explain: nothing of the strategy\'s schema is in the way');
walk('convert', "CALL concertmaster.convert_to_partitioned('form_responses', 'submitted_at', '1 month', accept => '{unique_index_without_column,nullable_key}')",
	"SELECT state = 'converted' FROM concertmaster.conversions");
walk('view', "SELECT concertmaster.manage_matview('form_completion_stats', every => '15 minutes')", "SELECT mode = 'incremental' FROM concertmaster.matviews");
walk('refresh', "CALL concertmaster.run_job('refresh public.form_completion_stats')", "SELECT last_error IS NULL FROM concertmaster.jobs WHERE name = 'refresh public.form_completion_stats'");

# Writers go on, into the partitioned table; then they stop.
my $since = $node->safe_psql('d', 'SELECT count(*) FROM form_responses');
poll_sql($node, 'd', "SELECT count(*) > $since + 20 FROM form_responses", 't', 'clients write on');
append_to_file("$folder/stop", '');
my %count;
for my $client (@load)
{
	$client->{handle}->finish;
	is($client->{handle}->result(0), 0, "$client->{name}: ended without an error") or diag($client->{output});
	unlike($client->{output}, qr/aborted|ERROR|FATAL|number of failed transactions: [1-9]/, "$client->{name}: no transaction failed");
	$count{ $client->{kind} } += $_ for $client->{output} =~ /transactions actually processed: (\d+)/g;
}

# Every row that they wrote, by their own count, once.
for my $kind ('submit', 'submit_simple')
{
	is($node->safe_psql('d', "SELECT count(*) FROM form_responses WHERE metadata ->> 'client' = '$kind'"), $count{$kind}, "$kind: every row is there");
}
is($node->safe_psql('d', "SELECT count(*) FROM workflow_runs WHERE trigger_data ->> 'client' = 'start_run'"), $count{start_run}, 'start_run: every row is there');
is($node->safe_psql('d', 'SELECT count(*), count(*) - count(DISTINCT id) FROM form_responses'),
	($responses + $count{submit} + $count{submit_simple}) . '|0', 'no response is lost, none there twice');

# Everything ended where it should.
is($node->safe_psql('d', "SELECT relkind FROM pg_class WHERE oid = 'form_responses'::regclass"), 'p', 'form_responses is partitioned');
is($node->safe_psql('d', "SELECT string_agg(v, E'\\n') FROM public.partition_violations('form_responses') v"), '', 'its set is sound');
is($node->safe_psql('d', "SELECT count(*), string_agg(DISTINCT state, ' ') FROM concertmaster.indexes"), '12|valid', 'all twelve indexes are valid');
is($node->safe_psql('d', "SELECT count(*) FROM pg_index WHERE NOT indisvalid OR NOT indisready"), '0', '... and no other is left invalid');
is($node->safe_psql('d', "SELECT count(*) FROM concertmaster.jobs WHERE last_error IS NOT NULL"), '0', 'no job has an error');

# The view, and its query in the same transaction, as its window moves with now().
my $query = $node->safe_psql('d', "SELECT pg_get_viewdef('form_completion_stats')");
$query =~ s/;\s*$//;
my $compare = "SELECT count(*) FROM ((TABLE form_completion_stats EXCEPT ALL ($query)) UNION ALL (($query) EXCEPT ALL TABLE form_completion_stats)) x";
my $day = $node->safe_psql('d', 'SELECT (now() - interval \'1 day\')::date');
my $counted = "SELECT coalesce(sum(submissions), 0) FROM form_completion_stats WHERE form_schema_id = md5('form 7')::uuid AND day = '$day'";
is($node->safe_psql('d', "BEGIN; SELECT mode FROM concertmaster.refresh('form_completion_stats'); $compare; COMMIT"), "incremental\n0", 'the view is what its query says');
my $before = $node->safe_psql('d', $counted);
is($node->safe_psql('d', qq{
	INSERT INTO form_responses (id, form_schema_id, data, submitted_at) VALUES (gen_random_uuid(), md5('form 7')::uuid, '{}', '$day 12:00');
	BEGIN; SELECT mode FROM concertmaster.refresh('form_completion_stats'); $compare; $counted; COMMIT}), "incremental\n0\n" . ($before + 1),
	'a row that is inserted is in it after the next refresh');

$node->stop;
done_testing();
