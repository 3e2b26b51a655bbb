"""What is remarked on a point that is ok: once, with the remedy; nothing where all is as said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refit.display import outcome
from refit.forecast.predict import predict_point
from refit.job import Degrees, Job
from refit.record.point import Point
from refit.record.remarks import remarks
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
    measured = write_measured(Point.of(what, folder))
    predicted = predict_point(Point.of(replace(what, mode="plan"), folder))
    found = remarks(measured)
    assert remarks(predicted) == found
    for record in (measured, predicted):
        assert record.status == "ok"
        assert outcome(record).count("remark: ") == len(found)
        assert all(f"; remark: {text}" in outcome(record) for text in found)
    return found


@pytest.mark.parametrize(("asked", "source", "destination", "words"), DISPATCHERS)
def test_a_dispatcher_against_the_rule(
    asked: str, source: Degrees, destination: Degrees, words: str, tmp_path: Path
) -> None:
    model = replace(WIDE, moe_token_dispatcher_type=asked)
    what = job(source, destination, model=model, ranks_per_node=16)
    found = said(what, tmp_path)
    assert len(found) == bool(words) and words in "".join(found)


def test_of_several_destinations_it_is_said_which(tmp_path: Path) -> None:
    sides = [Degrees(ep=4, gpus=4), Degrees(ep=8, gpus=8)]
    what = job(EP4, destinations=sides, model=WIDE, ranks_per_node=16)
    record = predict_point(Point.of(replace(what, mode="plan"), tmp_path))
    (found,) = remarks(record)
    assert "at parallel.destinations[1].ep=8" in found


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
    found = said(job(source, Degrees(tp=1), ranks_per_node=8), tmp_path)
    assert len(found) == bool(words) and words in "".join(found)


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
    (found,) = said(job(model=replace(TINY, moe_token_dropping=True)), tmp_path)
    assert found.startswith("model.moe_token_dropping=true is currently unsupported")


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
    record = write_measured(Point.of(job(), tmp_path), seconds=0.5)
    assert record.seconds is not None and record.seconds.skew == [0.0] * 2
    apart = replace(record, seconds=replace(record.seconds, skew=skew))
    assert "".join(remarks(apart)) == words
    assert remarks(replace(record, seconds=replace(record.seconds, skew=None))) == []
