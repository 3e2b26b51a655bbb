"""What the ranks report, made a record: the slowest, the largest, and the verdict; by hand."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from refit.job import Hardware, Job
from refit.record import limits
from refit.record.measured import measured
from refit.record.moved import KNOWN_FAULT, Moved
from refit.record.parts import Logits, Memory, PlanNumbers
from refit.record.point import Point
from refit.record.record import Record, begin, placed
from refit.record.report import Copied, FirstWrong, Limits, RankReport, Span
from refit.record.row import Row
from refit.rules.setup import Setup
from refit.show.words import outcome
from tests.support.jobs import SMALL, job
from tests.support.reports import reports

# TP 2 -> TP 1 on four ranks: 1456 bytes to rank 2, 736 of them from one rank; rank 3 is idle
SMALL_JOB = job(model=SMALL)
BYTES = 1456
GOOD = reports(SMALL_JOB)


def record_of(
    found: list[RankReport],
    hardware: Hardware | None = None,
    what: Job = SMALL_JOB,
    forecast_s: float | None = None,
) -> Record:
    setup = Setup.of(what)
    begun = begin(Point.of(what, Path("nowhere")), {"host": "here"})
    plan = setup.plan()
    begun = placed(
        begun, setup.job.model, setup.placement, plan, setup.method, setup.why, setup.build
    )
    elements = plan.elements_to.tolist()
    return measured(begun, found, hardware or Hardware(), elements, forecast_s)


def with_rank(rank: int, **changes: Any) -> list[RankReport]:
    """Good reports but for one rank's."""
    return [replace(one, **changes) if one.rank == rank else one for one in GOOD]


def test_right_weights_have_times_and_rates() -> None:
    record = record_of(GOOD[::-1])  # in any order
    assert (record.status, record.reason) == ("ok", "")
    assert record.verification is not None and record.seconds is not None
    # 728 parameters of rank 2, after three refits
    assert (record.verification.elements, record.verification.mismatches) == (3 * 728, 0)
    assert (record.verification.whole_checks, record.verification.stamps) == (3, 4 * 24)
    assert record.seconds.proof == 0.25
    assert (record.verification.first_mismatch, record.verification.logits) == (None, None)
    assert (record.seconds.cold, record.seconds.median, record.seconds.p90) == (1.0, 0.5, 0.5)
    assert list(record.seconds.per_rank) == ["0", "1", "2"]  # the idle one has no time
    assert record.throughput is not None
    assert record.throughput.gbps == pytest.approx(BYTES / 0.5 / 1e9)
    # copies of all bytes in half the time
    assert record.throughput.limit_gbps == pytest.approx(2 * BYTES / 0.5 / 1e9)
    assert record.throughput.fraction == pytest.approx(0.5)
    assert record.environment == {
        "host": "here",
        "device": "cpu",
        "versions": {"torch": "1", "numpy": "2", "megatron_core": "3"},
        "variables": {},
    }


def test_a_share_that_was_copied_stands_for_the_whole() -> None:
    quarter = Limits(Copied(GOOD[0].limits.memory.spans, share=0.25))
    record = record_of([replace(one, limits=quarter) for one in GOOD])
    assert record.throughput is not None
    assert record.throughput.limit_gbps == pytest.approx(BYTES / 1.0 / 1e9)  # four times 0.25 s


def test_links_that_are_slower_than_memory_limit() -> None:
    # rank 2 receives all 1456 bytes, so that the refit is as fast as its link
    gpus = [replace(one, device="NVIDIA") for one in GOOD]
    record = record_of(gpus, Hardware(peer_gbps=4e-6))
    assert record.throughput is not None
    assert record.throughput.limit_source == "configured"
    assert record.throughput.limit_gbps == pytest.approx(4e-6)
    assert [limit.source for limit in record.throughput.limits] == ["measured", "configured"]


def test_a_rate_above_that_of_a_link_is_impossible() -> None:
    gpus = [replace(one, device="NVIDIA") for one in GOOD]
    rate = BYTES / 0.5 / 1e9
    assert record_of(gpus, Hardware(peer_gbps=rate)).status == "ok"
    record = record_of(gpus, Hardware(peer_gbps=0.99 * rate))
    assert (record.status, record.seconds, record.throughput) == ("invalid", None, None)
    assert record.verification is not None and record.verification.mismatches == 0
    assert record.reason.startswith(
        "impossible rate: 2.912e-06 GB/s is above 2.883e-06 GB/s, the most by links between GPUs"
    )
    assert "cluster.hardware.peer_gbps; correct that rate if" in record.reason
    # a measured limit can be exceeded: what is read from a cache is faster than a copy
    slow = Limits(Copied([Span(0.0, 5.0)]))
    found = record_of([replace(one, limits=slow) for one in GOOD])
    assert found.throughput is not None and found.throughput.fraction == pytest.approx(10)


def test_the_forecast_is_of_such_devices() -> None:
    def forecast(device: str, hardware: Hardware, seconds: float | None) -> float | None:
        found = [replace(one, device=device) for one in GOOD]
        throughput = record_of(found, hardware, forecast_s=seconds).throughput
        assert throughput is not None
        return throughput.forecast_gbps

    cpu, gpu = Hardware(device="cpu"), Hardware()
    assert forecast("cpu", cpu, 0.25) == forecast("NVIDIA", gpu, 0.25) == BYTES / 0.25 / 1e9
    assert forecast("cpu", gpu, 0.25) is None and forecast("NVIDIA", cpu, 0.25) is None
    assert forecast("cpu", cpu, None) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"mismatches": 3, "first": FirstWrong("b", "the cold refit")},
            "3 of 2184 elements are wrong, first in b after the cold refit",
        ),
        (
            {"stamp_mismatches": 3, "first": FirstWrong("b", "timed iteration 2")},
            "3 of 96 stamps are wrong, first in b after timed iteration 2",
        ),
        (
            {"source_mismatches": 2, "first_of_source": FirstWrong("b", "timed iteration 1")},
            "the refits changed 2 elements of the source, first in b, seen after timed iteration 1",
        ),
        (
            {"logits": Logits(0.5, 2.0, 0.01, False, 8, "float64", None)},
            "logits differ by 0.25 of the largest, tolerance 0.01",
        ),
    ],
)
def test_wrong_weights_have_no_time(changes: dict[str, Any], words: str) -> None:
    record = record_of(with_rank(1, **changes))
    assert (record.status, record.reason) == ("invalid", words)
    assert record.seconds is None and record.throughput is None
    assert record.memory is not None and record.verification is not None


def test_a_fault_that_is_known_is_part_of_the_reason() -> None:
    found = with_rank(2, mismatches=3, first=FirstWrong("b", "the cold refit", 1))
    assert record_of(found).reason.endswith("after the cold refit")
    found[1] = replace(found[1], transport={KNOWN_FAULT: "its stream waits for nothing"})
    assert record_of(found).reason.endswith("after the cold refit; its stream waits for nothing")


def test_the_earliest_refit_names_the_tensor() -> None:
    refits = {1: 5, 2: 3, 3: 3}
    found = [
        replace(one, mismatches=one.rank, first=FirstWrong(f"t{one.rank}", "it", refits[one.rank]))
        if one.rank
        else one
        for one in GOOD
    ]
    assert record_of(found).reason == "6 of 2184 elements are wrong, first in t2 after it"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"elements": 0},
            "rank 2 looked at 0 elements, and the plan writes 728 there, to be looked at 3 times",
        ),
        ({"elements": 2 * 728}, "rank 2 looked at 1456 elements"),
        ({"elements": 3 * 728 + 1}, "rank 2 looked at 2185 elements"),
        ({"stamps": 0}, "rank 2 looked at no stamp"),
    ],
)
def test_what_nobody_looked_at_has_no_time(changes: dict[str, Any], words: str) -> None:
    record = record_of(with_rank(2, **changes))
    assert record.status == "invalid" and record.reason.startswith(words)
    assert record.seconds is None and record.throughput is None


def test_logits_that_agree_are_on_record() -> None:
    agree = Logits(0.0, 2.0, 0.01, True, 8, "float64", "allgather")
    record = record_of(with_rank(2, logits=agree))
    assert record.status == "ok"
    assert record.verification is not None and record.verification.logits == agree


def test_memory_is_of_the_rank_that_held_most() -> None:
    found = [
        replace(one, device_peak_bytes=10 - one.rank, refit_peak_bytes=peak, staging_bytes=staging)
        for one, peak, staging in zip(GOOD, (4, None, 7, 5), (0, 64, None, 3), strict=True)
    ]
    assert record_of(found).memory == Memory(1003, 10, 7, 64)
    assert record_of(GOOD).memory == Memory(1003, 0, None, None)


def test_memory_grows_on_ranks_that_hold_weights_and_say_how_much() -> None:
    # of twenty refits the last two over the first two; rank 3 is idle, rank 1's system says nothing
    held = [[100] * 18 + [150] * 2, [0] + [100] * 19, [100] * 20, [100] * 18 + [900] * 2]
    found = [replace(one, held_bytes=each) for one, each in zip(GOOD, held, strict=True)]
    memory = record_of(found).memory
    assert memory is not None
    assert (memory.growth, memory.growth_per_rank) == (1.5, {"0": 1.5, "2": 1.0})


def test_a_report_is_read_as_it_was_written() -> None:
    wrong, agree = FirstWrong("b", "it", 3), Logits(0.0, 2.0, 0.01, True, 8, "float64", None)
    whole = replace(GOOD[0], first=wrong, logits=agree, moved=Moved(), held_bytes=[1, 2])
    assert RankReport.of(json.loads(json.dumps(asdict(whole)))) == whole


def test_the_first_rank_says_on_what_it_ran() -> None:
    record = record_of(with_rank(3, versions={}, device="none", variables={"A": "1"}))
    said = record_of(GOOD)
    assert record.environment == said.environment and said.environment["variables"] == {}


def test_a_transport_says_the_largest_of_each_number() -> None:
    said: list[dict[str, int | str]] = [
        {"reads": 3, "heap": "a"}, {"reads": 9}, {"reads": 4, "heap": "b"}, {"pages": 1},
    ]  # fmt: skip
    found = [replace(one, transport=of) for one, of in zip(GOOD, said, strict=True)]
    assert record_of(found).transport == {"reads": 9, "heap": "b", "pages": 1}
    assert record_of(GOOD).transport == {}


def test_what_a_method_planned_itself_is_what_it_moved() -> None:
    moved = [Moved() for _ in GOOD]
    for sender, nbytes in ((0, 1000), (1, 456)):
        moved[sender].add(True, 2, nbytes)
        moved[2].add(False, sender, nbytes)
    itself = [replace(one, plans_itself=True) for one in GOOD]
    counted = [replace(one, moved=of) for one, of in zip(itself, moved, strict=True)]
    plan = record_of(counted).plan
    assert plan is not None
    assert (plan.copies, plan.bytes, plan.max_send_bytes) == (2, BYTES, 1000)
    # one rank that does not count, and nothing is known
    plan = record_of([*counted[:3], itself[3]]).plan
    assert plan is not None and (plan.copies, plan.bytes) == (None, BYTES)
    # our own plan stays, whatever a rank counts
    ours = record_of([replace(one, plans_itself=False) for one in counted]).plan
    assert ours is not None and ours.max_send_bytes == 736


def test_p90_is_a_time_that_nine_of_ten_do_not_exceed() -> None:
    spans = [replace(GOOD[0].warm[0], end=n / 10) for n in range(1, 11)]
    record = record_of([replace(one, warm=spans[::-1]) for one in GOOD])
    assert record.seconds is not None
    assert (record.seconds.p90, record.seconds.max, record.seconds.median) == (0.9, 1.0, 0.55)
    record = record_of([replace(one, warm=spans[:9]) for one in GOOD])
    assert record.seconds is not None and record.seconds.p90 == 0.9  # of nine the last


def test_each_node_has_a_clock_of_its_own() -> None:
    def shifted(one: RankReport) -> RankReport:
        by = 100.0 * one.node
        warm = [replace(s, start=s.start + by, end=s.end + by) for s in one.warm]
        return replace(one, warm=warm)

    found = [shifted(replace(one, node=one.rank // 2)) for one in GOOD]
    record = record_of(found)
    assert record.seconds is not None and record.seconds.warm == [0.5] * 2
    # rank 2, on the other node, ends later: the longest of the nodes' times, not from the first
    late = [
        replace(one, warm=[replace(s, end=s.end + 0.25) for s in one.warm]) if one.node else one
        for one in found
    ]
    record = record_of(late)
    assert record.seconds is not None and record.seconds.warm == [0.75] * 2


def test_the_plan_of_the_record_is_of_its_links() -> None:
    # two nodes of two: the 736 and 720 bytes of ranks 0 and 1 cross to rank 2
    what = job(model=SMALL, ranks_per_node=2)
    what = replace(what, cluster=replace(what.cluster, nodes=2))
    plan = record_of(reports(what), what=what).plan
    assert plan is not None
    assert (plan.max_peer_bytes, plan.max_cross_node_bytes, plan.cross_node_bytes) == (
        0, BYTES, BYTES,
    )  # fmt: skip
    near = record_of(GOOD).plan
    assert near is not None
    assert (near.max_peer_bytes, near.max_cross_node_bytes, near.cross_node_bytes) == (BYTES, 0, 0)
    assert (near.max_send_bytes, near.max_recv_bytes, near.max_forward_bytes) == (736, BYTES, 0)
    assert (near.copies, near.bytes, near.local_bytes) == (17, BYTES, 0)


def test_how_far_apart_ranks_of_a_node_began() -> None:
    late = with_rank(1, warm=[Span(0.03, 0.5), Span(0.01, 0.5)])
    record = record_of(late)
    assert record.seconds is not None and record.seconds.skew == pytest.approx([0.03, 0.01])
    # on another node it has a clock of its own
    elsewhere = [replace(one, node=int(one.rank == 1)) for one in late]
    record = record_of(elsewhere)
    assert record.seconds is not None and record.seconds.skew == [0.0, 0.0]
    # an idle rank's start is nobody's
    idle = [replace(one, warm=[Span(9.0, 9.0)] * 2) if one.rank == 3 else one for one in GOOD]
    record = record_of(idle)
    assert record.seconds is not None and record.seconds.skew == [0.0, 0.0]


def test_what_a_gpu_says_is_of_the_one_that_took_longest() -> None:
    record = record_of(GOOD)
    assert record.seconds is not None and record.seconds.device is None
    said = {0: (0.25, 0.125), 1: (0.5, 0.0625), 2: (0.125, 0.375)}
    found = [
        replace(one, warm=[Span(0.0, 0.5, device) for device in said[one.rank]])
        if one.rank in said
        else one  # the idle one's is nobody's
        for one in GOOD
    ]
    record = record_of(found)
    assert record.seconds is not None and record.seconds.device == [0.5, 0.375]
    assert record.seconds.warm == [0.5, 0.5]


def with_peers(*seconds: float, share: float = 1.0) -> list[RankReport]:
    """Good reports, and of copies between ranks of which each took so long."""
    peers = Copied([Span(0.0, each) for each in seconds], share)
    return [replace(one, limits=replace(one.limits, peers=peers)) for one in GOOD]


@pytest.mark.parametrize(
    ("seconds", "share", "gbps", "binds"),
    [
        # the memory copy took 0.25 s
        ((0.4, 9.0, 0.5), 1.0, BYTES / 0.4 / 1e9, "peers"),
        ((0.3, 0.2, 0.4), 1.0, BYTES / 0.2 / 1e9, "memory"),
        ((0.3, 0.2, 0.4), 0.5, BYTES / 0.4 / 1e9, "peers"),
    ],
)
def test_of_both_measured_limits_the_lower_binds(
    seconds: tuple[float, ...], share: float, gbps: float, binds: str
) -> None:
    record = record_of(with_peers(*seconds, share=share))
    rate = record.throughput
    assert rate is not None and rate.missing is None
    memory, peers = rate.limits
    assert (memory.kind, peers.kind) == ("memory", "peers")
    assert memory.gbps == pytest.approx(BYTES / 0.25 / 1e9)
    assert peers.gbps == pytest.approx(gbps)
    tightest = peers if binds == "peers" else memory
    assert (rate.limit, rate.limit_gbps) == (tightest.what, tightest.gbps)
    row = Row.of(record)
    assert (row.memory_copy_gbps, row.peer_copy_gbps) == (memory.gbps, peers.gbps)
    said = "plain copies between the ranks" if binds == "peers" else "this machine's memory copy"
    assert f"% of {said}; " in outcome(record)


def test_where_a_limit_was_measured_is_said() -> None:
    def words(device: str) -> tuple[str, str]:
        copies = (limits.memory_copy, limits.peer_copy)
        memory, peers = (copy(8, [2.0, 1.0], device).what for copy in copies)
        return memory, peers

    memory, peers = words("cpu")
    assert memory == "memory copy by the destination ranks, measured in this run"
    assert "by shared memory, one for each" in peers
    memory, peers = words("NVIDIA H100")
    assert memory.endswith("ranks in the memory of NVIDIA H100, measured in this run")
    assert "by CUDA IPC, one for each" in peers


def test_what_an_older_report_or_plan_lacks_is_nothing() -> None:
    lacking = [field for cls in (RankReport, PlanNumbers) for field in fields(cls)]
    numbers = [f.default for f in lacking if isinstance(f.default, int | float)]
    assert len(numbers) > 8 and not any(numbers)


def test_why_no_copies_between_ranks_were_measured() -> None:
    assert limits.no_peer_copy(0, True, "gloo") == limits.no_peer_copy(0, False, "ipc") == ""
    words = limits.no_peer_copy(8, True, "gloo")
    assert words.endswith("blocks go between nodes, whose ranks cannot map each other's memory")
    assert "refit=ipc shows to work here and nccl does not" in limits.no_peer_copy(0, False, "nccl")
    found = [replace(one, limits=replace(one.limits, no_peers=words)) for one in GOOD]
    record = record_of(found)
    assert record.throughput is not None and record.throughput.missing == words
    assert [limit.kind for limit in record.throughput.limits] == ["memory"]
    assert Row.of(record).peer_copy_gbps is None
