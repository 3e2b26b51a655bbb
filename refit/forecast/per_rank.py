"""What each rank moves in a plan: the sums that a forecast is made of. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from refit.job import Refit
from refit.layout.layout import IntArray
from refit.plan.copies import Copies, Rows
from refit.plan.runs import received
from refit.rules.methods import METHODS


@dataclass(frozen=True)
class Traffic:
    """What each rank does in a plan, or in one hop of it; every array is [world].

    Attributes:
        near_in_bytes, near_out_bytes: from and to other ranks of the node.
        far_in_bytes, far_out_bytes: from and to other nodes.
        local_bytes: of which the rank itself is the source.
    """

    rows: Rows
    near_in_bytes: IntArray
    near_out_bytes: IntArray
    far_in_bytes: IntArray
    far_out_bytes: IntArray
    local_bytes: IntArray

    @staticmethod
    def of(rows: Rows) -> Traffic:
        """The sums of a plan or of a hop."""
        world = rows.placement.world
        far = rows.crosses_nodes
        near = rows.remote & ~far

        def total(rank: IntArray, which: NDArray[np.bool_]) -> IntArray:
            return np.bincount(rank[which], rows.nbytes[which], world).astype(np.int64)

        return Traffic(
            rows,
            near_in_bytes=total(rows.destination, near),
            near_out_bytes=total(rows.source, near),
            far_in_bytes=total(rows.destination, far),
            far_out_bytes=total(rows.source, far),
            local_bytes=total(rows.destination, ~rows.remote),
        )

    @property
    def active(self) -> NDArray[np.bool_]:
        """[world]: the rank moves something."""
        return (self.received_bytes + self.sent_bytes + self.local_bytes) > 0

    @property
    def received_bytes(self) -> IntArray:
        """[world]: from other ranks."""
        return self.near_in_bytes + self.far_in_bytes

    @property
    def sent_bytes(self) -> IntArray:
        """[world]: to other ranks."""
        return self.near_out_bytes + self.far_out_bytes

    @cached_property
    def pairs(self) -> tuple[IntArray, IntArray, IntArray]:
        """Source, destination and bytes of each pair of different ranks that talk, [pairs]."""
        rows, world = self.rows, self.rows.placement.world
        key = rows.source[rows.remote] * world + rows.destination[rows.remote]
        both, which = np.unique(key, return_inverse=True)
        nbytes = np.bincount(which, rows.nbytes[rows.remote], len(both)).astype(np.int64)
        return both // world, both % world, nbytes

    def runs(self) -> int:
        """Runs and strided blocks of the rank that receives most blocks, local ones included.

        Only of what a transport can carry out: a plan's hop.
        """
        assert isinstance(self.rows, Copies)
        if not len(self.rows):
            return 0
        return len(received(self.rows, int(np.bincount(self.rows.destination).argmax())))

    def messages(self, refit: Refit) -> IntArray:
        """[world]: buckets that a rank sends or receives, each pair's bytes cut by bucket_mb."""
        source, destination, nbytes = self.pairs
        count = -(-nbytes // int(refit.bucket_mb * 1e6))
        world = self.rows.placement.world
        both = np.bincount(source, count, world) + np.bincount(destination, count, world)
        return both.astype(np.int64)

    def staging_bytes(self, method: str, refit: Refit) -> IntArray:
        """[world]: buffers of a packing method, in_flight buckets of each direction at most."""
        world, bucket = self.rows.placement.world, int(refit.bucket_mb * 1e6)
        held = np.zeros(world, dtype=np.int64)
        if is_one_sided(method):
            return held
        source, destination, nbytes = self.pairs
        for rank in (source, destination):
            largest = np.zeros(world, dtype=np.int64)
            np.maximum.at(largest, rank, np.minimum(nbytes, bucket))
            count = np.bincount(rank, -(-nbytes // bucket), world).astype(np.int64)
            held += largest * np.minimum(count, refit.in_flight)
        return held


def is_one_sided(method: str) -> bool:
    """Whether receivers read by themselves, and nothing is packed; not of a class of one's own."""
    return method in METHODS and METHODS[method].one_sided
