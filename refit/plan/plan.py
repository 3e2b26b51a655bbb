"""What a plan is: every block copy of a refit as numpy columns, and what no plan can beat."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refit.layout.layout import IntArray, Placement
from refit.layout.tensors import Catalogue
from refit.plan.holders import Holders


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
        return block_number(self.tensor, self.holder_set, self.source_start)

    def _once(self, rows: IntArray) -> IntArray:
        """The rows without those whose block came before."""
        return rows[np.unique(self._block[rows], return_index=True)[1]]

    def _per_rank(self, rank: IntArray) -> IntArray:
        # bincount weighs in float64, which counts bytes exactly up to 2**53
        return np.bincount(
            rank[self.remote], self.nbytes[self.remote], self.placement.world
        ).astype(np.int64)


def block_number(tensor: IntArray, holder_set: IntArray, source_start: IntArray) -> IntArray:
    """A number for each block, which these name together; [copies]."""
    sets, starts = 1 + holder_set.max(initial=0), 1 + source_start.max(initial=0)
    return (tensor * sets + holder_set) * starts + source_start
