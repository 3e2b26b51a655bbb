"""Points that do not fit this machine: said once before the sweep, and once after it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from refit.record.point import Point
from refit.record.record import begin, ended
from refit.rules.setup import Setup
from refit.show.display import Display
from refit.weights import memory
from sweeper import room
from sweeper.decisions import Outcome
from sweeper.summary import print_summary
from tests.support.jobs import SMALL, job

WIDE = replace(SMALL, hidden_size=1 << 12, ffn_hidden_size=1 << 14, vocab_size=1 << 15)
JOBS = [job(model=SMALL), job(model=WIDE), job(model=replace(WIDE, num_layers=4))]


def test_it_is_said_once_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 1_234_000_000)
    said = room.shortage(JOBS)
    assert said is not None and said.startswith("2 of 3 points do not fit this machine's memory")
    # the weights of the first are worked out in test_memory
    assert "1.23 GB is available: their weights take 2.15 to " in said and "model=moe_8e" in said
    assert room.shortage(JOBS[1:2]) is None  # whose own reason says it
    assert room.shortage(JOBS[:1] * 2) is None
    on_gpus = [replace(each, cluster=replace(each.cluster, device="cuda")) for each in JOBS]
    assert room.shortage(on_gpus) is None  # their memory only their ranks can ask for
    small = [replace(each, model=replace(each.model, name="moe_8e")) for each in JOBS]
    assert "model=moe_8e" not in (room.shortage(small) or "model=moe_8e")


def test_it_is_said_once_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda: 1_000_000_000)
    outcomes, reasons = [], []
    for each in JOBS[1:]:
        point, setup = Point.of(each, tmp_path), Setup.of(each)
        reasons.append(memory.shortage(setup.catalogue, setup.placement, range(4)) or "")
        outcomes.append(Outcome(point, "oom", ended(begin(point, {}), "oom", reasons[-1])))
    print_summary(outcomes, tmp_path, Display())
    out = capsys.readouterr().out
    assert f"oom: 2 points\n  {reasons[1]}\n" in out and reasons[0] not in out
    assert all(f"record: {each.point.timing}" in out for each in outcomes)
