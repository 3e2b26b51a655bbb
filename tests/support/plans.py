"""Drawn and written cases of a plan, with all that is known of each without one.

What ranks hold is the oracle's, element by element.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from math import lcm

import numpy as np
from hypothesis import strategies as st

from refit.errors import UserError
from refit.job import Degrees
from refit.layout.layout import Placement
from refit.layout.order import NAMES
from refit.layout.place import resolve
from refit.model.architecture import LOCAL_SPEC, PRODUCTION, Convention, catalogue
from refit.model_config import Model
from refit.plan.build import build_plan
from refit.plan.plan import Plan
from tests.support import oracle
from tests.support.jobs import placed
from tests.support.oracle import Array

POISON = -1


# ---- one drawn case, with all that is known about it without a plan


@dataclass(frozen=True)
class Case:
    """A model, both layouts in the world, and the plan under test."""

    model: Model
    placement: Placement
    convention: Convention

    @cached_property
    def plan(self) -> Plan:
        tp = self.placement.source.tp
        return build_plan(catalogue(self.model, tp, self.convention), self.placement)

    @cached_property
    def specs(self) -> dict[str, oracle.Spec]:
        local = self.convention == LOCAL_SPEC
        return oracle.specs(self.model, self.placement.source.tp, local)

    @cached_property
    def source(self) -> list[dict[str, Array]]:
        """[world], the shards that each rank has before the refit."""
        whole = oracle.wholes(self.specs)
        layout = self.placement.source
        ranks = range(self.placement.world)
        return [oracle.held(self.model, self.specs, whole, layout, r) for r in ranks]

    @cached_property
    def destination(self) -> list[dict[str, Array]]:
        """[world], the shards that each rank must have after it."""
        whole = oracle.wholes(self.specs)
        layouts = [self.placement.destination_of(r) for r in range(self.placement.world)]
        return [
            {} if layout is None else oracle.held(self.model, self.specs, whole, layout, rank)
            for rank, layout in enumerate(layouts)
        ]

    @cached_property
    def owners(self) -> dict[int, list[int]]:
        """First element of each source shard -> the ranks that hold that shard, ascending.

        Different shards of one tensor share no element, so the first names the shard.
        """
        found: dict[int, list[int]] = defaultdict(list)
        for rank, shards in enumerate(self.source):
            for shard in shards.values():
                found[int(shard.flat[0])].append(rank)
        return found

    @cached_property
    def rows(self) -> list[Row]:
        """The plan's rows, with the shards that they touch looked up by name."""
        plan, rows = self.plan, []
        for i in range(len(plan)):
            name = plan.catalogue.name_of(int(plan.tensor[i]))
            axis = 1 if self.specs[name].cut == "columns" else 0
            length = int(plan.length[i])
            source, target = int(plan.source[i]), int(plan.destination[i])
            taken = window(self.source[source][name], axis, int(plan.source_start[i]), length)
            rows.append(
                Row(
                    name,
                    axis,
                    source,
                    target,
                    int(plan.destination_start[i]),
                    length,
                    taken,
                    self.owners[int(self.source[source][name].flat[0])],
                )
            )
        return rows

    def node(self, rank: int) -> int:
        return rank // self.placement.ranks_per_node

    def nbytes(self, name: str, elements: int) -> int:
        return elements * oracle.ITEMSIZE[self.specs[name].dtype]


@dataclass(frozen=True)
class Row:
    """One block copy, in the oracle's terms."""

    name: str
    axis: int
    source: int
    destination: int
    destination_start: int
    length: int
    block: Array  # the elements it carries
    holders: list[int]  # every source rank that has them


def window(array: Array, axis: int, start: int, length: int) -> Array:
    """A view of `length` indices, which must all exist."""
    assert start >= 0 and length > 0 and start + length <= array.shape[axis]
    return array[start : start + length] if axis == 0 else array[:, start : start + length]


COLUMNS = (
    "tensor",
    "source",
    "destination",
    "source_start",
    "destination_start",
    "length",
    "nbytes",
    "holder_set",
)
"""Of a plan, all that are integers."""


# ---- strategies


@st.composite
def degrees(draw: st.DrawFn, model: Model, max_gpus: int = 16) -> Degrees:
    """A layout that Megatron allows for this model, with its replicas."""
    tp, cp = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 1, 2]))
    pps = [p for p in (1, 2, 3, 4) if p <= model.num_layers]
    pp = draw(st.sampled_from(pps))
    ep = etp = 1
    if model.num_moe_experts is not None:
        ep = draw(st.sampled_from([e for e in (1, 2, 4) if model.num_moe_experts % e == 0]))
        etp = 1 if model.add_bias_linear else draw(st.sampled_from([1, 2, 4]))
    first = last = None
    if pp > 1 and (model.num_layers % pp or draw(st.booleans())):
        splits = [
            (f, b)
            for f in (None, 1, 2, 3)
            for b in (None, 1, 2, 3)
            if splits_evenly(model.num_layers, pp, f, b)
        ]
        if not splits:
            pp = 1
        else:
            first, last = draw(st.sampled_from(splits))
    smallest = pp * lcm(tp * cp, etp * ep)
    if smallest > max_gpus:
        cp = pp = 1
        first = last = None
        etp = etp if lcm(tp, etp * ep) <= max_gpus else 1
        smallest = lcm(tp, etp * ep)
    gpus: int | None = smallest * draw(st.sampled_from([1, 1, 2, 3]))
    if gpus is not None and gpus > max_gpus:
        gpus = smallest
    if (
        tp * cp * pp * ep <= max_gpus
        and (tp * cp * pp * ep) % smallest == 0
        and draw(st.booleans())
    ):
        gpus = None
    side = Degrees(
        tp=tp,
        cp=cp,
        pp=pp,
        ep=ep,
        etp=etp,
        gpus=gpus,
        num_layers_in_first_pipeline_stage=first,
        num_layers_in_last_pipeline_stage=last,
    )
    if pp > 1 and draw(st.booleans()):
        side = replace(
            side,
            num_layers_in_first_pipeline_stage=None,
            num_layers_in_last_pipeline_stage=None,
            pipeline_model_parallel_layout=draw(stage_counts(model.num_layers, pp)),
        )
    ordered = replace(side, order="-".join(draw(st.permutations(NAMES))))
    try:
        resolve(ordered, 1)
    except UserError:  # experts and attention would have other pipelines
        return side
    return ordered


@st.composite
def stage_counts(draw: st.DrawFn, num_layers: int, pp: int) -> list[int]:
    """Layers of each of pp or more stages, none in some of them."""
    stages = pp * draw(st.sampled_from([1, 2, 3]))
    of_layers = draw(st.lists(st.integers(0, stages - 1), min_size=num_layers, max_size=num_layers))
    return [of_layers.count(stage) for stage in range(stages)]


def splits_evenly(num_layers: int, pp: int, first: int | None, last: int | None) -> bool:
    stages = pp - (first is not None) - (last is not None)
    left = num_layers - (first or 0) - (last or 0)
    return left == 0 if stages == 0 else left >= stages and left % stages == 0


@st.composite
def models(draw: st.DrawFn, moe: bool | None = None) -> Model:
    """Small models of every kind that Model can say; every cut axis divides by 4."""
    layers = draw(st.integers(1, 5))
    experts = (
        draw(st.sampled_from([4, 8])) if (draw(st.booleans()) if moe is None else moe) else None
    )
    mla = draw(st.booleans())
    flag = st.booleans()
    model = Model(
        name="drawn",
        num_layers=layers,
        hidden_size=8,
        ffn_hidden_size=draw(st.sampled_from([4, 8])),
        num_attention_heads=4,
        num_query_groups=draw(st.sampled_from([None, 2])),
        kv_channels=2,
        gated_linear_unit=draw(flag),
        add_bias_linear=draw(flag),
        add_qkv_bias=draw(flag),
        qk_layernorm=draw(flag),
        normalization=draw(st.sampled_from(["LayerNorm", "RMSNorm"])),
        multi_latent_attention=mla,
        q_lora_rank=draw(st.sampled_from([None, 4])) if mla else None,
        kv_lora_rank=4,
        qk_head_dim=1,
        qk_pos_emb_head_dim=4,
        v_head_dim=2,
        vocab_size=draw(st.integers(5, 20)),
        make_vocab_size_divisible_by=4,
        share_embeddings_and_output_weights=draw(flag),
        max_position_embeddings=3,
        position_embedding_type=draw(st.sampled_from(["learned_absolute", "rope"])),
        num_moe_experts=experts,
    )
    if experts is None:
        return model
    dense_first = draw(st.integers(0, layers - 1))
    pattern = draw(
        st.sampled_from(
            [1, 2, [0] * dense_first + [1] * (layers - dense_first), f"[0]*{layers - 1}+[1]*1"]
        )
    )
    shared = draw(st.sampled_from([None, 4])) if not model.add_bias_linear else None
    return replace(
        model,
        moe_layer_freq=pattern,
        moe_ffn_hidden_size=draw(st.sampled_from([None, 4])),
        moe_router_enable_expert_bias=draw(flag),
        moe_shared_expert_intermediate_size=shared,
        moe_shared_expert_gate=shared is not None and draw(flag),
    )


@st.composite
def cases(draw: st.DrawFn, moe: bool | None = None, max_gpus: int = 16) -> Case:
    model = draw(models(moe))
    source, destination = draw(degrees(model, max_gpus)), draw(degrees(model, max_gpus))
    mode = draw(st.sampled_from(["collocated", "non-collocated"]))
    first = draw(st.sampled_from([None, None, 1, 5]))
    source = replace(source, offset=first)
    if mode == "non-collocated":
        destination = replace(destination, node_aligned=draw(st.sampled_from([None, True])))
    elif draw(st.booleans()):  # on some of the source's ranks, and maybe on more behind them
        gpus = source.gpus or source.tp * source.cp * source.pp * source.ep
        destination = replace(destination, offset=(first or 0) + draw(st.integers(0, gpus - 1)))
    return case(
        model,
        source,
        destination,
        mode=mode,
        per_node=draw(st.sampled_from([1, 2, 3, 4, 8, 64])),
        convention=draw(st.sampled_from([PRODUCTION, LOCAL_SPEC])),
    )


@st.composite
def pool_cases(draw: st.DrawFn) -> Case:
    """Two or three destinations."""
    model = draw(models())
    source = draw(degrees(model, 8))
    pools = [draw(degrees(model, 8)) for _ in range(draw(st.integers(2, 3)))]
    mode = draw(st.sampled_from(["collocated", "non-collocated"]))
    if mode == "non-collocated":
        source = replace(source, offset=draw(st.sampled_from([None, 1])))
        aligned = draw(st.sampled_from([None, True]))
        pools[-1] = replace(pools[-1], node_aligned=aligned)
    per_node = draw(st.sampled_from([1, 2, 3, 4, 8, 64]))
    placement = placed(source, None, mode, model, per_node, destinations=pools)
    return Case(model, placement, draw(st.sampled_from([PRODUCTION, LOCAL_SPEC])))


def case(
    model: Model,
    source: Degrees,
    destination: Degrees,
    mode: str = "non-collocated",
    per_node: int = 64,
    convention: Convention = PRODUCTION,
) -> Case:
    return Case(model, placed(source, destination, mode, model, per_node), convention)


# ---- the elements


def check_elements(case: Case) -> None:
    """Carry the plan out on poisoned shards; every element must be written once, with its value."""
    written = [{n: np.full(a.shape, POISON) for n, a in d.items()} for d in case.destination]
    times = [{n: np.zeros(a.shape, np.int64) for n, a in d.items()} for d in case.destination]
    for row, nbytes in zip(case.rows, case.plan.nbytes.tolist(), strict=True):
        target = (row.axis, row.destination_start, row.length)
        window(written[row.destination][row.name], *target)[...] = row.block
        window(times[row.destination][row.name], *target)[...] += 1
        assert nbytes == case.nbytes(row.name, row.block.size)
    for rank in range(case.placement.world):
        for name, expected in case.destination[rank].items():
            assert np.all(times[rank][name] == 1), (rank, name)
            assert np.array_equal(written[rank][name], expected), (rank, name)
