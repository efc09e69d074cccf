# Materialized views after crashes at every step of a refresh, a promotion, a
# writer that waits for its standby, and prepared transactions.  After each of
# them the next refresh makes the view what its query says.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use ConcertmasterTest;
use JobsTest;

my $node = new_node('main', database => 'd', streaming => 1,
	conf => "max_prepared_transactions = 5\nrestart_after_crash = on\nconcertmaster.enabled = off\n");

# The view's query waits while somebody holds an advisory lock.
my $query = 'SELECT k, sum(s.held(n)) AS n, count(*) AS c FROM s.facts GROUP BY k';
$node->safe_psql('d', qq{
	CREATE SCHEMA s;
	CREATE FUNCTION s.held(n integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS \$\$
	BEGIN
		PERFORM pg_advisory_lock_shared(4711);
		PERFORM pg_advisory_unlock_shared(4711);
		RETURN n;
	END \$\$;
	CREATE TABLE s.facts (k integer, n integer) PARTITION BY RANGE (k);
	CREATE TABLE s.facts_0 PARTITION OF s.facts FOR VALUES FROM (0) TO (100);
	CREATE TABLE s.facts_1 PARTITION OF s.facts FOR VALUES FROM (100) TO (200);
	INSERT INTO s.facts SELECT g % 150, g FROM generate_series(1, 1000) g;
	CREATE MATERIALIZED VIEW s.v AS $query;
	CREATE UNIQUE INDEX ON s.v (k);
	SELECT concertmaster.manage_matview('s.v', NULL);
});
$node->safe_psql('d', "CALL concertmaster.run_job('refresh s.v')");
is($node->safe_psql('d', 'SELECT mode FROM concertmaster.matviews'), 'incremental', 'the view is incremental');

my $differ = qq{
	SELECT (SELECT count(*) FROM concertmaster.verify_matview('s.v')),
	       (SELECT count(*) FROM (TABLE s.v EXCEPT ALL ($query)) x),
	       (SELECT count(*) FROM (($query) EXCEPT ALL TABLE s.v) x)};
my $content = "SELECT md5(string_agg(v::text, ' ' ORDER BY k)) FROM s.v";

# What the view holds too much or too little; nothing is 0|0|0.
sub differences { my ($on) = @_; return $on->safe_psql('d', $differ) }

# Refresh, and return how and how many groups.
sub refresh
{
	my ($on, $settings) = @_;
	return $on->safe_psql('d', ($settings // '') . "SELECT mode, groups FROM concertmaster.refresh('s.v')");
}

# Wait until these processes are gone and the server answers.
sub wait_for_restart
{
	my (@pids) = @_;
	return poll_sql($node, 'd', 'SELECT count(*) FROM pg_stat_activity WHERE pid IN (' . join(', ', @pids) . ')', '0');
}

# A session that has run these statements and stays; its pid.
sub session
{
	my (@statements) = @_;
	my $session = $node->background_psql('d', on_error_stop => 0);

	$session->query_safe($_) for @statements;
	return ($session, $session->query_safe('SELECT pg_backend_pid()'));
}

# Let go of sessions whose server process was killed.
sub forget
{
	for my $session (@_)
	{
		eval { $session->quit };
	}
}

# 1. the refreshing process is killed while it waits at one step or another
my @steps = (
	[ 'before it has the view', 'BEGIN; REFRESH MATERIALIZED VIEW CONCURRENTLY s.v' ],
	[ 'before it has the tables', 'BEGIN; LOCK TABLE ONLY s.facts_1 IN ACCESS EXCLUSIVE MODE' ],
	[ 'before it has read the log', 'BEGIN; LOCK TABLE concertmaster.matview_log IN ACCESS EXCLUSIVE MODE' ],
	[ 'while it computes', 'SELECT FROM pg_advisory_lock(4711)' ],
	[ 'when it has merged, before the log is deleted', 'BEGIN; LOCK TABLE concertmaster.matview_log IN EXCLUSIVE MODE' ],
	[ 'when the log is deleted, before its stamps', 'BEGIN; LOCK TABLE concertmaster.matview_track IN EXCLUSIVE MODE' ],
	[ 'when all but its state is written', 'BEGIN; LOCK TABLE concertmaster.matview_state IN EXCLUSIVE MODE' ],
);
for my $by ("CALL concertmaster.run_job('refresh s.v')", "SELECT concertmaster.refresh('s.v')")
{
	my $who = $by =~ /^CALL/ ? 'worker' : 'backend';

	for my $step (@steps)
	{
		my ($where, $lock) = @$step;

		$node->safe_psql('d', 'INSERT INTO s.facts VALUES (7, 1), (107, 1); DELETE FROM s.facts WHERE ctid IN (SELECT min(ctid) FROM s.facts_0)');
		my $before = $node->safe_psql('d', $content);
		my ($holder, $holder_pid) = session($lock);
		my $call = start_call($node, 'd', $by);
		my $waits = "SELECT pid FROM pg_stat_activity WHERE datname = 'd' AND wait_event_type = 'Lock'";
		poll_sql($node, 'postgres', "SELECT count(*) FROM ($waits) w", '1', "$who waits $where") or die 'it does not';
		my $pid = $node->safe_psql('postgres', $waits);
		kill 'KILL', $pid;
		wait_for_restart($pid, $holder_pid);
		$call->{handle}->finish;
		forget($holder);
		is($node->safe_psql('d', $content), $before, "$who killed $where: the view is as it was");
		like(refresh($node), qr/^(incremental|full)\|/, 'it is refreshed');
		is(differences($node), '0|0|0', 'and then right');
	}
}

# 2. its transaction is open when its server process, or the server, ends
for my $how (qw(KILL TERM immediate))
{
	$node->safe_psql('d', "INSERT INTO s.facts SELECT g * 10, 1 FROM generate_series(1, 15) g");
	my $before = $node->safe_psql('d', $content);
	my ($writer, $writer_pid) = session('BEGIN', 'INSERT INTO s.facts VALUES (3, 5000)');
	my ($session, $pid) = session('BEGIN', "SELECT concertmaster.refresh('s.v')", 'SAVEPOINT a',
		'INSERT INTO s.facts VALUES (5, 1), (150, 1)', "SELECT concertmaster.refresh('s.v')");
	if ($how eq 'immediate')
	{
		$node->stop('immediate');
		$node->start;
	}
	else
	{
		kill $how, $pid;
		wait_for_restart($how eq 'KILL' ? ($pid, $writer_pid) : $pid);
	}
	forget($session);
	is($node->safe_psql('d', $content), $before, "refreshed and not committed, $how: the view is as it was");
	$writer->query_safe('COMMIT') if $how eq 'TERM';
	forget($writer);
	my $groups = $how eq 'TERM' ? 16 : 15;
	like(refresh($node), qr/^(incremental\|$groups|full\|)$/, "$how: what it had consumed is there again");
	is(differences($node), '0|0|0', 'and the view right');
	is($node->safe_psql('d', "SELECT count(*) FROM s.facts WHERE n = 5000"), $how eq 'TERM' ? 1 : 0, 'as the writer ended');
	$node->safe_psql('d', 'DELETE FROM s.facts WHERE n = 5000');
	refresh($node);
}

# 3. a refresh that is prepared keeps others out, over a crash too
for my $end (qw(COMMIT ROLLBACK))
{
	$node->safe_psql('d', 'INSERT INTO s.facts VALUES (8, 1), (108, 1)');
	$node->safe_psql('d', "BEGIN; SELECT concertmaster.refresh('s.v'); INSERT INTO s.facts VALUES (9, 1); PREPARE TRANSACTION 'r'");
	$node->stop('immediate');
	$node->start;
	$node->safe_psql('d', 'INSERT INTO s.facts VALUES (109, 1)');
	psql_error($node, 'd', "SET lock_timeout = '100ms'; SELECT concertmaster.refresh('s.v')", qr/lock|in time/, 'another one waits');
	$node->safe_psql('d', "$end PREPARED 'r'");
	my $groups = $end eq 'COMMIT' ? 2 : 3;
	like(refresh($node), qr/^(incremental\|$groups|full\|)$/, "$end PREPARED: the next has what is left");
	is(differences($node), '0|0|0', 'and the view is right');
}

# 4. a writer has committed and waits for a standby that is not there
my $local = "SET synchronous_commit = local;";
for my $released (1, 0)
{
	$node->safe_psql('d', 'DELETE FROM s.facts WHERE k IN (20, 120)');
	refresh($node);
	$node->safe_psql('d', "$local ALTER SYSTEM SET synchronous_standby_names = 'missing'");
	$node->reload;
	poll_sql($node, 'd', 'SHOW synchronous_standby_names', 'missing');
	my $writer = start_call($node, 'd', 'INSERT INTO s.facts VALUES (20, 1), (120, 1)');
	poll_sql($node, 'd', "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", '1', 'a writer waits for a standby');
	is(refresh($node, $local), 'incremental|0', 'a refresh neither waits for it nor sees it');
	$node->safe_psql('d', "$local INSERT INTO s.facts VALUES (20, 5), (21, 5)");
	like(refresh($node, $local), qr/^(incremental\|2|full\|)$/, 'another writer of its group is seen');
	$node->safe_psql('d', "$local ALTER SYSTEM RESET synchronous_standby_names");
	if ($released)
	{
		$node->reload;
	}
	else
	{
		$node->stop('immediate');
		$node->start;
	}
	$writer->{handle}->finish;
	like(refresh($node), qr/^(incremental\|2|full\|)$/, $released ? 'released: the next refresh has it' : 'after a crash: the next refresh has it');
	is(differences($node), '0|0|0', 'and the view is right');
}

# 5. a standby is promoted with changes in the log, a prepared writer, and a
# refresh that was under way
my $standby = new_standby($node, 'standby');
$node->safe_psql('d', 'INSERT INTO s.facts VALUES (30, 1), (130, 1); TRUNCATE s.facts_0; INSERT INTO s.facts VALUES (1, 1)');
refresh($node);
$node->safe_psql('d', "INSERT INTO s.facts VALUES (31, 1), (131, 1)");
$node->safe_psql('d', "BEGIN; INSERT INTO s.facts VALUES (32, 1), (131, 1); PREPARE TRANSACTION 'w'");
my ($open) = session('BEGIN', "SELECT concertmaster.refresh('s.v')");
my ($writing) = session('BEGIN', 'INSERT INTO s.facts VALUES (33, 1)');
$node->wait_for_catchup($standby);
is($standby->safe_psql('d', "SELECT pending FROM concertmaster.matviews"), '2', 'the standby shows what is pending');
$node->stop('immediate');
forget($open, $writing);
$standby->promote;
is(refresh($standby), 'incremental|2', 'promoted, it computes what was pending');
is(differences($standby), '0|0|0', 'and the view is right');
$standby->safe_psql('d', "COMMIT PREPARED 'w'");
is(refresh($standby), 'incremental|2', 'then what was prepared on the old primary');
is(differences($standby), '0|0|0', 'and it is right');
$standby->safe_psql('d', 'INSERT INTO s.facts VALUES (34, 1); UPDATE s.facts SET k = 134 WHERE k = 34');
$standby->safe_psql('d', "CALL concertmaster.run_job('refresh s.v')");
is($standby->safe_psql('d', 'SELECT last_mode, last_groups FROM concertmaster.matviews'), 'incremental|2', 'and what came there, by a worker');
is(differences($standby), '0|0|0', 'right again');
$standby->stop;
done_testing();
