# README.md tells the truth: its session answers what it shows, its other
# examples run, its links lead somewhere, and its picture has the columns that
# install() makes.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use ConcertmasterTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $tree = "$FindBin::Bin/../..";
my $readme = slurp_file("$tree/README.md");
my $has_cron = -e sharedir() . '/extension/pg_cron.control';
my $node = new_node('readme', conf => "lc_messages = 'C'\ntimezone = 'UTC'\n");

$node->append_conf('postgresql.conf',
	"shared_preload_libraries = 'concertmaster,pg_stat_statements,pg_cron'\ncron.database_name = 'platform'\n")
  if $has_cron;
$node->restart if $has_cron;
$node->safe_psql('postgres', 'CREATE DATABASE platform');

# The session, block by block, in one psql.
my ($session) = $readme =~ /<!-- session -->\n(.*)<!-- \/session -->/s;
my @blocks = $session =~ /^```(?:sql|text)\n(.*?)^```$/msg;
my @kinds = $session =~ /^```(sql|text)$/mg;
my $sql = join '', map { $kinds[$_] eq 'sql' ? $blocks[$_] : '' } 0 .. $#blocks;

is(without_comments(slurp_file("$tree/doc/session.sql")), without_comments($sql),
	'doc/session.sql is the session of README.md');
is(run_session(), join('', map { "```$kinds[$_]\n$blocks[$_]" } 0 .. $#blocks),
	'the session answers what README.md shows');

# The other examples, in order, after what they take for granted.
$node->safe_psql(
	'platform', q{
	CREATE TABLE measurements (taken_at timestamptz NOT NULL, value float8) PARTITION BY RANGE (taken_at);
	CREATE TABLE answers (id bigint PRIMARY KEY, submitted_at timestamptz NOT NULL DEFAULT now());
	CREATE MATERIALIZED VIEW daily_totals AS SELECT 1 AS day, 2 AS total;
	CREATE ROLE engineer; CREATE ROLE grafana;});
$node->safe_psql('platform', 'CREATE EXTENSION pg_cron') if $has_cron;
my $examples = 0;
my $rest = $readme =~ s/<!-- session -->.*<!-- \/session -->//sr;
while ($rest =~ /^```sql\n(.*?)^```$/msg)
{
	my $example = $1;
	my ($first) = $example =~ /^(.*)$/m;

	next if $example =~ /pg_cron/ && !$has_cron;
	my ($status, $stdout, $stderr) = $node->psql('platform', $example, on_error_die => 0);
	is($stderr =~ s/^(?:psql:\S+ )?(?:NOTICE|INFO):.*\n?//mgr, '', "runs: $first");
	$examples++;
}
ok($examples > 5, "$examples examples were run");

# The errors that it explains.
$node->safe_psql('postgres', 'CREATE DATABASE faq');
$node->safe_psql(
	'faq', q{
	CREATE EXTENSION concertmaster;
	SELECT FROM concertmaster.install();
	CREATE MATERIALIZED VIEW nou AS SELECT 1 AS a;});
for my $sql (
	'SELECT install()',
	'BEGIN; CALL concertmaster.build_indexes(); COMMIT',
	q{INSERT INTO form_responses (submitted_at) VALUES ('2024-05-05')},
	q{SELECT concertmaster.manage_matview('nou', '1 hour')},
	'DROP EXTENSION concertmaster')
{
	my ($status, $stdout, $stderr) = $node->psql('faq', $sql, on_error_die => 0);
	my ($error) = $stderr =~ /ERROR:  (.*)/;
	like($readme, qr/^\*\*`\Q$error\E`\*\*$/m, "README.md explains: $error");
}
for my $cure (
	q{SELECT concertmaster.create_monthly_partition('form_responses', '2024-05-01')},
	q{SELECT FROM concertmaster.alter_partition_set('form_responses', start_at => '2024-01-01')},
	q{CALL concertmaster.roll_partitions('form_responses')},
	q{INSERT INTO form_responses (submitted_at) VALUES ('2024-05-05'), ('2024-01-01'), ('2024-12-31')},
	q{SELECT concertmaster.manage_matview('nou', '1 hour', allow_blocking => true)})
{
	psql_ok($node, 'faq', $cure, "cures: $cure");
}

# Links to files and to headings.
for my $page ('README.md', 'CONTRIBUTING.md', 'doc/conversion.md', 'doc/from-the-strategy.md', 'doc/partitions.md', 'doc/reference.md')
{
	my $text = slurp_file("$tree/$page");
	my ($folder) = $page =~ m{^(.*/)?};
	my @broken = grep { !leads_somewhere($_, $page, $folder // '') } $text =~ /\]\(([^)\s]+)\)/g;
	is("@broken", '', "the links of $page lead somewhere");
}

# The picture.
my $svg = slurp_file("$tree/doc/tables.svg");
my ($table, %drawn);
for my $line (split /\n/, $svg)
{
	if ($line =~ /<text class="name".*>(\w+)</) { $table = $1 }
	elsif ($line =~ /<text(?: class="key")? x=.*>(\w+)</) { $drawn{"$table.$1"} = 1 }
}
is( join("\n", sort keys %drawn),
	$node->safe_psql(
		'platform', q{
		SELECT table_name || '.' || column_name COLLATE "C"
		FROM information_schema.columns
		WHERE table_schema = 'public' AND table_name IN
		  ('workflows', 'workflow_runs', 'form_schemas', 'form_responses', 'node_executions', 'audit_events')
		ORDER BY 1}),
	'doc/tables.svg has the columns that install() makes');

cmp_ok(($readme =~ tr/\n//), '<', 460, 'README.md has fewer than 460 lines');
done_testing();

# Run the blocks of the session and write them as README.md does: a block of
# statements, then a block with what they printed, if anything.
sub run_session
{
	my $mark = '-- end of block';
	my $input = join '',
	  map { $kinds[$_] eq 'sql' ? "$blocks[$_]\\echo $mark\n" : '' } 0 .. $#blocks;
	my ($stdout, $stderr) = ('', '');

	IPC::Run::run(
		[ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('platform') ],
		'<', \$input, '>', \$stdout, '2>', \$stderr);
	$stderr =~ s/^NOTICE:.*\n//mg;
	is($stderr, '', 'the session runs without an error');

	my @answers = split /^\Q$mark\E\n/m, $stdout, -1;
	my $text = '';
	for my $statements (grep { $kinds[$_] eq 'sql' } 0 .. $#blocks)
	{
		my $answer = shift(@answers) // '';
		$answer =~ s/[ \t]+$//mg;
		$answer =~ s/\n+\z/\n/;
		$text .= "```sql\n$blocks[$statements]";
		$text .= "```text\n$answer" if $answer ne '';
	}
	return $text;
}

# Statements alone.
sub without_comments { return $_[0] =~ s/^--.*\n//mgr =~ s/^\s*\n//mgr }

# Is there such a file, and such a heading in it?  The web is not asked.
sub leads_somewhere
{
	my ($link, $page, $folder) = @_;
	my ($file, $anchor) = $link =~ /^([^#]*)(?:#(.*))?$/;

	return 1 if $link =~ /^https?:/;
	my $target = $file eq '' ? "$tree/$page" : "$tree/$folder$file";
	return 0 unless -e $target;
	return 1 unless defined $anchor;
	my %anchors = map { slug($_) => 1 } slurp_file($target) =~ /^#+ (.*)$/mg;
	return $anchors{$anchor};
}

# The name that a heading gets on the web.
sub slug { return lc($_[0]) =~ s/[^\w\- ]//gr =~ tr/ /-/r }

sub sharedir
{
	my ($stdout) = run_command([ 'pg_config', '--sharedir' ]);
	return $stdout;
}
