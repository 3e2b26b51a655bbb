"""Miniatures of public models' structures, refitted on eight CPU ranks, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from refit.job import Degrees
from refit.ranks.agent import Agent
from tests.support.jobs import job
from tests.support.kinds import small
from tests.support.records import verified

PAIRS = {
    "gemma3": (Degrees(tp=2, pp=2), Degrees(tp=4)),
    "qwen3_next": (Degrees(tp=4, ep=2, etp=1, gpus=8), Degrees(tp=2, pp=2, ep=2, etp=1, gpus=8)),
    "nemotron_h": (Degrees(tp=2, pp=2, ep=2, etp=1, gpus=8), Degrees(tp=4, ep=4, etp=1, gpus=8)),
    "deepseek_v32": (Degrees(tp=2, pp=2, ep=4, etp=1, gpus=8), Degrees(tp=4, ep=8, etp=1, gpus=8)),
}


MORE = (Degrees(tp=2, pp=2, ep=2, etp=1, gpus=4), Degrees(tp=4, ep=4, etp=1, gpus=4))


def test_megatrons_own_layers_of_multi_token_prediction_arrive(
    agent: Agent, tmp_path: Path
) -> None:
    what = job(*MORE, "non-collocated", "ipc", small("deepseek_v3"), 8, build="megatron",
               bench={"iterations": 1})  # fmt: skip
    record = verified(agent, tmp_path, what)
    assert record["model_build"]["megatron_core"] and record["layout"]["world"] == 8


@pytest.mark.parametrize("kind", PAIRS)
def test_a_kind_arrives(kind: str, agent: Agent, tmp_path: Path) -> None:
    source, destination = PAIRS[kind]
    mode = "collocated" if source.gpus == 8 else "non-collocated"
    what = job(source, destination, mode, "ipc", small(kind), 8, bench={"iterations": 1})
    record = verified(agent, tmp_path, what)
    assert record["layout"]["world"] == 8 and record["model_build"]["build"] == "shards"
    assert record["parameters"]["total"] > 0
