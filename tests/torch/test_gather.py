"""Runs on a GPU, byte by byte: the kernel alone, by Triton's interpreter where there is no GPU."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from refit.plan.runs import NO_CAST, Runs
from refit.rules import devices
from refit.transport.carry import ENGINE_BYTES, Carrier

DEVICE = "cpu" if devices.no_cuda() else "cuda"
SIZE = 1 << 18

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)

BLOCKS = {
    # (peer, source, destination, rows, source pitch, destination pitch, width)
    "aligned": [(0, 64, 128, 1, 0, 0, 4096), (1, 0, 8192, 16, 256, 128, 128)],
    "odd offsets": [
        (0, 3, 5, 1, 0, 0, 1001), (1, 6, 4098, 1, 0, 0, 770), (0, 8, 6000, 2, 24, 32, 8),
        (1, 4, 9000, 1, 0, 0, 4),
    ],
    "odd widths and pitches": [(1, 1, 7000, 9, 7, 13, 5), (0, 2, 8000, 5, 1000, 1002, 998)],
    "longer than a program copies": [
        (0, 16, 0, 1, 0, 0, 150001), (1, 8, 150016, 3, 40000, 32768, 32760),
    ],
    "rows longer than a tile": [(1, 0, 64, 3, 50000, 40000, 36000)],
    "none": [],
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _interpreted() -> Iterator[None]:
    """What a kernel is run by is settled where it is defined, and again where it starts."""
    assert "refit.transport.gather" not in sys.modules
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu" and importlib.util.find_spec("triton") is not None:
            patch.setenv("TRITON_INTERPRET", "1")
            importlib.import_module("refit.transport.gather")
        yield


def arenas(size: int = SIZE) -> dict[int, torch.Tensor]:
    random = np.random.default_rng(0)
    held = {peer: random.integers(0, 256, size, np.uint8) for peer in (0, 1)}
    return {peer: torch.from_numpy(each).to(DEVICE) for peer, each in held.items()}


def table(blocks: Sequence[tuple[int, ...]]) -> Runs:
    whole = np.array(blocks, dtype=np.int64).reshape(-1, 7)
    return Runs(*(*whole.T, np.full(len(whole), NO_CAST)))


def wanted(runs: Runs, out_of: dict[int, torch.Tensor], size: int = SIZE) -> torch.Tensor:
    """What is in an arena of 255s then."""
    into = torch.full((size,), 255, dtype=torch.uint8, device=DEVICE)
    for peer, source, destination, rows, out_pitch, in_pitch, width, _ in runs.tuples():
        for row in range(rows):
            here, there = source + row * out_pitch, destination + row * in_pitch
            into[there : there + width] = out_of[peer][here : here + width]
    return into


@needs_triton
@pytest.mark.parametrize("blocks", BLOCKS.values(), ids=BLOCKS)
def test_the_kernel_copies_each_byte_to_its_place(blocks: list[tuple[int, ...]]) -> None:
    from refit.transport.gather import Gather

    runs, out_of = table(blocks), arenas()
    into = torch.full((SIZE,), 255, dtype=torch.uint8, device=DEVICE)
    bases = np.array([out_of[peer].data_ptr() for peer in (0, 1)])
    gather = Gather(runs, bases, into.data_ptr(), into.device)
    gather()
    assert torch.equal(into, wanted(runs, out_of))


@pytest.mark.gpu
@pytest.mark.parametrize("here", [{0, 1}, {0}, set()], ids=str)
def test_engines_and_the_kernel_share_what_there_is(here: set[int]) -> None:
    size = 8 * ENGINE_BYTES
    blocks = [
        (0, 5, 0, 1, 0, 0, ENGINE_BYTES + 3),
        (1, 0, 2 * ENGINE_BYTES, 2, 3 * ENGINE_BYTES, 2 * ENGINE_BYTES, ENGINE_BYTES),
        (1, 1, 6 * ENGINE_BYTES, 100, 700, 600, 512),
    ]
    runs, out_of = table(blocks), arenas(size)
    into = torch.full((size,), 255, dtype=torch.uint8, device=DEVICE)
    carrier = Carrier(runs, into, out_of, here)
    carrier()
    torch.cuda.current_stream().synchronize()
    assert torch.equal(into, wanted(runs, out_of, size))
    engine_runs = sum(n for peer, n in ((0, 1), (1, 2)) if peer not in here)
    assert carrier.details["engine runs"] == engine_runs
