"""Adapters alone: which tensors there are, how they are cut, and what they weigh, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from refit.job import Degrees
from refit.layout.layout import Layout
from refit.model.architecture import catalogue
from refit.model_config import Model
from refit.record.point import identity
from refit.rules.setup import Setup
from tests.support.composed import composed
from tests.support.jobs import TINY, job

ALL = ["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"]


def shapes(model: Model, layout: Layout, rank: int = 0) -> dict[str, tuple[int, ...]]:
    """Name -> shape of everything that a rank holds."""
    return {shard.name: shard.shape for shard in catalogue(model).held_by(layout, rank)}


def test_llama_8b_by_all_four_linears() -> None:
    # in + out of each linear times the rank: (4096 + 6144) + (4096 + 4096) + (4096 + 28672) +
    # (14336 + 4096), of 32 layers, in bfloat16
    model = composed(
        "model=llama31_8b", "model.lora={rank:32,targets:[" + ",".join(ALL) + "]}"
    ).model
    tensors = catalogue(model)
    assert tensors.nbytes == 142_606_336 == 2 * 32 * 32 * (10240 + 8192 + 32768 + 18432)
    assert tensors.num_tensors == 32 * 4 * 2
    two = catalogue(replace(model, lora={"rank": 8, "targets": ["linear_qkv", "linear_proj"]}))
    assert two.nbytes == 2 * 32 * 8 * (10240 + 8192)


def test_a_is_cut_where_columns_are_and_b_where_rows_are() -> None:
    plain = replace(
        TINY, num_moe_experts=None, moe_layer_freq=1, moe_ffn_hidden_size=None, num_layers=1,
        moe_shared_expert_intermediate_size=None, moe_router_enable_expert_bias=False,
    )  # fmt: skip
    h, ffn = plain.hidden_size, plain.ffn_hidden_size or 0
    heads, size = plain.num_attention_heads, plain.kv_channels or h // plain.num_attention_heads
    qkv = (heads + 2 * (plain.num_query_groups or heads)) * size
    layer = "decoder.layers.0"
    assert shapes(replace(plain, lora={"rank": 4, "targets": ALL}), Layout(tp=2, gpus=2)) == {
        f"{layer}.self_attention.linear_qkv.adapter.linear_in.weight": (4, h),
        f"{layer}.self_attention.linear_qkv.adapter.linear_out.weight": (qkv // 2, 4),
        f"{layer}.self_attention.linear_proj.adapter.linear_in.weight": (4, heads * size // 2),
        f"{layer}.self_attention.linear_proj.adapter.linear_out.weight": (h, 4),
        f"{layer}.mlp.linear_fc1.adapter.linear_in.weight": (4, h),
        f"{layer}.mlp.linear_fc1.adapter.linear_out.weight": (2 * ffn // 2, 4),
        f"{layer}.mlp.linear_fc2.adapter.linear_in.weight": (4, ffn // 2),
        f"{layer}.mlp.linear_fc2.adapter.linear_out.weight": (h, 4),
    }


def test_experts_have_one_pair_each_and_are_cut_over_etp() -> None:
    model = replace(TINY, lora={"rank": 4, "targets": ["linear_fc2"]})
    held = shapes(model, Layout(tp=2, ep=2, etp=2, gpus=4), rank=0)
    ours = {name: shape for name, shape in held.items() if ".experts." in name}
    name = "decoder.layers.1.mlp.experts.linear_fc2.adapter"
    width = TINY.moe_ffn_hidden_size or 0
    assert ours == {
        f"{name}.linear_{side}.weight{expert}": shape
        for expert in (0, 1)  # of four, over EP 2
        for side, shape in (("in", (4, width // 2)), ("out", (TINY.hidden_size, 4)))
    }
    assert "decoder.layers.0.mlp.linear_fc2.adapter.linear_in.weight" in held  # the dense layer


@pytest.mark.parametrize("fanout", ["direct", "hierarchical"])
def test_a_plan_of_adapters_writes_every_byte_of_them(fanout: str) -> None:
    model = replace(TINY, lora={"rank": 4, "targets": ALL})
    sides = (Degrees(tp=2, ep=2, etp=2, gpus=4), Degrees(tp=4, ep=1, etp=1, gpus=4))
    setup = Setup.of(job(*sides, model=model, ranks_per_node=2, refit={"fanout": fanout}))
    destination = setup.placement.destination
    held = sum(s.nbytes for r in destination.ranks for s in setup.catalogue.held_by(destination, r))
    assert setup.plan().total_bytes == held > 0


def test_adapters_are_part_of_the_identity_and_their_absence_is_not() -> None:
    plain = job()
    some = replace(plain, model=replace(TINY, lora={"rank": 4, "targets": ["linear_qkv"]}))
    assert identity(some) != identity(plain)
    assert identity(replace(plain, model=replace(plain.model, lora=None))) == identity(plain)
