"""What a record says of times and memory, worked out by hand."""

from __future__ import annotations

import mmap
from collections import Counter
from dataclasses import replace

import pytest

from refit.job import Degrees, Hardware
from refit.plan.plan import Bounds
from refit.record import limits
from refit.record.measured import _times, drift
from refit.record.parts import PlanNumbers
from refit.record.report import RankReport, Span
from refit.rules.setup import Setup
from refit.weights import memory
from tests.support.jobs import job


def test_drift_is_last_tenth_over_first() -> None:
    steady = [2.0, 4.0, 3.0] + [9.0] * 24 + [6.0, 3.0, 12.0]
    assert drift(steady) == 6.0 / 3.0
    assert drift([1.0] * 10 + [5.0] * 9) is None  # 19: no tenth of two
    assert drift([1.0, 1.0, *[7.0] * 16, 0.5, 0.5]) == 0.5


def report(rank: int, start: float, ends: list[float], **rest: float) -> RankReport:
    spans = [Span(start, end) for end in ends]
    return RankReport(
        rank=rank,
        node=0,
        active=True,
        cold=spans[0],
        warm=spans,
        limit=[Span(start, start + 1.0)] * 2,
        device="cpu",
        cold_phases={"plan": rest["plan"], "prepare": 1.0, "transfer": 2.0},
        phases={"pack": rest["pack"]},
    )


def numbers(nbytes: int, peer: int, cross_node: int) -> PlanNumbers:
    """A plan of so many bytes, whose busiest rank moves these within its node and across."""
    return PlanNumbers(1, nbytes, 0, 0, 0, 0, 0, peer, cross_node, Bounds(0, 0, 0, 0))


def test_phases_are_per_rank_and_of_the_rank_that_spent_longest() -> None:
    ranks = [
        report(0, 10.0, [11.0, 12.0], plan=0.5, pack=0.25),
        report(3, 10.5, [11.5, 12.0], plan=0.75, pack=0.125),
    ]
    seconds, throughput = _times(ranks, numbers(3_000_000_000, 1, 0), Hardware())
    assert seconds.warm == [1.5, 2.0]  # from the first start to the last end
    assert seconds.drift is None
    assert seconds.cold_phases == {"plan": 0.75, "prepare": 1.0, "transfer": 2.0}
    assert seconds.phases == {"pack": 0.25}
    assert seconds.phases_per_rank == {
        "0": {"plan": 0.5, "prepare": 1.0, "transfer": 2.0, "pack": 0.25},
        "3": {"plan": 0.75, "prepare": 1.0, "transfer": 2.0, "pack": 0.125},
    }
    assert seconds.per_rank == {"0": 1.5, "3": 1.25}
    assert throughput.gbps == pytest.approx(3 / 1.75)
    # the copies took from the first start, 10.0, to 11.5
    assert throughput.limit_gbps == pytest.approx(3 / 1.5)
    assert throughput.limit_source == "measured"
    assert throughput.fraction == pytest.approx(1.5 / 1.75)


def test_the_tightest_limit_counts_and_says_where_it_is_from() -> None:
    plan = numbers(8_000, 1_000, 2_000)
    hardware = Hardware(peer_gbps=450.0, nic_gbps=50.0, memory_gbps=4800.0)
    copy = limits.memory_copy(8_000, 1e-9, "NVIDIA H100")
    assert copy.gbps == pytest.approx(8_000)
    assert "in the memory of NVIDIA H100" in copy.what
    # 8 of 8000 bytes per busiest byte: 8 x 450, and 4 x 50
    peer, nic = limits.links(plan, hardware, "NVIDIA H100")
    assert (peer.gbps, nic.gbps) == (3600.0, 200.0)
    assert nic.source == "configured" and "cluster.hardware.nic_gbps" in nic.what
    assert limits.links(plan, hardware, "cpu") == [nic]
    # on one node nothing crosses, whatever its NICs: that link limits nothing
    assert limits.links(numbers(8_000, 1_000, 0), hardware, "NVIDIA H100") == [peer]
    assert limits.links(plan, Hardware(), "NVIDIA H100") == []


def test_busiest_links_by_brute_force() -> None:
    what = job(Degrees(tp=4, etp=1), Degrees(tp=2, etp=1, gpus=4), "collocated", ranks_per_node=2)
    what = replace(what, cluster=replace(what.cluster, nodes=2))
    plan = Setup.of(what).plan()
    peers: Counter[tuple[str, int]] = Counter()
    away: Counter[tuple[str, int]] = Counter()
    columns = zip(*(c.tolist() for c in (plan.source, plan.destination, plan.nbytes)), strict=True)
    for source, destination, nbytes in columns:
        if source != destination:
            which = peers if source // 2 == destination // 2 else away
            which["send", source] += nbytes
            which["receive", destination] += nbytes
    assert plan.busiest_bytes(plan.remote & ~plan.crosses_nodes) == max(peers.values())
    assert plan.busiest_bytes(plan.crosses_nodes) == max(away.values())


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
    assert 60 << 20 <= peak <= 80 << 20  # the kernel counts in steps
