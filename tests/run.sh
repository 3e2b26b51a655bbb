#!/usr/bin/env bash
# The tests, those that mostly wait for Slurm beside the others; what was skipped, and why, comes last.
# usage: run.sh PYTHON FOLDER [OPTION ...]; the folder gets what each part printed, pytest the options.
set -uo pipefail
python=$1 logs=$2 ended=0
shift 2
options=("$@")
# Compiled once: without it each of some hundred processes compiles all that it imports, in 2 s.
export PYTHONDONTWRITEBYTECODE=

part() { # part NAME ARGUMENT ...: pytest, on the terminal and in its log
    local name=$1
    shift
    "$python" -m pytest "${options[@]}" "$@" 2>&1 | tee "$logs/$name.log" || ended=1
}

"$python" -m pytest "${options[@]}" tests/slurm >"$logs/slurm.log" 2>&1 &
slurm=$!
# four on two cores: a test of ranks waits for half of its time
part ranks -n 4 --dist load tests/ranks tests/torch
# by file, as many share what they are slow to make; the longest files first
part unit -n 4 --dist loadfile tests/install tests/browser tests/commands tests/conf tests/unit
wait $slurm || ended=1
cat "$logs/slurm.log"
echo "== skipped"
for name in ranks unit slurm; do grep -H ^SKIPPED "$logs/$name.log"; done |
    sed "s#^$logs/\([a-z]*\).log:SKIPPED#\1:#"
exit $ended
