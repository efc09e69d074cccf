# What the TAP tests of the job room share: jobs that do something, made
# straight in the tables so that no other room is needed.
package JobsTest;

use strict;
use warnings;

use Exporter 'import';
use Test::More;
use ConcertmasterTest;

our @EXPORT = qw(make_job arm runs launcher_pid job_pid start_call launcher_served);

# A job "refresh public.$view" on a materialized view with this query; every
# as an interval, or undef for a job that runs on request only.
sub make_job
{
	my ($node, $database, $view, $query, $every) = @_;
	my $period = defined $every ? "interval '$every'" : 'NULL';

	$node->safe_psql(
		$database, qq{
		CREATE MATERIALIZED VIEW $view AS $query WITH NO DATA;
		INSERT INTO concertmaster.matview (schema_name, view_name, every, allow_blocking)
		VALUES ('public', '$view', coalesce($period, interval '1 day'), true);
		INSERT INTO concertmaster.job (name, kind, schema_name, relation_name, owner, every)
		VALUES ('refresh public.$view', 'refresh', 'public', '$view', current_user, $period);
		INSERT INTO concertmaster.job_state (job_id, next_run)
		SELECT job_id, now() FROM concertmaster.job
		 WHERE name = 'refresh public.$view' AND every IS NOT NULL;});
}

# Let the database's jobs run.
sub arm
{
	my ($node, $database) = @_;
	return $node->safe_psql($database, 'SELECT concertmaster.resume_all()');
}

# How many runs of the view's job ended so.
sub runs
{
	my ($node, $database, $view, $status) = @_;
	return $node->safe_psql($database,
		"SELECT count(*) FROM concertmaster.job_runs WHERE name = 'refresh public.$view' AND status = '$status'");
}

# The launcher's pid, '' if there is none.
sub launcher_pid
{
	my ($node) = @_;
	return $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'concertmaster launcher'");
}

# Wait until the view's job runs, and return its worker's pid.
sub job_pid
{
	my ($node, $database, $view) = @_;
	my $sql = "SELECT pid FROM concertmaster.progress_jobs WHERE name = 'refresh public.$view'";

	poll_sql($node, $database, "SELECT EXISTS ($sql)") or die 'no worker came';
	return $node->safe_psql($database, $sql);
}

# Wait until the launcher has gone round: every job that was due anywhere when
# this was called has been started, if it is started at all.  It serves the
# database first that it served longest ago, so after three rounds of jobs made
# due in a database of their own every other has had its turn.
sub launcher_served
{
	my ($node) = @_;
	my $made = $node->safe_psql('postgres', "SELECT count(*) FROM pg_database WHERE datname = 'marker'");

	if (!$made)
	{
		$node->safe_psql('postgres', 'CREATE DATABASE marker');
		$node->safe_psql('marker', 'CREATE EXTENSION concertmaster');
		make_job($node, 'marker', 'marker', 'SELECT 1 AS a', undef);
		arm($node, 'marker');
	}
	for (1 .. 3)
	{
		my $before = runs($node, 'marker', 'marker', 'succeeded');
		$node->safe_psql('marker', "SELECT concertmaster.request_job('refresh public.marker')");
		poll_sql($node, 'marker', "SELECT count(*) > $before FROM concertmaster.job_runs WHERE name = 'refresh public.marker' AND status = 'succeeded'")
		  or die 'the launcher does not go round';
	}
	return;
}

# Start a psql with this input in the background; its handle, and where its
# outputs will be.
sub start_call
{
	my ($node, $database, $sql) = @_;
	my %call = (out => '', err => '');

	$call{handle} = IPC::Run::start(
		[ 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-d', $node->connstr($database), '-c', $sql ],
		'>', \$call{out}, '2>', \$call{err});
	return \%call;
}

1;
