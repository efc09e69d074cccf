# Without shared_preload_libraries: jobs by hand, and a launcher on demand.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;
use JobsTest;

my $node = new_node('main', preload => 0, database => 'd',
	conf => "shared_preload_libraries = 'auto_explain'\nconcertmaster.retry_delay = 1s\n");

make_job($node, 'd', 'quick', 'SELECT 1 AS a', '1s');
psql_ok($node, 'd', "CALL concertmaster.run_job('refresh public.quick')", 'run_job() works');
is(runs($node, 'd', 'quick', 'succeeded'), '1', 'and is recorded');

my (undef, undef, $stderr) = $node->psql('d', "SELECT concertmaster.request_job('refresh public.quick')");
like($stderr, qr/jobs of this database are not started by themselves/, 'a request in an unarmed database is warned about');
(undef, undef, $stderr) = $node->psql('d', 'SELECT concertmaster.resume_all()');
like($stderr, qr/the concertmaster launcher is not running\nHINT:  .*start_launcher\(\)/,
	'resume_all() warns that there is no launcher');
is($node->safe_psql('d', 'SELECT concertmaster.run_due_jobs()'), '1', 'run_due_jobs() starts what is due');
poll_sql($node, 'd', "SELECT count(*) FROM concertmaster.job_runs WHERE status = 'succeeded'", '2',
	'in a worker');

my ($status, $out);
($status, $out, $stderr) = $node->psql('d', 'SELECT concertmaster.start_launcher()');
is($out, 't', 'start_launcher() starts it');
like($stderr, qr/runs until the next restart of the server\nHINT:  .*shared_preload_libraries = 'auto_explain, concertmaster'/,
	'and says for how long, and what line to write instead');
poll_sql($node, 'd', "SELECT count(*) > 3 FROM concertmaster.job_runs WHERE status = 'succeeded'", 't',
	'the launcher runs jobs');
($status, $out, $stderr) = $node->psql('d', 'SELECT concertmaster.start_launcher()');
is($out, 'f', 'a second one is not started');
like($stderr, qr/already running/, 'and it says so');
is($node->safe_psql('d', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'concertmaster launcher'"),
	'1', 'there is one launcher');
my $launcher = launcher_pid($node);
$node->safe_psql('d', "SELECT pg_terminate_backend($launcher)");
poll_sql($node, 'd', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'concertmaster launcher' AND pid <> $launcher",
	'1', 'terminated, it comes back');

$node->safe_psql('d', 'CREATE ROLE plain');
psql_error($node, 'd', 'SET ROLE plain; SELECT concertmaster.start_launcher()',
	qr/permission denied for start_launcher\(\)/, 'start_launcher() by a plain role');

$node->restart;
is(launcher_pid($node), '', 'after a restart of the server it is gone');
$node->safe_psql('d', 'DROP EXTENSION concertmaster CASCADE');
$node->stop;
done_testing();
