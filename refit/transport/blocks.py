"""Runs of bytes as views of two memories, and their copies.

What is not cast is copied as integers. On CUDA, torch's foreach copy of bfloat16 or float16 makes
one NaN of all: on an H200, torch 2.11, 0.3% of random bytes came out changed.
"""

from __future__ import annotations

import importlib.util
import traceback
from collections.abc import Callable, Mapping

import numpy as np
import torch

from refit.plan.runs import NO_CAST, Runs, dtypes
from refit.transport import memcpy
from refit.weights.weights import TORCH_DTYPE, Weights

Start = Callable[[], None]


def views(
    table: Runs, into: torch.Tensor, out_of: Mapping[int, torch.Tensor]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Destination and source views of some runs: of uint8, or of the dtypes that are cast.

    Args:
        into: the memory that they go to, of uint8.
        out_of: memories by `Runs.peer`.
    """
    destinations, sources = [], []
    widths = table.destination_width.tolist()
    for run, wide in zip(table.tuples(), widths, strict=True):
        peer, source, destination, rows, source_pitch, destination_pitch, width, cast = run
        given, got = (None, None) if cast == NO_CAST else dtypes(cast)
        sources.append(_view(out_of[peer], source, rows, source_pitch, width, given))
        destinations.append(_view(into, destination, rows, destination_pitch, wide, got))
    return destinations, sources


def _view(
    memory: torch.Tensor, at: int, rows: int, pitch: int, width: int, dtype: str | None
) -> torch.Tensor:
    """[width] or [rows, width] of some memory, in bytes, as elements of a dtype."""
    if rows == 1:
        flat = memory[at : at + width]
        return flat if dtype is None else flat.view(TORCH_DTYPE[dtype])
    whole = memory[at : at + (rows - 1) * pitch + width]
    item = 1
    if dtype is not None:
        whole, item = whole.view(TORCH_DTYPE[dtype]), TORCH_DTYPE[dtype].itemsize
    return whole.as_strided((rows, width // item), (pitch // item, 1))


def copy(destinations: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
    """Copy each source into its destination, whose dtype it then has."""
    if destinations:
        torch._foreach_copy_(destinations, sources)


def mover(table: Runs, into: torch.Tensor, out_of: Mapping[int, torch.Tensor]) -> tuple[str, Start]:
    """What copies runs, and the call that starts it: on the current stream, or at once on the CPU.

    On CUDA one kernel over a table of them, where Triton is installed and can compile, and on the
    CPU the C library's memcpy; of what is cast torch's copies.

    Args:
        into, out_of: as of `views`; on CUDA all of this rank's device.
    """
    if not len(table):
        return "none", nothing
    if into.is_cuda and importlib.util.find_spec("triton") is not None:
        from refit.transport.gather import Gather

        bytewise = table.cast == NO_CAST
        bases = np.zeros(1 + max(out_of), dtype=np.int64)
        for peer, memory in out_of.items():
            bases[peer] = memory.data_ptr()
        try:
            gather = Gather(table.where(bytewise), bases, into.data_ptr(), into.device)
        except Exception:  # Triton has no base class for what can be wrong with a machine
            traceback.print_exc()
        else:
            cast = views(table.where(~bytewise), into, out_of)

            def both() -> None:
                gather()
                copy(*cast)

            return "triton", both
    if into.is_cuda:
        pairs = views(table, into, out_of)
        return "foreach_copy", lambda: copy(*pairs)
    bytewise = table.cast == NO_CAST
    move = memcpy.copier(*views(table.where(bytewise), into, out_of))
    if bytewise.all():
        return "memcpy", move
    rest = views(table.where(~bytewise), into, out_of)

    def all_of_them() -> None:
        move()
        copy(*rest)

    return "memcpy", all_of_them


def local(table: Runs, rank: int, source: Weights | None, destination: Weights | None) -> Start:
    """What copies, of all that a rank receives, the bytes that it holds itself."""
    mine = table.where(table.peer == rank)
    if not len(mine):
        return nothing
    assert source is not None and destination is not None
    return mover(mine, destination.arena, {rank: source.arena})[1]


def nothing() -> None:
    """Copies no byte."""
