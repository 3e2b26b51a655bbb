"""What a record says of times and memory, worked out by hand."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from refit.job import Degrees, Hardware
from refit.model.parameters import count
from refit.plan.plan import Bounds
from refit.record import limits
from refit.record.parts import (
    DeviceMemory,
    Forecast,
    Placed,
    PlanNumbers,
    Seconds,
    Side,
)
from refit.record.point import Point
from refit.record.record import begin, ended, placed
from refit.record.report import Copied, Limits, RankReport, Span
from refit.record.times import drift, seconds_of, throughput_of
from refit.rules.setup import Setup
from tests.support.jobs import TINY, job

ROOT = Path(__file__).parents[3]


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
        limits=Limits(Copied([Span(start, start + 1.0)] * 2)),
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
    seconds = seconds_of(ranks)
    plan = numbers(3_000_000_000, 1, 0)
    throughput = throughput_of(ranks, plan, Hardware(), seconds.median)
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
    # what was copied is all that is held, also what the refit leaves out
    some = replace(plan, left_out_bytes=1_000_000_000)
    assert throughput_of(ranks, some, Hardware(), 1.0).limit_gbps == pytest.approx(4 / 1.5)
    assert (plan.left_out_tensors, plan.left_out_bytes) == (0, 0)
    assert throughput.limit_source == "measured"
    assert throughput.fraction == pytest.approx(1.5 / 1.75)


def test_the_tightest_limit_counts_and_says_where_it_is_from() -> None:
    plan = numbers(8_000, 1_000, 2_000)
    hardware = Hardware(peer_gbps=450.0, nic_gbps=50.0, memory_gbps=4800.0)
    copy = limits.memory_copy(8_000, [2e-9, 1e-9, 3e-9], "NVIDIA H100")
    assert copy.gbps == pytest.approx(8_000) and copy.spread == 3.0  # of the fastest
    assert "in the memory of NVIDIA H100" in copy.what
    # 8 of 8000 bytes per busiest byte: 8 x 450, and 4 x 50
    peer, nic = limits.links(plan, hardware, "NVIDIA H100")
    assert (peer.gbps, nic.gbps) == (3600.0, 200.0)
    assert nic.source == "configured" and "cluster.hardware.nic_gbps" in nic.what
    assert limits.links(plan, hardware, "cpu") == [nic]
    # on one node nothing crosses, whatever its NICs: that link limits nothing
    assert limits.links(numbers(8_000, 1_000, 0), hardware, "NVIDIA H100") == [peer]
    assert limits.links(plan, Hardware(), "NVIDIA H100") == []


def test_a_record_that_only_began_did_not_end() -> None:
    point = Point.of(job(seed=3), Path("results"), ("seed=3", "refit=ipc"))
    record = begin(point, {"host": "here"})
    assert (record.status, record.reason) == ("failed", "did not end")
    assert (record.kind, record.placement) == ("measured", "non-collocated")
    assert (record.id, record.name) == (point.id, point.name)
    assert (record.overrides, record.config) == (["seed=3", "refit=ipc"], point.job.to_dict())
    assert (record.environment, record.finished_at) == ({"host": "here"}, "")
    assert set(record.clock) == {"warm", "cold", "limit"}
    assert datetime.fromisoformat(record.started_at).utcoffset() == timedelta(0)
    final = ended(record, "oom", "too large")
    assert (final.status, final.reason) == ("oom", "too large")
    assert final.started_at <= final.finished_at == final.finished_at[:23] + "+00:00"


def test_nothing_runs_by_a_clock_in_a_prediction() -> None:
    planned = replace(job(), mode="plan")
    record = begin(Point.of(planned, Path("results")), {})
    assert (record.kind, record.clock) == ("predicted", {})


def test_what_a_sweep_minimizes() -> None:
    record = begin(Point.of(job(), Path("results")), {})
    assert (record.objective_s, record.estimate_s, record.floor_s) == (None, None, None)
    seconds = Seconds(9.0, [2.0], 2.5, 3.0, 4.0, None, {}, {}, {}, {})
    assert replace(record, seconds=seconds).objective_s == 2.5
    forecast = Forecast({}, DeviceMemory(1, None, None), {"seconds": 1.0}, {"seconds": 1.5}, None)
    predicted = replace(record, kind="predicted", prediction=forecast)
    assert (predicted.objective_s, predicted.floor_s) == (1.5, 1.0)
    unknown = replace(predicted, prediction=replace(forecast, floor=None, estimate=None))
    assert (unknown.objective_s, unknown.floor_s) == (None, None)


def test_where_both_sides_are_is_on_record() -> None:
    what = job(
        Degrees(tp=2, pp=2, ep=2, etp=1, num_layers_in_first_pipeline_stage=1),
        Degrees(tp=1, cp=2, ep=2, etp=1),
        model=replace(TINY, num_layers=3, moe_layer_freq=1),
        ranks_per_node=16,
    )
    setup = Setup.of(what)
    record = placed(
        begin(Point.of(what, Path("results")), {}),
        what.model,
        setup.placement,
        setup.plan(),
        "gloo",
        "why",
        setup.build,
    )
    assert (record.method, record.method_reason, record.model_build) == ("gloo", "why", setup.build)
    assert record.layout == Placed(
        world=16,
        ranks_per_node=16,
        # 500 words, padded to a multiple of 16 * tp
        source=Side(list(range(8)), 2, 1, 2, 2, 1, 2, 2, 8, first_stage_layers=1, vocab_rows=512),
        destination=Side([8, 9, 10, 11], 1, 2, 1, 2, 1, 2, 2, 4, vocab_rows=512),
        idle=[12, 13, 14, 15],
    )
    assert record.layout.used == 12
    assert record.parameters == count(what.model)


def test_several_destinations_are_on_record_and_none_stands_for_all() -> None:
    pools = [Degrees(tp=2, etp=1), Degrees(ep=2, etp=1, dtype="float32")]
    what = job(Degrees(etp=1, gpus=3), destinations=pools, ranks_per_node=8)
    setup, begun = Setup.of(what), begin(Point.of(what, Path("results")), {})
    layout = placed(
        begun, setup.job.model, setup.placement, setup.plan(), "gloo", "", setup.build
    ).layout
    assert layout is not None and layout.destination is None and layout.destinations is not None
    assert [side.ranks for side in layout.destinations] == [[3, 4], [5, 6]]
    assert [side.dtype for side in layout.destinations] == [None, "float32"]
    assert layout.receiving == layout.destinations and layout.used == 7 and layout.idle == [7]
    # a list of one is one
    what = job(Degrees(etp=1, gpus=3), destinations=pools[:1], ranks_per_node=8)
    setup = Setup.of(what)
    layout = placed(
        begun, setup.job.model, setup.placement, setup.plan(), "gloo", "", setup.build
    ).layout
    assert layout is not None and layout.destinations is None and layout.destination is not None
    assert layout.receiving == [layout.destination] and layout.destination.ranks == [3, 4]


def test_what_a_side_has_of_its_own_is_on_record() -> None:
    what = job(
        Degrees(pp=2, gpus=4, etp=1, order="tp-pp-dp", virtual_pipeline_model_parallel_size=2),
        Degrees(pp=2, etp=1, pipeline_model_parallel_layout="E|ttttL", node_aligned=True),
        model=replace(TINY, num_layers=4, moe_layer_freq=1),
        ranks_per_node=6,
    )
    setup, begun = Setup.of(what), begin(Point.of(what, Path("results")), {})
    layout = placed(
        begun, setup.job.model, setup.placement, setup.plan(), "gloo", "", setup.build
    ).layout
    assert layout is not None
    source, destination = layout.source, layout.destination
    assert destination is not None
    assert (source.order, destination.order) == ("tp-pp-dp", None)
    assert (source.virtual_stages, destination.virtual_stages) == (2, None)
    assert (source.layers_per_stage, destination.layers_per_stage) == ([1, 1, 1, 1], [0, 4])
    assert (layout.world, layout.used, destination.ranks) == (12, 6, [6, 7])
    assert layout.idle == [4, 5, 8, 9, 10, 11]


def test_stages_that_count_an_end_as_a_layer_are_on_record() -> None:
    # three layers and one end in two stages of two
    what = job(
        Degrees(pp=2, etp=1, account_for_embedding_in_pipeline_split=True),
        Degrees(pp=2, etp=1, account_for_loss_in_pipeline_split=True),
        model=replace(TINY, num_layers=3, moe_layer_freq=1),
    )
    setup, begun = Setup.of(what), begin(Point.of(what, Path("results")), {})
    layout = placed(
        begun, setup.job.model, setup.placement, setup.plan(), "gloo", "", setup.build
    ).layout
    assert layout is not None and layout.destination is not None
    assert layout.source.layers_per_stage == [1, 2]
    assert layout.destination.layers_per_stage == [2, 1]


def test_what_moves_nothing_is_on_record() -> None:
    what = job(Degrees(tp=2, etp=1), Degrees(tp=2, etp=1), "collocated")
    setup, begun = Setup.of(what), begin(Point.of(what, Path("results")), {})
    found = placed(
        begun, setup.job.model, setup.placement, setup.plan(), "ipc", "", setup.build
    ).plan
    assert found is not None
    assert found.bytes == found.local_bytes and found.lower_bounds == Bounds(0, 0, 0, 0)
    assert (found.max_send_bytes, found.max_recv_bytes, found.max_forward_bytes) == (0, 0, 0)
    assert (found.max_peer_bytes, found.max_cross_node_bytes) == (0, 0)


def test_what_is_passed_on_is_on_record() -> None:
    # all of a model to four replicas on another node: each fetches a quarter, and passes it on
    what = job(Degrees(etp=1, gpus=4), Degrees(etp=1, gpus=4), refit={"fanout": "hierarchical"})
    what = replace(what, cluster=replace(what.cluster, nodes=2))
    setup = Setup.of(what)
    plan, begun = setup.plan(), begin(Point.of(what, Path("results")), {})
    numbers_ = placed(begun, setup.job.model, setup.placement, plan, "gloo", "", setup.build).plan
    assert numbers_ is not None
    first, second = plan.hops
    assert numbers_.max_send_bytes == first.send_bytes.max() > 0
    assert numbers_.max_forward_bytes == second.send_bytes.max() > numbers_.max_send_bytes
    assert numbers_.lower_bounds == plan.bounds
    assert numbers_.cross_node_bytes == numbers_.max_recv_bytes == plan.total_bytes // 4


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


PEAK = """
import mmap
from refit.weights import memory
peak = memory.Peak()
shared = mmap.mmap(-1, 48 << 20)
shared.write(b"x" * (1 << 20) * 48)  # from private bytes, given back
for _ in range(2):
    held = bytearray(b"x") * (64 << 20)
    del held
with peak.aside():
    kept = bytearray(b"x") * (96 << 20)
more = bytearray(b"x") * (8 << 20)
print(peak.bytes)
"""


def test_peak_memory_counts_what_was_private_and_is_gone() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("this system keeps no peak of resident memory below /proc/self")
    # in a process of its own: of a large one the kernel may take other memory away meanwhile
    done = subprocess.run(
        [sys.executable, "-c", PEAK], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert 60 << 20 <= int(done.stdout) <= 80 << 20  # the kernel counts in steps
