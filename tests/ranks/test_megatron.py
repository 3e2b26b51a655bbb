"""The peer: megatron-core's own refit, driven as it is, and classified by what it does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch.distributed as dist
from megatron.core.tensor_parallel import layers

from refit.job import Degrees, Job
from refit.layout.layout import place
from refit.ranks.agent import Agent
from refit.record.record import SCHEMA
from refit.rules.values import known_words
from refit.weights import megatron_build
from tests.jobs import TINY, job
from tests.ran import ran

CHECKER = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
DENSE = replace(
    TINY,
    name="dense",
    num_moe_experts=None,
    moe_layer_freq=1,
    moe_ffn_hidden_size=None,
    moe_shared_expert_intermediate_size=None,
    moe_router_score_function="softmax",
    moe_router_enable_expert_bias=False,
)
MOE = replace(TINY, name="moe", moe_router_enable_expert_bias=False)
PEER: dict[str, Any] = {"method": "megatron", "build": "megatron"}


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with Agent([job(**PEER)]) as one:
        yield one


@pytest.mark.parametrize(
    "what",
    [
        job(model=DENSE, **PEER),
        job(Degrees(tp=1), Degrees(tp=2), model=DENSE, **PEER),
        job(Degrees(pp=2, tp=1), Degrees(tp=2), model=DENSE, **PEER),
        job(Degrees(tp=4), Degrees(tp=2, gpus=4), "collocated", model=DENSE, **PEER),
        job(Degrees(tp=2, ep=2, etp=1), Degrees(tp=2, ep=2, etp=1), model=MOE,
            ranks_per_node=8, **PEER),
    ],
    ids=["tp down, idle rank", "tp up", "pp to tp", "collocated, replicas", "same expert layout"],
)  # fmt: skip
def test_what_it_can_do_is_bit_exact(agent: Agent, tmp_path: Path, what: Job) -> None:
    record = ran(agent, tmp_path, what)
    assert (record["status"], record["reason"]) == ("ok", "")
    assert record["method"] == "megatron"
    for phases in record["seconds"]["phases_per_rank"].values():
        assert list(phases) == ["plan", "prepare", "transfer", "pack", "wire", "unpack"]
    # each destination rank receives into buffers that Megatron allocates per refit
    assert record["memory"]["staging_bytes"] is None


def test_it_refuses_in_its_own_words(agent: Agent, tmp_path: Path) -> None:
    # without Transformer Engine experts are SequentialMLP, whose numbers its planner does not see
    record = ran(agent, tmp_path, job(Degrees(ep=2), Degrees(), model=MOE, **PEER))
    assert record["status"] == "unsupported"
    assert record["reason"].startswith(f"megatron-core {version('megatron-core')} cannot plan")
    assert "RuntimeError: Destination parameter" in record["reason"]
    assert "not found in source model" in record["reason"] and "\n" not in record["reason"]


def test_wrong_experts_are_invalid(agent: Agent, tmp_path: Path) -> None:
    # each rank counts its experts from 0: the names are there on both sides, of other experts
    swap = (Degrees(tp=1, ep=2, etp=1, gpus=4), Degrees(tp=1, ep=4, etp=1))
    record = ran(agent, tmp_path, job(*swap, "collocated", model=MOE, **PEER))
    assert record["status"] == "invalid"
    assert "mlp.experts.linear_fc1.weight" in record["reason"]


def test_the_expert_bias_stays_behind(agent: Agent, tmp_path: Path) -> None:
    # 0.16 refits named_parameters; later versions take persistent buffers along
    record = ran(agent, tmp_path, job(Degrees(), Degrees(), model=TINY, **PEER))
    if version("megatron-core").startswith("0.16."):
        assert record["status"] == "invalid"
        assert record["verification"]["mismatches"] == 2 * TINY.num_moe_experts  # type: ignore[operator]
        assert "mlp.router.expert_bias" in record["reason"]
    else:
        assert record["status"] == "ok"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"build": "shards"}, "build=shards has none, use build=megatron"),
        ({"refit": {"backend": "nccl"}}, "moves GPU memory; "),
        ({"refit": {"backend": "nixl"}}, "nixl"),
    ],
)
def test_what_it_cannot_be_is_unsupported(
    agent: Agent, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    record = ran(agent, tmp_path, job(model=DENSE, **{**PEER, **change}))
    assert record["status"] == "unsupported"
    assert words in record["reason"]


def test_an_unknown_backend_is_refused() -> None:
    reason = known_words(job(model=DENSE, refit={"backend": "nvshmen"}, **PEER))
    assert reason is not None
    assert "refit.backend=nvshmen is not one of auto, gloo, nccl, nvshmem, nixl" in reason


def test_weights_say_of_themselves_what_megatron_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attributes that it plans by, against a model that Megatron initialises itself."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        what = job(Degrees(), Degrees(), "collocated", model=MOE, **PEER)
        ours = megatron_build.gpt_model(what, place(what), "source", 0)
        theirs = layers._initialize_affine_weight_cpu
        monkeypatch.setattr(megatron_build, "_set_attributes", theirs)
        real = megatron_build.gpt_model(what, place(what), "source", 0)
    finally:
        dist.destroy_process_group()
    names = ("tensor_model_parallel", "partition_dim", "partition_stride", "allreduce")
    said = [
        {n: [getattr(p, a, None) for a in names] for n, p in model.named_parameters()}
        for model in (ours, real)
    ]
    assert said[0] == said[1]
    assert said[0]["decoder.layers.0.mlp.linear_fc1.weight"] == [True, 0, 2, True]
