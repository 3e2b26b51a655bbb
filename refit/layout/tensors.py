"""Logical tensors: names, whole shapes, dtypes, how each is sharded, who holds what. No torch.

A logical tensor is one weight of the whole model, under its global layer and expert number, however
ranks share it. A `Family` is the set of tensors that differ only in those two numbers, so a model
of 70 000 tensors is some thirty families. Which a model has is in `refit.model.architecture`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from refit.errors import UserError
from refit.layout import engine, fsdp, megatron
from refit.layout.cut import Cut
from refit.layout.layout import IntArray, Layout

ITEMSIZE = {"bfloat16": 2, "float16": 2, "float32": 4, "int64": 8, "uint8": 1}


@dataclass(frozen=True)
class Family:
    """Tensors alike in all but layer and expert.

    Attributes:
        name: with `{layer}` and `{expert}` where they vary.
        shape: of the whole tensor, before any sharding.
        dtype: the model's, one of `ITEMSIZE`.
        axis: the dimension that Megatron cuts over TP (over ETP for experts), or None where every
            rank has it whole.
        parts: sizes along `axis` of the parts that are each cut on their own, as gate and up are;
            empty: it is one part.
        grid: `dense` or `expert`: which of the layout's two rank grids shards it.
        layers: global layer numbers, from 0; empty for what lies outside the layers.
        stage: `layer` for what lies in the layers, on whichever stage has them; outside of them
            `first`, `last`, or `both` for tied embeddings, of which a last stage that is not the
            first keeps its own copy.
        num_experts: 0 where there are none.
        is_buffer: a persistent buffer, not a parameter.
        fused: rows of each of the parameters that are fused in it, in one group of its rows; the
            groups fill it. Empty: it is one parameter.
        is_vocabulary: its rows are the vocabulary's, which a side may pad.
        untied_stage: of a tensor whose `stage` is `both`, the one that has it on a side that does
            not tie its embeddings; empty: there is no such side.
        copy_of: name of the tensor whose values it has, and where that is tied its storage too.
        base: id of its first tensor; ids go by layer, then expert.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "bfloat16"
    axis: int | None = None
    parts: tuple[int, ...] = ()
    grid: str = "dense"
    layers: tuple[int, ...] = ()
    stage: str = "layer"
    num_experts: int = 0
    is_buffer: bool = False
    fused: tuple[int, ...] = ()
    is_vocabulary: bool = False
    untied_stage: str = ""
    copy_of: str = ""
    base: int = 0

    @property
    def count(self) -> int:
        """Tensors in the family."""
        return max(1, len(self.layers)) * max(1, self.num_experts)

    @property
    def elements(self) -> int:
        """Elements of one whole tensor."""
        return int(np.prod(self.shape, dtype=np.int64))

    def tensor_name(self, layer: int | None = None, expert: int | None = None) -> str:
        """The full name of one tensor, by its global layer and expert number."""
        return self.name.format(layer=layer, expert=expert)

    def cut(self, layout: Layout) -> Cut:
        """How a side cuts each tensor.

        Raises:
            UserError: the axis does not divide.
        """
        rows = (layout.vocab_rows if self.is_vocabulary else None) or self.shape[0]
        try:
            if layout.kind == "fsdp":
                if self.is_buffer:  # fully_shard leaves them as they are
                    return Cut.whole(0, self.shape[0])
                return fsdp.cut(rows, self.fused, layout.shard).below(self.shape[0])
            size = self.shape[self.axis] if self.axis else rows
            shards = layout.etp if self.grid == "expert" else layout.tp
            if layout.kind == "engine" and self.is_qkv:
                return engine.qkv(self.shape[0], self.fused, shards)
            if layout.gate_up_interleaved and self.parts:
                return engine.interleaved(self.parts, shards)
            return megatron.cut(
                self.axis, self.parts or (self.shape[self.axis or 0],), shards, size
            )
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from None

    @property
    def is_qkv(self) -> bool:
        """Queries, keys and values, fused group by group."""
        return len(self.fused) == 3

    def stage_on(self, layout: Layout) -> str:
        """As `stage`, on this side."""
        return self.untied_stage if self.untied_stage and not layout.tied else self.stage

    def ends_on(self, layout: Layout) -> list[int]:
        """Of what lies outside the layers, the pipeline ranks that have it, ascending."""
        ends = {"first": {0}, "last": {layout.pp - 1}, "both": {0, layout.pp - 1}}
        return sorted(ends[self.stage_on(layout)])

    def is_cut(self, layout: Layout) -> bool:
        """Whether a rank's shard depends on where it is in its group, were that of one rank."""
        if layout.kind == "fsdp":
            return not self.is_buffer
        return self.axis is not None

    def dtype_on(self, side_dtype: str | None) -> str:
        """As a side stores it whose own dtype that is: what the model has in bfloat16 has that."""
        return side_dtype if side_dtype and self.dtype == "bfloat16" else self.dtype

    def local_shape(self, cut: Cut, shard: int) -> tuple[int, ...]:
        """Of one shard, padding included."""
        shape = list(self.shape)
        shape[cut.axis] = cut.sizes[shard]
        return tuple(shape)


@dataclass(frozen=True)
class Slot:
    """Where a shard lies in a larger tensor of its rank: one of equal slots along a new first axis.

    Attributes:
        storage: names the larger tensor.
        number: which slot.
        count: slots that it has; those of no shard are padding.
    """

    storage: str
    number: int
    count: int


@dataclass(frozen=True)
class Shard:
    """One rank's part of one logical tensor."""

    tensor: int
    name: str
    family: Family
    cut: Cut
    shard: int  # which of the cut's shards this is
    dtype: str  # as this side stores it
    trained_dtype: str  # as the source does
    casts: bool  # the two sides' dtypes differ
    slot: Slot | None = None  # None: a tensor of its own
    same_as: int | None = None  # the tensor whose storage it is; None: its own
    padding_is_checked: bool = True  # and zero; else anything may be there

    @property
    def values_of(self) -> str:
        """The name of the tensor whose values it has."""
        return self.family.copy_of or self.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Of this part alone, padding included."""
        return self.family.local_shape(self.cut, self.shard)

    @property
    def nbytes(self) -> int:
        """Of this part alone, its own padding included, not what aligns it."""
        if self.same_as is not None:
            return 0
        return int(np.prod(self.shape, dtype=np.int64)) * ITEMSIZE[self.dtype]

    def global_indices(self) -> IntArray:
        """[size]: index in the whole tensor of each index along the cut axis, or `PADDING`."""
        return self.cut.indices(self.shard)

    def stretches(self) -> Iterator[tuple[int, IntArray]]:
        """The local axis, divided where padding begins and ends: a local start, and the indices."""
        return self.cut.stretches(self.shard)


@dataclass(frozen=True)
class Catalogue:
    """Every logical tensor of a model."""

    families: tuple[Family, ...]
    num_layers: int

    @property
    def num_tensors(self) -> int:
        """Tensors of all families, buffers too; ids go from 0 to below this."""
        return sum(f.count for f in self.families)

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole model; neither buffers nor copies are counted."""
        counted = [f for f in self.families if not f.is_buffer and not f.copy_of]
        return sum(f.count * f.elements for f in counted)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole model, buffers included."""
        return sum(f.count * f.elements * ITEMSIZE[f.dtype] for f in self.families)

    @cached_property
    def bases(self) -> IntArray:
        """[families]: the id of each family's first tensor, ascending."""
        return np.array([f.base for f in self.families], dtype=np.int64)

    def family_of(self, tensor: int) -> Family:
        """The family of a tensor id."""
        return self.families[int(np.searchsorted(self.bases, tensor, side="right")) - 1]

    def name_of(self, tensor: int) -> str:
        """The full name of a tensor id."""
        family = self.family_of(tensor)
        index, expert = divmod(tensor - family.base, max(1, family.num_experts))
        layer = family.layers[index] if family.layers else None
        return family.tensor_name(layer, expert)

    def held_by(self, layout: Layout, rank: int) -> list[Shard]:
        """Every shard that a global rank holds, ordered by tensor id; empty outside the layout."""
        if rank not in layout.ranks:
            return []
        dense = np.argwhere(layout.dense == rank)[0]
        expert = np.argwhere(layout.expert == rank)[0]
        stage, tp, ep, etp = int(dense[0]), int(dense[3]), int(expert[2]), int(expert[3])
        mine = layout.stage_layers(self.num_layers)[stage]
        bases = {family.name: family.base for family in self.families}
        held = []
        for family in self.families:
            if family.layers:
                slots = [(i, n) for i, n in enumerate(family.layers) if n in mine]
            else:
                slots = [(0, -1)] if stage in family.ends_on(layout) else []
            width = max(1, family.num_experts)
            per_rank = width // layout.ep
            experts = range(ep * per_rank, (ep + 1) * per_rank) if family.num_experts else range(1)
            cut = family.cut(layout)
            shard = 0 if cut.shards == 1 else (etp if family.grid == "expert" else tp)
            dtypes = (family.dtype_on(layout.dtype), family.dtype_on(layout.trained_dtype))
            casts = layout.casts and family.dtype == "bfloat16"
            for index, layer in slots:
                for e in experts:
                    name = family.tensor_name(layer, e)
                    tensor = family.base + index * width + e
                    slot = None
                    if family.num_experts and layout.expert_slots:
                        together = family.name.format(layer=layer, expert="")
                        slot = Slot(together, e - experts.start, layout.expert_slots)
                    same = bases[family.copy_of] if family.copy_of and layout.tied else None
                    checked = layout.padding_is_checked
                    held.append(
                        Shard(tensor, name, family, cut, shard, *dtypes, casts, slot, same, checked)
                    )
        return held
