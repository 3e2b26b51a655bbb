"""Measurements of real ranks become a cluster option whose floor none of them beats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from refit.calibrate import main, read
from refit.errors import UserError
from refit.forecast import cost, predict
from refit.forecast.fit import base
from refit.job import Degrees, Job
from refit.ranks.agent import Agent
from refit.record.point import Point
from refit.rules.setup import Setup
from tests.support.jobs import job
from tests.support.records import ran, verified


def test_records_of_the_agent_become_an_option(
    agent: Agent, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    jobs = [
        job(*sides, method=method, mode=mode)
        for method in ("ipc", "gloo")
        for mode, sides in (
            ("non-collocated", (Degrees(tp=2, etp=1), Degrees(etp=1))),
            ("collocated", (Degrees(ep=2), Degrees(ep=1))),
        )
    ]
    for made in jobs:
        verified(agent, results, made)
    # part of the weights, and adapters alone: what was planned then is planned again
    some = job(Degrees(tp=2, etp=1), Degrees(etp=1), refit={"exclude": ["*.mlp.experts.*"]})
    lora = replace(job().model, lora={"rank": 4, "targets": ["linear_qkv"]})
    partial = [some, job(Degrees(tp=2, etp=1), Degrees(etp=1), model=lora)]
    for made in partial:
        assert ran(agent, results, made)["status"] == "ok"
    predict.predict_point(
        Point.of(replace(jobs[0], mode="plan"), results)
    )  # is not measured: ignored
    output = tmp_path / "here.yaml"
    assert main([str(results), "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert "ipc: 4 rows" in said and "gloo: 2 rows" in said
    option: dict[str, Any] = yaml.safe_load(output.read_text())
    made = replace(jobs[0], mode="plan")
    known = {**made.to_dict(), "cluster": option}
    found = predict.predict(Setup.of(Job.from_dict(known)))
    assert option["name"] == "here" and option["hardware"]["device"] == "cpu"
    assert found.floor is not None and found.estimate is not None
    assert 0 < found.floor.seconds <= found.estimate.seconds
    # every row's own floor is no more than its time: the rate is the best that was seen
    rows = read(results)
    assert len(rows) == len(jobs) + len(partial)
    for row in rows:
        assert cost.floor(row.plan, row.hops[0], base(rows)).seconds <= row.seconds * 1.0001
    with pytest.raises(UserError, match="exists; add --force"):
        main([str(results), "--output", str(output)])
    assert main([str(results), "--output", str(output), "--force"]) == 0
