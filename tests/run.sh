#!/usr/bin/env bash
# All tests, those that mostly wait for Slurm beside the others; what was skipped, and why, comes last.
# usage: run.sh PYTHON FOLDER; the folder gets what each part printed.
set -uo pipefail
python=$1 logs=$2 ended=0

part() { # part NAME ARGUMENT ...: pytest, on the terminal and in its log
    local name=$1
    shift
    "$python" -m pytest "$@" 2>&1 | tee "$logs/$name.log" || ended=1
}

"$python" -m pytest tests/slurm >"$logs/slurm.log" 2>&1 &
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
