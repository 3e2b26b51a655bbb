"""What is remarked on a point that is ok: once, with the remedy; nothing where all is as said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refit.forecast.predict import predict_point
from refit.job import Degrees, Job
from refit.record.parts import Limit, Throughput
from refit.record.point import Point
from refit.record.record import Record
from refit.record.remarks import ENOUGH, found, impossible_rate, remarks
from refit.show.words import outcome
from tests.support.jobs import TINY, dense, job
from tests.support.reports import write_measured

EP4, EP8 = Degrees(ep=4), Degrees(ep=8)
WIDE = replace(TINY, num_moe_experts=8)
TRAINED = Degrees(tp=2, ep=2, etp=1)
DISPATCHERS: list[tuple[str, Degrees, Degrees, str]] = [
    ("allgather", EP4, EP4, ""),
    ("allgather", EP8, EP4, "the allgather token dispatcher at parallel.source.ep=8: the rule is"),
    ("allgather", EP4, EP8, "=alltoall keeps the rule there"),
    ("alltoall", EP8, EP8, ""),
    ("alltoall", EP8, EP4, "the alltoall token dispatcher at parallel.destination.ep=4"),
    ("alltoall", Degrees(tp=2, etp=1), EP8, ""),  # EP 1: no token travels
    ("flex", EP8, EP4, ""),
]


def said(what: Job, folder: Path) -> list[str]:
    """The remarks of a measurement and of a prediction, which are the same."""
    what = replace(what, bench=replace(what.bench, iterations=ENOUGH))
    measured = write_measured(Point.of(what, folder))
    predicted = predict_point(Point.of(replace(what, mode="plan"), folder))
    texts = remarks(measured)
    assert remarks(predicted) == texts
    for record in (measured, predicted):
        assert record.status == "ok"
        assert outcome(record).count("remark: ") == len(texts)
        assert all(f"; remark: {text}" in outcome(record) for text in texts)
    return texts


@pytest.mark.parametrize(("asked", "source", "destination", "words"), DISPATCHERS)
def test_a_dispatcher_against_the_rule(
    asked: str, source: Degrees, destination: Degrees, words: str, tmp_path: Path
) -> None:
    model = replace(WIDE, moe_token_dispatcher_type=asked)
    what = job(source, destination, model=model, ranks_per_node=16)
    told = said(what, tmp_path)
    assert len(told) == bool(words) and words in "".join(told)


def test_of_several_destinations_it_is_said_which(tmp_path: Path) -> None:
    sides = [Degrees(ep=4, gpus=4), Degrees(ep=8, gpus=8)]
    what = job(EP4, destinations=sides, model=WIDE, ranks_per_node=16)
    record = predict_point(Point.of(replace(what, mode="plan"), tmp_path))
    (told,) = remarks(record)
    assert "at parallel.destinations[1].ep=8" in told


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (replace(TRAINED, sequence_parallel=None), ""),
        (replace(TRAINED, sequence_parallel=True), ""),
        (
            replace(TRAINED, sequence_parallel=False),
            "with TP 2 and EP 2, of which Megatron says: when using expert parallelism and tensor"
            " parallelism for training, sequence parallelism must be used",
        ),
        (Degrees(tp=2, etp=1, sequence_parallel=False), "its training forward pass refuses"),
        (Degrees(ep=2, sequence_parallel=False), ""),
    ],
)
def test_training_with_tp_and_ep_needs_sequence_parallelism(
    source: Degrees, words: str, tmp_path: Path
) -> None:
    told = said(job(source, Degrees(tp=1), ranks_per_node=8), tmp_path)
    assert len(told) == bool(words) and words in "".join(told)


@pytest.mark.parametrize(
    "sides",
    [
        # a destination trains nothing, and without experts nothing is asked
        {"destination": replace(TRAINED, sequence_parallel=False)},
        {"source": Degrees(tp=2, sequence_parallel=False), "model": dense(TINY)},
    ],
)
def test_where_no_sequence_parallelism_is_asked(sides: dict[str, Any], tmp_path: Path) -> None:
    assert said(job(**sides, ranks_per_node=8), tmp_path) == []


def test_token_dropping_is_unsupported(tmp_path: Path) -> None:
    (told,) = said(job(model=replace(TINY, moe_token_dropping=True)), tmp_path)
    assert told.startswith("model.moe_token_dropping=true is currently unsupported")


def test_sequence_parallelism_moves_nothing_else(tmp_path: Path) -> None:
    plain, cut = (
        predict_point(
            Point.of(
                replace(job(replace(TRAINED, sequence_parallel=on), Degrees()), mode="plan"),
                tmp_path,
            )
        )
        for on in (None, True)
    )
    assert plain.plan == cut.plan and plain.id != cut.id


def steady(folder: Path) -> Record:
    """A measurement of which nothing is remarked."""
    made = write_measured(Point.of(job(bench={"iterations": ENOUGH}), folder), seconds=0.5)
    assert remarks(made) == []
    return made


def changed(record: Record, **changes: Any) -> Record:
    """With other values: `throughput__gbps=1.0`, and of its first limit `limit__spread=2.0`."""
    for name, value in changes.items():
        part, _, field = name.partition("__")
        if part == "limit":
            assert record.throughput is not None
            first = replace(record.throughput.limits[0], **{field: value})
            part, field, value = "throughput", "limits", [first]
        whole: Any = getattr(record, part)
        record = replace(record, **{part: replace(whole, **{field: value})})
    return record


ODD: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    # what is remarked, of which values, of which just not, and the remedy
    (
        "a median of 4 refits does not say how much they vary",
        {"seconds__warm": [0.5] * 4},
        {"seconds__warm": [0.5] * 5},
        "bench.iterations=5 or more does",
    ),
    (
        "the memory rate is unsteady: of the copies that are the limit the slowest took 1.5 times",
        {"limit__spread": 1.5},
        {"limit__spread": 1.49},
        "repeat (sweep.repeat=5)",
    ),
    (
        "106% of a plain copy's rate: replicas were read from a cache",
        {"throughput__fraction": 1.06},
        {"throughput__fraction": 1.05},
        "a larger model (model.num_layers) does not fit a cache",
    ),
    (
        "9.9% of the 2 GB/s that mode=plan forecasts here",
        {"throughput__gbps": 0.198, "throughput__forecast_gbps": 2.0},
        {"throughput__gbps": 0.2, "throughput__forecast_gbps": 2.0},
        "seconds.phases says which phase is slow",
    ),
    (
        "memory of rank 1 grew by 1.1% from the first tenth of the refits to the last",
        {"memory__growth": 1.011, "memory__growth_per_rank": {"0": 1.0, "1": 1.011}},
        {"memory__growth": 1.01, "memory__growth_per_rank": {"0": 1.0, "1": 1.01}},
        "more of bench.iterations say whether it goes on",
    ),
]


@pytest.mark.parametrize(("seen", "odd", "usual", "remedy"), ODD, ids=[seen for seen, *_ in ODD])
def test_what_is_odd_is_remarked_with_its_remedy(
    seen: str, odd: dict[str, Any], usual: dict[str, Any], remedy: str, tmp_path: Path
) -> None:
    record = steady(tmp_path)
    (remark,) = found(changed(record, **odd))
    assert remark.text.startswith(seen) and remedy in remark.remedy
    assert outcome(changed(record, **odd)).endswith(f"; remark: {remark.text}; {remark.remedy}")
    assert found(changed(record, **usual)) == []


def test_a_point_without_times_or_limits_has_no_such_remark(tmp_path: Path) -> None:
    record = steady(tmp_path)
    assert found(replace(record, seconds=None, throughput=None, memory=None)) == []
    # a configured limit is no copy, and an older record does not say how far copies were apart
    configured = {"throughput__limit_source": "configured", "throughput__fraction": 1.2}
    assert found(changed(record, **configured)) == found(changed(record, limit__spread=None)) == []


def test_of_several_limits_the_tightest_is_looked_at(tmp_path: Path) -> None:
    record = steady(tmp_path)
    assert record.throughput is not None
    tightest = record.throughput.limits[0]
    other = replace(tightest, what="another", gbps=9 * tightest.gbps, spread=2.0)
    for unsteady in (other, replace(other, spread=None)):
        assert found(changed(record, throughput__limits=[unsteady, tightest])) == []
    copies = [replace(other, spread=1.0), replace(tightest, spread=2.0)]
    (remark,) = found(changed(record, throughput__limits=copies))
    assert remark.kind == "unsteady"


def test_no_refit_is_faster_than_the_slowest_of_its_links() -> None:
    links = [Limit("near", 4.0, "configured"), Limit("far", 3.0, "configured")]
    rate = Throughput(5.0, 1.0, "copies", "measured", 5.0, [Limit("copies", 1.0, "measured")])
    assert impossible_rate(rate) == ""
    told = impossible_rate(replace(rate, limits=[*rate.limits, *links]))
    assert told.startswith("impossible rate: 5 GB/s is above 3 GB/s, the most by far; correct")


@pytest.mark.parametrize(
    ("skew", "words"),
    [
        (
            [0.011, 0.011, 0.5],
            "ranks began 2% of that time apart, by which it may be too long; a larger model, or a"
            " core for every rank, makes that less",
        ),
        ([0.009, 0.009, 0.5], ""),
    ],
)
def test_ranks_that_begin_apart(skew: list[float], words: str, tmp_path: Path) -> None:
    record = steady(tmp_path)
    assert record.seconds is not None and record.seconds.skew == [0.0] * ENOUGH
    apart = replace(record, seconds=replace(record.seconds, skew=skew))
    assert "".join(remarks(apart)) == words
    assert remarks(replace(record, seconds=replace(record.seconds, skew=None))) == []
