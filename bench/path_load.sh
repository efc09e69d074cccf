# shellcheck shell=bash disable=SC2154,SC2034
# The load of bench/path.sh: what the platform of the strategy does all day,
# 50 transactions a second.  Sourced, never run.
#
# Each kind of transaction is a pgbench of its own, so that who waits does not
# keep the others from starting, and the server's log says by application_name
# whose wait it was.  All connections stay for the whole run: plans that were
# prepared before the path are used on it and after it.

# Kind, transactions a second, and the phase of indexes that makes it quick
# (0: it is so already).  Those that read all responses as yet take seconds of
# every core, so a platform that lives has few of them.
kinds='submit 9 0
submit_simple 2 0
correct 2 0
response 6 0
start_run 5 0
end_run 4 0
steps 6 0
step 4 0
workflow 6 0
audit 2 0
stats 1.3 0
workflows 1.5 1
dashboard 0.7 1
latest 0.05 1
jsonb 0.03 1
metadata 0.02 1
steps_of_run 0.2 2
audit_of_run 0.2 2'

write_script() { cat >"$work/$1.sql"; } # kind, from stdin

write_scripts() {
    # The platform's writes.
    write_script submit <<END
\\set form random(1, 200)
\\set run random(1, $((responses / 10)))
BEGIN;
INSERT INTO form_responses (id, form_schema_id, workflow_run_id, data, metadata, submitted_at)
VALUES (gen_random_uuid(), md5('form ' || :form)::uuid, md5('run ' || :run)::uuid,
        '{"status": "complete", "completion_time": 42, "email": "new@example.org"}', '{"client": "submit"}', now());
UPDATE workflow_runs SET trigger_data = '{"answered": true}' WHERE id = md5('run ' || :run)::uuid;
COMMIT;
END
    sed 's/"client": "submit"/"client": "submit_simple"/' "$work/submit.sql" >"$work/submit_simple.sql"
    write_script correct <<END
\\set n random(1, $responses)
UPDATE form_responses SET data = data || '{"status": "complete"}' WHERE id = md5('response ' || :n)::uuid;
END
    write_script start_run <<'END'
\set workflow random(1, 2000)
INSERT INTO workflow_runs (id, workflow_id, status, trigger_data, started_at)
VALUES (gen_random_uuid(), md5('workflow ' || :workflow)::uuid, 'running', '{"client": "start_run"}', now());
END
    write_script end_run <<END
\\set run random(1, $((responses / 10)))
UPDATE workflow_runs SET status = 'completed', completed_at = now() WHERE id = md5('run ' || :run)::uuid;
END
    write_script steps <<END
\\set run random(1, $((responses / 10)))
INSERT INTO node_executions (id, workflow_run_id, node_id, status, started_at)
SELECT gen_random_uuid(), md5('run ' || :run)::uuid, 'new ' || n, 'running', now() FROM generate_series(1, 3) n;
END
    write_script step <<END
\\set step random(1, $((responses / 2)))
UPDATE node_executions SET status = 'completed', completed_at = now() WHERE id = md5('step ' || :step)::uuid;
END
    write_script audit <<END
\\set run random(1, $((responses / 10)))
INSERT INTO audit_events (id, entity_type, entity_id, action, created_at)
VALUES (gen_random_uuid(), 'workflow_run', md5('run ' || :run)::uuid, 'looked at', now());
END
    # Look-ups by key, and the view.
    write_script response <<END
\\set n random(1, $responses)
SELECT r.id, r.data, s.name FROM form_responses r JOIN form_schemas s ON s.id = r.form_schema_id WHERE r.id = md5('response ' || :n)::uuid;
END
    write_script workflow <<'END'
\set n random(1, 2000)
SELECT * FROM workflows WHERE id = md5('workflow ' || :n)::uuid;
END
    write_script stats <<'END'
\set form random(1, 200)
SELECT day, submissions, completed, avg_completion_time FROM form_completion_stats WHERE form_schema_id = md5('form ' || :form)::uuid ORDER BY day;
END
    # The strategy's queries, and those that its indexes are for.
    write_script workflows <<'END'
SELECT w.id, w.name, w.definition, w.created_at
FROM workflows w
WHERE (definition->>'type') = 'scheduled'
AND (definition->>'status') = 'active'
ORDER BY w.updated_at DESC
LIMIT 50;
END
    write_script dashboard <<'END'
\set workflow random(1, 2000)
SELECT status, count(*), max(started_at) FROM workflow_runs WHERE workflow_id = md5('workflow ' || :workflow)::uuid GROUP BY status;
SELECT id, workflow_id, started_at FROM workflow_runs WHERE status = 'failed' ORDER BY started_at DESC LIMIT 20;
END
    write_script latest <<'END'
\set form random(1, 200)
SELECT id, data, submitted_at FROM form_responses WHERE form_schema_id = md5('form ' || :form)::uuid ORDER BY submitted_at DESC LIMIT 50;
END
    write_script jsonb <<'END'
\set n random(0, 99999)
SELECT id, data, submitted_at FROM form_responses WHERE data @> jsonb_build_object('email', 'user' || :n || '@example.org');
END
    write_script metadata <<'END'
\set n random(1, 100000)
SELECT id, submitted_at FROM form_responses WHERE metadata @> jsonb_build_object('session', md5('session ' || :n));
END
    write_script steps_of_run <<END
\\set run random(1, $((responses / 10)))
SELECT node_id, status, started_at, completed_at FROM node_executions WHERE workflow_run_id = md5('run ' || :run)::uuid;
END
    write_script audit_of_run <<END
\\set run random(1, $((responses / 10)))
SELECT action, created_at FROM audit_events WHERE entity_type = 'workflow_run' AND entity_id = md5('run ' || :run)::uuid ORDER BY created_at DESC LIMIT 20;
END
}

# Begin all kinds at once, for so many seconds.  Latency counts from when a
# transaction was due, so that what queues up behind a stall is seen too.
start_load() { # seconds
    local kind rate phase mode
    while read -r kind rate phase; do
        mode=prepared
        [ "$kind" != submit_simple ] || mode=simple
        (cd "$work" && PGAPPNAME=$kind PGOPTIONS='-c deadlock_timeout=10ms' exec pgbench -n -M $mode -c 2 -R "$rate" -T "$1" \
            -l --log-prefix="log.$kind" -f "$kind.sql" >"$kind.out" 2>&1) &
        pids+=($!)
    done <<<"$kinds"
}

load_runs() {
    local pid
    for pid in "${pids[@]}"; do kill -0 "$pid" 2>/dev/null || return 1; done
}

# How many transactions of a kind there were.
done_of() { cat "$work/log.$1".[0-9]* | wc -l; }
