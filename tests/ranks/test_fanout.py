"""Both fan-outs on ranks of pretended nodes: verified, and the bytes that cross nodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refit.job import Cluster, Degrees
from refit.ranks.agent import Agent
from tests.support.jobs import job, methods_on_cpu
from tests.support.records import check_verified, ran
from tests.support.sample import thorough

ACROSS = methods_on_cpu(across_nodes=True)


def run(agent: Agent, folder: Path, fanout: str, method: str = "gloo") -> dict[str, Any]:
    """TP 2 EP 2 on one pretended node -> two replicas of TP 2 on the other, non-collocated."""
    pair = job(
        Degrees(tp=2, ep=2, etp=1, gpus=4),
        Degrees(tp=2, ep=1, etp=1, gpus=4),
        mode="non-collocated",
        method=method,
        refit={"fanout": fanout, "bucket_mb": 0.05},
    )
    what = replace(pair, cluster=Cluster(name="pretended", nodes=2, ranks_per_node=4))
    return ran(agent, folder, what)


@pytest.mark.parametrize("method", ACROSS)
def test_both_fanouts_are_verified_and_one_crosses_nodes_once(
    agent: Agent, tmp_path: Path, method: str
) -> None:
    direct, staged = (run(agent, tmp_path / f, f, method) for f in ("direct", "hierarchical"))
    for record in (direct, staged):
        check_verified(record)
    assert direct["plan"]["bytes"] == staged["plan"]["bytes"]
    # the node of four holds two replicas, cut over TP 2: half of what crossed need not
    crossed = [r["plan"]["cross_node_bytes"] for r in (direct, staged)]
    assert crossed[1] == staged["plan"]["lower_bounds"]["cross_node"] < crossed[0]
    assert any(phase.startswith("forward ") for phase in staged["seconds"]["phases"])
    assert staged["transport"]["hops"] == 2


@pytest.mark.parametrize(
    "fault", [thorough("gloo_SwapsExperts"), "gloo_DropsBlock", "nixl_DeliversStale"]
)
def test_faults_of_either_stage_are_seen(agent: Agent, tmp_path: Path, fault: str) -> None:
    record = run(agent, tmp_path, "hierarchical", f"tests.support.faults:{fault}")
    assert (record["status"], record["seconds"]) == ("invalid", None)
