"""Elements that change before every refit, so that one which moved nothing, or not all, is seen.

They are the first, the last and one more element of every block that a plan can have. A block is
what a shard of the source and a shard of a destination have in common, so that stamps follow from
the two sides' cuts: they are elements of whole tensors, stamped wherever a rank of the source holds
them and looked at wherever one of a destination does, whoever sent them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from refit.layout.cut import PADDING, Cut
from refit.layout.layout import IntArray, Placement
from refit.layout.tensors import ITEMSIZE, Catalogue, Family, Shard
from refit.plan.pieces import NO_AXIS, pieces
from refit.weights.casts import cast_bits
from refit.weights.pattern import FINITE, INTEGER, Check, splitmix64
from refit.weights.weights import Weights, offsets

Positions = Mapping[str, IntArray]
"""By name of a family: [stamps, dimensions], the indices in each of its whole tensors."""


def positions(catalogue: Catalogue, placement: Placement, seed: int) -> Positions:
    """Where all ranks stamp.

    Args:
        seed: of the third element of each block.
    """
    found: dict[str, list[IntArray]] = {}
    for family in catalogue.families:
        given = family.cut(placement.source)
        for destination in placement.destinations:
            corners = _corners(family, given, family.cut(destination), seed)
            found.setdefault(_values_of(family), []).append(corners)
    return {name: np.unique(np.concatenate(parts), axis=0) for name, parts in found.items()}


def _values_of(family: Family) -> str:
    """The family whose values it has: tied tensors are stamped at the same places."""
    return family.copy_of or family.name


def _corners(family: Family, source: Cut, destination: Cut, seed: int) -> IntArray:
    """[3 * pieces, dimensions]: of every box first and last element, and one between."""
    boxes = pieces(source, destination)
    number = np.arange(len(boxes))
    first = np.zeros((len(boxes), len(family.shape)), dtype=np.int64)
    length = np.tile(np.array(family.shape, dtype=np.int64), (len(boxes), 1))
    step = np.ones_like(first)
    for k in (0, 1):
        has = boxes.axis[:, k] != NO_AXIS
        at = (number[has], boxes.axis[has, k])
        first[at], step[at] = boxes.source_start[has, k], boxes.source_step[has, k]
        length[at] = boxes.length[has, k]
    key = f"{seed}/{family.name}/third".encode()
    random = np.random.default_rng(list(hashlib.blake2b(key, digest_size=8).digest()))
    between = random.integers(0, length)
    inside = (0 * length, length - 1, between)
    corners = np.concatenate([first + step * within for within in inside])
    # the source's shard has them; along its cut, what it has there
    shards, axis = np.tile(boxes.source_shard, 3), source.axis
    for shard in np.unique(shards).tolist():
        theirs = shards == shard
        corners[theirs, axis] = source.indices(shard)[corners[theirs, axis]]
    return corners


@dataclass(frozen=True)
class _Group:
    """Stamps of one dtype in a rank's arena.

    Attributes:
        bits: [arena] the whole arena as integers as wide as the dtype.
        at: [stamps] of int64, where in it.
        keys: [stamps], a hash of tensor and element.
        tensor: [stamps], whose they are: numbers in `Weights.shards`.
        trained_dtype, dtype, casts: as of a `Shard`.
    """

    bits: torch.Tensor
    at: torch.Tensor
    keys: NDArray[np.uint64]
    tensor: IntArray
    trained_dtype: str
    dtype: str
    casts: bool

    def values(self, number: int) -> torch.Tensor:
        """[stamps]: what stands there at a refit. Its highest bit changes from refit to refit."""
        signed, unsigned = INTEGER[self.trained_dtype][1:]
        width = np.dtype(unsigned).itemsize * 8
        with np.errstate(over="ignore"):
            hashed = splitmix64(np.uint64(number) * np.uint64(0x9E3779B97F4A7C15), self.keys)
        if self.casts:
            varying, fixed = FINITE[self.trained_dtype]
            hashed = hashed & np.uint64(varying) | np.uint64(fixed)
        top = np.uint64(1 << (width - 1))
        hashed = hashed & ~top | (top if number % 2 else np.uint64(0))
        bits = torch.from_numpy(hashed.astype(unsigned).view(signed)).to(self.at.device)
        if self.trained_dtype == self.dtype:
            return bits
        return cast_bits(bits, self.trained_dtype, self.dtype)


class Stamps:
    """Of one side on one rank.

    Args:
        seed: another seed is another set of values.
        where: from `positions`.
        travels: [tensors], which are stamped; None: all.
    """

    def __init__(
        self,
        seed: int,
        weights: Weights,
        where: Positions,
        travels: NDArray[np.bool_] | None = None,
    ) -> None:
        self._shards = weights.shards
        local: dict[tuple[str, Cut, int], tuple[IntArray, IntArray]] = {}
        parts: dict[tuple[str, str, bool], list[tuple[IntArray, NDArray[np.uint64], IntArray]]] = {}
        starts = offsets(weights.shards)[0]
        for number, (start, shard) in enumerate(zip(starts, weights.shards, strict=True)):
            if shard.same_as is not None or (travels is not None and not travels[shard.tensor]):
                continue
            alike = (shard.family.name, shard.cut, shard.shard)
            if alike not in local:
                local[alike] = _held(shard, where[_values_of(shard.family)])
            flat, whole = local[alike]
            kind = (shard.trained_dtype, shard.dtype, shard.casts)
            at = flat + start // ITEMSIZE[shard.dtype]
            keys = splitmix64(_key(seed, shard.values_of), whole.astype(np.uint64))
            parts.setdefault(kind, []).append((at, keys, np.full(len(at), number)))
        self._groups = [
            self._group(weights, kind, *map(np.concatenate, zip(*each, strict=True)))
            for kind, each in parts.items()
        ]
        self._kept: list[torch.Tensor] = []

    @staticmethod
    def _group(
        weights: Weights,
        kind: tuple[str, str, bool],
        at: IntArray,
        keys: NDArray[np.uint64],
        tensor: IntArray,
    ) -> _Group:
        bits = weights.arena.view(INTEGER[kind[1]][0])
        return _Group(bits, torch.from_numpy(at).to(bits.device), keys, tensor, *kind)

    def keep(self) -> None:
        """What is there now is what is there without stamps."""
        self._kept = [group.bits[group.at] for group in self._groups]

    def write(self, number: int) -> None:
        """Stamp for a refit, by its number."""
        for group in self._groups:
            group.bits[group.at] = group.values(number)

    def check(self, number: int) -> Check:
        """What of the stamps of that refit is not there; of refit 0, what was kept."""
        found = Check(0, 0)
        for at, group in enumerate(self._groups):
            want = group.values(number) if number else self._kept[at]
            wrong = group.bits[group.at] != want
            first = ""
            if bool(wrong.any()):
                first = self._shards[group.tensor[int(wrong.nonzero()[0])]].name
            found += Check(len(wrong), int(torch.count_nonzero(wrong)), first)
        return found

    def restore(self) -> None:
        """Put back what was kept."""
        for group, kept in zip(self._groups, self._kept, strict=True):
            group.bits[group.at] = kept


def _held(shard: Shard, where: IntArray) -> tuple[IntArray, IntArray]:
    """Of these elements of the whole tensor those that a shard holds.

    Returns:
        [stamps] each, flat: where in the shard, and where in the whole tensor.
    """
    cut = shard.cut
    held = cut.indices(shard.shard)
    local_of = np.full(cut.length, PADDING, dtype=np.int64)
    real = np.flatnonzero(held != PADDING)
    local_of[held[real]] = real
    mine = where[local_of[where[:, cut.axis]] != PADDING]
    local = mine.copy()
    local[:, cut.axis] = local_of[mine[:, cut.axis]]
    whole_shape = list(shard.family.shape)
    whole_shape[cut.axis] = cut.length
    return (
        np.ravel_multi_index(tuple(local.T), shard.shape),
        np.ravel_multi_index(tuple(mine.T), tuple(whole_shape)),
    )


def _key(seed: int, name: str) -> np.uint64:
    digest = hashlib.blake2b(f"{seed}/stamp/{name}".encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))
