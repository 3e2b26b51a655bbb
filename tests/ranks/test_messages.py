"""The messages of docs/guide.md that ranks, or the lack of them, say."""

from __future__ import annotations

from pathlib import Path

import pytest

from refit import run
from refit.ranks.agent import Agent
from tests.commands.test_guide import ELSEWHERE, WRONG
from tests.support.forks import fork_in
from tests.support.pages import ROOT, says, ticked

RANKS = [
    ("".join(ticked(row[0])[:1]), ticked(row[1])[0])
    for row in WRONG
    if ticked(row[1])[0].startswith(ELSEWHERE)
]
KILLED = "python -m refit.run build=shards refit.method=tests.support.faults:Killed"
SMALL = {"model": "moe_8e", "model.vocab_size": "1000"}


@pytest.mark.parametrize(("command", "message"), RANKS, ids=[message[:40] for _, message in RANKS])
def test_the_message_is_what_is_printed(
    command: str, message: str, agent: Agent, tmp_path: Path
) -> None:
    words = (command or KILLED).split()[3:]
    small = [f"{key}={value}" for key, value in SMALL.items() if "model." not in command]
    done = fork_in(ROOT, run.main, *words, *small, f"hydra.run.dir={tmp_path}")
    assert done.code == 1, done.stderr
    # long lines are folded at spaces
    assert says(message, " ".join(done.stdout.split())), done.stdout
