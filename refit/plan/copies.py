"""Block copies as numpy columns: what a transport carries out, and what ranks send and receive."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from refit.layout.layout import IntArray, Layout, Placement
from refit.layout.tensors import Catalogue, Shard
from refit.plan.arena import Arena, Arenas
from refit.plan.pieces import Pieces


@dataclass(frozen=True)
class Rows:
    """Parts of tensors that go from rank to rank, one per row.

    Columns, each [copies] of int64:
        tensor: id in the catalogue.
        source, destination: global ranks; equal where the rank already holds the part.
        nbytes: of the part.
    """

    catalogue: Catalogue
    placement: Placement
    tensor: IntArray
    source: IntArray
    destination: IntArray
    nbytes: IntArray

    def __len__(self) -> int:
        return len(self.tensor)

    def to_rank(self, rank: int) -> IntArray:
        """Rows that this rank receives, in plan order."""
        return np.flatnonzero(self.destination == rank)

    def from_rank(self, rank: int) -> IntArray:
        """Rows that this rank provides, in plan order."""
        return np.flatnonzero(self.source == rank)

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

    def _per_rank(self, rank: IntArray) -> IntArray:
        # bincount weighs in float64, which counts bytes exactly up to 2**53
        return np.bincount(
            rank[self.remote], self.nbytes[self.remote], self.placement.world
        ).astype(np.int64)


@dataclass(frozen=True)
class Blocks(Rows):
    """Rows that say where their part lies.

    A block is a box of a tensor's indices: `length` of its main axis, and of a second one where the
    two sides cut different ones; whole in the others.

    Attributes:
        pieces: the boxes that there are, in the shards at both ends.
        piece: [copies] of int64, which of them the row is.
        wire: by destination, the side in whose dtypes its blocks travel.
    """

    pieces: Pieces
    piece: IntArray
    wire: tuple[Layout, ...]

    @cached_property
    def source_start(self) -> IntArray:
        """[copies]: offset along the main axis within the source's shard."""
        return self.pieces.source_start[self.piece, 0]

    @cached_property
    def destination_start(self) -> IntArray:
        """[copies]: offset along the main axis within the destination's shard."""
        return self.pieces.destination_start[self.piece, 0]

    @cached_property
    def length(self) -> IntArray:
        """[copies]: indices along the main axis."""
        return self.pieces.length[self.piece, 0]


@dataclass(frozen=True)
class Copies(Blocks):
    """Blocks that one transport can carry out: every source start lies in a shard of `giving`.

    Attributes:
        giving, receiving: the sides that the shards at both ends are of; a rank is of one of each
            at most.
    """

    giving: tuple[Layout, ...]
    receiving: tuple[Layout, ...]

    def shards(self, rank: int, of_source: bool) -> list[Shard]:
        """What a rank holds of the giving side that it is of, or of the receiving one.

        In the order in which it lies in the rank's arena.
        """
        layout = self._layout(rank, of_source)
        return [] if layout is None else self.arenas.shards(layout, rank)

    def arena(self, rank: int, of_source: bool) -> Arena:
        """Where that lies, of a rank that holds some."""
        layout = self._layout(rank, of_source)
        assert layout is not None, f"rank {rank} is of no such side"
        return self.arenas.of(layout, rank)

    @cached_property
    def shapes(self) -> IntArray:
        """[families, dimensions]: of a whole tensor; 1 where there is no such dimension."""
        shapes = [family.shape for family in self.catalogue.families]
        most = max(map(len, shapes))
        return np.array([(*shape, *[1] * (most - len(shape))) for shape in shapes])

    @cached_property
    def arenas(self) -> Arenas:
        """Of all ranks of the placement."""
        return Arenas(self.catalogue, self.placement)

    def _layout(self, rank: int, of_source: bool) -> Layout | None:
        layouts = self.giving if of_source else self.receiving
        return next((layout for layout in layouts if rank in layout.ranks), None)

    def cast_by_sender(self, receiver: int) -> bool:
        """What a rank receives in another dtype than the source's travels in its own."""
        number = self.placement.destination_numbers[receiver]
        return self.wire[number].dtype != self.placement.source.dtype
