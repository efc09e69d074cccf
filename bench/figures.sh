# shellcheck shell=bash disable=SC2154
# What benchmarks share: their arguments, the figures of their rounds, and
# tables of them.  Sourced, never run.
#
# Expects of its caller the variable work, a folder of its own; for
# read_arguments the arrays all_parts and parts, and for each option --name a
# variable of that name with the default.

# What the comment at the top of the script says.
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; }

# The parts that were asked for, else all; options are names, each with a number.
read_arguments() { # "option...", arguments...
    local options=" $1 " name
    shift
    while [ $# -gt 0 ]; do
        name=${1#--}
        case " ${all_parts[*]} " in
            *" $1 "*)
                parts+=("$1")
                shift
                continue
                ;;
        esac
        case $1 in --help | -h) usage && exit 0 ;; --*) ;; *) usage >&2 && exit 2 ;; esac
        case $options in *" $name "*) ;; *) usage >&2 && exit 2 ;; esac
        case ${2:-} in '' | *[!0-9]* | 0) die "$1 needs a number" ;; esac
        printf -v "$name" %s "$2"
        shift 2
    done
    [ ${#parts[@]} -gt 0 ] || parts=("${all_parts[@]}")
}

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
