#!/usr/bin/env bash
# The tests, those that mostly wait for Slurm beside the others; what was skipped, and why, comes last.
# usage: run.sh PYTHON FOLDER [OPTION ...]; the folder gets what each part printed, pytest the options.
set -uo pipefail
python=$1 logs=$2 ended=0
shift 2
options=("$@")

part() { # part NAME ARGUMENT ...: pytest, on the terminal and in its log
    local name=$1
    shift
    "$python" -m pytest "${options[@]}" "$@" 2>&1 | tee "$logs/$name.log" || ended=1
}

"$python" -m pytest "${options[@]}" tests/slurm >"$logs/slurm.log" 2>&1 &
slurm=$!
part ranks -n 2 --dist loadgroup tests/ranks tests/torch
part unit -n 2 tests/unit tests/conf tests/commands
part install -n 2 --dist loadfile tests/install
part browser tests/browser
wait $slurm || ended=1
cat "$logs/slurm.log"
echo "== skipped"
for name in ranks unit install browser slurm; do grep -H ^SKIPPED "$logs/$name.log"; done |
    sed "s#^$logs/\([a-z]*\).log:SKIPPED#\1:#"
exit $ended
