# What doc/from-the-strategy.md says PostgreSQL answers is what it answers.
#
# The page is the test: each block "sql as written" is run, in order, in one
# database, and the block "text" that follows it is the answer it must give;
# one without such a block must succeed.  "sql added" is what the page adds so
# that the next statement gets further.  On 15 the answers are compared word
# by word, on other versions by SQLSTATE: texts change, codes do not.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use ConcertmasterTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $page = slurp_file("$FindBin::Bin/../../doc/from-the-strategy.md");
my $has_cron = -e sharedir() . '/extension/pg_cron.control';
my $node = new_node(
	'strategy',
	preload => 0,
	conf => "shared_preload_libraries = 'pg_stat_statements" . ($has_cron ? ',pg_cron' : '') . "'\n"
	  . ($has_cron ? "cron.database_name = 'strategy'\n" : '')
	  . "lc_messages = 'C'\n");
my $is_15 = $node->safe_psql('postgres', 'SHOW server_version_num') < 160000;

$node->safe_psql('postgres', 'CREATE DATABASE strategy');

my ($run, $failing) = (0, 0);
for my $example (read_examples($page))
{
	my ($sql, $expected, $kind) = @$example;

	next if $sql =~ /pg_cron|cron\./ && $expected eq '' && !$has_cron;
	my $answer = answer_to($sql);
	my ($first) = $sql =~ /^((?!--).*)$/m;
	$expected = sqlstates($expected) unless $is_15;
	$answer = sqlstates($answer) unless $is_15;
	is($answer, $expected, "$kind: $first");
	$run++;
	$failing++ if $expected ne '';
}
ok($run > 30 && $failing > 15, "$run examples were run, $failing of them fail");

# What was lost with the other versions' texts: are SQLSTATEs looked at at all?
is(sqlstates("ERROR:  42P01: a\nERROR:  0A000: b"), "42P01\n0A000", 'codes are found');

done_testing();

# The examples of the page: [statement, answer or '', kind].
sub read_examples
{
	my ($text) = @_;
	my @examples;

	while ($text =~ /^```(sql (?:as written|added)|text)\n(.*?)^```$/msg)
	{
		my ($kind, $body) = ($1, $2);
		if ($kind eq 'text') { $examples[-1][1] = $body }
		else { push @examples, [ $body, '', $kind ] }
	}
	chomp($_->[1]) for @examples;
	return @examples;
}

# Errors, details and hints that psql gets for a text of statements.
sub answer_to
{
	my ($sql) = @_;
	my ($stdout, $stderr);

	$node->psql('strategy', "\\set VERBOSITY verbose\n$sql",
		stdout => \$stdout, stderr => \$stderr, on_error_stop => 0);
	# Not where in the statement or in the server's source it was found.
	$stderr =~ s/^psql:\S+ //mg;
	$stderr .= "\n";
	$stderr =~ s/^(?:LINE \d+|QUERY|CONTEXT|LOCATION|[A-Z]+ NAME):.*\n(?:(?![A-Z ]+:  ).*\n)*//mg;
	return $stderr =~ s/\s+\z//r;
}

# The codes alone, one per line.
sub sqlstates { return join "\n", $_[0] =~ /^ERROR:  (\w{5}):/mg }

sub sharedir
{
	my ($stdout) = run_command([ 'pg_config', '--sharedir' ]);
	return $stdout;
}
