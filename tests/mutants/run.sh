#!/bin/sh
# Applies each deliberate fault of this folder to the newest commit, in a worktree of its own, and
# runs the tests that must notice it. Ends with 1 if a fault is not caught.
#
#   tests/mutants/run.sh [--json] [--list] [NAME...]
#
# NAME chooses faults whose name holds it; FIRST=NAME those from that name on. What was caught at this
# commit is not played again, unless AGAIN=1. MUTANTS_TARGET is where cargo builds (kept between runs),
# MUTANTS_LIMIT the longest time of one fault's tests in seconds.
set -u
root=$(git rev-parse --show-toplevel) || exit 2
here=$root/tests/mutants
base=${CARGO_TARGET_DIR:-$root/target}
case $base in /*) ;; *) base=$root/$base ;; esac
place=$base/mutants
tree=$place/tree
limit=${MUTANTS_LIMIT:-900}
first=${FIRST:-}
json=
list=
while [ $# -gt 0 ]; do
    case $1 in
    --json) json=1 ;;
    --list) list=1 ;;
    --help | -h) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "unknown option $1: see --help" >&2; exit 2 ;;
    *) break ;;
    esac
    shift
done

header() { sed -n "s/^# $1: //p" "$2" | head -n 1; }

chosen=
for patch in "$here"/*.patch; do
    name=$(basename "$patch" .patch)
    # Names come in their order: the first is passed once, and stays so.
    if [ -n "$first" ]; then
        [ "$name" = "$first" ] || continue
        first=
    fi
    if [ $# -eq 0 ]; then chosen="$chosen $name"; continue; fi
    for wanted; do
        case $name in *"$wanted"*) chosen="$chosen $name"; break ;; esac
    done
done
[ -n "$chosen" ] || { echo "no fault is named so: see --list" >&2; exit 2; }
if [ -n "$list" ]; then
    for name in $chosen; do printf '%-36s %s\n' "$name" "$(header fault "$here/$name.patch")"; done
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
# A fault is a few lines of one crate, and nobody looks at it with a debugger.
CARGO_INCREMENTAL=1
CARGO_PROFILE_DEV_DEBUG=0
CARGO_PROFILE_TEST_DEBUG=0
CARGO_TERM_COLOR=never
RUST_BACKTRACE=0
export CARGO_TARGET_DIR CARGO_INCREMENTAL CARGO_PROFILE_DEV_DEBUG CARGO_PROFILE_TEST_DEBUG CARGO_TERM_COLOR RUST_BACKTRACE
commit=$(git -C "$tree" rev-parse HEAD)

# Runs a command of a header in the tree; tests that take too long have noticed something, too.
run() { (cd "$tree" && timeout -k 10 "$limit" sh -c "$1") >>"$log" 2>&1 </dev/null; }
# The same command, building only, however long that takes.
build() {
    command=$(printf '%s\n' "$1" | sed 's/ -- .*//; s/$/ --no-run/')
    (cd "$tree" && sh -c "$command") >>"$log" 2>&1 </dev/null
}

# What is known of this commit: a line `catch COMMAND` for tests that are green without a fault, a line
# `caught NAME SUM` for a fault as its patch was.
known=$place/known
[ "$(head -n 1 "$known" 2>/dev/null)" = "$commit" ] || echo "$commit" >"$known"
is_known() { grep -qxF "$1" "$known"; }
sum() { cksum <"$here/$1.patch" | tr -d ' '; }
is_caught() { [ -z "${AGAIN:-}" ] && is_known "caught $1 $(sum "$1")"; }

# Tests that fail anyway catch nothing. All of them run first, on one build without a fault.
log=$place/logs/without-a-fault.log
: >"$log"
for name in $chosen; do
    catch=$(header catch "$here/$name.patch")
    if is_caught "$name" || is_known "catch $catch"; then continue; fi
    if build "$catch" && run "$catch"; then echo "catch $catch" >>"$known"; fi
done

total=0
caught=0
missed=
begun=$(date +%s)
[ -n "$json" ] || printf '%-36s %-22s %7s  %s\n' fault verdict seconds 'caught by'
for name in $chosen; do
    patch=$here/$name.patch
    log=$place/logs/$name.log
    catch=$(header catch "$patch")
    begin=$(date +%s)
    total=$((total + 1))
    if is_caught "$name"; then
        verdict='caught before'
    elif : >"$log" && ! git -C "$tree" apply --check "$patch" >>"$log" 2>&1; then
        verdict='does not apply'
    elif ! is_known "catch $catch"; then
        verdict='tests fail without it'
    else
        git -C "$tree" apply "$patch"
        if ! build "$catch"; then
            verdict='does not compile'
        elif run "$catch"; then
            verdict=SURVIVED
        else
            verdict=caught
            echo "caught $name $(sum "$name")" >>"$known"
        fi
        git -C "$tree" checkout --quiet --force .
    fi
    took=$(($(date +%s) - begin))
    case $verdict in
    caught*) caught=$((caught + 1)) ;;
    *) missed="$missed $name" ;;
    esac
    if [ -n "$json" ]; then
        printf '{"fault":"%s","verdict":"%s","seconds":%s}\n' "$name" "$verdict" "$took"
    else
        printf '%-36s %-22s %7s  %s\n' "$name" "$verdict" "$took" "$catch"
    fi
done
if [ -z "$json" ]; then
    echo "$caught of $total faults caught in $(($(date +%s) - begun)) s; the tests' words: $place/logs"
    [ -z "$missed" ] || echo "not caught:$missed"
fi
[ -z "$missed" ]
