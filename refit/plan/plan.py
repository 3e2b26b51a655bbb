"""What a plan is: every block copy of a refit, in hops, and what no plan can beat. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from refit.layout.layout import IntArray, Layout
from refit.plan.copies import Blocks, Copies
from refit.plan.holders import Holders
from refit.plan.pieces import Pieces


@dataclass(frozen=True)
class Bounds:
    """What no choice of sources can beat, in bytes; the names are keys of timing.json.

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
class Plan(Blocks):
    """All block copies of a refit. Transports carry out its `hops`.

    Attributes:
        holders: the sets of source ranks that hold the same shard.
        holder_set: [copies] of int64, id in `holders` of the set that holds the block.
        relayed: [copies] of bool; the source is another destination rank of the node, which has
            fetched the block before; `piece` still says where it lies in a holder's shard.
    """

    holders: Holders
    holder_set: IntArray
    relayed: NDArray[np.bool_]

    @cached_property
    def hops(self) -> tuple[Copies, ...]:
        """The copies to carry out one hop after another; from the second on, destinations give."""
        source, destination = self.placement.source, self.placement.destination
        first = self._copies(~self.relayed, source, self.pieces)
        if not self.relayed.any():
            return (first,)
        # ranks that pass on a block have it where those that want it do: `build_plan` sees to it
        return first, self._copies(self.relayed, destination, self.pieces.from_destination())

    def _copies(self, which: NDArray[np.bool_], giving: Layout, pieces: Pieces) -> Copies:
        return Copies(
            catalogue=self.catalogue,
            placement=self.placement,
            pieces=pieces,
            tensor=self.tensor[which],
            source=self.source[which],
            destination=self.destination[which],
            piece=self.piece[which],
            wire=self.wire if giving is self.placement.source else giving,
            nbytes=self.nbytes[which],
            giving=giving,
            receiving=self.placement.destination,
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
        needed = self._block_numbers[rows] * self.placement.nodes + node
        _, first = np.unique(needed, return_index=True)
        nbytes = np.bincount(node[first], self.nbytes[rows[first]], self.placement.nodes)
        return nbytes.astype(np.int64)

    @cached_property
    def leaving_bytes(self) -> int:
        """Bytes of the blocks that some node needs and does not hold, each block once."""
        return int(self.nbytes[self._once(self._away)].sum())

    @cached_property
    def least_send(self) -> int:
        """As `bounds.send`, but where receivers may pass blocks on: each leaves its holders once.

        No plan, direct or by hops, has a busiest holder that sends less.
        """
        rows = self._once(np.flatnonzero(self.remote))
        return self.holders.least_busiest_sender(self.holder_set[rows], self.nbytes[rows])

    @property
    def _away(self) -> IntArray:
        """Rows whose block no rank of the destination's node holds."""
        rows = np.flatnonzero(self.remote)
        node = self.destination[rows] // self.placement.ranks_per_node
        return rows[~self.holders.on_node[self.holder_set[rows], node]]

    @cached_property
    def _block_numbers(self) -> IntArray:
        """[copies]: equal for copies of one block."""
        return block_numbers(self.pieces, self.tensor, self.holder_set, self.piece)

    def _once(self, rows: IntArray) -> IntArray:
        """The rows without those whose block came before."""
        return rows[np.unique(self._block_numbers[rows], return_index=True)[1]]


def block_numbers(
    pieces: Pieces, tensor: IntArray, holder_set: IntArray, piece: IntArray
) -> IntArray:
    """[copies]: a number for each block: of a tensor, the set that holds it, and its start there.

    Blocks of one tensor and set are numbered in the order of their starts.
    """
    box = pieces.box[piece]
    _, start = np.unique(pieces.source_start, axis=0, return_inverse=True)
    starts = start.reshape(-1)[box]
    sets = 1 + holder_set.max(initial=0)
    return (tensor * sets + holder_set) * (1 + starts.max(initial=0)) + starts
