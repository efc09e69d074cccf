# recommended_settings as its users use it: applied through \gexec the server
# comes up again with nothing left to change; what was preloaded stays; the
# postgresql.conf form works too.  Memory and processor limits are read from
# control groups laid out as the kernel does.  Without preload the views say
# what to do.  On a standby they work.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use lib 'test/perl';
use ConcertmasterTest;
use File::Path qw(make_path);
use PostgreSQL::Test::Utils;
use Test::More;

my $left = 'SELECT setting, current, recommended FROM concertmaster.recommended_settings WHERE to_change';

# Without preload: something else is loaded, and stays.
my $node = new_node('settings', preload => 0, conf => "shared_preload_libraries = 'auto_explain'\nmax_worker_processes = 8\n",
	database => 'postgres', streaming => 1);
psql_ok($node, 'postgres', 'CREATE EXTENSION pg_stat_statements', 'pg_stat_statements without its library');
is( $node->safe_psql('postgres', 'SELECT query, calls FROM concertmaster.slow_query_analysis'),
	'pg_stat_statements is installed but not loaded|',
	'slow queries: not loaded');
like( $node->safe_psql('postgres', 'SELECT hint FROM concertmaster.slow_query_analysis'),
	qr/shared_preload_libraries.*restart/, 'slow queries: what to do about it');
psql_ok($node, 'postgres', 'DROP EXTENSION pg_stat_statements', 'pg_stat_statements taken away');
like( $node->safe_psql('postgres', 'SELECT query, hint FROM concertmaster.slow_query_analysis'),
	qr/^pg_stat_statements is not installed in this database\|Add pg_stat_statements.*CREATE EXTENSION/,
	'slow queries: neither installed nor loaded');

# Values that need every kind of quoting in a file.
$node->safe_psql('postgres', q{ALTER SYSTEM SET log_line_prefix = E'\\\\ it''s %m '});
$node->reload;
poll_sql($node, 'postgres', q{SELECT current = E'\\\\ it''s %m ' FROM concertmaster.recommended_settings WHERE setting = 'log_line_prefix'},
	't', 'the present prefix is shown as it is');

is( $node->safe_psql('postgres', q{SELECT * FROM concertmaster.recommended_settings_sql() s WHERE s ~ 'shared_preload'}),
	q{ALTER SYSTEM SET shared_preload_libraries = 'auto_explain', 'concertmaster', 'pg_stat_statements'},
	'each library is a literal of its own');
is( $node->safe_psql('postgres', q{SELECT * FROM concertmaster.recommended_settings_cnpg() s WHERE s !~ '^    [a-z]'}),
	qq{postgresql:\n  shared_preload_libraries:\n    - "auto_explain"\n    - "concertmaster"\n    - "pg_stat_statements"\n  parameters:},
	'CloudNativePG: libraries as a list of their own');
is( $node->safe_psql('postgres', q{SELECT count(*) FROM concertmaster.recommended_settings_cnpg() s
	WHERE s ~ '^    (archive_|log_destination|log_directory|log_filename|logging_collector|log_rotation|shared_preload|huge_pages|wal_level|port|ssl|unix_socket|full_page)'}),
	'0', 'CloudNativePG: nothing that the operator keeps for itself');

# The postgresql.conf form first, on a copy: it must be read without an error.
my $conf = $node->safe_psql('postgres', 'SELECT * FROM concertmaster.recommended_settings_conf()');
like($conf, qr/^shared_preload_libraries = 'auto_explain, concertmaster, pg_stat_statements'  # restart; /m,
	'postgresql.conf: one list in quotes');
my $restart_only = $node->safe_psql('postgres', 'SELECT count(*) FROM concertmaster.recommended_settings WHERE to_change AND needs_restart');
cmp_ok($restart_only, '>=', 3, 'some changes need a restart');

$node->backup('before');

# ALTER SYSTEM through \gexec, a restart, and nothing is left.
psql_ok($node, 'postgres', 'SELECT * FROM concertmaster.recommended_settings_sql() \gexec', 'applied through \gexec');
$node->restart;
is($node->safe_psql('postgres', $left), '', 'nothing is left to change');
is($node->safe_psql('postgres', 'SHOW shared_preload_libraries'), 'auto_explain, concertmaster, pg_stat_statements',
	'what was loaded is still loaded');
is($node->safe_psql('postgres', 'SELECT count(*) FROM concertmaster.recommended_settings_cnpg()'), '0',
	'CloudNativePG: no lines where there is nothing to change');

# A standby made before, configured through the file.
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'before', has_streaming => 1);
append_to_file($standby->data_dir . '/postgresql.auto.conf', "log_line_prefix = '%m '\n");
append_to_file($standby->data_dir . '/postgresql.conf', "$conf\n");
append_to_file($standby->data_dir . '/postgresql.auto.conf', "#\n");
$standby->start;
$node->wait_for_catchup($standby);
is( $standby->safe_psql('postgres', "$left AND setting <> 'log_line_prefix'"),
	'', 'standby, configured by postgresql.conf: nothing is left to change');
is( $standby->safe_psql('postgres', q{SELECT (SELECT count(*) FROM concertmaster.active_connections WHERE pid = pg_backend_pid()),
	(SELECT count(*) FROM concertmaster.lock_waits), (SELECT count(*) > 5 FROM concertmaster.index_usage_stats),
	(SELECT count(*) > 5 FROM concertmaster.table_sizes), (SELECT count(*) FROM concertmaster.slow_query_analysis)}),
	'1|0|t|t|1', 'every view works on a standby');
$standby->stop;

# Limits of control groups, as the kernel lays them out.
sub host_with
{
	my ($name, %files) = @_;
	my $root = $node->basedir . "/host_$name";

	$files{'proc/meminfo'} //= "MemTotal:       16777216 kB\nMemFree: 5 kB\n";
	for my $path (keys %files)
	{
		my ($folder) = "$root/$path" =~ m{(.*)/};
		make_path($folder);
		append_to_file("$root/$path", $files{$path});
	}
	return $node->safe_psql('postgres',
		"SELECT pg_size_pretty(memory_bytes), memory_source, CASE cpu_source WHEN 'host' THEN NULL ELSE cpus END, cpu_source
		   FROM concertmaster._host_facts_under('$root')");
}

is(host_with('plain'), '16 GB|host||host', 'no control group');
is(host_with('v2_root', 'proc/self/cgroup' => "0::/\n", 'sys/fs/cgroup/memory.max' => "2147483648\n", 'sys/fs/cgroup/cpu.max' => "50000 100000\n"),
	'2048 MB|cgroup v2|0.5|cgroup v2', 'version 2, the group is the root that is seen');
is(host_with('v2_parent', 'proc/self/cgroup' => "0::/a.slice/b.scope\n", 'sys/fs/cgroup/a.slice/b.scope/memory.max' => "max\n",
		'sys/fs/cgroup/a.slice/memory.max' => "4294967296\n", 'sys/fs/cgroup/a.slice/b.scope/cpu.max' => "max 100000\n"),
	'4096 MB|cgroup v2||host', 'version 2, the parent sets the limit');
is(host_with('v2_outside', 'proc/self/cgroup' => "0::/../../x\n", 'sys/fs/cgroup/memory.max' => "1073741824\n"),
	'1024 MB|cgroup v2||host', 'version 2, a path outside the namespace');
is(host_with('v2_none', 'proc/self/cgroup' => "0::/a\n", 'sys/fs/cgroup/a/memory.max' => "max\n", 'sys/fs/cgroup/a/cpu.max' => "max 100000\n"),
	'16 GB|host||host', 'version 2, no limit');
is(host_with('v2_above', 'proc/self/cgroup' => "0::/\n", 'sys/fs/cgroup/memory.max' => "1099511627776\n"),
	'16 GB|host||host', 'a limit above what there is does not count');
is(host_with('v1', 'proc/self/cgroup' => "9:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n1:name=systemd:/\n0::/\n",
		'sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes' => "3221225472\n",
		'sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us' => "10000\n", 'sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us' => "100000\n"),
	'3072 MB|cgroup v1|0.1|cgroup v1', 'version 1');
is(host_with('v1_inside', 'proc/self/cgroup' => "9:memory:/docker/x\n", 'sys/fs/cgroup/memory/memory.limit_in_bytes' => "3221225472\n"),
	'3072 MB|cgroup v1||host', 'version 1, mounted at the group itself');
is(host_with('v1_none', 'proc/self/cgroup' => "9:memory:/x\n3:cpu:/x\n", 'sys/fs/cgroup/memory/x/memory.limit_in_bytes' => "9223372036854771712\n",
		'sys/fs/cgroup/cpu/x/cpu.cfs_quota_us' => "-1\n", 'sys/fs/cgroup/cpu/x/cpu.cfs_period_us' => "100000\n"),
	'16 GB|host||host', 'version 1, no limit');
is(host_with('odd', 'proc/self/cgroup' => "nonsense\n0::\n", 'sys/fs/cgroup/memory.max' => "many\n", 'sys/fs/cgroup/cpu.max' => "\n"),
	'16 GB|host||host', 'nonsense counts as no limit');

$node->stop;
done_testing();
