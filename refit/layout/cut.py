"""Cuts: which indices of a tensor's axis each shard has, and where they lie in it. Pure numpy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from refit.errors import UserError
from refit.layout.layout import IntArray

Run = tuple[int, int, int, int]
"""(whole start, local start, length, step): local index `local start + i` is whole index
`whole start + i * step`, for i below the length."""

PADDING = -1
"""In `Cut.indices`: no index of the whole tensor lies there."""


@dataclass(frozen=True)
class Cut:
    """How one side cuts one axis of a tensor, all other axes staying whole.

    Indices in several shards are replicas. A shard may be larger than its runs: the rest of it is
    padding, which is zero and stays so, or unchecked, as the side says.

    Attributes:
        axis: the dimension.
        length: of the whole axis.
        sizes: [shards], the size of the axis in each shard, padding included.
        runs: by shard, in the order of their local starts.
    """

    axis: int
    length: int
    sizes: tuple[int, ...]
    runs: tuple[tuple[Run, ...], ...]

    @staticmethod
    def whole(axis: int, length: int) -> Cut:
        """One shard, with everything."""
        return Cut(axis, length, (length,), (((0, 0, length, 1),),))

    @staticmethod
    def even(axis: int, parts: Sequence[int], shards: int) -> Cut:
        """Consecutive parts, each in equal pieces of its own: a shard has a piece of every part.

        Two parts of 6 in 2 shards: shard 0 has 0 to 2 and 6 to 8.

        Raises:
            UserError: a part does not divide.
        """
        for part in parts:
            if part % shards:
                among = f", a part of {'+'.join(map(str, parts))}," if len(parts) > 1 else ""
                raise UserError(f"size {part}{among} does not divide into {shards} shards")
        pieces = [part // shards for part in parts]
        whole = np.cumsum([0, *parts]).tolist()
        local = np.cumsum([0, *pieces]).tolist()
        return Cut(
            axis,
            whole[-1],
            (local[-1],) * shards,
            tuple(
                tuple(
                    (whole[k] + shard * piece, local[k], piece, 1) for k, piece in enumerate(pieces)
                )
                for shard in range(shards)
            ),
        )

    @staticmethod
    def of(axis: int, length: int, indices: Sequence[IntArray]) -> Cut:
        """Any cut.

        Args:
            indices: of each shard [size], the whole index at every local one, or `PADDING`.

        Raises:
            UserError: an index is beyond the axis, or twice in one shard.
        """
        for shard, held in enumerate(indices):
            real = held[held != PADDING]
            if len(real) and not 0 <= real.min() <= real.max() < length:
                raise UserError(f"shard {shard} has indices beyond the axis, which has {length}")
            if len(np.unique(real)) != len(real):
                raise UserError(f"shard {shard} has an index twice")
        runs = tuple(tuple(_runs(held)) for held in indices)
        return Cut(axis, length, tuple(len(held) for held in indices), runs)

    @property
    def shards(self) -> int:
        """How many there are."""
        return len(self.sizes)

    @property
    def is_whole(self) -> bool:
        """One shard that has all in order, without padding."""
        return self == Cut.whole(self.axis, self.length)

    @property
    def has_padding(self) -> bool:
        """Some shard is larger than its runs."""
        held = (sum(count for _, _, count, _ in runs) for runs in self.runs)
        return any(size > real for size, real in zip(self.sizes, held, strict=True))

    def below(self, length: int) -> Cut:
        """The same shards of an axis that ends earlier: what lies beyond is padding."""
        kept = (
            tuple(
                (whole, local, min(count, -(-(length - whole) // step)), step)
                for whole, local, count, step in runs
                if whole < length
            )
            for runs in self.runs
        )
        return replace(self, length=length, runs=tuple(kept))

    def indices(self, shard: int) -> IntArray:
        """[size]: the whole index of each local one, or `PADDING`."""
        found = np.full(self.sizes[shard], PADDING, dtype=np.int64)
        for whole, local, count, step in self.runs[shard]:
            found[local : local + count] = whole + step * np.arange(count)
        return found

    def stretches(self, shard: int) -> Iterator[tuple[int, IntArray]]:
        """The local axis, divided where padding begins and ends: a local start, and the indices."""
        held = self.indices(shard)
        edges = np.flatnonzero(np.diff(held == PADDING)) + 1
        for part in np.split(np.arange(len(held)), edges):
            if len(part):
                yield int(part[0]), held[part]

    @cached_property
    def overlaps(self) -> bool:
        """Some index is in several shards."""
        held = np.concatenate([self.indices(shard) for shard in range(self.shards)])
        real = held[held != PADDING]
        return bool(np.bincount(real).max(initial=0) > 1)  # `unique` takes seconds of a wide model

    def atoms(self) -> Cut:
        """The same, its runs so short that two are either of the same indices or of none in common.

        A strided run becomes one run for each index.
        """
        single = any(step != 1 for runs in self.runs for _, _, _, step in runs)
        edges = np.unique(
            [edge for runs in self.runs for at, _, count, _ in runs for edge in (at, at + count)]
        )
        divided = []
        for runs in self.runs:
            parts: list[Run] = []
            for whole, local, count, step in runs:
                starts = (
                    np.arange(count)
                    if single
                    else np.unique([0, *(edges[(edges > whole) & (edges < whole + count)] - whole)])
                )
                ends = [*starts[1:].tolist(), count]
                parts += [
                    (whole + int(start) * step, local + int(start), end - int(start), 1)
                    for start, end in zip(starts, ends, strict=True)
                ]
            divided.append(tuple(parts))
        return replace(self, runs=tuple(divided))


def _runs(held: IntArray) -> list[Run]:
    """The fewest runs, taken greedily from the first index on; padding is in none."""
    runs: list[Run] = []
    steps = np.diff(held)
    # where a run that began before must end: the step changes, or padding begins or ends
    at = 0
    while at < len(held):
        if held[at] == PADDING:
            after = np.flatnonzero(held[at:] != PADDING)
            at = at + int(after[0]) if len(after) else len(held)
            continue
        count, step = 1, 1
        if at + 1 < len(held) and steps[at] > 0:  # padding is below every index
            step = int(steps[at])
            same = (steps[at:] == step) & (held[at + 1 :] != PADDING)
            ends = np.flatnonzero(~same)
            count = 1 + (int(ends[0]) if len(ends) else len(same))
        runs.append((int(held[at]), at, count, step if count > 1 else 1))
        at += count
    return runs
