#!/bin/sh
# Applies each deliberate fault of this folder to the newest commit, in a worktree of its own, and
# runs the tests that must notice it. Ends with 1 if a fault is not caught.
#
#   tests/mutants/run.sh [--json] [--list] [NAME...]
#
# NAME chooses faults whose name holds it. MUTANTS_TARGET is where cargo builds (kept between runs),
# MUTANTS_LIMIT the longest time of one fault's tests in seconds.
set -u
root=$(git rev-parse --show-toplevel) || exit 2
here=$root/tests/mutants
base=${CARGO_TARGET_DIR:-$root/target}
case $base in /*) ;; *) base=$root/$base ;; esac
place=$base/mutants
tree=$place/tree
limit=${MUTANTS_LIMIT:-900}
json=
list=
while [ $# -gt 0 ]; do
    case $1 in
    --json) json=1 ;;
    --list) list=1 ;;
    --help | -h) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "unknown option $1: see --help" >&2; exit 2 ;;
    *) break ;;
    esac
    shift
done

header() { sed -n "s/^# $1: //p" "$2" | head -n 1; }

chosen=
for patch in "$here"/*.patch; do
    name=$(basename "$patch" .patch)
    if [ $# -eq 0 ]; then chosen="$chosen $name"; continue; fi
    for wanted; do
        case $name in *"$wanted"*) chosen="$chosen $name"; break ;; esac
    done
done
[ -n "$chosen" ] || { echo "no fault is named so: see --list" >&2; exit 2; }
if [ -n "$list" ]; then
    for name in $chosen; do printf '%-32s %s\n' "$name" "$(header fault "$here/$name.patch")"; done
    exit 0
fi

mkdir -p "$place/logs"
git -C "$root" worktree prune
if [ -e "$tree/.git" ]; then
    git -C "$tree" checkout --quiet --force --detach "$(git -C "$root" rev-parse HEAD)" || exit 2
else
    git -C "$root" worktree add --quiet --force --detach "$tree" HEAD || exit 2
fi
git -C "$tree" clean -qfd
CARGO_TARGET_DIR=${MUTANTS_TARGET:-$place/target}
CARGO_INCREMENTAL=0
CARGO_TERM_COLOR=never
RUST_BACKTRACE=0
export CARGO_TARGET_DIR CARGO_INCREMENTAL CARGO_TERM_COLOR RUST_BACKTRACE
commit=$(git -C "$tree" rev-parse HEAD)

# Runs a command of a header in the tree; tests that take too long have noticed something, too.
run() { (cd "$tree" && timeout -k 10 "$limit" sh -c "$1") >>"$log" 2>&1 </dev/null; }
# The same command, building only, however long that takes.
build() {
    command=$(printf '%s\n' "$1" | sed 's/ -- .*//; s/$/ --no-run/')
    (cd "$tree" && sh -c "$command") >>"$log" 2>&1 </dev/null
}

# Tests that fail anyway catch nothing.
green() {
    grep -qxF "$commit $1" "$place/green" 2>/dev/null && return 0
    build "$1" && run "$1" && echo "$commit $1" >>"$place/green"
}

bad=0
total=0
caught=0
[ -n "$json" ] || printf '%-32s %-22s %7s  %s\n' fault verdict seconds 'caught by'
for name in $chosen; do
    patch=$here/$name.patch
    log=$place/logs/$name.log
    : >"$log"
    catch=$(header catch "$patch")
    begin=$(date +%s)
    total=$((total + 1))
    if ! git -C "$tree" apply --check "$patch" >>"$log" 2>&1; then
        verdict='does not apply'
    elif ! green "$catch"; then
        verdict='tests fail without it'
    else
        git -C "$tree" apply "$patch"
        if ! build "$catch"; then
            verdict='does not compile'
        elif run "$catch"; then
            verdict=SURVIVED
        else
            verdict=caught
        fi
        git -C "$tree" checkout --quiet --force .
    fi
    took=$(($(date +%s) - begin))
    if [ "$verdict" = caught ]; then caught=$((caught + 1)); else bad=1; fi
    if [ -n "$json" ]; then
        printf '{"fault":"%s","verdict":"%s","seconds":%s}\n' "$name" "$verdict" "$took"
    else
        printf '%-32s %-22s %7s  %s\n' "$name" "$verdict" "$took" "$catch"
    fi
done
[ -n "$json" ] || echo "$caught of $total faults caught; the tests' words: $place/logs"
exit $bad
