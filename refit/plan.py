"""Tensors x layouts -> every block copy of a refit. Pure numpy columns, no communication."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refit.fanout import fetchers
from refit.holders import Holders
from refit.layout import IntArray, Placement
from refit.tensors import Catalogue, Family


@dataclass(frozen=True)
class Bounds:
    """What no choice of sources can beat, in bytes.

    Attributes:
        move: bytes that must change ranks.
        send: the busiest sender sends at least this: over nested sets of source ranks, the bytes
            that only they hold divided by their number, rounded up; the largest of these.
        recv: the busiest receiver receives exactly this, whatever the choice.
        cross_node: blocks that no rank of the destination's node holds, counted once per node.
    """

    move: int
    send: int
    recv: int
    cross_node: int


@dataclass(frozen=True)
class Plan:
    """Block copies, one per row.

    A block is `length` indices of a tensor's cut axis, whole in the others.

    Columns, each [copies] of int64:
        tensor: id in the catalogue.
        source, destination: global ranks; equal where the rank already holds the block.
        source_start, destination_start: offset along the cut axis within the local shards.
        length: along the cut axis.
        nbytes: of the block.
        holder_set: id in `holders` of the set of source ranks that hold the block.
        relayed: of bool; the source is another destination rank of the node, which has fetched the
            block before; `source_start` still says where it lies in a holder's shard.
    """

    catalogue: Catalogue
    placement: Placement
    holders: Holders
    tensor: IntArray
    source: IntArray
    destination: IntArray
    source_start: IntArray
    destination_start: IntArray
    length: IntArray
    nbytes: IntArray
    holder_set: IntArray
    relayed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.tensor)

    def to_rank(self, rank: int) -> IntArray:
        """Rows that this rank receives, in plan order."""
        return np.flatnonzero(self.destination == rank)

    def from_rank(self, rank: int) -> IntArray:
        """Rows that this rank provides, in plan order."""
        return np.flatnonzero(self.source == rank)

    @cached_property
    def stages(self) -> tuple[Plan, ...]:
        """The plans to carry out one after another; from the second on, sources are destinations.

        This plan alone where nothing is relayed. Only its rows, not its bounds, make sense of a
        stage.
        """
        if not self.relayed.any():
            return (self,)
        there = replace(self.placement, source=self.placement.destination)
        first, second = self._rows(~self.relayed), self._rows(self.relayed)
        # ranks of one node that want the same block cut the tensor alike
        return first, replace(second, placement=there, source_start=second.destination_start)

    def _rows(self, which: NDArray[np.bool_]) -> Plan:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        columns: dict[str, Any] = {k: v for k, v in values.items() if isinstance(v, np.ndarray)}
        return replace(self, **{name: column[which] for name, column in columns.items()})

    @cached_property
    def remote(self) -> NDArray[np.bool_]:
        """[copies]: the block changes ranks."""
        return self.source != self.destination

    @cached_property
    def send_bytes(self) -> IntArray:
        """[world]: bytes that each rank sends to others."""
        return self._per_rank(self.source)

    @cached_property
    def recv_bytes(self) -> IntArray:
        """[world]: bytes that each rank receives from others."""
        return self._per_rank(self.destination)

    @property
    def total_bytes(self) -> int:
        """Bytes written at all destinations."""
        return int(self.nbytes.sum())

    @property
    def local_bytes(self) -> int:
        """Bytes whose source is the destination itself."""
        return int(self.nbytes[~self.remote].sum())

    @property
    def cross_node_bytes(self) -> int:
        """Bytes whose source and destination are on different nodes."""
        return int(self.nbytes[self.crosses_nodes].sum())

    @cached_property
    def crosses_nodes(self) -> NDArray[np.bool_]:
        """[copies]: source and destination are on different nodes."""
        per_node = self.placement.ranks_per_node
        return self.source // per_node != self.destination // per_node

    def busiest_bytes(self, rows: NDArray[np.bool_]) -> int:
        """Of these rows, bytes of the rank and direction that have most."""
        return max(
            int(np.bincount(rank[rows], self.nbytes[rows], self.placement.world).max(initial=0))
            for rank in (self.source, self.destination)
        )

    @cached_property
    def bounds(self) -> Bounds:
        """See `Bounds`."""
        direct = self.holders.least_busiest_sender(
            self.holder_set[self.remote], self.nbytes[self.remote]
        )
        return Bounds(
            move=int(self.nbytes[self.remote].sum()),
            send=self.least_send if self.relayed.any() else direct,
            recv=int(self.recv_bytes.max(initial=0)),
            cross_node=int(self.node_needs.sum()),
        )

    @cached_property
    def node_needs(self) -> IntArray:
        """[nodes]: bytes of the blocks that a node needs and no rank of it holds, each once."""
        rows = self._away
        node = self.destination[rows] // self.placement.ranks_per_node
        _, first = np.unique(self._block[rows] * self.placement.nodes + node, return_index=True)
        return np.bincount(node[first], self.nbytes[rows[first]], self.placement.nodes).astype(
            np.int64
        )

    @cached_property
    def leaving_bytes(self) -> int:
        """Bytes of the blocks that some node needs and does not hold, each block once."""
        return int(self.nbytes[self._once(self._away)].sum())

    @cached_property
    def least_send(self) -> int:
        """As `bounds.send`, but where receivers may pass blocks on: each leaves its holders once.

        No plan, direct or by stages, has a busiest holder that sends less.
        """
        rows = self._once(np.flatnonzero(self.remote))
        return self.holders.least_busiest_sender(self.holder_set[rows], self.nbytes[rows])

    @property
    def _away(self) -> IntArray:
        """Rows whose block no rank of the destination's node holds."""
        rows = np.flatnonzero(self.remote)
        node = self.destination[rows] // self.placement.ranks_per_node
        return rows[~self.holders.on_node[self.holder_set[rows], node]]

    @property
    def _block(self) -> IntArray:
        """[copies]: what names a block: tensor, holder set, start in the source shard."""
        return _block(self.tensor, self.holder_set, self.source_start)

    def _once(self, rows: IntArray) -> IntArray:
        """The rows without those whose block came before."""
        return rows[np.unique(self._block[rows], return_index=True)[1]]

    def _per_rank(self, rank: IntArray) -> IntArray:
        # bincount weighs in float64, which counts bytes exactly up to 2**53
        return np.bincount(
            rank[self.remote], self.nbytes[self.remote], self.placement.world
        ).astype(np.int64)


def build_plan(catalogue: Catalogue, placement: Placement, fanout: str = "direct") -> Plan:
    """Every block copy, each with exactly one source.

    Rows are ordered by family, layer, expert, piece, replica. The source of a block is its
    destination itself if it has it, else a replica on its node, else any replica. Among several,
    sets of holders are filled one after another, experts first, each to a level in bytes: the least
    loaded replica gets the next blocks, in runs of neighbouring destinations, so that each rank
    talks to few peers. The level is met within one block per replica; equal loads go to the lower
    rank.

    With `fanout="hierarchical"`, where several ranks of a node want a block that no rank of the
    node holds, one of them fetches it and is the source of the others (`refit.fanout`), so that
    each block crosses the network once per destination node.

    Raises:
        UserError: a tensor does not divide over a layout (`refit.rules` finds that first).
    """
    holders = Holders(placement)
    tables = [
        _copies(family, catalogue.num_layers, placement, holders) for family in catalogue.families
    ]
    tensor, destination, source_start, destination_start, length, nbytes, holder_set = (
        np.concatenate(column) for column in zip(*tables, strict=True)
    )
    source = destination.copy()
    if fanout == "hierarchical":
        node = destination // placement.ranks_per_node
        away = np.flatnonzero(~holders.on_node[holder_set, node])
        block = _block(tensor[away], holder_set[away], source_start[away])
        source[away] = fetchers(block, node[away], destination[away], nbytes[away])
    relayed = source != destination
    own = ~relayed
    source[own] = holders.choose(holder_set[own], destination[own], nbytes[own])
    return Plan(
        catalogue,
        placement,
        holders,
        tensor,
        source,
        destination,
        source_start,
        destination_start,
        length,
        nbytes,
        holder_set,
        relayed,
    )


def _block(tensor: IntArray, holder_set: IntArray, source_start: IntArray) -> IntArray:
    """A number for each block, which these name together; [copies]."""
    sets, starts = 1 + holder_set.max(initial=0), 1 + source_start.max(initial=0)
    return (tensor * sets + holder_set) * starts + source_start


def _copies(
    family: Family, num_layers: int, placement: Placement, holders: Holders
) -> list[IntArray]:
    """The family's rows without their sources: layers x experts x pieces x replicas."""
    source, destination = placement.source, placement.destination
    index, source_stage, destination_stage = _slots(family, num_layers, placement)
    expert = np.arange(max(1, family.num_experts))
    source_ep = expert // max(1, family.num_experts // source.ep)
    destination_ep = expert // max(1, family.num_experts // destination.ep)
    source_shard, destination_shard, source_start, destination_start, length = _pieces(
        family, family.shards(source), family.shards(destination)
    )
    # every array below is [slots, experts, pieces, replicas], or broadcasts to it
    stage = destination_stage[:, None, None]
    if family.grid == "expert" and family.axis is not None:
        ranks = destination.expert[
            stage, :, destination_ep[None, :, None], destination_shard[None, None, :]
        ]
    elif family.grid == "expert":
        ranks = destination.expert[stage, :, destination_ep[None, :, None], :]
    elif family.axis is not None:
        ranks = destination.dense[stage, :, :, destination_shard[None, None, :]]
    else:
        ranks = destination.dense[stage]
    ranks = ranks.reshape(len(index), len(expert), len(length), -1)
    tensor = family.base + index[:, None] * len(expert) + expert
    sets = holders.set_id(
        family, source_stage[:, None, None], source_ep[None, :, None], source_shard[None, None, :]
    )
    columns = [
        tensor[:, :, None, None],
        ranks,
        source_start[:, None],
        destination_start[:, None],
        length[:, None],
        (length * family.bytes_per_index)[:, None],
        sets[..., None],
    ]
    return [np.broadcast_to(c, ranks.shape).ravel() for c in columns]


def _slots(
    family: Family, num_layers: int, placement: Placement
) -> tuple[IntArray, IntArray, IntArray]:
    """Where the family's tensors live.

    Returns:
        index in the family, source stage, destination stage, each [slots].
    """
    source, destination = placement.source, placement.destination
    if family.layers:
        layers = np.array(family.layers)
        stages = [
            np.repeat(np.arange(side.pp), [len(s) for s in side.stage_layers(num_layers)])[layers]
            for side in (source, destination)
        ]
        return np.arange(len(layers)), stages[0], stages[1]
    ends = {"first": [0], "last": [destination.pp - 1], "both": sorted({0, destination.pp - 1})}[
        family.stage
    ]
    from_stage = source.pp - 1 if family.stage == "last" else 0
    return np.zeros(len(ends), np.int64), np.full(len(ends), from_stage), np.array(ends)


def _pieces(family: Family, source_shards: int, destination_shards: int) -> tuple[IntArray, ...]:
    """Cut an axis at every boundary of both sides; [pieces] of (source shard, destination shard,
    start in each, length)."""
    rows = []
    for d in range(destination_shards):
        for d_whole, d_local, d_length in family.segments(destination_shards, d):
            for s in range(source_shards):
                for s_whole, s_local, s_length in family.segments(source_shards, s):
                    start = max(d_whole, s_whole)
                    stop = min(d_whole + d_length, s_whole + s_length)
                    if start < stop:
                        rows.append(
                            (
                                s,
                                d,
                                s_local + start - s_whole,
                                d_local + start - d_whole,
                                stop - start,
                            )
                        )
    return tuple(np.array(rows, dtype=np.int64).T)
