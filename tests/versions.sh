#!/usr/bin/env bash
# The tests that meet megatron-core itself, under each of its versions that pip gives no Python 3.11.
# Their wheels declare Python 3.12 and run on 3.11: unpacked, first on PYTHONPATH of one environment.
# usage: versions.sh PYTHON FOLDER [--thorough]; the folder keeps what was downloaded: 6 MB, and
# triton's 198 MB. Ranks start under the newest version, and with --thorough under each.
set -euo pipefail
python=$1 thorough=${3:-}
mkdir -p "$2"
folder=$(cd "$2" && pwd)
export PYTHONDONTWRITEBYTECODE= # compiled once: see run.sh
versions=(0.17.1 0.18.2 0.19.2)
tests=(
    tests/unit/model/test_megatron_versions.py tests/unit/rules/test_methods.py
    tests/unit/importers/test_pairs.py tests/torch/test_megatron_parser.py
    tests/torch/test_megatron_flags.py
    tests/torch/test_plan_megatron.py tests/torch/test_rules_megatron.py
    tests/torch/test_layout_megatron.py tests/torch/test_peer_megatron.py
)
ranks=(tests/ranks/test_models.py tests/ranks/test_megatron.py)

# unpack REQUIREMENT FOLDER [OPTION ...]: its wheel, once; what is there is whole
unpack() {
    local wanted=$1 to=$2 work
    shift 2
    [ ! -e "$to" ] || return 0
    work=$(mktemp -d "$folder/XXXXXX")
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps \
        --only-binary=:all: --dest "$work" "$@" "$wanted"
    "$python" -m zipfile -e "$work"/*.whl "$work/unpacked"
    mv "$work/unpacked" "$to"
    rm -r "$work"
}

path=
if ! "$python" -c 'import triton' 2>/dev/null; then
    unpack triton==3.7.1 "$folder/triton"
    path=:$folder/triton
fi
failed=()
for version in "${versions[@]}"; do
    unpack "megatron-core==$version" "$folder/$version" --python-version 3.12
    echo "== megatron-core $version, $("$python" --version)"
    export PYTHONPATH=$folder/$version$path
    found=$("$python" -c 'from importlib.metadata import version; print(version("megatron-core"))')
    [ "$found" = "$version" ] || { echo "$0: $python finds $found first" >&2; exit 1; }
    these=("${tests[@]}")
    if [ "$version" = "${versions[-1]}" ] || [ -n "$thorough" ]; then these+=("${ranks[@]}"); fi
    "$python" -m pytest -q $thorough -n 4 --dist load "${these[@]}" || failed+=("$version")
done
[ ${#failed[@]} -eq 0 ] || { echo "failed: megatron-core ${failed[*]}" >&2; exit 1; }
