"""The value every element must have, in bits: a function of (tensor, global index, generation).

Element (i, j) of a tensor is row_hash(i) XOR column_hash(j), so a whole shard is written or checked
in one pass over memory, and each rank can check its own destination without asking anyone. Rows and
columns are numbered in the whole tensor, so a shard of another layout has the same values. The hash
is splitmix64 (Steele, Lea and Flood, OOPSLA 2014), keyed by the tensor's name, generation and side.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from refit.layout.layout import IntArray
from refit.layout.tensors import Shard
from refit.weights.weights import Weights

_INTEGER = {"bfloat16": torch.int16, "float32": torch.int32}
# Finite values of magnitude 2**-7 to 2**-3, either sign: (bits that vary, bits that are set).
_FINITE = {"bfloat16": (0x81FF, 0x3C00), "float32": (0x81FFFFFF, 0x3C000000)}
# Expected values are made in pieces that stay in a core's cache; a GPU wants fewer, larger ones.
_CHUNK_BYTES = {"cpu": 1 << 19, "cuda": 1 << 26}


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
        """Write every shard's expected values."""
        for shard in weights.shards:
            view, rows, columns = self._hashed(shard, weights.tensors[shard.tensor])
            torch.bitwise_xor(rows[:, None], columns, out=view)

    def poison(self, weights: Weights) -> None:
        """Write the complement of every expected value, so a dropped element is always wrong."""
        for shard in weights.shards:
            view, rows, columns = self._hashed(shard, weights.tensors[shard.tensor])
            torch.bitwise_xor(~rows[:, None], columns, out=view)

    def check(self, weights: Weights, travels: NDArray[np.bool_] | None = None) -> Check:
        """Compare every element, in bits.

        Args:
            travels: [tensors], which are looked at; None: all.
        """
        checks = (
            self._check(shard, weights.tensors[shard.tensor])
            for shard in weights.shards
            if travels is None or travels[shard.tensor]
        )
        return sum(checks, Check(0, 0))

    def check_left_out(self, weights: Weights, travels: NDArray[np.bool_]) -> Check:
        """Whether what does not travel is still the poison that was written: no element counts."""
        checks = (
            self._check(shard, weights.tensors[shard.tensor], poisoned=True)
            for shard in weights.shards
            if not travels[shard.tensor]
        )
        found = sum(checks, Check(0, 0))
        return Check(0, found.mismatches, found.first)

    def _check(self, shard: Shard, tensor: torch.Tensor, poisoned: bool = False) -> Check:
        view, rows, columns = self._hashed(shard, tensor)
        rows = ~rows if poisoned else rows
        step = max(1, _CHUNK_BYTES[view.device.type] // (len(columns) * view.element_size()))
        expected = torch.empty(
            (min(step, len(rows)), len(columns)), dtype=view.dtype, device=view.device
        )
        wrong = 0
        for start in range(0, len(rows), step):
            actual = view[start : start + step]
            want = expected[: len(actual)]
            torch.bitwise_xor(rows[start : start + step, None], columns, out=want)
            if not torch.equal(_wide(want), _wide(actual)):
                wrong += int(torch.count_nonzero(want != actual))
        return Check(view.numel(), wrong, shard.name if wrong else "")

    def _hashed(
        self, shard: Shard, tensor: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A [rows, columns] view of the shard's bits, the hash of each row and of each column.

        Both are numbered in the whole tensor; a vector is a single row.
        """
        dtype = shard.family.dtype
        indices: list[IntArray] = [np.arange(n) for n in shard.family.shape]
        if shard.family.axis is not None:
            indices[shard.family.axis] = shard.global_indices()
        if len(indices) == 1:
            indices.insert(0, np.zeros(1, dtype=np.int64))
        rows, columns = (
            self._hash(shard.name, side, index, dtype).to(tensor.device)
            for side, index in zip(("row", "column"), indices, strict=True)
        )
        return tensor.view(_INTEGER[dtype]).view(len(rows), len(columns)), rows, columns

    def _hash(self, name: str, side: str, index: IntArray, dtype: str) -> torch.Tensor:
        """[len(index)]: 16 or 32 bits of hash for each index of one side."""
        digest = hashlib.blake2b(f"{self._key}/{name}/{side}".encode(), digest_size=8).digest()
        bits = _splitmix64(np.uint64(int.from_bytes(digest, "little")), index.astype(np.uint64))
        if self._finite:
            varying, fixed = _FINITE[dtype]
            bits = bits & np.uint64(varying) | np.uint64(fixed if side == "column" else 0)
        width: type = np.uint16 if dtype == "bfloat16" else np.uint32
        signed: type = np.int16 if dtype == "bfloat16" else np.int32
        return torch.from_numpy(bits.astype(width).view(signed))


def _splitmix64(key: np.uint64, index: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        z = key + (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """The same bytes as 64-bit integers where they divide: fewer elements to compare."""
    flat = tensor.reshape(-1)
    return flat.view(torch.int64) if flat.numel() * flat.element_size() % 8 == 0 else flat
