"""Where a rank's shards lie in its arena: in which order, and at which bytes. Pure numpy.

The order is ours to choose, and is chosen so that what goes from one rank to another lies together
at both ends. It is the same on all sides:

1. Tensors outside the experts that all sides cut alike, by layer: what a stage has is one run.
2. Those of which every rank has the whole: the same, but any replica may send them.
3. Experts that all sides have whole or cut alike: those that are on one rank together on every
   side, by layer and then by expert, and then the next. What one rank has from another is one run.
4. What is cut differently, by kind: equal blocks at equal distances. Experts in slots too, as a
   layer's slots of one kind are one tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from refit.layout.layout import IntArray, Layout, Placement
from refit.layout.tensors import ITEMSIZE, Catalogue, Family, Shard

ALIGNMENT = 64
"""Bytes: a cache line, and enough for any vector load of a copy kernel."""

_ALIKE, _WHOLE, _EXPERTS, _OTHERS, _TIED = range(5)


@dataclass(frozen=True)
class Arena:
    """One rank's, of one side.

    Attributes:
        tensor: [shards], the ids that it holds, ascending.
        start: [shards], the byte at which each begins.
        order: [shards], the numbers of the shards above, in the order in which they lie.
        strides: [families, dimensions], bytes between two neighbours along a dimension of its
            shards; 0 where there is no such dimension, or the rank has none of the family.
        dtypes: by family, as this side stores it.
        nbytes: of the arena.
    """

    tensor: IntArray
    start: IntArray
    order: IntArray
    strides: IntArray
    dtypes: tuple[str, ...]
    nbytes: int

    @property
    def itemsizes(self) -> IntArray:
        """[families]: bytes of an element."""
        return np.array([ITEMSIZE[dtype] for dtype in self.dtypes], dtype=np.int64)

    def starts(self, tensor: IntArray) -> IntArray:
        """[copies]: where these tensors begin, all of which it holds."""
        return self.start[np.searchsorted(self.tensor, tensor)]


@dataclass(frozen=True)
class Arenas:
    """Of all ranks of a placement."""

    catalogue: Catalogue
    placement: Placement

    def shards(self, layout: Layout, rank: int) -> list[Shard]:
        """What a rank of a side holds, in the order in which it lies in the rank's arena."""
        held = self.catalogue.held_by(layout, rank)
        return [held[number] for number in self.of(layout, rank).order.tolist()] if held else []

    def of(self, layout: Layout, rank: int) -> Arena:
        """A rank's, which is one of the layout's."""
        (stage, _, _, tp), (_, _, ep, etp) = (
            np.argwhere(grid == rank)[0].tolist() for grid in (layout.dense, layout.expert)
        )
        mine = np.zeros(self.catalogue.num_layers, dtype=bool)
        mine[self._layers(layout)[stage]] = True
        tables, strides = [], np.zeros((len(self._kinds), self._dimensions), dtype=np.int64)
        for number, family in enumerate(self.catalogue.families):
            cut = family.cut(layout)
            shard = 0 if cut.shards == 1 else (etp if family.grid == "expert" else tp)
            shape = family.local_shape(cut, shard)
            sizes = (*shape[1:], ITEMSIZE[family.dtype_on(layout.dtype)])
            strides[number, : len(shape)] = np.cumprod(sizes[::-1])[::-1]
            nbytes = 0 if family.copy_of and layout.tied else int(strides[number, 0]) * shape[0]
            if family.layers:
                held = np.flatnonzero(mine[list(family.layers)])
            else:
                held = np.zeros(int(stage in family.ends_on(layout)), dtype=np.int64)
            tables.append(_held(family, layout, ep, held, nbytes))
        tensor, storage, nbytes_of, slot = np.concatenate(tables, axis=1)
        order = np.argsort(self.position[tensor])
        start, end = _laid_out(storage[order], nbytes_of[order], slot[order], layout)
        at = np.empty_like(start)
        at[order] = start
        if layout.tied:
            self._tie(tensor, at)
        dtypes = tuple(f.dtype_on(layout.dtype) for f in self.catalogue.families)
        return Arena(tensor, at, order, strides, dtypes, end)

    def _tie(self, tensor: IntArray, at: IntArray) -> None:
        """What is a second name of another tensor begins where that does."""
        bases = {family.name: family.base for family in self.catalogue.families}
        for family in self.catalogue.families:
            if family.copy_of:
                mine = np.flatnonzero(
                    (tensor >= family.base) & (tensor < family.base + family.count)
                )
                original = tensor[mine] - family.base + bases[family.copy_of]
                at[mine] = at[np.searchsorted(tensor, original)]

    @cached_property
    def position(self) -> IntArray:
        """[tensors]: the place of each in the order, if one rank held all."""
        columns = []
        for number, (family, kind) in enumerate(
            zip(self.catalogue.families, self._kinds, strict=True)
        ):
            outside = self.catalogue.num_layers if family.stage == "last" else -1
            experts = max(1, family.num_experts)
            layer = np.repeat(np.array(family.layers or [outside]), experts)
            expert = np.tile(np.arange(experts), family.count // experts)
            families, none = np.full_like(layer, number), np.zeros_like(layer)
            by = (families, layer, expert, none)
            if kind == _EXPERTS:
                together = self._together(np.arange(experts), experts)[expert]
                by = (together, layer, expert, families)
            elif kind != _OTHERS:
                by = (layer, families, expert, none)
            columns.append(np.stack([np.full_like(layer, kind), *by]))
        order = np.lexsort(np.concatenate(columns, axis=1)[::-1])
        position = np.empty_like(order)
        position[order] = np.arange(len(order))
        return position

    @cached_property
    def _sides(self) -> tuple[Layout, ...]:
        return (self.placement.source, *self.placement.destinations)

    @cached_property
    def _dimensions(self) -> int:
        return max(len(family.shape) for family in self.catalogue.families)

    @cached_property
    def _kinds(self) -> list[int]:
        """By family, which of the groups it lies in."""
        return [self._kind(family) for family in self.catalogue.families]

    def _kind(self, family: Family) -> int:
        if family.copy_of and any(side.tied for side in self._sides):
            return _TIED  # behind what it is a second name of
        cuts = {(family.cut(side), family.dtype_on(side.dtype)) for side in self._sides}
        if len(cuts) > 1:
            return _OTHERS
        if family.num_experts:
            return _OTHERS if any(side.expert_slots for side in self._sides) else _EXPERTS
        return _ALIKE if family.is_cut(self.placement.source) else _WHOLE

    def _layers(self, layout: Layout) -> list[list[int]]:
        """[pp]: what each stage holds, also of a model without layers."""
        number = self.catalogue.num_layers
        return layout.stage_layers(number) if number else [[] for _ in range(layout.pp)]

    def _together(self, experts: IntArray, of: int) -> IntArray:
        """[experts]: equal for those that are on one rank together on every side, in their order.

        Args:
            of: how many there are.
        """
        apart = [experts // max(1, of // side.ep) for side in self._sides]
        new = np.any(np.diff(apart, axis=1, prepend=-1), axis=0)
        return np.cumsum(new)


def _held(family: Family, layout: Layout, ep: int, index: IntArray, nbytes: int) -> IntArray:
    """[4, shards]: tensor, storage (-1: of its own), bytes, and slot in it.

    Args:
        index: which of the family's layers.
    """
    width = max(1, family.num_experts)
    count = width // layout.ep if family.num_experts else 1
    first = ep * count if family.num_experts else 0
    slot = np.tile(np.arange(count), len(index))
    together = family.base + np.repeat(index, count) * width
    in_slots = bool(family.num_experts and layout.expert_slots)
    storage = together if in_slots else np.full_like(together, -1)
    return np.stack([together + first + slot, storage, np.full_like(slot, nbytes), slot])


def _laid_out(
    storage: IntArray, nbytes: IntArray, slot: IntArray, layout: Layout
) -> tuple[IntArray, int]:
    """Shards one after another, those of one storage in its slots; see `Shard.slot`.

    Args:
        storage, nbytes, slot: [shards], in the order in which they lie.

    Returns:
        [shards], where each begins; and the end of all.
    """
    slots = layout.expert_slots or 1
    own, first = storage < 0, slot == 0
    room = np.where(own, nbytes, np.where(first, slots * nbytes, 0))
    room = -(-room // ALIGNMENT) * ALIGNMENT
    ends = np.cumsum(room)
    begins = ends - room
    leader = np.maximum.accumulate(np.where(own | first, np.arange(len(room)), 0))
    start = begins[leader] + np.where(own, 0, slot * nbytes)
    return start, int(ends[-1]) if len(ends) else 0
