"""Which of the jobs in the queue are this sweep's, and what becomes of them; no Slurm."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from refit.errors import UserError
from refit.record import lock
from sweeper import cancel, clients
from sweeper.cancel import of_sweep
from sweeper.clients import Queued
from sweeper.marker import found, marked, sweep_id

ID = sweep_id(Path("/results"))
OURS = f"refit-sweep:{ID}"


@pytest.mark.parametrize(
    ("asked", "name", "comment"),
    [
        ({}, OURS, OURS),
        ({"job_name": "mine"}, "mine", OURS),
        ({"comment": "for a paper"}, OURS, f"for a paper {OURS}"),
        ({"additional_parameters": {"comment": "x", "hold": True}}, OURS, f"x {OURS}"),
        ({"job_name": "a", "comment": "refit-sweep: b"}, "a", f"refit-sweep: b {OURS}"),
    ],
)
def test_a_job_is_found_by_its_name_or_comment(
    asked: dict[str, Any], name: str, comment: str
) -> None:
    made = marked(asked, Path("/results"))
    assert (made["job_name"], made["comment"]) == (name, comment)
    assert "comment" not in made.get("additional_parameters", {})
    assert found(f"{made['job_name']} {made['comment']}") == ID
    assert found("refit-sweep other") == found("refit-sweep:12") == ""
    assert sweep_id(Path("/other")) != ID == sweep_id(Path("/other/../results"))


def test_one_sweeps_jobs_and_no_others() -> None:
    queue = {
        "12_0": Queued("RUNNING", "", ID),
        "12_1": Queued("PENDING", "Priority", ID),
        "13": Queued("RUNNING", "", sweep_id(Path("/other"))),
        "14": Queued("RUNNING"),  # of before jobs were marked
        "15": Queued("RUNNING"),
    }
    points = {"12_0": ["a"], "13": ["moved"], "14": ["b"], "16": ["gone"]}
    assert of_sweep(queue, ID, points) == {"12": ["12_0", "12_1"], "14": ["14"]}
    assert of_sweep(queue, "0123456789", {}) == {}


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ("12", ["12"]),
        ("12_3", ["12_3"]),
        ("12_[0-2,5%2]", ["12_0", "12_1", "12_2", "12_5"]),
        ("12_[7]", ["12_7"]),
    ],
)
def test_elements_of_an_array(listed: str, expected: list[str]) -> None:
    assert clients.elements(listed) == expected


def tool(folder: Path, name: str, text: str) -> None:
    """A command of Slurm's that says this, and notes that it was asked."""
    (folder / name).write_text(f"#!/bin/sh\necho $0 >> {folder}/asked\n{text}\n")
    (folder / name).chmod(0o755)


def test_a_thousand_jobs_are_asked_for_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    ids = [f"12_{n}" for n in range(1000)]
    tool(
        tmp_path,
        "squeue",
        "for n in $(seq 0 599); do echo \"12_$n|COMPLETED\"; done; echo '7|RUNNING'",
    )
    tool(tmp_path, "sacct", "echo '12_[600-998]|CANCELLED by 0'; echo '12_5|FAILED'")
    said = clients.states(ids)
    assert len((tmp_path / "asked").read_text().splitlines()) == 2
    assert [said.get(i) for i in ("12_0", "12_5", "12_599", "12_600", "12_998", "12_999", "7")] == [
        "COMPLETED", "COMPLETED", "COMPLETED", "CANCELLED", "CANCELLED", None, None,
    ]  # fmt: skip
    assert clients.states([]) == {} and len((tmp_path / "asked").read_text().splitlines()) == 2
    for name in ("squeue", "sacct"):
        tool(tmp_path, name, "exit 1")
    assert clients.states(ids) == {}


def test_what_cannot_be_cancelled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"no folder .*none; a sweep's is its hydra.sweep.dir"):
        cancel.main([str(tmp_path / "none")])
    monkeypatch.setenv("PATH", str(tmp_path))
    for is_held in (True, False):
        with lock.held(tmp_path) if is_held else nullcontext():
            with pytest.raises(UserError, match="is not on PATH"):
                cancel.main([str(tmp_path)])
        held = f"its controller, process {os.getpid()} on "
        assert capsys.readouterr().out.startswith(held) is is_held
