"""What a record says of times and memory, worked out by hand."""

from __future__ import annotations

import mmap

import pytest

from refit import memory, record
from refit.record import RankReport, Span


def test_drift_is_last_tenth_over_first() -> None:
    steady = [2.0, 4.0, 3.0] + [9.0] * 24 + [6.0, 3.0, 12.0]
    assert record.drift(steady) == 6.0 / 3.0
    assert record.drift([1.0] * 10 + [5.0] * 9) is None  # 19: no tenth of two
    assert record.drift([1.0, 1.0, *[7.0] * 16, 0.5, 0.5]) == 0.5


def report(rank: int, start: float, ends: list[float], **rest: float) -> RankReport:
    spans = [Span(start, end) for end in ends]
    return RankReport(
        rank=rank,
        node=0,
        active=True,
        cold=spans[0],
        warm=spans,
        limit=Span(start, start + 1.0),
        cold_phases={"plan": rest["plan"], "prepare": 1.0, "transfer": 2.0},
        phases={"pack": rest["pack"]},
    )


def test_phases_are_per_rank_and_of_the_rank_that_spent_longest() -> None:
    ranks = [
        report(0, 10.0, [11.0, 12.0], plan=0.5, pack=0.25),
        report(3, 10.5, [11.5, 12.0], plan=0.75, pack=0.125),
    ]
    seconds, throughput = record._times(ranks, nbytes=3_000_000_000)
    assert seconds["warm"] == [1.5, 2.0]  # from the first start to the last end
    assert seconds["drift"] is None
    assert seconds["cold_phases"] == {"plan": 0.75, "prepare": 1.0, "transfer": 2.0}
    assert seconds["phases"] == {"pack": 0.25}
    assert seconds["phases_per_rank"] == {
        "0": {"plan": 0.5, "prepare": 1.0, "transfer": 2.0, "pack": 0.25},
        "3": {"plan": 0.75, "prepare": 1.0, "transfer": 2.0, "pack": 0.125},
    }
    assert seconds["per_rank"] == {"0": 1.5, "3": 1.25}
    assert throughput["gbps"] == pytest.approx(3 / 1.75)
    assert throughput["limit_source"] == "measured"


def test_peak_memory_counts_what_was_private_and_is_gone() -> None:
    before = memory.forget_peak()
    if before is None:
        pytest.skip("this system keeps no peak of resident memory below /proc/self")
    shared = mmap.mmap(-1, 48 << 20)
    shared.write(b"x" * (1 << 20) * 48)  # from private bytes, given back
    for _ in range(2):
        held = bytearray(b"x") * (64 << 20)
        del held
    peak = memory.peak_since(before)
    shared.close()
    assert peak is not None
    assert 64 << 20 <= peak <= 80 << 20
