"""Every column of a row, of a measurement, a prediction, imported times and what never ran."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from refit.plan.plan import Bounds
from refit.record.imported import Imported
from refit.record.parts import (
    DeviceMemory,
    Forecast,
    Limit,
    Memory,
    Placed,
    PlanNumbers,
    Seconds,
    Side,
    Throughput,
    Verification,
)
from refit.record.point import Point
from refit.record.record import begin
from refit.record.row import Row
from tests.support.jobs import job

POINT = Point.of(job(seed=3), Path("results"), ("seed=3", "refit.name=a b"))
BARE = replace(begin(POINT, {}), started_at="then", finished_at="later")
NOTHING: dict[str, Any] = {
    **dict.fromkeys(Row.__dataclass_fields__),
    "name": POINT.name,
    "id": POINT.id,
    "kind": "measured",
    "model": "tiny",
    "parallel": "pair",
    "refit": "ipc",
    "placement": "non-collocated",
    "cluster": "local",
    "build": "shards",
    "seed": 3,
    "repetition": 1,
    "status": "failed",
    "reason": "did not end",
    "started_at": "then",
    "finished_at": "later",
    "overrides": "seed=3 'refit.name=a b'",
}


def side(*ranks: int) -> Side:
    return Side(list(ranks), 1, 1, 1, 1, 1, 1, 1, 1)


def test_a_point_that_did_not_end() -> None:
    assert asdict(Row.of(BARE)) == NOTHING


def test_a_measurement() -> None:
    rates = [Limit("copies", 6.0, "measured", "memory"), Limit("pairs", 5.0, "measured", "peers")]
    where = {"host": "n1", "nodes": ["n1", "n2"], "partition": "low", "device": "H100"}
    record = replace(
        BARE,
        method="ipc",
        layout=Placed(8, 4, side(0, 1), side(1, 2), [3, 4, 5, 6, 7]),
        plan=PlanNumbers(9, 1456, 0, 20, 0, 0, 0, 0, 0, Bounds(0, 0, 0, 0)),
        seconds=Seconds(1.0, [0.5], 0.5, 0.625, 0.75, 1.25, {}, {}, {}, {}),
        throughput=Throughput(2.0, 5.0, "pairs", "measured", 0.4, rates),
        memory=Memory(1000, 0, 64, None, 1.5),
        verification=Verification(2184, 1, 0, None, True, None, stamps=72, stamp_mismatches=2),
        environment={**where, "commit": "1a2b", "dirty": True},
    )
    wanted = NOTHING | {
        "method": "ipc",
        "ranks": 3,
        "world": 8,
        "bytes": 1456,
        "cross_node_bytes": 20,
        "cold_s": 1.0,
        "median_s": 0.5,
        "p90_s": 0.625,
        "max_s": 0.75,
        "drift": 1.25,
        "gbps": 2.0,
        "limit_gbps": 5.0,
        "limit_source": "measured",
        "memory_copy_gbps": 6.0,
        "peer_copy_gbps": 5.0,
        "fraction": 0.4,
        "refit_peak_bytes": 64,
        "growth": 1.5,
        "elements": 2184,
        "mismatches": 3,
        "host": "n1",
        "nodes": "n1,n2",
        "partition": "low",
        "device": "H100",
        "commit": "1a2b",
        "dirty": True,
    }
    assert asdict(Row.of(record)) == wanted
    assert record.verification is not None
    older = replace(record, verification=replace(record.verification, stamp_mismatches=None))
    assert asdict(Row.of(older)) == wanted | {"mismatches": 1}


def test_a_prediction_and_imported_times() -> None:
    terms = ({"seconds": 1.0}, {"seconds": 1.5})
    forecast = Forecast({}, DeviceMemory(1, None, None), *terms, None)
    row = asdict(Row.of(replace(BARE, kind="predicted", prediction=forecast)))
    assert row == NOTHING | {"kind": "predicted", "floor_s": 1.0, "estimate_s": 1.5}
    times = Imported("time/refit", "log", [3.0, 5.0, 4.0], 4.0, 9.0, bytes=77)
    row = asdict(Row.of(replace(BARE, kind="imported", imported=times)))
    assert row == NOTHING | {
        "kind": "imported",
        "bytes": 77,
        "cold_s": 9.0,
        "median_s": 4.0,
        "max_s": 5.0,
    }
