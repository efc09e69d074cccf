# A platform that was used, dumped and restored into another database of the
# same server comes back whole, and its jobs wait until they are told to go.
use strict;
use warnings;

use lib 'test/perl';
use ConcertmasterTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('platform', database => 'origin');
my $dump = $node->basedir . '/origin.sql';

# What the two databases are compared by.
my $rows = q{
	SELECT 'workflows', count(*), md5(string_agg(t::text, '' ORDER BY t::text)) FROM workflows t UNION ALL
	SELECT 'workflow_runs', count(*), md5(string_agg(t::text, '' ORDER BY t::text)) FROM workflow_runs t UNION ALL
	SELECT 'form_schemas', count(*), md5(string_agg(t::text, '' ORDER BY t::text)) FROM form_schemas t UNION ALL
	SELECT 'form_responses', count(*), md5(string_agg(t::text, '' ORDER BY t::text)) FROM form_responses t UNION ALL
	SELECT 'node_executions', count(*), md5(string_agg(t::text, '' ORDER BY t::text)) FROM node_executions t UNION ALL
	SELECT 'audit_events', count(*), md5(string_agg(t::text, '' ORDER BY t::text)) FROM audit_events t UNION ALL
	SELECT 'form_completion_stats', count(*), md5(string_agg(t::text, '' ORDER BY t::text)) FROM form_completion_stats t};
my $indexes = q{
	SELECT count(*), count(*) FILTER (WHERE NOT i.indisvalid), count(h.inhparent)
	  FROM pg_index i
	  JOIN pg_class c ON c.oid = i.indexrelid
	  LEFT JOIN pg_inherits h ON h.inhrelid = i.indexrelid
	 WHERE c.relnamespace = 'public'::regnamespace};
my $jobs = q{SELECT name, kind, every, owner, paused FROM concertmaster.job ORDER BY name};
my $sets = q{SELECT schema_name, table_name, period, ahead FROM concertmaster.partition_set ORDER BY 1, 2};
my $plan = q{SELECT phase, index_name, definition FROM concertmaster.index_plan ORDER BY 2};

$node->safe_psql('origin', q{
	SELECT concertmaster.install();
	ALTER TABLE form_responses ADD COLUMN reviewer text;
	INSERT INTO workflows (name, definition)
	SELECT 'workflow ' || i, jsonb_build_object('type', 'scheduled', 'status', 'active', 'n', i)
	  FROM generate_series(1, 50) i;
	INSERT INTO workflow_runs (workflow_id, status, started_at)
	SELECT id, 'running', now() FROM workflows;
	INSERT INTO form_schemas (name, version) SELECT 'form ' || i, 1 FROM generate_series(1, 3) i;
	INSERT INTO form_responses (form_schema_id, data, reviewer)
	SELECT id, jsonb_build_object('status', 'complete', 'completion_time', i::text), 'me'
	  FROM form_schemas, generate_series(1, 200) i;
	INSERT INTO node_executions (workflow_run_id, node_id, status)
	SELECT id, 'start', 'pending' FROM workflow_runs;
	INSERT INTO audit_events (entity_type, entity_id, action)
	SELECT 'workflow', id, 'created' FROM workflows;
	CREATE INDEX form_responses_reviewer_idx ON form_responses (reviewer);
});
$node->safe_psql('origin', 'CALL concertmaster.build_indexes()');
$node->safe_psql('origin', q{SELECT concertmaster.refresh('form_completion_stats')});

command_ok([ 'pg_dump', '-d', $node->connstr('origin'), '-f', $dump ], 'dumps');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('copy'), '-f', $dump ],
	'restores without an error');

is($node->safe_psql('copy', $rows), $node->safe_psql('origin', $rows), 'every row is there');
is($node->safe_psql('copy', $indexes), $node->safe_psql('origin', $indexes),
	'as many indexes, as many attached');
is($node->safe_psql('copy', "SELECT i.invalid FROM ($indexes) i(total, invalid, attached)"), '0',
	'no index is invalid');
is( $node->safe_psql('copy', q{SELECT count(*) FROM pg_attribute WHERE attname = 'reviewer' AND attrelid = 'form_responses'::regclass}),
	'1', 'a column that the user added is there');
is($node->safe_psql('copy', q{SELECT to_regclass('form_responses_reviewer_idx')}),
	'form_responses_reviewer_idx', 'an index that the user added is there');
is($node->safe_psql('copy', $jobs), $node->safe_psql('origin', $jobs), 'jobs are there');
is($node->safe_psql('copy', $sets), $node->safe_psql('origin', $sets), 'partition sets are there');
is($node->safe_psql('copy', $plan), $node->safe_psql('origin', $plan), 'the index plan is there');

# The launcher has looked at the new database when it has run a job that became
# due after it in the old one; nothing may have run in the new one until then.
$node->safe_psql('copy', q{UPDATE concertmaster.job_state SET next_run = now()});
$node->safe_psql('origin', q{SELECT concertmaster.request_job('prune')});
poll_sql($node, 'origin', q{SELECT count(*) > 0 FROM concertmaster.job_run r JOIN concertmaster.job USING (job_id) WHERE name = 'prune' AND r.status = 'succeeded'},
	't', 'the launcher works meanwhile');
is($node->safe_psql('copy', 'SELECT count(*) FROM concertmaster.job_run'), '0',
	'no job ran in the restored database');

$node->safe_psql('copy', 'SELECT concertmaster.resume_all()');
poll_sql($node, 'copy', q{SELECT count(*) >= 3 FROM concertmaster.job_run r JOIN concertmaster.job j USING (job_id) WHERE j.kind = 'roll' AND r.status = 'succeeded'},
	't', 'resume_all() sets the jobs going');

done_testing();
