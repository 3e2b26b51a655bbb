"""The value every element must have, in bits: a function of (tensor, global index, generation).

Element (i, j) of a tensor is row_hash(i) XOR column_hash(j), so a whole shard is written or checked
in one pass over memory, and each rank can check its own destination without asking anyone. Rows and
columns are numbered in the whole tensor, so a shard of another layout has the same values. The hash
is splitmix64 (Steele, Lea and Flood, OOPSLA 2014), keyed by the tensor's name, generation and side.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat

import numpy as np
import torch
from numpy.typing import NDArray

from refit.layout.cut import PADDING, Cut
from refit.layout.layout import IntArray
from refit.layout.tensors import Shard
from refit.weights.casts import cast_bits
from refit.weights.weights import Weights

# the integer as wide, of torch and of numpy; numpy's unsigned one, in which bits are made
INTEGER = {
    "bfloat16": (torch.int16, np.int16, np.uint16),
    "float16": (torch.int16, np.int16, np.uint16),
    "float32": (torch.int32, np.int32, np.uint32),
    "int64": (torch.int64, np.int64, np.uint64),
    "uint8": (torch.uint8, np.uint8, np.uint8),
}
# Finite values of magnitude 2**-7 to 2**-3, either sign: (bits that vary, bits that are set).
FINITE = {
    "bfloat16": (0x81FF, 0x3C00),
    "float16": (0x8FFF, 0x2000),
    "float32": (0x81FFFFFF, 0x3C000000),
}
# Expected values are made in pieces that stay in a core's cache; a GPU wants fewer, larger ones.
_CHUNK_BYTES = {"cpu": 1 << 19, "cuda": 1 << 26}


_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


@dataclass(frozen=True)
class Check:
    """What a check found, in elements."""

    elements: int
    mismatches: int
    first: str = ""  # name of the first wrong tensor

    def __add__(self, other: Check) -> Check:
        return Check(
            self.elements + other.elements,
            self.mismatches + other.mismatches,
            self.first or other.first,
        )


class Pattern:
    """The values of one generation.

    Args:
        seed: any integer; another seed is another set of weights.
        generation: counts up each time the source's weights change.
        finite: small finite numbers only, so that a forward pass can run on them; fewer bits vary.
    """

    def __init__(self, seed: int, generation: int, finite: bool = False) -> None:
        self._key = f"{seed}/{generation}"
        self._finite = finite

    def fill(self, weights: Weights) -> None:
        """Write every shard's expected values; zero into its padding, or ones where unchecked."""
        self._write(weights, poisoned=False)

    def poison(self, weights: Weights) -> None:
        """Write the complement of every expected value, so a dropped element is always wrong."""
        self._write(weights, poisoned=True)

    def _write(self, weights: Weights, poisoned: bool) -> None:
        for slot in weights.spare:
            slot.fill_(0 if weights.padding_is_checked else 0xFF)
        for shard in weights.own_shards:
            self._write_shard(shard, weights.tensors[shard.tensor], poisoned)

    def _write_shard(self, shard: Shard, tensor: torch.Tensor, poisoned: bool = False) -> None:
        for matrix in self._matrices(shard, tensor):
            matrix.write(poisoned)

    def check(self, weights: Weights, travels: NDArray[np.bool_] | None = None) -> Check:
        """Compare every element, in bits.

        Args:
            travels: [tensors], which are looked at; None: all.
        """
        checks = (
            self._check(shard, weights.tensors[shard.tensor])
            for shard in weights.own_shards
            if travels is None or travels[shard.tensor]
        )
        return sum(checks, Check(0, 0)) + _spare(weights)

    def check_and_renew(self, weights: Weights, following: Pattern) -> Check:
        """`check`, and fill with another pattern: each piece at once, while a cache has it."""
        found = _spare(weights)
        for shard in weights.own_shards:
            found += self._check(shard, weights.tensors[shard.tensor], following=following)
        return found

    def check_left_out(self, weights: Weights, travels: NDArray[np.bool_]) -> Check:
        """Whether what does not travel is still the poison that was written: no element counts."""
        checks = (
            self._check(shard, weights.tensors[shard.tensor], poisoned=True)
            for shard in weights.own_shards
            if not travels[shard.tensor]
        )
        found = sum(checks, Check(0, 0))
        return Check(0, found.mismatches, found.first)

    def _check(
        self,
        shard: Shard,
        tensor: torch.Tensor,
        poisoned: bool = False,
        following: Pattern | None = None,
    ) -> Check:
        """Of one shard; then it is filled with the pattern that follows, if one does."""
        found = Check(0, 0)
        renewed = following._matrices(shard, tensor) if following else repeat(None)
        for matrix, then in zip(self._matrices(shard, tensor), renewed, strict=False):
            wrong = matrix.mismatches(poisoned, then)
            name = shard.name if matrix.elements else f"{shard.name}'s padding"
            found += Check(matrix.elements, wrong, name if wrong else "")
        return found

    def _matrices(self, shard: Shard, tensor: torch.Tensor) -> Iterator[_Matrix]:
        """A shard in bits, with what each must be: one for each stretch of the cut axis."""
        bits = tensor.view(INTEGER[shard.dtype][0])
        for stretch in _stretches(shard.cut, shard.shard, shard.family.shape):
            view = bits.narrow(shard.cut.axis, stretch.start, stretch.length)
            if stretch.steps is None:
                checked = shard.padding_is_checked
                yield _Matrix(view, None, None, shard.dtype, shard.dtype, checked)
                continue
            hashes = self._hashes(shard, stretch.steps, stretch.rows).to(tensor.device)
            rows, across = hashes[: stretch.rows], hashes[stretch.rows :]
            matrix = view.view(len(rows), len(across))
            yield _Matrix(matrix, rows, across, shard.trained_dtype, shard.dtype)

    def _hashes(self, shard: Shard, steps: NDArray[np.uint64], rows: int) -> torch.Tensor:
        """[rows + columns]: of each as many bits of hash as the source's dtype has.

        Where the destination's is another, finite ones, whose cast has only one right answer.
        """
        hashed = steps.copy()
        for side, of_side in (("row", hashed[:rows]), ("column", hashed[rows:])):
            key = f"{self._key}/{shard.values_of}/{side}".encode()
            digest = hashlib.blake2b(key, digest_size=8).digest()
            of_side += np.uint64(int.from_bytes(digest, "little"))
        hashed = _mixed(hashed)
        dtype = shard.trained_dtype
        if self._finite or shard.casts:
            varying, fixed = FINITE[dtype]
            hashed &= np.uint64(varying)
            hashed[rows:] |= np.uint64(fixed)
        _, signed, unsigned = INTEGER[dtype]
        return torch.from_numpy(hashed.astype(unsigned).view(signed))


def _spare(weights: Weights) -> Check:
    """What was written into slots of no expert: no element of them counts."""
    spare = weights.spare if weights.padding_is_checked else []
    written = sum(int(torch.count_nonzero(slot)) for slot in spare)
    return Check(0, written, "a slot of no expert" if written else "")


@dataclass(frozen=True)
class _Stretch:
    """Where a shard has padding, or none: of the cut axis the local start, and how long it is.

    Attributes:
        rows: how many; padding has none.
        steps: [rows + columns], of the numbers of both in the whole tensor; see `_steps`.
    """

    start: int
    length: int
    rows: int = 0
    steps: NDArray[np.uint64] | None = None


@lru_cache(maxsize=64)  # a rank has few kinds of shard, each in many layers and experts
def _stretches(cut: Cut, shard: int, shape: tuple[int, ...]) -> tuple[_Stretch, ...]:
    """Those of a shard of a tensor of this shape."""
    found = []
    for start, held in cut.stretches(shard):
        if held[0] == PADDING:
            found.append(_Stretch(start, len(held)))
            continue
        indices: list[IntArray] = [np.arange(n) for n in shape]
        indices[cut.axis] = held
        if len(indices) == 1:
            indices.insert(0, np.zeros(1, dtype=np.int64))
        columns = indices[1]
        for n, index in zip(shape[2:], indices[2:], strict=True):
            columns = (columns[:, None] * n + index).ravel()
        numbers = np.concatenate([indices[0], columns]).astype(np.uint64)
        found.append(_Stretch(start, len(held), len(indices[0]), _steps(numbers)))
    return tuple(found)


@dataclass(frozen=True)
class _Matrix:
    """Bits of a shard, and the hashes of which they must be made; padding has none.

    Rows are of the tensor's first dimension and columns of all others together, numbered in the
    whole tensor; a vector is a single row.

    Attributes:
        view: [rows, columns] of the shard, as integers.
        rows, columns: a hash of each, in the dtype that the source has.
        trained_dtype, dtype: the source's, and this shard's.
        is_checked: else it is padding that may be anything, and every bit of it is set: a refit
            that takes it for zero shows.
    """

    view: torch.Tensor
    rows: torch.Tensor | None
    columns: torch.Tensor | None
    trained_dtype: str
    dtype: str
    is_checked: bool = True

    @property
    def elements(self) -> int:
        """How many it has that are not padding."""
        return 0 if self.rows is None else self.view.numel()

    def write(self, poisoned: bool) -> None:
        """What must be there, its complement if poisoned; of padding zero, or ones."""
        for piece in self._pieces():
            self._write(piece, poisoned)

    def mismatches(self, poisoned: bool, following: _Matrix | None = None) -> int:
        """Elements that are not what `write` writes.

        Args:
            following: what of the same view is written, each piece as soon as it was looked at.
        """
        wrong, buffer = 0, None
        for piece in self._pieces():
            actual = self.view[piece]
            if self.rows is None:
                wrong += int(torch.count_nonzero(actual)) if self.is_checked else 0
            else:
                if buffer is None or buffer.shape != actual.shape:  # the last one is shorter
                    buffer = torch.empty_like(actual)
                want = self._expected(self.rows[piece], poisoned, out=buffer)
                if not _equal(want, actual):
                    wrong += int(torch.count_nonzero(want != actual))
            if following:
                following._write(piece, poisoned=False)
        return wrong

    def _write(self, piece: slice, poisoned: bool) -> None:
        actual = self.view[piece]
        if self.rows is None:
            actual.zero_()
            if not self.is_checked:
                actual.bitwise_not_()
            return
        made = self._expected(self.rows[piece], poisoned, out=actual)
        if made is not actual:
            actual.copy_(made)

    def _pieces(self) -> Iterator[slice]:
        """Of its rows, each as large as a cache likes."""
        rows = self.view.shape[0]
        row_bytes = max(1, self.view[:1].numel()) * self.view.element_size()
        step = max(1, _CHUNK_BYTES[self.view.device.type] // row_bytes)
        for start in range(0, rows, step):
            yield slice(start, start + step)

    def _expected(self, rows: torch.Tensor, poisoned: bool, out: torch.Tensor) -> torch.Tensor:
        assert self.columns is not None
        if self.trained_dtype == self.dtype:
            return torch.bitwise_xor((~rows if poisoned else rows)[:, None], self.columns, out=out)
        cast = cast_bits(rows[:, None] ^ self.columns, self.trained_dtype, self.dtype)
        return ~cast if poisoned else cast


def splitmix64(key: np.uint64, index: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """[len(index)]: the generator's outputs from this key on, at these places."""
    with np.errstate(over="ignore"):
        return _mixed(key + _steps(index))


def _steps(index: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """How far the generator is from its key at these places."""
    return (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)


def _mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The generator's outputs at these of its states, in their place."""
    shifted = z >> np.uint64(30)
    z ^= shifted
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= np.right_shift(z, np.uint64(27), out=shifted)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= np.right_shift(z, np.uint64(31), out=shifted)
    return z


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether all bits are; on the CPU by C's own comparison, which reads as fast as memory can."""
    if one.device.type != "cpu":
        return torch.equal(one, other)
    one, other = one.contiguous(), other.contiguous()
    return _memcmp(one.data_ptr(), other.data_ptr(), one.numel() * one.element_size()) == 0
