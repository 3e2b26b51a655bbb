"""One command: its subcommands, each program's --help and --version, and what is mistyped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from refit import __version__, published, schema
from sweeper import __main__ as face
from tests.support.forks import fork_of

ROOT = Path(__file__).parents[2]


def face_of(*words: str, code: int = 0, **environment: str) -> str:
    """What the command prints on both streams, with the exit code that it must have."""
    ended = fork_of(face.main, *words, **environment)
    assert ended.code == code, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.mark.parametrize(("words", "code"), [((), 0), (("run", "--cfg", "job"), 0), (("rum",), 2)])
def test_a_process_of_its_own_says_the_same(words: tuple[str, ...], code: int) -> None:
    command = [sys.executable, "-m", "sweeper", *words]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ended.returncode == code
    assert ended.stdout + ended.stderr == face_of(*words, code=code)


@pytest.mark.parametrize("name", face.PROGRAMS)
def test_each_subcommand_has_its_help_and_version(name: str) -> None:
    assert face_of(name, "--version") == f"refit-sweep {__version__}\n"
    text = face_of(name, "-h")
    assert f"refit-sweep {name}" in text
    assert "python -m" in text or name in face.HYDRAS


def test_the_command_itself() -> None:
    lines = face_of().splitlines()
    assert lines == face_of("-h").splitlines() == face_of("--help").splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]
    assert listed == list(face.PROGRAMS)
    assert face_of("--version") == f"refit-sweep {__version__}\n"


def test_help_has_six_examples_and_lists_no_workloads() -> None:
    text = face_of("run", "--help")
    examples = text.partition("== Examples ==")[2].partition("==")[0].strip().splitlines()
    assert len(examples) == 6 and all("refit-sweep" in line for line in examples)
    assert "gpt_13b_1024" not in text and "workload: one of 123" in text
    for group in ("cluster", "hardware", "model", "refit"):
        options = ", ".join(sorted(p.stem for p in (schema.CONF / group).glob("*.yaml")))
        assert f"{group}: {options}" in text or group == "model"  # workloads add models
    assert text.count("kimi_k2,") == 1


def test_every_example_of_the_help_is_a_job() -> None:
    text = face_of("run", "--help")
    for line in text.partition("== Examples ==")[2].partition("==")[0].strip().splitlines():
        # a glob of one row is composed as one of all of them is
        line = line.replace("glob(*)", "glob(noncollocated_4*)")
        words = [word.strip("'") for word in line.partition("refit-sweep ")[2].split()]
        how = ["sweep.dry_run=true"] if "-m" in words else ["--cfg", "job"]
        shown = face_of(*words, *how)
        assert " ranks, " in shown if "-m" in words else "moe_layer_freq" in shown


def test_plan_is_run_with_its_mode() -> None:
    assert face_of("plan", "model=moe_8e", "--cfg", "job", "-p", "mode").strip() == "plan"
    assert face_of("run", "model=moe_8e", "--cfg", "job", "-p", "mode").strip() == "measure"
    assert "use run" in face_of("plan", "model=moe_8e", "mode=measure", code=2)


@pytest.mark.parametrize("first", ["model=moe_8e", "--config-dir=.", "~experiment", "+new=1"])
def test_overrides_without_a_subcommand_are_those_of_run(first: str) -> None:
    assert face_of(first, "--cfg", "job", "-p", "mode").strip() == "measure"


@pytest.mark.parametrize(
    ("word", "expected"),
    [("rum", "did you mean run?"), ("stats", "did you mean status?"), ("x", "")],
)
def test_a_mistyped_subcommand(word: str, expected: str) -> None:
    text = face_of(word, code=2)
    assert text.startswith(f"error: no subcommand '{word}'") and expected in text
    assert ", ".join(face.PROGRAMS) in text and len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("refit-sweep run hardware=h", {"hardware=h100", "hardware=h200", "hardware=h800"}),
        ("refit-sweep hardware=h", {"hardware=h100", "hardware=h200", "hardware=h800"}),
        ("refit-sweep cal", {"calibrate"}),
        ("refit-sweep plan refit=ni", {"refit=nixl"}),
        ("refit-sweep run work", {"workload="}),
    ],
)
def test_a_shell_completes_after_a_subcommand(line: str, expected: set[str]) -> None:
    text = face_of("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert set(text.split()) == expected


def test_a_program_without_arguments_refuses_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        published.main(["more"])
    assert "unrecognized arguments: more" in capsys.readouterr().err
