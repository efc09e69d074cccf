#!/usr/bin/env bash
# The test suite, on a throwaway server of the version of PG_CONFIG.
#
#   dev/test.sh                          everything (make test)
#   dev/test.sh lint                     dev/lint.sh
#   dev/test.sh regress [name...]        test/sql/*.sql against expected/
#   dev/test.sh isolation [name...]      test/specs/*.spec against expected/
#   dev/test.sh pgtap [name...]          test/pgtap/*.sql
#   dev/test.sh tap [name...]            test/t/*.pl
#   dev/test.sh demo                     test/demo.sh: the demo in a small size
#
# A part alone takes names with or without their folder and ending.  The last
# line counts test files and lint checks: "N passed, N failed".  Exit status 1
# if any failed, or could not run.
#
# Works in build/<version>/ of this tree, on Unix sockets only, so that several
# trees can be tested at a time; there it leaves each part's outputs (results,
# logs) in run/<part>/ until the next run, and no server.
set -euo pipefail
# shellcheck source=dev/lib.sh
. "$(dirname "$0")/lib.sh"

passed=0
failed=0
failures=()

count() { # what, passed, failed
    passed=$((passed + $2))
    failed=$((failed + $3))
    if [ "$3" -gt 0 ]; then failures+=("$1"); fi
    printf '   %s: %d passed, %d failed \n' "$1" "$2" "$3"
}

# The tests of a part, by name, one per line: those asked for, else all.
list_tests() { # folder, ending, names...
    local folder=$1 ending=$2 name
    shift 2
    if [ $# -eq 0 ]; then
        find "$TREE/$folder" -maxdepth 1 -name "*$ending" -printf '%f\n' 2>/dev/null |
            sed "s/\\$ending\$//" | sort
        return
    fi
    for name in "$@"; do
        name=$(basename "$name" "$ending")
        [ -e "$TREE/$folder/$name$ending" ] || die "no such test: $folder/$name$ending"
        echo "$name"
    done
}

# A fresh folder for a part, with the tests in it, owned by the servers' user.
part_folder() {
    local dir=$BUILD/run/$1
    rm -rf "$dir"
    mkdir -p "$dir/expected" "$dir/test/sql" "$dir/test/specs"
    if [ -d "$TREE/test" ]; then cp -R "$TREE/test" "$dir/"; fi
    if [ -d "$TREE/expected" ]; then cp -R "$TREE/expected" "$dir/"; fi
    # What the documentation tests read.
    mkdir "$dir/dev"
    cp "$TREE"/dev/reference.sh "$dir/dev/"
    cp -R "$TREE"/doc "$TREE"/*.md "$TREE"/LICENSE "$dir/"
    give_to_run_user "$dir"
    cd "$dir"
}

start_server() {
    say "starting a throwaway PostgreSQL $PG_MAJOR server"
    "$TREE/dev/server.sh" start --fresh "$server"
    eval "$("$TREE/dev/server.sh" env "$server")"
    export PGDATABASE=postgres
}

stop_server() { "$TREE/dev/server.sh" stop "$server"; }

# pg_regress and pg_isolation_regress alike.  What did not end with ok failed,
# also when the driver gave up half way.
run_regress() { # part, program, tests...
    local part=$1 program=$2 log=$PWD/output.log ok
    shift 2
    touch "$log"
    as_run_user "$program" --bindir="$BINDIR" --inputdir=test --outputdir=. \
        --host="$PGHOST" --port="$PGPORT" --user="$PGUSER" \
        --dbname="contrib_$part" "$@" 2>&1 | tee "$log" |
        sed -E '/^(=|\(using|# \+\+\+|# using|SET$|(DROP|CREATE|ALTER) DATABASE$|$)/d; s/^/   /' || true
    ok=$(grep -cE '^ok [0-9]+|\.\.\. ok( |$)' "$log" || true)
    count "$part" "$ok" $((${#tests[@]} - ok))
    if [ "$ok" -ne ${#tests[@]} ]; then
        head -n 200 regression.diffs 2>/dev/null || true
        echo "   all differences: $PWD/regression.diffs; outputs: $PWD/results"
        show_server_log
    fi
}

show_server_log() {
    echo "   the end of the server's log ($server/log):"
    tail -n 15 "$server/log" | sed 's/^/   | /'
}

part_regress() {
    mapfile -t tests < <(list_tests test/sql .sql "$@")
    [ ${#tests[@]} -gt 0 ] || return 0
    say "regression tests (${#tests[@]})"
    part_folder regress
    if [ $# -eq 0 ] && [ -e test/regress_schedule ]; then
        run_regress regression "$PGXS_DIR/src/test/regress/pg_regress" --schedule=test/regress_schedule
    else
        run_regress regression "$PGXS_DIR/src/test/regress/pg_regress" "${tests[@]}"
    fi
}

part_isolation() {
    mapfile -t tests < <(list_tests test/specs .spec "$@")
    [ ${#tests[@]} -gt 0 ] || return 0
    say "isolation tests (${#tests[@]})"
    part_folder isolation
    run_regress isolation "$PGXS_DIR/src/test/isolation/pg_isolation_regress" "${tests[@]}"
}

# Count the files that prove calls ok.  A skipped file is no pass.
count_prove() { # part, log
    local ok
    ok=$(grep -E '\.\. ?ok( |$)' "$2" | grep -vcE 'skipped' || true)
    count "$1" "$ok" $((${#tests[@]} - ok))
    [ "$ok" -eq ${#tests[@]} ]
}

make_pgtap_database() {
    local -a ask=(psql -Xq -v ON_ERROR_STOP=1)
    "${ask[@]}" -c 'CREATE DATABASE pgtap' || return
    "${ask[@]}" -d pgtap -c 'CREATE EXTENSION pgtap' -c 'CREATE EXTENSION concertmaster'
}

part_pgtap() {
    mapfile -t tests < <(list_tests test/pgtap .sql "$@")
    [ ${#tests[@]} -gt 0 ] || return 0
    say "pgTAP tests (${#tests[@]})"
    part_folder pgtap
    if ! make_pgtap_database; then
        count pgTAP 0 ${#tests[@]}
        show_server_log
        return 0
    fi
    local -a files=("${tests[@]/#/test/pgtap/}")
    as_run_user env PATH="$PATH" pg_prove --failures --ext .sql -d pgtap \
        "${files[@]/%/.sql}" 2>&1 </dev/null | sed 's/^/   /' | tee output.log || true
    count_prove pgTAP output.log || show_server_log
}

part_tap() {
    mapfile -t tests < <(list_tests test/t .pl "$@")
    [ ${#tests[@]} -gt 0 ] || return 0
    say "TAP tests (${#tests[@]})"
    part_folder tap
    "$TREE/dev/server.sh" conf >node.conf
    "$TREE/dev/server.sh" conf --no-preload >node_no_preload.conf
    local -a files=("${tests[@]/#/test/t/}")
    as_run_user env -u PGHOST -u PGPORT -u PGUSER -u PGDATABASE PATH="$PATH" \
        PERL5LIB="$PWD/test/perl:$PGXS_DIR/src/test/perl" \
        PG_REGRESS="$PGXS_DIR/src/test/regress/pg_regress" \
        CONCERTMASTER_CONF="$PWD" CONCERTMASTER_STAGE="$STAGE" \
        TESTDIR="$PWD" TESTDATADIR="$PWD/tmp_check" TESTLOGDIR="$PWD/tmp_check/log" \
        PG_TEST_TIMEOUT_DEFAULT="${PG_TEST_TIMEOUT_DEFAULT:-120}" LC_ALL=C \
        prove -j2 --timer --failures "${files[@]/%/.pl}" 2>&1 </dev/null |
        tee output.log | sed 's/^/   /' || true
    count_prove TAP output.log || show_tap_logs
}

show_tap_logs() {
    local log
    for log in tmp_check/log/regress_log_*; do
        grep -qE 'not ok |died|Bail out|timed out|Dubious|ERROR:' "$log" 2>/dev/null || continue
        echo "   the end of $PWD/$log:"
        tail -n 25 "$log" | sed 's/^/   | /'
    done
    echo "   all logs of servers and tests: $PWD/tmp_check/log"
}

part_lint() {
    say "lint"
    local log=$BUILD/lint.log
    "$TREE/dev/lint.sh" "$BUILD/src" 2>&1 | tee "$log" | sed 's/^/   /' || true
    count lint "$(grep -c '^ok ' "$log" || true)" "$(grep -c '^not ok ' "$log" || true)"
    grep -q '^lint done$' "$log" || count 'lint (broke off)' 0 1
}

part_demo() {
    say "the demo, in a small size"
    local dir=$BUILD/run/demo
    rm -rf "$dir"
    mkdir -p "$dir"
    (cd "$TREE" && env -u PGHOST -u PGPORT -u PGUSER -u PGDATABASE test/demo.sh "$dir") 2>&1 </dev/null |
        tee "$BUILD/demo.log" | sed 's/^/   /' || true
    count demo "$(grep -c '^ok ' "$BUILD/demo.log" || true)" "$(grep -c '^not ok ' "$BUILD/demo.log" || true)"
    grep -q '^done$' "$BUILD/demo.log" || count 'demo (broke off)' 0 1
}

# One run at a time in a tree and version.
take_lock() {
    exec 9>"$BUILD/lock"
    if ! flock -n 9; then
        say "another run is going on in $BUILD: waiting for it"
        flock 9
    fi
}

main() {
    local part=${1:-all} started=$SECONDS
    [ $# -eq 0 ] || shift
    case $part in
        all | lint | regress | isolation | pgtap | tap | demo) ;;
        *) die "no such part: $part" ;;
    esac
    say "looking for what is needed"
    "$TREE/dev/preflight.sh" test
    find_server
    find_build
    take_lock
    server=$BUILD/server
    say "building for $("$PG_CONFIG" --version) in $BUILD"
    build_and_stage
    case $part in
        lint) part_lint ;;
        tap) part_tap "$@" 9>&- ;;
        demo) part_demo 9>&- ;;
        all | regress | isolation | pgtap)
            trap stop_server EXIT
            if [ "$part" = all ]; then part_lint; fi
            start_server 9>&-
            case $part in
                all)
                    part_regress "$@"
                    part_isolation "$@"
                    part_pgtap "$@"
                    part_tap "$@" 9>&-
                    part_demo 9>&-
                    ;;
                *) "part_$part" "$@" ;;
            esac
            ;;
    esac
    say "PostgreSQL $PG_MAJOR, $((SECONDS - started)) s${failures[*]:+; failed in: ${failures[*]}}"
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
}

main "$@"
