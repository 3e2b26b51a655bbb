"""Where and with which code a point ran: this repository's commit, or nobody's."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from refit import __version__
from refit.record import environment
from refit.record.environment import SLURM, describe


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose `environment.py` is taken for ours, and another file that is tracked."""
    git(tmp_path, "init")
    (tmp_path / "environment.py").write_text("")
    (tmp_path / "other.py").write_text("")
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "environment.py"))
    return tmp_path


def commit_and_dirty() -> tuple[str | None, bool | None]:
    found = describe()
    return found["commit"], found["dirty"]


def test_added_variables_are_there_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFIT_A", "before")
    monkeypatch.delenv("REFIT_B", raising=False)
    names = ("REFIT_A", "REFIT_B")
    with environment.added({"REFIT_A": 1, "REFIT_B": 0.5}):
        assert environment.variables(names) == {"REFIT_A": "1", "REFIT_B": "0.5"}
    assert environment.variables(names) == {"REFIT_A": "before"}
    with suppress(ZeroDivisionError), environment.added({"REFIT_A": 1}):
        raise ZeroDivisionError
    assert environment.variables(names) == {"REFIT_A": "before"}


def test_the_commit_and_whether_files_differ(code: Path) -> None:
    git(code, "add", ".")
    git(code, "commit", "-m", "one")
    head = git(code, "rev-parse", "HEAD")
    assert commit_and_dirty() == (head, False)
    (code / "untracked").write_text("results")
    assert commit_and_dirty() == (head, False)
    (code / "other.py").write_text("changed")
    assert commit_and_dirty() == (head, True)


def test_a_repository_that_does_not_track_us_is_somebody_elses(code: Path) -> None:
    git(code, "add", "other.py")
    git(code, "commit", "-m", "one")
    assert commit_and_dirty() == (None, None)


def test_without_git_there_is_no_commit(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(code))
    assert commit_and_dirty() == (None, None)


def test_what_slurm_says_of_the_job_is_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SLURM:
        monkeypatch.delenv(name, raising=False)
    found = describe()
    assert found["slurm"] == {} and found["refit_sweep"] == __version__
    assert (found["nodes"], found["partition"]) == ([found["host"]], None)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    monkeypatch.setenv("SLURM_JWT", "secret")
    assert describe()["slurm"] == {"SLURM_JOB_ID": "12", "SLURM_JOB_NODELIST": "n[1-2]"}
    monkeypatch.setenv("SLURM_JOB_PARTITION", "low")
    assert (describe()["nodes"], describe()["partition"]) == (["n1", "n2"], "low")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "n2")
    assert describe()["nodes"] == ["n2"]
    # of what runs elsewhere the controller's job says nothing
    there = environment.of_controller()
    assert (there["nodes"], there["partition"], there["slurm"]) == ([], None, {})
    assert there.keys() == describe().keys()
