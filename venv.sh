#!/bin/sh
# Makes .venv, for the Makefile: `venv.sh PYTHON yes` where PYTHON was asked for, else `... no`.
# One that is half made is made again, and so is one of another Python than the one asked for.
set -u
python=$1 asked=$2
needed=$(sed -n 's/^requires-python = "\(.*\)"$/\1/p' pyproject.toml)
checks='
import re, sys
low, high = [tuple(map(int, v.split("."))) for v in re.findall(r"\d+\.\d+", sys.argv[1])]
sys.exit(not low <= sys.version_info[:2] < high)
'
version() {
    "$1" -c 'import sys; print("Python %s" % sys.version.split()[0])' 2>/dev/null || echo "not here"
}

whole() {
    .venv/bin/python -m pip --version >/dev/null 2>&1 || return 1
    .venv/bin/python -c "$checks" "$needed" || return 1
    [ "$asked" = no ] || [ "$(version .venv/bin/python)" = "$(version "$python")" ]
}

whole && exit
if grep -qs '^uv = ' .venv/pyvenv.cfg; then
    echo ".venv is uv's, which has no pip in it: 'uv run' works there; for make, 'make clean' first" >&2
    exit 1
fi
if ! "$python" -c "$checks" "$needed" 2>/dev/null; then
    echo "needs Python $needed, and $python is $(version "$python");" \
        "name another: make PYTHON=python3.12 table" >&2
    exit 1
fi
[ ! -e .venv ] || echo ".venv is not whole, or not of $(version "$python"): made again"
rm -rf .venv
"$python" -m venv .venv && exit
rm -rf .venv
echo "no environment could be made with $python; once what it says is there, the same again" >&2
exit 1
