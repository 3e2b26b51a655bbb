"""Plans against megatron-core's own planner, where that one is right.

Its whole planner runs here, on metadata built by hand and without a process group: only the
collectives are replaced. Not comparable, and so left out:

* which replica gives a block: Megatron takes turns by rank number and does not prefer the receiver
  itself or its node, so with replicas only the shard that gives is compared, not the rank;
* `expert_bias`, a buffer, where the version plans named_parameters only and leaves it behind;
* tied embeddings over several stages: the last stage's copy has another name there;
* gated experts whose ETP changes, as Megatron builds them: TEGroupedLinear gives its parameters
  stride 1, which mis-orders gate and up. With the stride that they ought to have it agrees.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from megatron.core.parallel_state import RankGenerator
from megatron.core.resharding import planner
from megatron.core.resharding.utils import (
    ParameterMetadata,
    ReshardPlan,
    ShardingDescriptor,
    assign_ep_resolved_name_inplace,
    assign_resolved_name_inplace,
)

from refit.job import Degrees
from refit.layout.layout import Layout, Placement
from refit.model import megatron_versions as versions
from refit.model.architecture import catalogue
from refit.model_config import Model
from refit.plan.build import build_plan
from refit.plan.plan import Plan
from tests.support import oracle
from tests.support.jobs import placed

DENSE = Model(
    name="dense",
    num_layers=6,
    hidden_size=24,
    ffn_hidden_size=24,
    num_attention_heads=12,
    num_query_groups=12,
    kv_channels=2,
    gated_linear_unit=True,
    add_bias_linear=False,
    add_qkv_bias=True,
    qk_layernorm=True,
    vocab_size=29,
    make_vocab_size_divisible_by=24,
    max_position_embeddings=5,
    share_embeddings_and_output_weights=False,
)
MOE = replace(
    DENSE,
    name="moe",
    num_moe_experts=8,
    moe_ffn_hidden_size=24,
    moe_layer_freq=[0, 1, 1, 1, 0, 1],
    moe_shared_expert_intermediate_size=24,
    moe_router_enable_expert_bias=True,
)
MLA = replace(
    MOE,
    name="mla",
    multi_latent_attention=True,
    q_lora_rank=4,
    kv_lora_rank=4,
    qk_head_dim=2,
    qk_pos_emb_head_dim=2,
    v_head_dim=2,
)
PLAIN = replace(DENSE, name="plain", gated_linear_unit=False, add_bias_linear=True)

# (tensor, destination rank, who gives, start there, start here, length along the cut axis)
Copy = tuple[str, int, int, int, int, int]


def merged(copies: list[Copy]) -> set[Copy]:
    """Neighbours at both ends, from one giver, become one copy."""
    done: list[Copy] = []
    for name, to, giver, there, here, length in sorted(copies):
        if done:
            last = done[-1]
            if last[:3] == (name, to, giver) and (last[3] + last[5], last[4] + last[5]) == (
                there,
                here,
            ):
                done[-1] = (*last[:5], last[5] + length)
                continue
        done.append((name, to, giver, there, here, length))
    return set(done)


# ---- what Megatron's modules would say of themselves


def group_with(rank: int, groups: list[list[int]]) -> list[int]:
    return next(group for group in groups if rank in group)


def metadata(
    model: Model, layout: Layout, tensors: dict[str, oracle.Spec], rank: int, expert_stride: int = 2
) -> list[ParameterMetadata]:
    """`extract_param_metadata` of every parameter of a rank, under rank-local names."""
    if not layout.offset <= rank < layout.offset + layout.gpus:
        return []
    order = "tp-cp-ep-dp-pp"
    dense = RankGenerator(layout.tp, 1, layout.dp, layout.pp, layout.cp, order, layout.offset)
    expert = RankGenerator(layout.etp, layout.ep, layout.edp, layout.pp, 1, order, layout.offset)
    stages = oracle.stage_of_layer(layout, model.num_layers)
    first_layer = stages.index(oracle.where(layout, rank).stage)
    ep_group = group_with(rank, expert.get_ranks("ep"))
    first_expert = ep_group.index(rank) * ((model.num_moe_experts or 0) // layout.ep)
    prefixes = {
        f"decoder.layers.{n - first_layer}": f"decoder.layers.{n}"
        for n in range(first_layer, model.num_layers)
    }
    whole = oracle.wholes(tensors)
    found = []
    for name, piece in oracle.held(model, tensors, whole, layout, rank).items():
        spec = tensors[name]
        if spec.is_buffer and not versions.REFITS_BUFFERS:
            continue
        local = name
        if spec.layer >= 0:
            local = local.replace(f"layers.{spec.layer}.", f"layers.{spec.layer - first_layer}.")
        if spec.expert >= 0:
            local = local.removesuffix(str(spec.expert)) + str(spec.expert - first_expert)
        ranks = expert if spec.expert >= 0 else dense
        stride = expert_stride if spec.expert >= 0 else 2
        meta = ParameterMetadata(
            name=local,
            shape=piece.shape,
            dtype=torch.bfloat16,
            element_size=2,
            is_tp=spec.cut != "whole",
            partition_dim=1 if spec.cut == "columns" else 0,
            partition_stride=stride if spec.cut == "halves" else 1,
            is_ep=spec.expert >= 0,
            num_experts=model.num_moe_experts,
            owner_rank=rank,
            tensor_parallel_group_ranks=group_with(rank, ranks.get_ranks("tp")),
            expert_parallel_group_ranks=ep_group,
            data_parallel_group_ranks=group_with(rank, dense.get_ranks("dp")),
            pipeline_parallel_group_ranks=group_with(rank, dense.get_ranks("pp")),
        )
        assign_resolved_name_inplace(meta, layer_module_prefix_map=prefixes, base_name=local)
        found.append(meta)
    return found


@dataclass
class OneProcess:
    """torch.distributed as the planner sees it on one rank, with every rank's answer at hand.

    Versions differ in who gathers, one side after the other or both at once, and in how a plan that
    rank 0 made for another rank gets there: `plans` is where those arrive.
    """

    rank: int
    sides: list[list[list[ParameterMetadata]]]
    plans: list[ReshardPlan]
    gathered: int = 0

    def get_rank(self) -> int:
        return self.rank

    def get_world_size(self) -> int:
        return len(self.sides[0])

    def all_gather_object(self, into: list[Any], mine: Any, group: None = None) -> None:
        if mine == ([], []):
            into[:] = list(zip(*self.sides, strict=True))
        else:
            assert mine == []  # the modules below have no parameters
            into[:] = self.sides[self.gathered]
            self.gathered += 1

    def gather_object(self, mine: Any, into: list[Any], group_dst: int, group: None) -> None:
        self.all_gather_object(into, mine)

    def broadcast_object_list(self, made: list[ReshardPlan], src: int) -> None:
        self.plans.extend(made)

    def scatter_object_list(
        self, mine: list[ReshardPlan], made: list[ReshardPlan], group_src: int, group: None
    ) -> None:
        self.plans.extend(made)
        mine[0] = made[self.rank]


def empty_module() -> torch.nn.Module:
    module = torch.nn.Module()
    module.pg_collection = "not looked into"  # type: ignore[assignment]
    return module


def planned(
    sides: list[list[list[ParameterMetadata]]], num_experts: int | None, monkeypatch: Any
) -> list[ReshardPlan]:
    """What Megatron has each rank do."""
    plans: list[ReshardPlan] = []
    world = len(sides[0])
    for rank in range(world if versions.PLANS_EVERYWHERE else 1):
        one = OneProcess(rank, sides, plans)
        monkeypatch.setattr(planner, "dist", one)
        monkeypatch.setattr(torch.distributed, "broadcast_object_list", one.broadcast_object_list)
        monkeypatch.setattr(torch.distributed, "scatter_object_list", one.scatter_object_list)
        build = getattr(planner, versions.PLANNER)
        mine = build(empty_module(), empty_module(), num_experts=num_experts)
        if versions.PLANS_EVERYWHERE:
            plans.append(mine)
    assert len(plans) == world
    return plans


def theirs(
    model: Model, placement: Placement, monkeypatch: pytest.MonkeyPatch, expert_stride: int = 2
) -> list[Copy]:
    """Megatron's plan, with giving ranks."""
    tensors = oracle.specs(model, placement.source.tp)
    sides = [
        [metadata(model, side, tensors, r, expert_stride) for r in range(placement.world)]
        for side in (placement.source, placement.destination)
    ]
    plans = planned(sides, model.num_moe_experts, monkeypatch)
    copies: list[Copy] = []
    for rank, plan in enumerate(plans):
        known = {meta.name: meta for meta in sides[1][rank]}
        for op in plan.recv_ops:
            meta = known[op.param_name]
            cut = [d for d, s in enumerate(op.my_slice) if s.start is not None]
            name = str(meta.resolved_name)
            if cut:
                here, there = op.my_slice[cut[0]], op.peer_slice[cut[0]]
                length = here.stop - here.start
                copies.append((name, rank, op.peer_rank, there.start, here.start, length))
            else:
                axis = 1 if tensors[name].cut == "columns" else 0
                copies.append((name, rank, op.peer_rank, 0, 0, meta.shape[axis]))
    return copies


def ours(plan: Plan) -> list[Copy]:
    """Our plan of what Megatron's refit takes along, with giving ranks."""
    columns = (
        plan.destination,
        plan.source,
        plan.source_start,
        plan.destination_start,
        plan.length,
    )
    rows = zip(plan.tensor.tolist(), *(c.tolist() for c in columns), strict=True)
    return [
        (plan.catalogue.name_of(tensor), to, giver, there, here, length)
        for tensor, to, giver, there, here, length in rows
        if versions.REFITS_BUFFERS or not plan.catalogue.family_of(tensor).is_buffer
    ]


def by_shard(copies: list[Copy], model: Model, placement: Placement) -> list[Copy]:
    """The same with, instead of the giving rank, the shard that it has (0 of a whole tensor)."""
    layout = placement.source
    tensors = oracle.specs(model, layout.tp)
    whole = oracle.wholes(tensors)
    held = [set(oracle.held(model, tensors, whole, layout, r)) for r in range(placement.world)]
    changed = []
    for name, to, giver, *rest in copies:
        assert name in held[giver], (name, giver)
        at, spec = oracle.where(layout, giver), tensors[name]
        shard = 0 if spec.cut == "whole" else at.etp if spec.expert >= 0 else at.tp
        there, here, length = rest
        changed.append((name, to, shard, there, here, length))
    return changed


# ---- whole plans

PAIRS = [
    (DENSE, Degrees(tp=1), Degrees(tp=4)),
    (DENSE, Degrees(tp=4), Degrees(tp=2)),
    (DENSE, Degrees(tp=2), Degrees(tp=3)),
    (DENSE, Degrees(tp=3, pp=2), Degrees(tp=4, pp=3)),
    (DENSE, Degrees(tp=2, cp=2, gpus=8), Degrees(tp=4, gpus=8)),
    (DENSE, Degrees(pp=3), Degrees(tp=2)),
    (DENSE, Degrees(pp=4, num_layers_in_last_pipeline_stage=3), Degrees(tp=2, pp=2)),
    (PLAIN, Degrees(tp=2, pp=2), Degrees(tp=4)),
    (PLAIN, Degrees(tp=6), Degrees(tp=4)),
    (MOE, Degrees(tp=2, ep=2, etp=1), Degrees(tp=2, ep=1, etp=1)),
    (MOE, Degrees(tp=4, ep=2, etp=1), Degrees(tp=2, ep=4, etp=1)),
    (MOE, Degrees(tp=1, ep=4, etp=1), Degrees(tp=1, ep=2, etp=1)),
    (MOE, Degrees(ep=8, pp=2, etp=1, gpus=16), Degrees(tp=4, ep=4, etp=1, gpus=4)),
    (MOE, Degrees(tp=2, ep=2, etp=2, gpus=4), Degrees(tp=4, ep=4, etp=1, gpus=4)),
    (MOE, Degrees(tp=2, ep=4, etp=1, gpus=4), Degrees(tp=4, ep=2, etp=4, gpus=8)),
    (MLA, Degrees(tp=4, pp=2, ep=4, etp=1, gpus=8), Degrees(tp=2, ep=8, etp=1, gpus=8)),
]


def label(side: Degrees) -> str:
    return f"tp{side.tp}pp{side.pp}ep{side.ep}etp{side.etp or 0}"


IDS = [f"{m.name}-{label(s)}-{label(d)}" for m, s, d in PAIRS]


@pytest.mark.parametrize("mode", ["collocated", "non-collocated"])
@pytest.mark.parametrize(("model", "source", "destination"), PAIRS, ids=IDS)
def test_blocks_are_megatrons(
    model: Model, source: Degrees, destination: Degrees, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    placement = placed(source, destination, mode, model, ranks_per_node=64)
    mine = ours(build_plan(catalogue(model, placement.source.tp), placement))
    megatrons = theirs(model, placement, monkeypatch)
    assert merged(by_shard(mine, model, placement)) == merged(by_shard(megatrons, model, placement))
    assert len(mine) <= len(megatrons)  # cut where a side cuts, never into smaller tiles


@pytest.mark.parametrize("mode", ["collocated", "non-collocated"])
def test_giving_ranks_are_megatrons_where_nobody_else_holds_the_block(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # dp = edp = cp = 1: a cut tensor's shard is on one rank
    placement = placed(Degrees(tp=2, pp=2, etp=2), Degrees(tp=4, ep=2, etp=4, gpus=8), mode, MOE,
                       ranks_per_node=64)  # fmt: skip
    assert placement.source.dp == placement.source.edp == 1
    tensors = oracle.specs(MOE, placement.source.tp)
    plan = build_plan(catalogue(MOE, placement.source.tp), placement)
    cut = [
        merged([copy for copy in copies if tensors[copy[0]].cut != "whole"])
        for copies in (ours(plan), theirs(MOE, placement, monkeypatch))
    ]
    assert cut[0] == cut[1] and len(cut[0]) > 100


@pytest.mark.parametrize(("source_etp", "destination_etp"), [(2, 1), (1, 2), (4, 2)])
def test_gated_experts_with_stride_1_are_the_only_difference_when_etp_changes(
    source_etp: int, destination_etp: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    placement = placed(
        Degrees(tp=source_etp, etp=source_etp),
        Degrees(tp=destination_etp, etp=destination_etp),
        model=MOE,
        ranks_per_node=64,
    )
    plan = build_plan(catalogue(MOE, placement.source.tp), placement)
    mine = merged(by_shard(ours(plan), MOE, placement))
    megatrons = merged(by_shard(theirs(MOE, placement, monkeypatch, 1), MOE, placement))
    names = {copy[0] for copy in mine ^ megatrons}
    assert names == {
        f"decoder.layers.{layer}.mlp.experts.linear_fc1.weight{expert}"
        for layer in (1, 2, 3, 5)
        for expert in range(8)
    }


# ---- Megatron's parts, called alone


@pytest.mark.parametrize(("source_tp", "destination_tp"), [
    (1, 2), (2, 1), (2, 4), (4, 2), (1, 8), (8, 1), (4, 4), (2, 3), (3, 2), (4, 6), (6, 4),
])  # fmt: skip
@pytest.mark.parametrize(
    ("tensor", "rows", "dim", "stride"),
    [
        ("decoder.layers.0.mlp.linear_fc1.weight", 96, 0, 2),
        ("decoder.layers.0.mlp.linear_fc2.weight", 48, 1, 1),
        ("decoder.layers.0.self_attention.linear_qkv.weight", 144, 0, 1),
    ],
    ids=["fc1-gated", "fc2", "qkv"],
)
def test_tp_tiles_are_megatrons(
    tensor: str, rows: int, dim: int, stride: int, source_tp: int, destination_tp: int
) -> None:
    model = replace(
        DENSE, hidden_size=48, ffn_hidden_size=48, num_attention_heads=24, num_query_groups=24
    )
    placement = placed(Degrees(tp=source_tp), Degrees(tp=destination_tp), model=model)
    source = list(range(source_tp))
    destination = list(range(source_tp, source_tp + destination_tp))

    def meta(ranks: list[int]) -> ParameterMetadata:
        shape = [48, 48]
        shape[dim] = rows // len(ranks)
        return ParameterMetadata(
            name=tensor,
            shape=tuple(shape),
            dtype=torch.bfloat16,
            element_size=2,
            is_tp=True,
            partition_dim=dim,
            partition_stride=stride,
            tensor_parallel_group_ranks=ranks,
        )

    descriptor = ShardingDescriptor("tp", dim, stride, stride, source, destination)
    expected: list[Copy] = []
    for rank in destination:
        tiles = getattr(planner, versions.PLANNER_OF_TP)(
            tensor, meta(source), meta(destination), [descriptor], rank
        )
        for giver, there, here in tiles:
            length = here[dim].stop - here[dim].start
            expected.append((tensor, rank, giver, there[dim].start, here[dim].start, length))
    plan = build_plan(catalogue(model, source_tp), placement)
    mine = [copy for copy in ours(plan) if copy[0] == tensor]
    assert merged(mine) == merged(expected)


@pytest.mark.parametrize("ep", [1, 2, 4, 8])
@pytest.mark.parametrize("etp", [1, 2])
@pytest.mark.parametrize("kind", ["weight", "bias"])
def test_global_expert_numbers_are_megatrons(ep: int, etp: int, kind: str) -> None:
    layout = Layout(ep=ep, etp=etp, gpus=16, offset=3)
    model = replace(MOE, add_bias_linear=kind == "bias")
    tensors = catalogue(model, 1)
    groups = RankGenerator(
        etp, ep, layout.edp, 1, 1, "tp-cp-ep-dp-pp", rank_offset=layout.offset
    ).get_ranks("ep")
    prefix = f"decoder.layers.1.mlp.experts.linear_fc1.{kind}"
    for rank in layout.ranks:
        resolved = []
        for local in range(8 // ep):
            meta = ParameterMetadata(
                name=f"{prefix}{local}",
                shape=(1,),
                dtype=torch.bfloat16,
                element_size=2,
                is_ep=True,
                num_experts=8,
                owner_rank=rank,
                expert_parallel_group_ranks=group_with(rank, groups),
            )
            assign_ep_resolved_name_inplace(meta)
            resolved.append(meta.resolved_name)
        mine = [s.name for s in tensors.held_by(layout, rank) if s.name.startswith(prefix)]
        assert mine == resolved


@pytest.mark.parametrize(
    "layout",
    [
        Layout(tp=2, ep=4, pp=2, etp=1),
        Layout(tp=4, ep=2, pp=3, etp=2, gpus=24, offset=5),
        Layout(pp=4, ep=8, last_stage_layers=3),
        Layout(pp=4, ep=2, etp=4, first_stage_layers=2, last_stage_layers=2, gpus=32),
    ],
    ids=Layout.describe,
)
def test_resolved_names_of_every_rank_are_ours(layout: Layout) -> None:
    for model in (MOE, MLA):
        tensors, expected = catalogue(model, layout.tp), oracle.specs(model, layout.tp)
        for rank in layout.ranks:
            megatrons = {m.resolved_name: m.shape for m in metadata(model, layout, expected, rank)}
            held = tensors.held_by(layout, rank)
            ours = {
                s.name: s.shape for s in held if versions.REFITS_BUFFERS or not s.family.is_buffer
            }
            assert ours == megatrons
