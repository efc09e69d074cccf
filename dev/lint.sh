#!/usr/bin/env bash
# The rules of the house that a compiler does not check; one line per rule,
# "ok - rule" or "not ok - rule" with what breaks it below.
#
#   dev/lint.sh [build folder]      make lint, and part of make test
#
# The folder holds the objects of a build (dev/test.sh passes its own); without
# one the two rules that need objects are checked on an in-tree make.  Leaves
# nothing behind.  Exit status 1 if a rule is broken.
# Rules are called by name, through rule():
# shellcheck disable=SC2016,SC2317,SC2329
set -euo pipefail
cd "$(dirname "$0")/.."
objects=${1:-.}
status=0

# rule <name> <command...>: kept when the command prints nothing and succeeds.
rule() {
    local name=$1 found
    shift
    if found=$("$@" 2>&1) && [ -z "$found" ]; then
        echo "ok - $name"
    else
        echo "not ok - $name"
        printf '%s\n' "$found" | sed 's/^/#   /' | head -n 40
        status=1
    fi
}

own_sources() { find src -name '*.[ch]' | sort; }

# Of our own headers a file includes the base's and its own room's.
rooms_include_no_other() {
    local file header room
    while IFS=: read -r file header; do
        [ -e "src/${header#../}" ] || continue
        room=$(basename "$file" | sed 's/[_.].*//')
        case ${header#../} in
            concertmaster.h | compat.h | shared_state.h | pace.h | "$room".h | "$room"_*.h | import/*) ;;
            *) echo "$file includes $header" ;;
        esac
    done < <(own_sources | xargs -r grep -Ho '^#include "[^"]*"' | sed 's/#include "\(.*\)"/\1/')
}

# Who stands above whom; data and calls go from a higher number to lower ones.
# Files of one room (the same first word) may call each other, except where
# listed by their whole name; what is not listed stands at the bottom.
level_of() {
    case $1 in
        concertmaster) echo 9 concertmaster ;;
        job_launcher) echo 8 job_launcher ;;
        job_worker) echo 7 job_worker ;;
        install*) echo 6 install ;;
        latency_hooks) echo 5 latency_hooks ;;
        latency_store) echo 4 latency_store ;;
        latency_histogram) echo 3 latency_histogram ;;
        index_* | partition_* | matview_* | conversion_*) echo 2 "${1%%_*}" ;;
        *) echo 1 base ;;
    esac
}

# Every use of a symbol of another file must go down.  Asked of the objects,
# because the prototypes are all in one header.
calls_go_down() {
    local object
    local -a files
    mapfile -t files < <(find "$objects/src" -maxdepth 1 -name '*.o' | sort)
    [ ${#files[@]} -gt 0 ] || { echo "no objects in $objects/src: build first"; return; }
    for object in "${files[@]}"; do
        printf 'file %s %s\n' "$(basename "$object" .o)" "$(level_of "$(basename "$object" .o)")"
        nm -g "$object" | awk '{ print $(NF - 1), $NF }'
    done | awk '
        $1 == "file" { file = $2; level[file] = $3; room[file] = $4; next }
        $1 == "U" { uses[file, $2] = 1; next }
        { home[$2] = file }
        END {
            for (pair in uses) {
                split(pair, p, SUBSEP); from = p[1]; to = home[p[2]]
                if (to == "" || to == from || room[from] == room[to]) continue
                if (level[from] <= level[to])
                    print from ".c uses " p[2] " of " to ".c"
            }
        }' | sort
}

version_tests_in_one_header() {
    grep -rn PG_VERSION_NUM src --include='*.[ch]' | grep -v '^src/compat.h:' || true
}

only_our_symbols() {
    local library=$objects/concertmaster.so
    [ -e "$library" ] || { echo "no $library: build first"; return; }
    nm -D --defined-only "$library" | awk '{ print $3 }' |
        grep -vE '^(cm_.*|_PG_init|Pg_magic_func|pg_finfo_.*|_init|_fini)$' || true
}

files_are_short() { own_sources | xargs -r wc -l | awk '$2 != "total" && $1 > 800 { print $2, $1, "lines" }'; }

header_is_short() { wc -l src/*.h | awk '$2 != "total" && $1 > 250 { print $2, $1, "lines" }'; }

functions_are_short() {
    ctags -f - --c-kinds=f --fields=+ne -R src | awk -F'\t' '{
        first = last = 0
        for (i = 4; i <= NF; i++) {
            if ($i ~ /^line:/) first = substr($i, 6)
            if ($i ~ /^end:/) last = substr($i, 5)
        }
        if (last - first + 1 > 120) print $2 ": " $1 ", " last - first + 1 " lines"
    }'
}

sources_say_what_they_are() {
    local file
    for file in $(own_sources); do
        case $file in
            src/import/*) head -n 3 "$file" | grep -q 'Copied from' || echo "$file does not open with Copied from" ;;
            *) head -c 2 "$file" | grep -q '/\*' || echo "$file does not open with a comment" ;;
        esac
    done
}

# The error style guide, as far as a pattern can tell; detail and hint are
# sentences, a primary message is not.
messages_follow_the_guide() {
    own_sources | xargs -r perl -0777 -ne '
        while (/\berr(msg|detail|hint)(_plural|_internal)?\(\s*((?:"(?:[^"\\]|\\.)*"\s*)+)/g) {
            my ($kind, $text, $line) = ($1, $3, substr($_, 0, $-[0]) =~ tr/\n// + 1);
            $text =~ s/"\s*"//g; $text =~ s/^"|"\s*$//g;
            my $plain = $text; $plain =~ s/\\".*?\\"//g;
            my $where = "$ARGV:$line: err$kind \"$text\"";
            print "$where: a forbidden word: $&\n" if $plain =~ /\b(unable|bad|illegal|can\x27t|unknown|may)\b/i;
            print "$where: ends in a period\n" if $kind eq "msg" && $text =~ /\.$/ && $text !~ /\.\.\.$/;
            print "$where: no sentence\n" if $kind ne "msg" && $text !~ /[.?:)]$|%s$|\\n$/;
        }'
}

# COMMENT ON for each function, procedure, view, table, type ... of the script
# whose name does not begin with an underscore.
public_objects_have_comments() {
    find sql -maxdepth 1 -name '[0-9]*.sql' | sort | xargs -r cat | perl -0777 -ne '
        s/--[^\n]*//g; s/\$(\w*)\$.*?\$\1\$//gs;
        my %has;
        my $kinds = "FUNCTION|PROCEDURE|AGGREGATE|MATERIALIZED\\s+VIEW|VIEW|TABLE|TYPE|DOMAIN";
        my $name = "(?:\@extschema\@\\.|concertmaster\\.)?\"?(\\w+)\"?";
        $has{lc $1}{$2}++ while /COMMENT\s+ON\s+($kinds)\s+$name/gi;
        while (/CREATE\s+(?:OR\s+REPLACE\s+)?(?:UNLOGGED\s+)?($kinds)\s+(?:IF\s+NOT\s+EXISTS\s+)?$name/gi) {
            my ($kind, $object) = (lc $1, $2);
            print "no COMMENT ON \U$kind\E $object\n" unless $object =~ /^_/ || $has{$kind}{$object};
        }'
}

parts_are_small() { find sql -maxdepth 1 -name '[0-9]*.sql' -size +20479c -printf '%p is over 20 kB\n'; }

control_version() { sed -n "s/^default_version *= *'\(.*\)'/\1/p" concertmaster.control; }

metadata_is_valid() {
    perl -MJSON::PP -e '
        my ($version) = @ARGV;
        my $meta = decode_json(do { local (@ARGV, $/) = "META.json"; <> });
        for (qw(name abstract version maintainer license provides meta-spec)) {
            print "META.json has no $_\n" unless $meta->{$_};
        }
        print "META.json: version $meta->{version}, control file: $version\n"
          unless $meta->{version} eq $version;
        for (values %{ $meta->{provides} }) {
            print "META.json: provides $_->{version}, control file: $version\n" unless $_->{version} eq $version;
            for my $file (@$_{qw(file docfile)}) { print "META.json: no file $file\n" unless !$file || -e $file }
        }' "$(control_version)"
}

changelog_knows_the_version() {
    grep -q "^## $(control_version)" CHANGELOG.md || echo "no section for $(control_version) in CHANGELOG.md"
}

# The version in the control file, and where the two formats demand a copy.
version_is_in_one_place() {
    grep -rnIF "$(control_version)" Makefile dev .ci src sql --include='*' | grep -v '^sql/updates/' || true
}

tests_have_outputs() {
    local file name
    for file in test/sql/*.sql test/specs/*.spec; do
        [ -e "$file" ] || continue
        name=$(basename "${file%.*}")
        [ -e "expected/$name.out" ] || echo "$file has no expected/$name.out"
    done
    for file in expected/*.out; do
        [ -e "$file" ] || continue
        name=$(basename "$file" .out)
        name=${name%_[0-9]}
        [ -e "test/sql/$name.sql" ] || [ -e "test/specs/$name.spec" ] || echo "$file belongs to no test"
    done
    [ -e test/regress_schedule ] || return 0
    for file in test/sql/*.sql; do
        grep -qw "$(basename "$file" .sql)" test/regress_schedule || echo "$file is not in test/regress_schedule"
    done
}

scripts_are_clean() {
    find . -path ./build -prune -o -path ./.git -prune -o \
        \( -name '*.sh' -o -path ./.ci/run \) -print | sort | xargs shellcheck -x
}

makefile_is_short() { awk 'END { if (NR > 80) print "Makefile: " NR " lines" }' Makefile; }

rule 'a room includes no other room' rooms_include_no_other
rule 'calls go one way: launcher, worker, rooms, base' calls_go_down
rule 'PG_VERSION_NUM is in src/compat.h only' version_tests_in_one_header
rule 'the library exports nothing but cm_*' only_our_symbols
rule 'no source file has more than 800 lines' files_are_short
rule 'no header has more than 250 lines' header_is_short
rule 'no function has more than 120 lines' functions_are_short
rule 'each source file opens by saying what it is' sources_say_what_they_are
rule 'messages follow the style guide' messages_follow_the_guide
rule 'public SQL objects have comments' public_objects_have_comments
rule 'each part of the script is under 20 kB' parts_are_small
rule 'META.json is valid and of the same version' metadata_is_valid
rule 'CHANGELOG.md has a section for the version' changelog_knows_the_version
rule 'the version is in the control file only' version_is_in_one_place
rule 'tests and expected outputs belong together' tests_have_outputs
rule 'shell scripts pass ShellCheck' scripts_are_clean
rule 'the Makefile has at most 80 lines' makefile_is_short
echo 'lint done'
exit "$status"
