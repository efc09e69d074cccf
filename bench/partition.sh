#!/usr/bin/env bash
# What it costs to keep partition sets rolled, beside pg_partman and beside the
# strategy's own create_monthly_partition(), all in one run.
#
#   bench/partition.sh [option]... [stall|idle|more|deadlocks|lookup]...
#
#   stall       what readers and writers wait while 4 partitions are added and
#               2 retired beside a transaction that reads the table for 5 s;
#               without and with a default partition
#   idle        a pass with nothing to do over 100 sets of 36 monthly partitions
#   more        one more partition for each of those sets: time, and the locks
#               that one process holds at once
#   deadlocks   1,000 passes under load that each make and retire a partition
#   lookup      a row by its id over 36 partitions, beside a plain table
#
#   --rounds N  rounds of stall, idle, more and lookup (default 3)
#   --passes N  passes of deadlocks (default 1000)
#   --sets N    sets of idle and more (default 100)
#   --reader S  seconds for which the long reader reads (default 5)
#
# Those compared take turns, and a figure is the median of the rounds.  A ratio
# is the figure of that row by ours: above 1 ours is better.  pg_partman comes
# from Debian's package, which root gets installed; without it its rows are
# left out.  How stalls are measured: bench/partition_stall.sh.
#
# Makes a throwaway server in build/<version>/bench_partition and removes it;
# its autovacuum is off, so that nothing else runs.
set -euo pipefail
# shellcheck source=dev/lib.sh
. "$(dirname "$0")/../dev/lib.sh"
# shellcheck source=bench/figures.sh
. "$TREE/bench/figures.sh"
# shellcheck source=bench/partition_lib.sh
. "$TREE/bench/partition_lib.sh"
# shellcheck source=bench/partition_stall.sh
. "$TREE/bench/partition_stall.sh"
# shellcheck source=bench/partition_sets.sh
. "$TREE/bench/partition_sets.sh"
# shellcheck source=bench/partition_deadlocks.sh
. "$TREE/bench/partition_deadlocks.sh"
# shellcheck source=bench/partition_lookup.sh
. "$TREE/bench/partition_lookup.sh"

rounds=3
passes=1000
sets=100
reader=5
all_parts=(stall idle more deadlocks lookup)
parts=()

main() {
    local part started=$SECONDS
    read_arguments "rounds passes sets reader" "$@"
    find_server
    find_build
    work=$(mktemp -d)
    server=$BUILD/bench_partition
    trap clean_up EXIT
    get_partman
    start_bench_server
    for part in "${parts[@]}"; do
        "bench_$part"
    done
    printf '\n%d s\n' $((SECONDS - started))
}

main "$@"
