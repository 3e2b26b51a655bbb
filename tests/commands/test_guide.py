"""docs/guide.md: each goal's command is possible, and each message is what its command prints."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from refit import run
from sweeper.controller import controller_lock
from tests.support.forks import fork_of
from tests.support.pages import DOCS, planned, printed, rows, says, ticked
from tests.support.table import ROWS

GUIDE = DOCS / "guide.md"
GOALS = rows(GUIDE, "Which command for which goal")
WRONG = rows(GUIDE, "When it goes wrong")
ELSEWHERE = ("oom: needs", "timeout: ", "crashed: ", "unsupported: ")
"""Messages that ranks are needed for: tests/ranks/test_messages.py."""
SLURM = "Slurm refuses the job: ..."  # tests/slurm/test_failures.py


def wrong() -> list[tuple[str, str]]:
    """Commands and what they say; the command is empty where words stand in its place."""
    typed = [("".join(ticked(row[0])[:1]), *ticked(row[1])) for row in WRONG]
    return [(c, m) for c, m in typed if not m.startswith((*ELSEWHERE, SLURM))]


@pytest.mark.parametrize("row", GOALS, ids=[row[0] for row in GOALS])
def test_a_goals_command_runs(row: tuple[str, ...]) -> None:
    """Predicted, or as a dry run; every row of the table that it names is in what it prints."""
    (command,) = ticked(row[2])
    done = planned(command)
    assert done.code == 0, done.stderr
    assert "skip:" not in done.stdout
    for name in ROWS:
        assert name in done.stdout or name not in command


def test_every_row_has_a_goal() -> None:
    text = " ".join(planned(c).stdout for _, _, cell in GOALS for c in ticked(cell))
    assert [name for name in ROWS if f"-{name}-" not in text] == []


@pytest.mark.parametrize(("command", "message"), wrong(), ids=lambda text: text[:60])
def test_the_message_is_what_is_printed(
    command: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not command:  # two at once
        with controller_lock(tmp_path):
            done = fork_of(run.main, "-m", "mode=plan", f"hydra.sweep.dir={tmp_path}")
    elif "PATH" in message:  # away from Slurm
        monkeypatch.setenv("PATH", os.devnull)
        done = fork_of(run.main, *command.split()[3:], f"hydra.sweep.dir={tmp_path}")
    else:
        done = printed(command)
    assert done.code == (1 if message.startswith("oom: rank") else 2), done.stdout + done.stderr
    assert says(message, done.stdout + done.stderr), done.stdout + done.stderr


def test_there_are_many_messages_and_none_is_said_twice() -> None:
    messages = [ticked(row[1])[0] for row in WRONG]
    assert len(set(messages)) == len(messages) >= 12 and SLURM in messages
    assert all(len(row) == 4 and all(row) for row in WRONG)
