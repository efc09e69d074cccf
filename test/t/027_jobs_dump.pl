# Dump and restore: the jobs come along and wait for resume_all().

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;
use JobsTest;

my $node = new_node('main', database => 'd');
make_job($node, 'd', 'quick', 'SELECT 1 AS a', '1s');
make_job($node, 'd', 'held', 'SELECT 1 AS a', '1s');
arm($node, 'd');
$node->safe_psql('d', "SELECT concertmaster.pause_job('refresh public.held')");
poll_sql($node, 'd', "SELECT count(*) > 1 FROM concertmaster.job_runs WHERE status = 'succeeded'", 't', 'jobs run');

my $file = $node->basedir . '/dump.sql';
$node->run_log([ 'pg_dump', '-d', $node->connstr('d'), '-f', $file ]);
$node->safe_psql('postgres', 'CREATE DATABASE restored');
ok($node->run_log([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('restored'), '-f', $file ]),
	'the dump restores without an error');

is($node->safe_psql('restored', "SELECT string_agg(name || ' ' || status, ', ' ORDER BY name) FROM concertmaster.jobs WHERE kind = 'refresh'"),
	'refresh public.held unarmed, refresh public.quick unarmed', 'the jobs are there and not armed');
launcher_served($node);
is($node->safe_psql('restored', 'SELECT count(*) FROM concertmaster.job_run'), '0', 'nothing has run');
psql_ok($node, 'restored', "CALL concertmaster.run_job('refresh public.quick')", 'by hand it can be run');

$node->safe_psql('restored', 'CREATE ROLE plain');
psql_error($node, 'restored', 'SET ROLE plain; SELECT concertmaster.resume_all()',
	qr/permission denied for resume_all\(\)/, 'a plain role cannot arm it');
is($node->safe_psql('restored', "SELECT concertmaster.resume_all() >= 2"), 't', 'resume_all() counts the jobs');
is($node->safe_psql('restored', "SELECT count(*) FROM concertmaster.job WHERE paused"), '0', 'none is paused');
poll_sql($node, 'restored', "SELECT count(DISTINCT job_id) FROM concertmaster.job_runs WHERE kind = 'refresh' AND status = 'succeeded'", '2',
	'then they run');

$node->stop;
done_testing();
