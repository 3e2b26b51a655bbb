"""Who wants which blocks: a plan whose sources are not chosen yet. Pure numpy.

A block that many ranks want is said once, as a plan's blocks do not grow with replicas, and its
rows do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from refit.layout.layout import IntArray, Layout
from refit.layout.tensors import ITEMSIZE, Family
from refit.plan.holders import Holders
from refit.plan.pieces import Pieces


@dataclass(frozen=True)
class Wants:
    """Blocks, each of which has a row of the plan for every rank that wants it, one after another.

    Attributes, each [blocks] of int64, and the last [rows]:
        tensor, piece, nbytes, holder_set: the plan's columns of its rows.
        group: equal where the same ranks want it, in the same order.
        count: how many do.
        destination: they, block after block.
    """

    tensor: IntArray
    piece: IntArray
    nbytes: IntArray
    holder_set: IntArray
    group: IntArray
    count: IntArray
    destination: IntArray

    def __len__(self) -> int:
        return len(self.tensor)

    @staticmethod
    def joined(tables: Sequence[Wants]) -> Wants:
        """All of them, one table after another."""
        names = [field.name for field in fields(Wants)]
        return Wants(*(np.concatenate([getattr(table, n) for table in tables]) for n in names))

    @cached_property
    def first(self) -> IntArray:
        """[blocks], the first row of each."""
        return np.cumsum(self.count) - self.count

    def receivers(self, block: int) -> IntArray:
        """Who wants a block."""
        return self.destination[self.first[block] : self.first[block] + self.count[block]]

    def of_rows(self, column: IntArray) -> IntArray:
        """[rows], of each the value of its block."""
        found = np.empty(len(self.destination), dtype=column.dtype)
        # most blocks have as many rows as the one before
        starts = np.flatnonzero(np.diff(self.count, prepend=-1))
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(self)], strict=True):
            count = int(self.count[start])
            row = int(self.first[start])
            rows = found[row : row + count * (stop - start)]
            rows.reshape(stop - start, count)[:] = column[start:stop, None]
        return found

    def rows(self, block: IntArray) -> tuple[IntArray, IntArray]:
        """All rows of some blocks, one block after another.

        Returns:
            [rows], which they are, and the number of the block in `block`.
        """
        count = self.count[block]
        number = np.repeat(np.arange(len(block)), count)
        ends = np.cumsum(count)
        return (self.first[block] - ends + count)[number] + np.arange(ends[-1]), number

    def by_set(self, place: IntArray) -> Iterator[tuple[int, IntArray]]:
        """The sets that hold a block, ascending, and each one's blocks.

        Args:
            place: [blocks], the order of a set's.
        """
        order = np.lexsort((place, self.holder_set))
        sets, first = np.unique(self.holder_set[order], return_index=True)
        return zip(sets.tolist(), np.split(order, first[1:]), strict=False)  # of no block none


@dataclass(frozen=True)
class Ways:
    """From the source to one destination.

    Attributes:
        wire: the side in whose dtype blocks travel.
        travels: [tensors] of bool, which are wanted; None: all.
        first_group: the number of its first group.
    """

    num_layers: int
    source: Layout
    destination: Layout
    holders: Holders
    wire: Layout
    travels: NDArray[np.bool_] | None
    first_group: int

    @property
    def groups(self) -> int:
        """How many numbers of groups it takes."""
        destination = self.destination
        return 4 * destination.pp * destination.ep * self._shards

    @property
    def _shards(self) -> int:
        return max(self.destination.dense.shape[-1], self.destination.expert.shape[-1])

    def wants(self, family: Family, boxes: Pieces, first_piece: int) -> Wants:
        """A family's: layers x experts x boxes."""
        source, destination = self.source, self.destination
        index, source_stage, destination_stage = self._slots(family)
        expert = np.arange(max(1, family.num_experts))
        source_ep = expert // max(1, family.num_experts // source.ep)
        destination_ep = expert // max(1, family.num_experts // destination.ep)
        piece = np.unique(boxes.box)  # the first of each box
        shard = boxes.destination_shard[piece]
        length, whole = boxes.length[piece], np.array([*family.shape, 1])
        # every array below is [slots, experts, boxes], or broadcasts to it
        stage, ep, shard = np.broadcast_arrays(
            destination_stage[:, None, None], destination_ep[None, :, None], shard[None, None, :]
        )
        is_cut, is_expert = family.is_cut(destination), family.grid == "expert"
        if is_expert:
            ranks = destination.expert[stage, :, ep, shard if is_cut else slice(None)]
        else:
            ranks = destination.dense[stage, :, :, shard if is_cut else slice(None)]
        group = stage * destination.ep + (ep if is_expert else 0)
        group = group * self._shards + (shard if is_cut else 0)
        kinds = self.groups // 4
        tensor = family.base + index[:, None] * len(expert) + expert
        sets = self.holders.set_ids(
            family, source_stage[:, None, None], source_ep[None, :, None], boxes.givers
        )
        elements = family.elements // whole[boxes.axis[piece]].prod(1) * length.prod(1)
        count = ranks.size // max(1, stage.size)
        columns = [
            tensor[:, :, None],
            first_piece + piece,
            elements * ITEMSIZE[family.dtype_on(self.wire.dtype)],
            sets,
            self.first_group + (2 * is_expert + is_cut) * kinds + group,
            np.array(count),
        ]
        flat = [np.broadcast_to(column, stage.shape).ravel() for column in columns]
        ranks = ranks.reshape(stage.size, count)
        if self.travels is not None:
            wanted = self.travels[flat[0]]
            flat, ranks = [column[wanted] for column in flat], ranks[wanted]
        return Wants(*[*flat, ranks.ravel()])

    def _slots(self, family: Family) -> tuple[IntArray, IntArray, IntArray]:
        """Where the family's tensors live.

        Returns:
            index in the family, source stage, destination stage, each [slots].
        """
        sides = self.source, self.destination
        if family.layers:
            layers = np.array(family.layers)
            stages = [side.rank_of_layers(self.num_layers)[layers] for side in sides]
            return np.arange(len(layers)), stages[0], stages[1]
        ends = np.array(family.ends_on(self.destination), dtype=np.int64)
        if family.copy_of and self.destination.tied:  # it has the original, in the same storage
            ends = ends[:0]
        return np.zeros_like(ends), np.full_like(ends, family.ends_on(self.source)[0]), ends
