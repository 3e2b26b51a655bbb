"""What a plan is: every block copy of a refit, in hops, and what no plan can beat. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from refit.layout.layout import IntArray, Layout
from refit.layout.tensors import ITEMSIZE
from refit.plan.cells import cells
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
        cross_node: what no rank of the destination's node holds, counted once per node, also where
            ranks of several destinations want it there.
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
        wire_bytes: [copies] of int64, of the block as it leaves a holder: `nbytes`, but for what is
            relayed after it was cast.
    """

    holders: Holders
    holder_set: IntArray
    relayed: NDArray[np.bool_]
    wire_bytes: IntArray

    @cached_property
    def hops(self) -> tuple[Copies, ...]:
        """The copies to carry out one hop after another; from the second on, destinations give."""
        source, destinations = self.placement.source, self.placement.destinations
        first = self._copies(~self.relayed, (source,), self.pieces, self.wire)
        if not self.relayed.any():
            return (first,)
        # ranks that pass on a block have it where those that want it do: `build_plan` sees to it
        passed_on = self.pieces.from_destination()
        return first, self._copies(self.relayed, destinations, passed_on, destinations)

    def _copies(
        self,
        which: NDArray[np.bool_],
        giving: tuple[Layout, ...],
        pieces: Pieces,
        wire: tuple[Layout, ...],
    ) -> Copies:
        return Copies(
            catalogue=self.catalogue,
            placement=self.placement,
            pieces=pieces,
            tensor=self.tensor[which],
            source=self.source[which],
            destination=self.destination[which],
            piece=self.piece[which],
            wire=wire,
            nbytes=self.nbytes[which],
            giving=giving,
            receiving=self.placement.destinations,
        )

    @cached_property
    def elements_to(self) -> IntArray:
        """[world]: elements that the plan writes on each rank, local ones too."""
        numbers = self.placement.destination_numbers[self.destination]
        family = np.searchsorted(self.catalogue.bases, self.tensor, side="right") - 1
        itemsize = np.array(
            [
                [ITEMSIZE[each.dtype_on(side.dtype)] for each in self.catalogue.families]
                for side in self.wire
            ]
        )
        elements = self.wire_bytes // itemsize[numbers, family]  # `nbytes` may have been cast
        return np.bincount(self.destination, elements, self.placement.world).astype(np.int64)

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
        """[nodes]: bytes of the indices that a node needs and no rank of it holds, each once."""
        parts = self._parts_of(self._away)
        node = self.destination[parts.row] // self.placement.ranks_per_node
        _, first = np.unique(parts.number * self.placement.nodes + node, return_index=True)
        nbytes = np.bincount(node[first], parts.nbytes[first], self.placement.nodes)
        return nbytes.astype(np.int64)

    @cached_property
    def leaving_bytes(self) -> int:
        """Bytes of the indices that some node needs and does not hold, each once."""
        parts = self._parts_of(self._away)
        return int(parts.nbytes[parts.once()].sum())

    @cached_property
    def least_send(self) -> int:
        """As `bounds.send`, but where receivers may pass on: each index leaves its holders once.

        No plan, direct or by hops, has a busiest holder that sends less.
        """
        parts = self._parts_of(self.remote)
        first = parts.once()
        sets = self.holder_set[parts.row[first]]
        return self.holders.least_busiest_sender(sets, parts.nbytes[first])

    @property
    def _away(self) -> NDArray[np.bool_]:
        """[copies]: no rank of the destination's node holds the block."""
        node = self.destination // self.placement.ranks_per_node
        return self.remote & ~self.holders.on_node[self.holder_set, node]

    @cached_property
    def _parts(self) -> Parts:
        """The blocks in parts of which two are the same indices of a tensor, or none in common.

        Those of one destination are such already. Of one part in several dtypes the widest comes
        first: no less must be sent, and the others can be made of it.
        """
        if len(self.placement.destinations) == 1:
            number = block_numbers(self.pieces, self.tensor, self.holder_set, self.piece)
            return Parts(np.arange(len(self)), number, self.wire_bytes)
        box = self.pieces.box[self.piece]
        family = np.searchsorted(self.catalogue.bases, self.tensor, side="right") - 1
        divided = cells(self.pieces, box, family, self.catalogue)
        row, cell, share = divided.of(box)
        sets = 1 + self.holder_set.max(initial=0)
        number = (self.tensor[row] * sets + self.holder_set[row]) * divided.count + cell
        # exact: a block's bytes are a multiple of its indices along the axes that are cut
        nbytes = self.wire_bytes[row] // divided.indices[box[row]] * share
        widest_first = np.argsort(-(self.wire_bytes // divided.indices[box])[row], kind="stable")
        return Parts(row[widest_first], number[widest_first], nbytes[widest_first])

    def _parts_of(self, rows: NDArray[np.bool_]) -> Parts:
        parts = self._parts
        which = rows[parts.row]
        return Parts(parts.row[which], parts.number[which], parts.nbytes[which])


@dataclass(frozen=True)
class Parts:
    """Parts of rows, each column [parts].

    Attributes:
        row: which the part is of.
        number: equal for the same indices of a tensor.
        nbytes: of the part, as it leaves a holder.
    """

    row: IntArray
    number: IntArray
    nbytes: IntArray

    def once(self) -> IntArray:
        """Which parts there are, without those that came before."""
        return np.unique(self.number, return_index=True)[1]


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
