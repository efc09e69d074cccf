#!/usr/bin/env bash
# The demo in a small size, run as a person would: made-up data, again over
# itself, the files of a folder, a folder that lacks one, and stop.
#
#   test/demo.sh folder     the folder to make it in (dev/test.sh demo calls this)
#
# Prints "ok - ..." or "not ok - ..." per check; leaves nothing but the outputs
# of the demo in the folder.
# Functions are called by name, through check():
# shellcheck disable=SC2317,SC2329
set -uo pipefail
tree=$(cd "$(dirname "$0")/.." && pwd)
folder=$1
export CM_BUILD=$folder DEMO_RESPONSES=2000
failed=0

check() { # what, command...
    local what=$1
    shift
    if "$@"; then echo "ok - $what"; else echo "not ok - $what"; failed=1; fi
}

demo() { "$tree/dev/demo.sh" "$@" >"$folder/output" 2>&1 || { cat "$folder/output"; return 1; }; }
demo_psql() { env CM_BUILD="$folder/demo" "$tree/dev/server.sh" psql -XAtq -d demo "$@"; }
ask() { demo_psql -c "$1"; }
runs() { demo_psql -v ON_ERROR_STOP=1 -f "$1" >/dev/null; }
says() { # expected, query
    local answer
    answer=$(ask "$2" 2>&1)
    [ "$answer" = "$1" ] || { printf '# asked: %s\n# expected: %s\n# answer: %s\n' "$2" "$1" "$answer"; return 1; }
}
prints() { grep -qF -- "$1" "$folder/output" || { echo "# not in the output: $1"; return 1; }; }

check_state() {
    check "$1: all 12 indexes are valid" says '12|t' "SELECT count(*), bool_and(state = 'valid' AND percent_done = 100) FROM concertmaster.indexes"
    check "$1: three sets with four months ahead" says '3|t' "SELECT count(*), bool_and(runway > interval '100 days') FROM concertmaster.partition_sets"
    check "$1: every answer has a month" says 0 "SELECT count(*) FROM form_responses WHERE tableoid::regclass::text <> 'form_responses_' || to_char(submitted_at AT TIME ZONE 'UTC', 'YYYY_MM')"
    check "$1: the view is what its query says" says 0 \
        "SELECT count(*) FROM (SELECT form_schema_id, day, submissions, completed FROM form_completion_stats
            EXCEPT SELECT form_schema_id, (submitted_at AT TIME ZONE 'UTC')::date, count(*), count(*) FILTER (WHERE data ->> 'status' = 'complete')
              FROM form_responses GROUP BY 1, 2) x"
    check "$1: the view has rows" says t "SELECT count(*) > 0 FROM form_completion_stats"
    check "$1: no job has failed" says 0 "SELECT count(*) FROM concertmaster.jobs WHERE failures > 0"
    check "$1: nothing of the demo's own tables is left" says 0 \
        "SELECT count(*) FROM pg_namespace WHERE nspname = 'demo_input' OR EXISTS (SELECT FROM pg_class WHERE relname = 'demo_question')"
    check "$1: tells the way in" prints 'psql -h '
}

mkdir -p "$folder"
check 'the demo runs' demo start
check 'made up: as many answers as asked for' says 2000 'SELECT count(*) FROM form_responses'
check 'made up: runs with steps, and events' says t \
    "SELECT (SELECT count(*) FROM workflow_runs) = 200 AND (SELECT count(*) FROM node_executions) > 400 AND (SELECT count(*) FROM audit_events) >= 200"
check 'made up: nothing is from the future' says 0 "SELECT count(*) FROM form_responses WHERE submitted_at > now()"
check_state 'made up'

check 'made up: what it says to try next works' runs "$tree/demo/try.sql"
check 'made up: and shows' says '0|1' "SELECT (SELECT sum(submissions) FROM form_completion_stats) - (SELECT count(*) FROM form_responses WHERE submitted_at >= ((now() AT TIME ZONE 'UTC')::date - 30)::timestamp AT TIME ZONE 'UTC'),
    (SELECT count(*) FROM concertmaster.partitions WHERE partition = 'form_responses_2031_05')"

data=$folder/data
mkdir -p "$data"
cat >"$data/workflows.csv" <<'END'
name,active,created_at,updated_at,definition
"Say ""hello""",True,2021-01-21T10:32:07.628Z,2021-06-04T10:25:41.024Z,"{""type"": ""manual"", ""status"": ""active""}"
Undated,False,,,"{""type"": ""scheduled""}"
END
cat >"$data/form_schemas.csv" <<'END'
name,version,schema
tea,1,"{""title"": ""tea""}"
tea,2,"{""title"": ""tea, again""}"
END
{
    echo 'form_name,respondent,started_at,submitted_at,data'
    for n in $(seq 10 28); do
        echo "tea,$n,,2018-02-${n}T10:00:00+00:00,\"{\"\"status\"\": \"\"complete\"\", \"\"completion_time\"\": \"\"$n\"\"}\""
        echo "tea,$n,2018-04-${n}T09:00:00+00:00,2018-04-${n}T10:00:00+00:00,\"{\"\"status\"\": \"\"partial\"\"}\""
    done
} >"$data/form_responses.csv"
check 'the demo runs again, over itself, with the files of a folder' demo start "$data"
check 'files: says that it replaced the demo' prints 'replacing the demo that is there'
check 'files: all rows' says '2|2|38' 'SELECT (SELECT count(*) FROM workflows), (SELECT count(*) FROM form_schemas), (SELECT count(*) FROM form_responses)'
check 'files: the newest answer is from now' says t "SELECT max(submitted_at) BETWEEN now() - interval '10 minutes' AND now() FROM form_responses"
check 'files: the distances are kept' says '77 days' "SELECT max(submitted_at) - min(submitted_at) FROM form_responses"
check 'files: answers belong to the latest version' says 2 "SELECT DISTINCT s.version FROM form_responses r JOIN form_schemas s ON s.id = r.form_schema_id"
check_state 'files'

echo 'milk,1,,2018-04-01T10:00:00+00:00,{}' >>"$data/form_responses.csv"
refuses() { ! "$tree/dev/demo.sh" "$@" >"$folder/output" 2>&1; }
check 'an answer to a form that is not there is refused' refuses start "$data"
check '... by name' prints "'milk'"
rm "$data/workflows.csv"
check 'a folder without one of the files is refused' refuses start "$data"
check '... by name' prints 'workflows.csv is missing'
DEMO_RESPONSES=many check 'a number of answers that is none is refused' refuses start

pid=$(head -n 1 "$folder"/demo/*/server/data/postmaster.pid 2>/dev/null)
check 'stop' demo stop
gone() { [ -n "$1" ] && ! grep -qs '^State:[[:space:]]*[^Z[:space:]]' "/proc/$1/status"; }
check 'stop: the server is gone' gone "$pid"
check 'stop: its folder is gone' test ! -e "$folder/demo"
check 'stop again' demo stop
echo "done"
exit $failed
