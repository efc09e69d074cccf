# shellcheck shell=bash disable=SC2154
# Figures of the rounds of a benchmark, and tables of them.  Sourced, never run.
#
# Expects of its caller the variable work: a folder of its own.

ask() { psql -XAtq -v ON_ERROR_STOP=1 "$@"; }

# Note a figure of a round; the median, and the greatest, of all rounds.
note() { echo "$2" >>"$work/figure.$1"; }
median() { sort -g "$work/figure.$1" | awk '{ v[NR] = $1 } END { if (NR) print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'; }
greatest() { sort -g "$work/figure.$1" | tail -n 1; }

# A number to about three digits; the ratio of two, or - if there is none.
short() { awk -v x="${1:--}" 'BEGIN { if (x == "-") print x; else printf (x >= 100 ? "%.0f" : x >= 10 ? "%.1f" : "%.2f"), x }'; }
ratio() { awk -v a="${1:-0}" -v b="${2:-0}" 'BEGIN { if (a > 0 && b > 0) printf (a / b >= 10 ? "%.0fx" : "%.1fx"), a / b; else printf "-" }'; }

# A heading, and rows of a name and values, each as wide as its column.
heading() { printf '\n%s\n' "$1"; }
row() { # name, values...
    printf '  %-27s' "$1"
    shift
    printf ' %13s' "$@"
    printf '\n'
}
