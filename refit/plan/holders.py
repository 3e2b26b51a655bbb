"""Which source ranks hold a block. Pure numpy."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from refit.layout.layout import IntArray, Placement
from refit.layout.tensors import Catalogue, Family


class Kind(IntEnum):
    """The kinds of set that every layout has, from small and heavy to large and light."""

    EXPERT_CUT = 0  # experts, cut over ETP
    EXPERT_WHOLE = 1
    DENSE_CUT = 2  # all other weights, cut over TP
    DENSE_WHOLE = 3
    TIED = 4  # embeddings on both the first and the last stage, cut over TP


class Holders:
    """The sets of source ranks that hold the same indices, numbered.

    Within a kind all sets are of one size, and a rank is in at most one. Sets are numbered kind
    after kind: those of `Kind`, then one kind for every group of shards that overlap.
    """

    def __init__(self, placement: Placement) -> None:
        source = placement.source
        self._source = source
        self._placement = placement
        expert, dense = source.expert, source.dense  # [pp, edp, ep, etp], [pp, dp, cp, tp]
        ends = dense[sorted({0, source.pp - 1})]  # [1 or 2, dp, cp, tp]
        # by kind, each [sets, ranks of a set]
        self._tables: list[IntArray] = [
            expert.transpose(0, 2, 3, 1).reshape(-1, expert.shape[1]),
            expert.transpose(0, 2, 1, 3).reshape(source.pp * source.ep, -1),
            dense.transpose(0, 3, 1, 2).reshape(source.pp * dense.shape[-1], -1),
            dense.reshape(source.pp, -1),
            ends.transpose(3, 0, 1, 2).reshape(dense.shape[-1], -1),
        ]
        self._groups: dict[tuple[str, bool, tuple[int, ...]], int] = {}  # their kinds

    @property
    def _first(self) -> IntArray:
        """[kinds + 1], the number of each kind's first set, and how many there are."""
        return np.cumsum([0] + [len(table) for table in self._tables])

    @property
    def count(self) -> int:
        """Sets of all kinds."""
        return int(self._first[-1])

    def ranks(self, set_id: int) -> IntArray:
        """The source ranks of one set, ascending."""
        number = int(np.searchsorted(self._first, set_id, side="right")) - 1  # of the kind
        return np.sort(self._tables[number][set_id - self._first[number]])

    def set_ids(
        self, family: Family, stage: IntArray, ep: IntArray, givers: Sequence[tuple[int, ...]]
    ) -> IntArray:
        """The sets that hold each box of a family at these source coordinates.

        Args:
            stage, ep: pipeline stage and expert-parallel rank, of shapes that broadcast with
                [boxes]; the result has the shape of all three together.
            givers: of each box the shards of the source's cut that have it.
        """
        source, shards = self._source, family.cut(self._source).shards
        is_cut, is_expert = family.is_cut(source), family.grid == "expert"
        first = np.array([of_box[0] for of_box in givers], dtype=np.int64)
        stage, ep, shard = np.broadcast_arrays(stage, ep, first)
        if is_expert and is_cut:
            kind, within = Kind.EXPERT_CUT, (stage * source.ep + ep) * shards + shard
        elif is_expert:
            kind, within = Kind.EXPERT_WHOLE, stage * source.ep + ep
        elif family.stage_on(source) == "both":
            kind, within = Kind.TIED, shard
        elif is_cut:
            kind, within = Kind.DENSE_CUT, stage * shards + shard
        else:
            kind, within = Kind.DENSE_WHOLE, stage
        sets = np.array(self._first[kind] + within)
        for group in {of_box for of_box in givers if len(of_box) > 1}:
            boxes = [box for box, of_box in enumerate(givers) if of_box == group]
            start = self._first[self._kind_of(group, family)]
            number = stage * source.ep + ep if is_expert else stage
            sets[..., boxes] = start + (
                0 if family.stage_on(source) == "both" else number[..., boxes]
            )
        return sets

    def _kind_of(self, group: tuple[int, ...], family: Family) -> int:
        """The number of the kind of a group of overlapping shards; a new one if need be."""
        is_expert, tied = family.grid == "expert", family.stage_on(self._source) == "both"
        key = (family.grid, tied, group)
        if key not in self._groups:
            source = self._source
            if is_expert:
                table = source.expert[..., group].transpose(0, 2, 1, 3)
                table = table.reshape(source.pp * source.ep, -1)
            elif tied:
                table = source.dense[sorted({0, source.pp - 1})][..., group].reshape(1, -1)
            else:
                table = source.dense[..., group].reshape(source.pp, -1)
            self._groups[key] = len(self._tables)
            self._tables.append(table)
        return self._groups[key]

    def shard_of(self, catalogue: Catalogue, tensor: IntArray, rank: IntArray) -> IntArray:
        """[copies]: which shard of a tensor's cut a source rank has."""
        source = self._source
        coordinate = np.zeros(
            (2, self._placement.world), dtype=np.int64
        )  # [dense or expert, world]
        for grid, ranks in enumerate((source.dense, source.expert)):
            coordinate[grid][ranks] = np.arange(ranks.shape[-1])
        family = np.searchsorted(catalogue.bases, tensor, side="right") - 1
        is_expert = np.array([f.grid == "expert" for f in catalogue.families], dtype=np.int64)
        return coordinate[is_expert[family], rank]

    @cached_property
    def on_node(self) -> NDArray[np.bool_]:
        """[sets, nodes]: a rank of this node is in the set."""
        held = np.zeros((self.count, self._placement.nodes), dtype=bool)
        for first, table in zip(self._first, self._tables, strict=False):
            held[
                first + np.arange(len(table))[:, None], table // self._placement.ranks_per_node
            ] = True
        return held

    def least_busiest_sender(self, sets: IntArray, nbytes: IntArray) -> int:
        """A lower bound, in bytes, on what the busiest sender sends when each block leaves its set.

        For each set, and for all source ranks together: the bytes that only its ranks hold, over
        their number (Hall's condition on these sets); the largest, rounded up.
        """
        set_bytes = np.bincount(sets, nbytes, self.count)
        bound = 0.0
        for outer in [*self._tables, np.asarray(self._source.ranks)[None]]:
            outer_of = np.full(self._placement.world, -1)  # [world]: the outer set of a rank
            outer_of[outer] = np.arange(len(outer))[:, None]
            only_theirs = np.zeros(len(outer))  # bytes that only ranks of the outer set hold
            for first, table in zip(self._first, self._tables, strict=False):
                outers = outer_of[table]  # [sets of this kind, ranks of a set]
                nested = np.flatnonzero((outers[:, 0] >= 0) & (outers == outers[:, :1]).all(1))
                only_theirs += np.bincount(outers[nested, 0], set_bytes[first + nested], len(outer))
            bound = max(bound, only_theirs.max() / outer.shape[1])
        return int(np.ceil(bound))
