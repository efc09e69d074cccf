# shellcheck shell=bash disable=SC2154,SC2034
# What the parts of bench/partition.sh share: pg_partman and the server.
# Sourced, never run.
#
# Expects of its caller: dev/lib.sh, and the variables that
# bench/partition.sh sets; the other bench/partition_*.sh likewise, hence
# their shellcheck line.

pids=()        # what runs in the background and has to be ended
contenders=()  # ours, partman if there is one, strategy
passers=()     # those of them that know a pass over all sets

clean_up() {
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    "$TREE/dev/server.sh" stop --remove "$server" || true
    rm -rf "$work"
}

# Run statements from stdin in one session.  Prints the milliseconds that the
# last of them took.
time_sql() {
    local out
    out=$({ printf '%s\n' '\timing on'; cat; } | PGOPTIONS='-c client_min_messages=error' psql -Xq -v ON_ERROR_STOP=1) || die 'a timed statement failed'
    sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p' <<<"$out" | tail -n 1
}

# --- pg_partman

has_partman() { [ -e "$("$PG_CONFIG" --sharedir)/extension/pg_partman.control" ]; }

# Install Debian's package as dev/preflight.sh would: no cluster is made, no
# service started.
install_partman() {
    local package=postgresql-$PG_MAJOR-partman
    local drop_in=/etc/postgresql-common/createcluster.d/concertmaster-bench.conf
    am_root && command -v apt-get >/dev/null || return 1
    apt-get update -qq >/dev/null 2>&1 && apt-cache show "$package" >/dev/null 2>&1 || return 1
    say "installing $package"
    mkdir -p "${drop_in%/*}"
    echo 'create_main_cluster = false' >"$drop_in"
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends \
        -o Dpkg::Use-Pty=0 "$package" </dev/null >"$work/apt.log" 2>&1 || true
    rm -f "$drop_in"
    has_partman
}

get_partman() {
    contenders=(ours partman strategy)
    passers=(ours partman)
    if ! has_partman && ! install_partman; then
        contenders=(ours strategy)
        passers=(ours)
    fi
}

# Hand a table to pg_partman, 4.x or 5.x, with monthly partitions.
partman_manage() { # table, months back, months ahead
    local type=''
    [ "${partman_version%%.*}" -ge 5 ] || type="p_type => 'native',"
    echo "SELECT partman.create_parent('public.$1', 'at', $type p_interval => '1 month', p_premake => $3,
            p_start_partition => (date_trunc('month', now()) - interval '$2 months')::text);"
}

name_of() {
    case $1 in
        ours) echo concertmaster ;;
        partman) echo "pg_partman $partman_version" ;;
        strategy) echo "strategy's function" ;;
        *) echo "$1" ;;
    esac
}

# --- the server

has_retention() {
    [ "$(ask -c "SELECT count(*) FROM pg_proc WHERE proname = 'create_partition_set'
                    AND pronamespace = 'concertmaster'::regnamespace AND 'retention' = ANY (proargnames)")" -gt 0 ]
}

start_bench_server() {
    say 'building, starting a server'
    build_and_stage
    "$TREE/dev/server.sh" start --fresh --set shared_buffers=256MB --set max_wal_size=4GB --set autovacuum=off \
        --set timezone=UTC --set max_locks_per_transaction=512 "$server"
    eval "$("$TREE/dev/server.sh" env "$server")"
    ask -d postgres -c 'CREATE DATABASE bench'
    export PGDATABASE=bench
    ask -c 'CREATE EXTENSION concertmaster'
    partman_version='not there'
    if has_partman; then
        ask -c 'CREATE SCHEMA partman' -c 'CREATE EXTENSION pg_partman SCHEMA partman'
        partman_version=$(ask -c "SELECT extversion FROM pg_extension WHERE extname = 'pg_partman'")
    fi
    make_strategy
    retires=no
    if has_retention; then retires=yes; fi
    echo "PostgreSQL $(ask -c 'SHOW server_version'), $(nproc) cores, pg_partman $partman_version"
    [ "$retires" = yes ] || echo 'this build of concertmaster retires nothing: its rows only add partitions'
}

# The strategy's own function, out of its schema.
make_strategy() {
    sed -n '/^CREATE OR REPLACE FUNCTION create_monthly_partition/,/LANGUAGE plpgsql;$/p' \
        "$TREE/test/fixtures/strategy_schema.sql" | ask
}

table_sql() { # name
    echo "CREATE TABLE $1 (id uuid NOT NULL DEFAULT gen_random_uuid(), at timestamptz NOT NULL DEFAULT now(),
              payload text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
          CREATE INDEX ON $1 (at);"
}
