# shellcheck shell=bash disable=SC2154,SC2034,SC2094
# What bench/path.sh prints.  Sourced, never run.
#
# One file, events, has all that is told: "kind end latency lock-wait step
# quick", in seconds and milliseconds, one line per transaction.  A lock wait is
# the server's own word for it ("acquired … after 12.3 ms"), and goes to the
# transaction of that kind that it lies within.

collect_events() {
    local kind rate phase
    # Log lines: client, number, latency in us, script, end in s, end in us.
    while read -r kind rate phase; do
        cat "$work/log.$kind".[0-9]* | awk -v kind="$kind" -v phase="$phase" '{ printf "%s %.6f %.3f %s\n", kind, $5 + $6 / 1e6, $3 / 1000, phase }'
    done <<<"$kinds" | sort -k2,2n >"$work/transactions"
    grep -E 'LOG:  process [0-9]+ acquired .* after [0-9.]+ ms' "$server/log" |
        sed -E 's/^([0-9.]+) [0-9]+ ([a-z_]+) LOG:  process [0-9]+ acquired (.*) after ([0-9.]+) ms.*/\2 \1 \4 \3/' >"$work/waits" || true
    awk -v steps="$work/steps" -v waits="$work/waits" '
        BEGIN {
            while ((getline line < steps) > 0) { split(line, f, " "); n++; at[n] = f[1]; name[n] = f[2]; if (f[2] == "phase_2") built[1] = f[1]; if (f[2] == "explain") built[2] = f[1] }
            while ((getline line < waits) > 0) { split(line, f, " "); w = ++count[f[1]]; when[f[1], w] = f[2]; wait[f[1], w] = f[3] }
        }
        {
            lock = 0
            for (w = 1; w <= count[$1]; w++)
                if (when[$1, w] <= $2 + 0.002 && when[$1, w] >= $2 - $3 / 1000) lock += wait[$1, w]
            while (i < n && $2 >= at[i + 1]) i++
            quick = $4 == 0 || $2 - $3 / 1000 >= built[$4]
            stall = quick ? $3 : lock
            print $1, $2, $3, lock, (i ? name[i] : "warm"), quick, stall
        }' "$work/transactions" >"$work/events"
}

# Number, 50 and 99 % and greatest of a column of numbers.
spread() { sort -g | awk '{ v[NR] = $1 } END { if (NR) printf "%d %.1f %.1f %.1f\n", NR, v[int((NR + 1) / 2)], v[int(NR * 0.99 + 0.999)], v[NR]; else print "0 - - -" }'; }

print_time_line() {
    local first last from tps p50 p99 max slow step worst
    heading 'time line, by 5 seconds: ms, of what is quick (slow: the slowest of what has no index yet)'
    printf '  %6s  %-10s %6s %8s %8s %8s  %-14s %9s\n' s step tps p50 p99 worst of slow
    first=$(awk 'NR == 1 { printf "%d", $1 }' "$work/steps")
    last=$(tail -n 1 "$work/events" | awk '{ printf "%d", $2 }')
    for ((from = first; from < last; from += 5)); do
        awk -v a=$from '$2 >= a && $2 < a + 5' "$work/events" >"$work/bucket"
        read -r tps p50 p99 max < <(awk '$6 == 1 { print $3 }' "$work/bucket" | spread)
        tps=$(wc -l <"$work/bucket")
        step=$(awk '{ print $5 }' "$work/bucket" | sort | uniq -c | sort -rn | awk 'NR == 1 { print $2 }')
        worst=$(awk '$6 == 1 && $3 > m { m = $3; k = $1 } END { print k }' "$work/bucket")
        slow=$(awk '$6 == 0 && $3 > m { m = $3 } END { print m + 0 ? sprintf("%.0f", m) : "" }' "$work/bucket")
        printf '  %6d  %-10s %6.1f %8s %8s %8s  %-14s %9s\n' $((from - first)) "$step" "$(awk -v n="$tps" 'BEGIN { print n / 5 }')" \
            "$p50" "$p99" "$max" "$worst" "${slow:+($slow)}"
    done
}

print_steps() {
    local at name next stalled kind lock count p50 p99 max
    heading 'steps: seconds; of what is quick, 99 % within and the worst, ms; the longest wait for a lock of all, ms'
    printf '  %-10s %8s %8s %8s  %-14s %8s  %s\n' step s p99 worst of lock of
    while read -r at name; do
        next=$(awk -v a="$at" '$1 > a { print $1; exit }' "$work/steps")
        [ -n "$next" ] || next=$(tail -n 1 "$work/events" | awk '{ print $2 }')
        read -r count p50 p99 max < <(awk -v s="$name" '$5 == s && $6 == 1 { print $3 }' "$work/events" | spread)
        kind=$(awk -v s="$name" '$5 == s && $6 == 1 && $3 > m { m = $3; k = $1 } END { print k }' "$work/events")
        lock=$(awk -v s="$name" '$5 == s && $4 > m { m = $4; k = $1 } END { if (m) printf "%.1f  %s", m, k; else print "-" }' "$work/events")
        printf '  %-10s %8.1f %8s %8s  %-14s %8s\n' "$name" "$(awk -v a="$at" -v b="$next" 'BEGIN { print b - a }')" "$p99" "$max" "$kind" "$lock"
    done <"$work/steps"
}

print_kinds() {
    local kind rate phase when
    local -a cells
    heading 'kinds: ms, 99 % within and the worst'
    row '' 'before' 'worst' 'on the path' 'worst' 'after' 'worst'
    while read -r kind rate phase; do
        cells=()
        for when in '== "before"' '!~ /^(warm|before|after)$/' '== "after"'; do
            read -r _ _ p99 max < <(awk -v k="$kind" "\$1 == k && \$5 $when { print \$3 }" "$work/events" | spread)
            cells+=("$p99" "$max")
        done
        row "$kind" "${cells[@]}"
    done <<<"$kinds"
}

# What was seen of the clients around the worst stalls.
print_causes() {
    local kind end latency lock step quick stall
    heading 'the three worst stalls on the path, and what was seen of them'
    awk '$5 !~ /^(warm|before|after)$/' "$work/events" | sort -k7,7gr | sed -n 1,3p >"$work/worst"
    while read -r kind end latency lock step quick stall; do
        echo "  $stall ms: $kind during $step, of which $lock ms for a lock"
        awk -F'|' -v k="$kind" -v a="$(awk -v e="$end" -v l="$latency" 'BEGIN { printf "%.3f", e - l / 1000 - 0.05 }')" -v b="$end" \
            '$2 == k && $1 >= a && $1 <= b { print "      seen after " $3 " ms: " $4 " " $5 (($7 != "") ? ", behind " $7 : "") }' "$work/sample.out" | sed -n 1,4p
        awk -v k="$kind" -v a="$(awk -v e="$end" -v l="$latency" 'BEGIN { printf "%.3f", e - l / 1000 }')" -v b="$end" \
            '$1 == k && $2 >= a && $2 <= b + 0.002 { w = $1; ms = $3; $1 = $2 = $3 = ""; print "      logged: " $0 ", " ms " ms" }' "$work/waits"
    done <"$work/worst"
}

print_report() {
    local asked worst control stalled
    collect_events
    print_time_line
    print_steps
    print_kinds
    print_causes
    heading "put off on the path"
    ask -F ' ' -c "SELECT '  ' || j.name, count(*), min(r.message) FROM concertmaster.job_run r JOIN concertmaster.job j USING (job_id) WHERE r.status = 'deferred' GROUP BY 1" | grep . || echo '  nothing'
    worst=$(awk '$5 !~ /^(warm|before|after)$/ && $7 > m { m = $7; w = sprintf("%.1f ms (%s during %s)", m, $1, $5) } END { print w }' "$work/events")
    control=$(awk '$5 == "before" && $7 > m { m = $7; w = sprintf("%.1f ms", m) } END { print w }' "$work/events")
    stalled=$(awk '$5 !~ /^(warm|before|after)$/ && $4 > m { m = $4; w = sprintf("%.1f ms (%s during %s)", m, $1, $5) } END { print w ? w : "under 10 ms" }' "$work/events")
    heading "asked, and reached (load average $(cut -d' ' -f1-3 /proc/loadavg))"
    echo "  transactions a second    50          $(awk -v n="$(wc -l <"$work/events")" -v s="$seconds" 'BEGIN { printf "%.1f", n / s }')"
    echo "  errors                   0           $(cat "$work"/*.out | grep -c -E 'ERROR|aborted' || true)"
    echo "  rows lost or doubled     0           0"
    echo "  worst stall              $limit_ms ms      $worst; before the path, the same measure: $control"
    echo "  longest wait for a lock              $stalled"
}
