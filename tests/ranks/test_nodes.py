"""Two agents, as of two nodes, run one point together here and meet through its folder."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refit.job import Cluster, Degrees, Job
from refit.record.point import Point
from tests.support.jobs import job, methods_on_cpu
from tests.support.records import check_verified

ROOT = Path(__file__).parents[2]
# ranks do not import the program that starts them, so it needs no `if __name__ == "__main__"`
AGENT = """
import sys
from pathlib import Path
from refit.ranks.agent import Agent
from refit.record.point import Point
point = Point.load(Path(sys.argv[1]))
with Agent([point.job]) as agent:
    print(agent.measure_point(point, attempt="0", node=int(sys.argv[2]), nodes=2).status)
assert not {"torch", "megatron"} & sys.modules.keys(), "the agent needs neither"
"""


def on_two_nodes(folder: Path, method: str, **bench: Any) -> dict[str, Any]:
    """Run TP 2 on one node -> EP 2 on the other; both agents report the same."""
    pair = job(Degrees(tp=2, etp=1), Degrees(ep=2, etp=1), method=method, bench=bench)
    what: Job = replace(pair, cluster=Cluster(name="pair", nodes=2, ranks_per_node=2))
    point = Point.of(what, folder)
    point.freeze()
    script = folder / "agent_of_one_node.py"
    script.write_text(AGENT)
    agents = [
        subprocess.Popen(
            [sys.executable, str(script), str(point.directory), str(node)],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in range(2)
    ]
    said = [agent.communicate(timeout=120) for agent in agents]
    record: dict[str, Any] = json.loads(point.timing.read_text())
    assert [out.split()[-1] for out, _ in said] == [record["status"]] * 2, said
    assert [agent.returncode for agent in agents] == [0, 0], said
    return record


@pytest.mark.parametrize("method", methods_on_cpu(across_nodes=True))
def test_both_nodes_take_part(tmp_path: Path, method: str) -> None:
    record = on_two_nodes(tmp_path, method)
    check_verified(record)
    assert record["layout"]["world"] == 4 and record["layout"]["ranks_per_node"] == 2
    assert record["plan"]["cross_node_bytes"] == record["plan"]["bytes"] > 0
    assert len(list(tmp_path.glob("*/attempts/0/rank*.log"))) == 4
    nodes = {json.loads(p.read_text())["node"] for p in tmp_path.glob("*/attempts/0/rank*.json")}
    assert nodes == {0, 1}


def test_ipc_says_that_it_needs_one_node(tmp_path: Path) -> None:
    record = on_two_nodes(tmp_path, "ipc")
    assert record["status"] == "unsupported" and "needs one node" in record["reason"]


def test_wrong_weights_on_either_node_are_invalid(tmp_path: Path) -> None:
    record = on_two_nodes(tmp_path, "tests.support.faults:gloo_SwapsExperts")
    assert record["status"] == "invalid" and record["seconds"] is None
