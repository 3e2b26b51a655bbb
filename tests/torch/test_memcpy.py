"""Copies by memcpy: each byte arrives, no other is touched, by one thread or by more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from refit.ranks import limit
from refit.transport import memcpy

BLOCK = st.tuples(st.integers(1, 9), st.integers(0, 40), st.integers(0, 7))  # rows, width, gap


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@given(
    blocks=st.lists(BLOCK, max_size=6),
    threads=st.integers(1, 3),
    parts=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_each_byte_arrives_and_no_other_is_touched(
    blocks: list[tuple[int, int, int]], threads: int, parts: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    total = sum(rows * (width + gap) for rows, width, gap in blocks)
    before = rng.integers(0, 256, (2, total + 1), dtype=np.uint8)
    into, out_of = (torch.from_numpy(values.copy()) for values in before)
    expected, destinations, sources, at = before[0].copy(), [], [], 0
    for rows, width, gap in blocks:
        for r in range(rows):  # byte by byte, of the same place: rows at the same pitch
            for b in range(width):
                expected[at + r * (width + gap) + b] = before[1][at + r * (width + gap) + b]
        shape, stride = ((width,), (1,)) if rows == 1 else ((rows, width), (width + gap, 1))
        destinations.append(into.as_strided(shape, stride, at))
        sources.append(out_of.as_strided(shape, stride, at))
        at += rows * (width + gap)
    with pytest.MonkeyPatch.context() as patch, torch_threads(threads):
        patch.setattr(memcpy, "THREADED", 1)
        patch.setattr(memcpy, "PARTS", parts)
        memcpy.copier(destinations, sources)()
    assert np.array_equal(into.numpy(), expected)
    assert np.array_equal(out_of.numpy(), before[1])


@pytest.mark.parametrize("rows", [1, 64])
def test_a_rank_with_threads_shares_its_bytes_out(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thread waits for the other: one alone would never be done."""
    met, who, copy = threading.Barrier(2, timeout=20), set(), memcpy._copy

    def meeting(pairs: list[memcpy.Pair]) -> None:
        if threading.get_ident() not in who:
            who.add(threading.get_ident())
            met.wait()
        copy(pairs)

    monkeypatch.setattr(memcpy, "_copy", meeting)
    source = torch.arange(memcpy.THREADED, dtype=torch.int32).view(torch.uint8)
    source = source if rows == 1 else source.view(rows, -1)
    into = torch.zeros_like(source)
    with torch_threads(2):
        memcpy.copier([into], [source])()
    assert len(who) == 2 and torch.equal(into, source)


def test_what_fails_in_a_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(pairs: list[memcpy.Pair]) -> None:
        raise OSError("no such byte")

    monkeypatch.setattr(memcpy, "_copy", fails)
    source = torch.zeros(memcpy.THREADED, dtype=torch.uint8)
    with torch_threads(2), pytest.raises(OSError, match="no such byte"):
        memcpy.copier([source.clone()], [source])()


def test_the_limit_is_copied_as_fast_as_a_refit(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same call; torch's copies took twice as long, and refits beat their limit."""
    asked, copier = [], memcpy.copier

    def counted(into: list[torch.Tensor], out_of: list[torch.Tensor]) -> Callable[[], None]:
        asked.append(sum(map(len, into)))
        return copier(into, out_of)

    monkeypatch.setattr(memcpy, "copier", counted)
    source = torch.arange(256, dtype=torch.uint8)
    into = torch.zeros(300, dtype=torch.uint8)
    copy = limit._each([(into[:100], source[:100]), (into[144:300], source[100:])])
    assert asked == [100, 156] and not into.any()
    copy()
    assert torch.equal(into[:100], source[:100]) and torch.equal(into[144:], source[100:])
    assert not into[100:144].any()
