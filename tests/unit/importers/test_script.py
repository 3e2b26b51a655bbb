"""Scripts are read as bash would read them, without running anything."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from refit.errors import UserError
from refit.importers.script import Command, command_of, read
from tests.support.commands import FOLDER, command


def flagged(text: str, **variables: str) -> Command:
    return read(text, variables, lambda words: any(w.startswith("--") for w in words))


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("run.sh --a 1 \\\n  --b 2 # why\n", "--a 1 --b 2"),
        ("run.sh --a 1 \\   # TP=2\n  --b 2\n", "--a 1 --b 2"),
        ("A=(\n --a 1 # one\n\n --b '2 3'\n)\nrun.sh ${A[@]}", "--a 1 --b '2 3'"),
        ('A=(--a 1)\nA+=(--b 2)\nrun.sh "${A[@]}" --c', "--a 1 --b 2 --c"),
        ('A="--a 1 \\\n --b $N"\nN=3\nB="$A --c ${M:-4}"\nrun.sh $B', "--a 1 --b $N --c 4"),
        ('N=3\nARGS="\n  --a $N\n  --b 2\n"\nrun.sh $ARGS', "--a 3 --b 2"),
        ("M=${M:-5}; run.sh --a $M", "--a 5"),
        ("run.sh --a ${M:-5} --p $1", "--a 5 --p $1"),
        ("run.sh --a 1 2>&1 | tee log.txt", "--a 1"),
        ("run.sh --a 1 > out.log 2> err.log &\nwait", "--a 1"),
        ('run.sh --a 1 "$@"', "--a 1"),
        ("W=$(($N*8))\nrun.sh --a $W", "--a '$(($N*8))'"),
        ("N=4\nW=$((($N + 2) * M / 5))\nM=8\nrun.sh --a $W", "--a '$((($N + 2) * M / 5))'"),
        ("N=4\nM=8\nrun.sh --a $((($N + 2) * M / 5))", "--a 9"),
        ("run.sh --a ${A:-${B:-${C:-5}}} --b \"${D:-$(date)}\"", "--a 5 --b '$(date)'"),
        ("B=6\nrun.sh --a ${A:-${B:-5}}/x --b x${B:+_$B}${A:+_$A}", "--a 6/x --b x_6"),
        ("# it's `one (\nrun.sh --a 1 # `2\n", "--a 1"),
        ("cat > f <<EOF\nit's 5 (\nEOF\nrun.sh --a 1", "--a 1"),
        ("f() {\n  local m=\"$1\"\n  run.sh --a 1 --m $m\n}", "--a 1 --m $1"),
        ("--a 1\n--b 2\n# a comment\n--c", "--a 1 --b 2 --c"),
        ("mkdir out\ncd /x && run.sh --a 1", "--a 1"),
    ],
)  # fmt: skip
def test_words_of_a_command(text: str, arguments: str) -> None:
    assert flagged(text).arguments == shlex.split(arguments)


@pytest.mark.parametrize(
    ("condition", "variables", "taken"),
    [
        ('[ -n "${K}" ]', {}, False),
        ('[ -n "${K}" ]', {"K": "x"}, True),
        ('[ -z "$K" ]', {}, True),
        ('[[ "$K" == "x" ]]', {"K": "x"}, True),
        ('[ "$K" != x ]', {"K": "x"}, False),
        ("[ $K -eq 1 ]", {"K": "1"}, True),
        ("[ $K -gt 1 ]", {"K": "2"}, True),
        ("[ $K -gt 1 ]", {"K": "1"}, False),
        ('[ "$K" != x ] && [ $K -ge 1 ]', {"K": "2"}, True),
        ('[ "$K" = x ] && [ -z "" ]', {}, False),
        ('[ "$K" = x ] || [ -z "" ]', {}, True),
        ('[ "$(nproc)" != x ]', {}, False),
        ("test -f file", {}, False),  # only a shell can say
    ],
)
def test_if_is_read_by_its_condition(
    condition: str, variables: dict[str, str], taken: bool
) -> None:
    text = (
        f"A=(--a 1)\nif {condition}; then\n  A+=(--b 2)\nelse\n  A+=(--c 3)\nfi\nrun.sh ${{A[@]}}"
    )
    found = flagged(text, **variables)
    assert found.arguments == ["--a", "1", *(["--b", "2"] if taken else ["--c", "3"])]
    assert bool(found.skipped) is not taken
    assert taken or "--b" in found.skipped[0]


def test_case_and_what_follows_a_test() -> None:
    text = (
        'case "$K" in\n  a | b)\n    A=(--b 1)\n    ;;\n  c*) A=(--c 1);;\n  *) A=(--d 1)\nesac\n'
        '[ "$K" = a ] && M=1 || M=2\nrun.sh ${A[@]} --m $M'
    )
    for value, arguments in {"a": "--b 1 --m 1", "b": "--b 1 --m 2", "cx": "--c 1 --m 2"}.items():
        assert flagged(text, K=value).arguments == arguments.split()
    assert flagged(text).arguments == ["--d", "1", "--m", "2"]
    of_shell = flagged(f"K=$(uname)\n{text}")
    assert of_shell.arguments == ["${A[@]}", "--m", "2"]  # nobody knows which, so none is read
    assert "case $(uname) a b --b" in " ".join(of_shell.skipped)


def test_if_within_if_and_elif() -> None:
    text = (
        'if [ "$K" = 1 ]; then\n A=(--a)\nelif [ "$K" = 2 ]; then\n'
        ' if [ -n "$L" ]; then\n A=(--b)\n fi\nfi\nrun.sh ${A[@]} --z'
    )
    assert flagged(text, K="1").arguments == ["--a", "--z"]
    assert flagged(text, K="2", L="x").arguments == ["--b", "--z"]
    assert flagged(text, K="2").arguments == ["${A[@]}", "--z"]


def test_what_the_environment_has_wins_over_defaults_alone() -> None:
    text = "N=${N:-1}\nM=2\nrun.sh --n $N --m $M"
    assert flagged(text, N="4", M="9").arguments == ["--n", "4", "--m", "2"]


def test_launcher_program_and_environment() -> None:
    found = flagged("export B=2\nA=1 torchrun --nproc_per_node=4 --nnodes 2 pretrain_gpt.py --x 1")
    assert found.environment == {"A": "1", "B": "2"}
    assert (found.program, found.arguments) == ("pretrain_gpt.py", ["--x", "1"])
    assert found.launched("--nproc-per-node") == "4" and found.launched("--nnodes") == "2"
    assert command_of(["--x", "1"]).program == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.sh --x 1\nb.sh --x 2", "2 commands have Megatron's flags, one is read: a.sh --x 1"),
        ("echo hello", "no command with Megatron's flags"),
        ("case x in\na)\nif [ b = b ]; then\n;;\nb)\na.sh --a 1\nesac", "no command with"),
        ("a.sh --x 'open", "a quote is not closed"),
    ],
)
def test_what_cannot_be_read(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        flagged(text)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("variables", [{}, {"WANDB_API_KEY": "x", "NNODES": "2"}])
def test_the_whole_script_as_bash_has_it(tmp_path: Path, variables: dict[str, str]) -> None:
    """`torchrun` is a program of ours that prints its words."""
    fake = tmp_path / "torchrun"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    done = subprocess.run(
        ["bash", FOLDER / "mixtral_8x7b.sh", "$1", "$2", "$3"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    found = command("mixtral_8x7b", **variables)
    ours = [*found.launcher[1:], found.program, *found.arguments]
    assert ours == done.stdout.splitlines()
