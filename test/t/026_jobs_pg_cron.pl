# pg_cron drives the jobs.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;
use JobsTest;

my $library = `pg_config --pkglibdir`;
chomp $library;
plan skip_all => 'pg_cron is not installed' unless -e "$library/pg_cron.so";

my $node = new_node('main', database => 'd', start => 1);
$node->safe_psql('postgres', 'CREATE DATABASE home');

psql_error($node, 'd', 'SELECT concertmaster.use_pg_cron(true)',
	qr/pg_cron is not loaded in this server\nHINT:  Add pg_cron to "shared_preload_libraries"/, 'pg_cron not loaded');

$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_cron, concertmaster'\n"
	  . "cron.database_name = 'home'\ncron.host = '" . $node->host . "'\ncron.use_background_workers = on\n");
$node->restart;
psql_error($node, 'd', 'SELECT concertmaster.use_pg_cron(true)',
	qr/pg_cron is not installed in database "d"\nDETAIL:  It works in database "home".*\nHINT:  .*schedule_in_database/,
	'outside of pg_cron\'s database');
$node->safe_psql('home', 'CREATE EXTENSION concertmaster');
psql_error($node, 'home', 'SELECT concertmaster.use_pg_cron(true)',
	qr/extension "pg_cron" is not installed in database "home"\nHINT:  Run CREATE EXTENSION pg_cron/, 'in it, without the extension');
$node->safe_psql('home', 'CREATE EXTENSION pg_cron');

make_job($node, 'home', 'short', 'SELECT 1 AS a', '30s');
psql_error($node, 'home', 'SELECT concertmaster.use_pg_cron(true)',
	qr/pg_cron cannot run jobs more often than once a minute\nDETAIL:  Jobs with a shorter period: "refresh public\.short"/,
	'with a period under a minute');
$node->safe_psql('home', "DELETE FROM concertmaster.job");
make_job($node, 'home', 'minutely', 'SELECT 1 AS a', '1min');
psql_error($node, 'home', 'SELECT concertmaster.use_pg_cron(true)',
	qr/jobs of this database are not started by anything\nDETAIL:  .*\nHINT:  .*resume_all/, 'in a restored database');
$node->safe_psql('home', 'CREATE ROLE plain');
psql_error($node, 'home', 'SET ROLE plain; SELECT concertmaster.use_pg_cron(true)',
	qr/permission denied for use_pg_cron\(\)/, 'by a plain role');

$node->safe_psql('home', "UPDATE concertmaster.job SET paused = true");
$node->safe_psql('home', "INSERT INTO concertmaster.armed SELECT oid FROM pg_database WHERE datname = current_database()");
psql_ok($node, 'home', 'SELECT concertmaster.use_pg_cron(true)', 'use_pg_cron(true)');
is($node->safe_psql('home', "SELECT jobname, schedule, command FROM cron.job"),
	'concertmaster|* * * * *|SELECT concertmaster.run_due_jobs()', 'there is one cron line');
psql_ok($node, 'home', 'SELECT concertmaster.use_pg_cron(true)', 'use_pg_cron(true) once more');
is($node->safe_psql('home', "SELECT count(*) FROM cron.job"), '1', 'there is still one');

# The launcher leaves the database alone, cron starts the job.
$node->safe_psql('home', "SELECT concertmaster.resume_job('refresh public.minutely')");
poll_sql($node, 'home', "SELECT count(*) FROM concertmaster.job_runs WHERE status = 'succeeded'", '1',
	'pg_cron runs the job', 150);
is($node->safe_psql('home',
	"SELECT (SELECT min(start_time) FROM concertmaster.job_run) >= (SELECT min(start_time) FROM cron.job_run_details)"),
	't', 'and nobody before it did');
is($node->safe_psql('home', "SELECT driver FROM concertmaster.armed"), 'pg_cron', 'the driver is pg_cron');

psql_ok($node, 'home', 'SELECT concertmaster.use_pg_cron(false)', 'use_pg_cron(false)');
is($node->safe_psql('home', "SELECT count(*) FROM cron.job"), '0', 'the cron line is gone');
my $before = runs($node, 'home', 'minutely', 'succeeded');
$node->safe_psql('home', "SELECT concertmaster.request_job('refresh public.minutely')");
poll_sql($node, 'home', "SELECT count(*) > $before FROM concertmaster.job_runs WHERE status = 'succeeded'", 't',
	'the launcher runs the jobs again', 20);
psql_ok($node, 'home', 'SELECT concertmaster.use_pg_cron(false)', 'use_pg_cron(false) once more');

$node->stop;
done_testing();
