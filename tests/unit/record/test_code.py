"""Which code ran: this repository's commit and nobody else's, what is in no commit, or why none."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from refit import built_from
from refit.model_config import Model
from refit.record import code
from refit.record.code import OURS, describe, used_by
from refit.record.point import Point
from tests.support.jobs import job


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A committed tree like ours, with a space in its path."""
    root = write(tmp_path / "a checkout", OURS, "conf/model/dense.yaml", "README.md")
    git(root, "init")
    git(root, "add", ".")
    git(root, "commit", "-m", "one")
    return root


def head(root: Path) -> str:
    return git(root, "rev-parse", "HEAD")


def test_the_commit_and_whether_files_differ(checkout: Path) -> None:
    assert describe(checkout) == {"commit": head(checkout), "dirty": False}
    write(checkout, "results/x/timing.json", "notes.txt")
    assert describe(checkout) == {"commit": head(checkout), "dirty": False}
    (checkout / "README.md").write_text("changed")
    assert describe(checkout) == {"commit": head(checkout), "dirty": True}


def test_git_variables_name_no_other_repository(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = describe(checkout)
    theirs = write(tmp_path / "theirs", OURS)
    git(theirs, "init")
    git(theirs, "add", ".")
    git(theirs, "commit", "-m", "theirs")
    unpacked = write(tmp_path / "unpacked", OURS)
    # as in a hook of theirs, or below `git rebase --exec`
    monkeypatch.setenv("GIT_DIR", str(theirs / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(theirs / ".git" / "index"))
    assert describe(checkout) == ours
    assert describe(unpacked)["commit"] is None


def test_a_repository_around_it_that_does_not_track_it_is_somebody_elses(tmp_path: Path) -> None:
    """An archive unpacked in a folder of theirs, or a wheel in their environment."""
    git(tmp_path, "init")
    write(tmp_path, "theirs.py", ".venv/lib/site-packages/refit/record/code.py")
    git(tmp_path, "add", "theirs.py")
    git(tmp_path, "commit", "-m", "theirs")
    nobodys = {"commit": None, "dirty": None, "commit_missing": "no repository tracks this code"}
    assert describe(tmp_path / ".venv/lib/site-packages") == nobodys


def test_of_a_larger_repository_that_has_it_only_its_own_folder_counts(tmp_path: Path) -> None:
    root = write(tmp_path / "vendor" / "refit-sweep", OURS)
    write(tmp_path, "theirs.py")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    (tmp_path / "theirs.py").write_text("changed")
    assert describe(root) == {"commit": head(tmp_path), "dirty": False}


def test_somebody_elses_checkout_is_read(checkout: Path) -> None:
    if os.getuid():
        pytest.skip("only root can give a checkout to another user; run as root to test it")
    expected = {"commit": head(checkout), "dirty": False}
    for path in (checkout, *checkout.rglob("*")):
        os.chown(path, 12_345, 12_345)
    refused = subprocess.run(
        ["git", "-C", str(checkout), "status"],
        capture_output=True,
        env={"PATH": os.environ["PATH"]},
    )
    assert b"dubious ownership" in refused.stderr  # so git itself would not
    assert describe(checkout) == expected


def test_a_hostile_config_runs_nothing(checkout: Path, tmp_path: Path) -> None:
    git(checkout, "config", "core.fsmonitor", f"touch {tmp_path / 'ran'}; false")
    assert describe(checkout)["commit"] == head(checkout)
    assert not (tmp_path / "ran").exists()


def test_without_git_there_is_no_commit_and_it_is_said_why(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / ".git" / "config").write_text("[core]\nrepositoryformatversion = 99\n")
    assert describe(checkout)["commit_missing"].startswith("git says: fatal: ")
    monkeypatch.setenv("PATH", str(checkout))
    found = {"commit": None, "dirty": None, "commit_missing": "git is not installed"}
    assert describe(checkout) == found


@pytest.mark.parametrize("dirty", [None, True, False])
def test_an_archive_and_a_wheel_know_what_they_were_made_of(
    dirty: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(built_from, "COMMIT", "0123abcd")
    monkeypatch.setattr(built_from, "DIRTY", dirty)
    assert describe(tmp_path) == {"commit": "0123abcd", "dirty": dirty}


UNTRACKED = ("conf/model/mine.yaml", "conf/experiment/tried.yaml", "conf/parallel/public/it.yaml")


@pytest.mark.parametrize(
    ("overrides", "model", "used"),
    [
        ((), "dense", []),
        (("model=mine",), "of another name", ["conf/model/mine.yaml"]),
        ((), "mine", ["conf/model/mine.yaml"]),  # which an experiment has chosen
        (("+experiment=tried", "parallel=it"), "dense", [*UNTRACKED[1:]]),
        (("parallel=mine", "parallel=public/it"), "dense", [UNTRACKED[2]]),
    ],
)
def test_an_untracked_option_that_was_used_is_dirt_and_named(
    checkout: Path, overrides: tuple[str, ...], model: str, used: list[str]
) -> None:
    write(checkout, *UNTRACKED, "conf/model/notes.txt")
    (checkout / ".git" / "info" / "exclude").write_text("tried.yaml\n")  # ignored is not committed
    point = Point(replace(job(), model=Model(name=model)), checkout, overrides)
    found = used_by(describe(checkout), point)
    assert found.get("untracked", []) == sorted(used)
    assert found["dirty"] is bool(used)


def test_untracked_code_is_dirt(checkout: Path) -> None:
    write(checkout, "refit/transport/mine.py")
    found = used_by(describe(checkout), Point(job(), checkout))
    assert (found["dirty"], found["untracked"]) == (True, ["refit/transport/mine.py"])


def test_this_checkout_has_every_folder_that_is_looked_at() -> None:
    assert all((code.ROOT / folder).is_dir() for folder in code.FOLDERS)
    assert (code.ROOT / OURS).samefile(code.__file__)
