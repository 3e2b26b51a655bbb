"""What the ranks of a plan have from each other, as one contiguous copy of each pair. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from refit.plan.copies import Rows


@dataclass(frozen=True)
class Pair:
    """All that goes from one rank to another, or that a rank has itself; bytes."""

    sender: int
    receiver: int
    nbytes: int


@dataclass(frozen=True)
class Stretch:
    """Bytes that lie together at both ends.

    Attributes:
        sender: the rank that has them.
        out_of, into: where they begin in its weights, and in the receiver's.
        nbytes: how many.
    """

    sender: int
    out_of: int
    into: int
    nbytes: int


def pairs(rows: Rows) -> list[Pair]:
    """Every two ranks between which blocks go, by receiver and then by sender."""
    world = rows.placement.world
    both, which = np.unique(rows.destination * world + rows.source, return_inverse=True)
    nbytes = np.bincount(which.reshape(-1), rows.nbytes).astype(np.int64)
    ends = zip((both % world).tolist(), (both // world).tolist(), nbytes.tolist(), strict=True)
    return [Pair(*each) for each in ends]


def stretches(
    between: Sequence[Pair], receiver: int, held: Mapping[int, int], room: int, share: float
) -> Iterator[Stretch]:
    """What a rank copies where each pair's bytes are one copy.

    A sender's receivers have different parts of its weights, one behind another, so that none finds
    in a cache what another has read. Whoever meets the end of a rank's weights begins them anew.

    Args:
        held: by rank that sends to this one, bytes that it has to give.
        room: bytes that the receiver has to write in.
        share: of the bytes of each pair.
    """
    given, taken = Counter[int](), 0
    for pair in between:
        left = round(share * pair.nbytes)
        while left and pair.receiver == receiver:
            out_of, into = given[pair.sender] % held[pair.sender], taken % room
            part = min(left, held[pair.sender] - out_of, room - into)
            yield Stretch(pair.sender, out_of, into, part)
            left, taken = left - part, taken + part
            given[pair.sender] += part
        given[pair.sender] += left
