"""One kernel that copies many blocks of bytes, over a table of where they are. Needs Triton.

Copy engines move large runs between devices; blocks within one device, strided ones and small ones
are a matter of many loads at once. What has run on a GPU is in docs/gpu.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from refit.layout.layout import IntArray
from refit.plan.runs import Runs

PIECE_BYTES = 1 << 16  # what one program copies: enough to keep many loads under way
TILE_WORDS = 2048  # words of a tile, which a program loads at once
WARPS = 8

_WORDS = {1: tl.int8, 2: tl.int16, 4: tl.int32, 8: tl.int64, 16: tl.int64}
"""What is loaded, by the bytes that all of a block's numbers are multiples of."""


@triton.jit
def _copy_kernel(  # type: ignore[no-untyped-def]  # types would be Triton's own
    table,  # [programs, 6] of int64: addresses of source and destination, rows, pitches, width
    WORD: tl.constexpr,
    ITEM: tl.constexpr,
    ALIGN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    at = table + tl.program_id(0).to(tl.int64) * 6
    # what is said of multiples lets neighbouring words be loaded together, 16 bytes a thread
    source = tl.multiple_of(tl.load(at).to(tl.pointer_type(WORD)), [ALIGN])
    destination = tl.multiple_of(tl.load(at + 1).to(tl.pointer_type(WORD)), [ALIGN])
    rows = tl.load(at + 2)
    source_pitch = tl.multiple_of(tl.load(at + 3) // ITEM, [ALIGN // ITEM])
    destination_pitch = tl.multiple_of(tl.load(at + 4) // ITEM, [ALIGN // ITEM])
    width = tl.multiple_of(tl.load(at + 5) // ITEM, [ALIGN // ITEM])
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    for first_row in range(0, rows, ROWS):
        for first_column in range(0, width, COLUMNS):
            mask = (first_row + row < rows) & (first_column + column < width)
            out_of = source + (first_row + row) * source_pitch + (first_column + column)
            into = destination + (first_row + row) * destination_pitch + (first_column + column)
            tl.store(into, tl.load(out_of, mask=mask), mask=mask)


@dataclass(frozen=True)
class _Launch:
    """Blocks that the same kernel copies: as wide a word, as wide a tile."""

    table: torch.Tensor
    align: int
    columns: int

    def __call__(self) -> None:
        _copy_kernel[self._grid](self.table, **self._options)

    def compile(self) -> None:
        """Now, so that the first call does not."""
        _copy_kernel.warmup(self.table, **self._options, grid=self._grid)

    @property
    def _grid(self) -> tuple[int]:
        return (len(self.table),)

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "WORD": _WORDS[self.align], "ITEM": min(self.align, 8), "ALIGN": self.align,
            "ROWS": TILE_WORDS // self.columns, "COLUMNS": self.columns, "num_warps": WARPS,
        }  # fmt: skip


class Gather:
    """Copies of some blocks, prepared once.

    Args:
        table: which.
        out_of: [ranks], by rank the address of its arena, as this process sees it.
        into: the address of this rank's own.
        device: of the kernel's table.

    Raises:
        Exception: of Triton's, where it cannot compile here, for want of a C compiler say.
    """

    def __init__(
        self, table: Runs, out_of: NDArray[np.int64], into: int, device: torch.device
    ) -> None:
        pieces = table.split(PIECE_BYTES)
        source, destination = out_of[pieces.peer] + pieces.source, into + pieces.destination
        columns = [source, destination, pieces.rows, pieces.source_pitch]
        rows = np.stack([*columns, pieces.destination_pitch, pieces.width], axis=1)
        align = _aligned(source | destination | rows[:, 3] | rows[:, 4] | rows[:, 5])
        words = np.maximum(1, pieces.width // np.minimum(align, 8))
        tile = np.minimum(TILE_WORDS, 1 << np.ceil(np.log2(words)).astype(np.int64))
        kinds, which = np.unique(np.stack([align, tile], axis=1), axis=0, return_inverse=True)
        self._launches = [
            _Launch(torch.from_numpy(rows[which.reshape(-1) == kind]).to(device), *each)
            for kind, each in enumerate(kinds.tolist())
        ]

        if device.type == "cuda":
            for launch in self._launches:
                launch.compile()

    def __call__(self) -> None:
        """Start the copies, on the current stream."""
        for launch in self._launches:
            launch()


def _aligned(bits: IntArray) -> IntArray:
    """[blocks]: the largest power of two, at most 16, that divides all of a block's numbers."""
    return np.minimum(16, np.where(bits == 0, 16, bits & -bits))
