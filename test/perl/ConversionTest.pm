# What the TAP tests of conversions share: a worker that is held at a known
# statement, and killed there.
package ConversionTest;

use strict;
use warnings;

use Exporter 'import';
use Test::More;
use ConcertmasterTest;

our @EXPORT = qw(hold_statements begin_held release_held finish kill_held);

# Who has the lock that a held worker waits for.
my $holder;

# Make schema s, where every DDL statement of a worker takes a number, and so
# does what calls s.hold_now() itself; the one with the number that is to be
# held waits for an advisory lock.
sub hold_statements
{
	my ($node) = @_;
	$node->safe_psql('d', q{
		CREATE SCHEMA s;
		CREATE SEQUENCE s.statement;
		CREATE TABLE s.hold (number bigint);
		INSERT INTO s.hold VALUES (0);
		CREATE FUNCTION s.hold_now() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
		DECLARE
			held bigint;
		BEGIN
			IF EXISTS (SELECT FROM pg_stat_activity WHERE pid = pg_backend_pid() AND backend_type = 'concertmaster worker') THEN
				SELECT number INTO held FROM s.hold;
				IF nextval('s.statement') = held THEN
					PERFORM pg_advisory_lock_shared(4711);
				END IF;
			END IF;
		END $$;
		CREATE FUNCTION s.hold() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN PERFORM s.hold_now(); END $$;
		CREATE EVENT TRIGGER hold ON ddl_command_end EXECUTE FUNCTION s.hold();
	});
	return;
}

# Run a call until its worker waits at that number; the session and the
# worker's pid, or '' if it came to its end before.
sub begin_held
{
	my ($node, $number, $sql) = @_;
	release_held();
	$node->safe_psql('d', "SELECT setval('s.statement', 1, false); UPDATE s.hold SET number = $number");
	$holder = $node->background_psql('d', on_error_stop => 0);
	$holder->query('SELECT pg_advisory_lock(4711)');
	my $session = $node->background_psql('d', on_error_stop => 0);
	$session->query_until(qr/begun/, "\\echo begun\n$sql;\n\\echo ended\n");
	my $pid = '';
	poll_until(sub {
		$pid = $node->safe_psql('d', "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted");
		$session->{run}->pump_nb;
		return $pid ne '' || $session->{stdout} =~ /ended/;
	});
	return ($session, $pid);
}

# Let who is held go on.  The session is gone already after a crash.
sub release_held
{
	eval { $holder->quit } if defined $holder;
	undef $holder;
	return;
}

# Let a session's call come to its end.
sub finish
{
	my ($session) = @_;
	poll_until(sub { $session->{run}->pump_nb; return $session->{stdout} =~ /ended/ });
	$session->quit;
	return;
}

# Kill the worker at that number.  False if the call came to its end before.
sub kill_held
{
	my ($node, $number, $sql) = @_;
	my ($session, $pid) = begin_held($node, $number, $sql);
	if ($pid eq '')
	{
		$session->quit;
		return 0;
	}
	my $then = $node->safe_psql('d', 'SELECT clock_timestamp()');
	kill 'KILL', $pid;
	# Every other process goes as well, then the server comes back by itself.
	poll_sql($node, 'd', "SELECT backend_start > '$then' FROM pg_stat_activity WHERE backend_type = 'checkpointer'", 't',
		"killed at $number: the server is back");
	eval { $session->quit };
	return 1;
}

1;
