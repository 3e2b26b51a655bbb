"""Real models on real ranks where a side has its own rank order, first rank or layers per stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refit.job import Degrees, Job
from refit.layout.place import place
from refit.model.convention import has_transformer_engine
from refit.ranks.agent import Agent
from refit.rules.impossible import impossible
from tests.support.jobs import TINY, dense, fitting, job
from tests.support.records import ran, verified
from tests.support.sample import sampled

MOE = replace(TINY, name="moe", hidden_size=16, vocab_size=50, num_layers=4, moe_layer_freq=2)
TIED = dense(MOE, name="tied", share_embeddings_and_output_weights=True)
# Transformer Engine's layers do not compute in float64
LOGITS = "bits" if has_transformer_engine() else "logits"
LAYERS, VIRTUAL = "pipeline_model_parallel_layout", "virtual_pipeline_model_parallel_size"
PP_FIRST = {"order": "tp-cp-ep-pp-dp"}


def pair(
    source: dict[str, Any], destination: dict[str, Any], mode: str = "collocated", **rest: Any
) -> Job:
    """Real models on up to 8 ranks of a node, whose logits are compared too."""
    said = {"model": MOE, "ranks_per_node": 8, "build": "megatron", "verify": LOGITS, **rest}
    sides = [Degrees(**{"etp": 1, **side}) for side in (source, destination)]
    what = job(sides[0], sides[1], mode, bench={"iterations": 1}, **said)
    what = replace(what, cluster=replace(what.cluster, nodes=8 // said["ranks_per_node"]))
    return what if "ranks_per_node" in rest else fitting(what)


CASES: dict[str, Job] = {
    # 4 ranks: pp before dp, so that a stage's ranks are 0 1 and not 0 2
    "order of the source": pair(
        {"pp": 2, "ep": 2, "gpus": 4, "order": "ep-tp-dp-cp-pp"}, {"tp": 2}, "non-collocated"
    ),
    "pp before dp, source": pair(
        {"pp": 2, "gpus": 4, **PP_FIRST}, {"pp": 2, "ep": 2, "gpus": 4}, "non-collocated"
    ),
    "pp before dp, destination": pair(
        {"tp": 2, "ep": 2, "gpus": 4},
        {"tp": 2, "pp": 2, "ep": 2, "gpus": 8, **PP_FIRST},
        method="gloo",
    ),
    "pp fastest, both": pair(
        {"tp": 2, "pp": 2, "ep": 2, "gpus": 8, "order": "PP-tp-ep-cp-dp"},
        {"tp": 1, "pp": 4, "gpus": 8, "order": "dp-pp-tp"},
        method="gloo",
    ),
    "tied, pp before dp": pair(
        {"tp": 2, "pp": 2, "gpus": 8, **PP_FIRST}, {"pp": 4, "gpus": 8, **PP_FIRST}, model=TIED
    ),
    "partly on the same ranks": pair({"gpus": 4, "ep": 2}, {"tp": 2, "offset": 3}),
    "destination before the source": pair(
        {"tp": 2, "offset": 5}, {"ep": 2, "offset": 1}, "non-collocated", method="gloo"
    ),
    "next node": pair(
        {"gpus": 2, "ep": 2}, {"tp": 2, "node_aligned": True}, "non-collocated",
        method="gloo", ranks_per_node=3, verify="bits",
    ),
    "relayed to a node behind an idle one": pair(
        {"pp": 2, "tp": 2, "order": "pp-tp-dp", "etp": 2}, {"gpus": 2, "offset": 6},
        "non-collocated", method="gloo", ranks_per_node=2, verify="bits",
        refit={"fanout": "hierarchical"},
    ),
    "a heap with holes": pair(
        {"pp": 2, "offset": 1, LAYERS: [1, 3]}, {"tp": 2, "offset": 2}, method="symmetric"
    ),
    "list, source": pair({"pp": 2, LAYERS: [3, 1]}, {"ep": 2}),
    "list, destination": pair({"ep": 2}, {"pp": 2, LAYERS: [1, 3]}, method="gloo"),
    "string with an empty stage": pair(
        {"pp": 3, LAYERS: "Et*2||ttL"}, {"pp": 2, "ep": 2, "gpus": 4, LAYERS: [0, 4]}
    ),
    "no layer beside the output": pair(
        {"tp": 2}, {"pp": 3, LAYERS: [2, 2, 0]}, "non-collocated", method="gloo", model=TIED
    ),
    "embedding and loss count": pair(
        {"pp": 3, "account_for_embedding_in_pipeline_split": True,
         "account_for_loss_in_pipeline_split": True},
        {"pp": 5, "account_for_embedding_in_pipeline_split": True},
    ),
    "virtual stages, source": pair({"pp": 2, VIRTUAL: 2, "ep": 2, "gpus": 4}, {"tp": 2}),
    "virtual stages, destination": pair(
        {"pp": 2}, {"pp": 2, VIRTUAL: 2, "tp": 2, "etp": 2, **PP_FIRST}, "non-collocated",
        method="gloo",
    ),
    "virtual stages, tied, uneven": pair(
        {"pp": 2, LAYERS: [1, 2, 0, 1]}, {"pp": 2, LAYERS: "E|t*2|t|tL"}, model=TIED
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_side_is_bit_exact(name: str, agent: Agent, tmp_path: Path) -> None:
    what = CASES[name]
    assert impossible(what) is None
    record = verified(agent, tmp_path, what)
    logits = record["verification"]["logits"]
    assert logits["ok"] if what.verify == "logits" else logits is None
    placement = place(what)
    held = {*placement.source.ranks, *placement.destination.ranks}
    assert set(record["seconds"]["per_rank"]) == {str(rank) for rank in held}
    layout = record["layout"]
    assert {*layout["source"]["ranks"], *layout["destination"]["ranks"]} == held
    assert layout["idle"] == sorted(set(range(layout["world"])) - held)


UNTIED = replace(TIED, share_embeddings_and_output_weights=False)
OF_PEER = {
    "order of the source": pair({"pp": 2, "gpus": 4, **PP_FIRST}, {"tp": 2}, "non-collocated"),
    "order of both": pair(
        {"tp": 2, "pp": 2, "order": "pp-tp-dp"}, {"pp": 2, "gpus": 4, "order": "dp-pp-tp"}
    ),
    "partly on the same ranks": pair({"gpus": 4}, {"tp": 2, "offset": 3}),
    "list": pair({"pp": 2, LAYERS: [3, 1]}, {"pp": 2, LAYERS: [1, 3]}),
    "empty stage": pair({"pp": 3, LAYERS: [2, 0, 2]}, {"tp": 2}),
    "no layer beside the output": pair({"tp": 2}, {"pp": 2, LAYERS: [4, 0]}, "non-collocated"),
}
PEERS = {
    name: replace(what, model=UNTIED, refit=replace(what.refit, name="peer", method="megatron"))
    for name, what in OF_PEER.items()
}


@pytest.mark.parametrize("name", sampled(PEERS, 2))
def test_the_peer_refits_every_side(name: str, agent: Agent, tmp_path: Path) -> None:
    assert verified(agent, tmp_path, PEERS[name])["verification"]["logits"]["ok"]


@pytest.mark.parametrize("side", ["source", "destination"])
def test_the_peer_refuses_virtual_stages_before_ranks_start(
    side: str, agent: Agent, tmp_path: Path
) -> None:
    sides: dict[str, dict[str, Any]] = {"source": {"pp": 2}, "destination": {"pp": 2}}
    sides[side][VIRTUAL] = 2
    record = ran(
        agent,
        tmp_path,
        pair(sides["source"], sides["destination"], method="megatron", model=UNTIED),
    )
    assert record["status"] == "unsupported"
    assert f"alone, and of parallel.{side} a rank has 2, one per virtual" in record["reason"]
