"""Ranks' reports -> trace events; the real ones are in tests/ranks/test_table.py."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from refit.errors import UserError
from refit.record.parts import Seconds
from refit.record.point import Point, write_atomic
from refit.record.record import begin, ended, write
from refit.record.report import RankReport, Span
from sweeper import trace
from tests.support.jobs import job
from tests.support.reports import reports, write_measured

ITERATIONS = 5
WARM = {"pack": [0.1, 0.2, 0.3, 0.2, 0.1], "wire": [0.2, 0.2, 0.6, 0.2, 0.1]}
LONG = [0.5, 0.5, 1.0, 0.5, 0.25]  # of each refit; the third is the slowest


def noted(report: RankReport, node: int = 0, at: float = 100.0) -> RankReport:
    """A rank that began a little later than the one before, on its node's own clock."""
    start = at + 0.01 * report.rank
    warm = [Span(start + 10 + n, start + 10 + n + long) for n, long in enumerate(LONG)]
    cold = {"plan": 0.25, "prepare": 0.5, "transfer": 1.0}
    return replace(
        report, node=node, cold=Span(start, start + 2), warm=warm, cold_phases=cold,
        warm_phases=WARM,
    )  # fmt: skip


@pytest.fixture(scope="module")
def point(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A measured point with its attempt; of an earlier attempt all else is left."""
    what = job(method="gloo", bench={"iterations": ITERATIONS})
    made = Point.of(what, tmp_path_factory.mktemp("results"))
    record = write_measured(made)
    assert record.seconds is not None
    write(made.timing, replace(record, seconds=replace(record.seconds, warm=LONG)))
    attempt, later = made.attempt(), made.attempt()
    write(attempt.timing, record)
    write(later.timing, replace(record, started_at="another"))
    for report in reports(what):
        write_atomic(attempt.rank_report(report.rank), json.dumps(asdict(noted(report))))
    return made.directory


def traced(point: Path, *words: str) -> list[dict[str, Any]]:
    file = point.parent.parent / "trace.json"
    assert trace.main([str(point), "--output", str(file), *words]) == 0
    values = json.loads(file.read_text())
    assert values["otherData"]["time axis"] == trace.AXIS
    found: list[dict[str, Any]] = values["traceEvents"]
    return found


def test_every_rank_has_its_refits_with_their_phases(point: Path) -> None:
    events = traced(point)
    names = [e["args"]["name"] for e in events if e["ph"] == "M"]
    assert names == ["node 0", "rank 0", "rank 1", "rank 2"]  # rank 3 is idle
    of_rank = [e for e in events if e["ph"] == "X" and e["tid"] == 1]
    shown = [(e["name"], round(e["ts"]), round(e["dur"])) for e in of_rank]
    assert shown == [
        ("cold", 10_000, 2_000_000),
        ("plan", 10_000, 250_000),
        ("prepare", 260_000, 500_000),
        ("transfer", 760_000, 1_000_000),
        ("unattributed", 1_760_000, 250_000),
        ("iteration 1 of 5 (first)", 10_010_000, 500_000),
        ("pack", 10_010_000, 100_000),
        ("wire", 10_110_000, 200_000),
        ("unattributed", 10_310_000, 200_000),
        ("iteration 3 of 5 (slowest)", 12_010_000, 1_000_000),
        ("pack", 12_010_000, 300_000),
        ("wire", 12_310_000, 600_000),
        ("unattributed", 12_910_000, 100_000),
        ("iteration 5 of 5 (last)", 14_010_000, 250_000),
        ("pack", 14_010_000, 100_000),
        ("wire", 14_110_000, 100_000),
        ("unattributed", 14_210_000, 50_000),
    ]


def test_nodes_are_put_together_where_each_began() -> None:
    """Their clocks have nothing in common."""
    what = job(bench={"iterations": ITERATIONS})
    found = [noted(r, node=r.rank // 2, at=100.0 if r.rank < 2 else 9e6) for r in reports(what)[:3]]
    record = replace(begin(Point.of(what, Path()), {}), seconds=_seconds())
    cold = {e["tid"]: e for e in trace.events(record, found) if e["name"] == "cold"}
    assert {tid: (e["pid"], round(e["ts"])) for tid, e in cold.items()} == {
        0: (0, 0), 1: (0, 10_000), 2: (1, 0),
    }  # fmt: skip


def _seconds() -> Seconds:
    return Seconds(2.0, LONG, 0.5, 1.0, 1.0, None, {}, {}, {}, {})


def test_phases_that_overlap_are_drawn_shorter_and_old_ones_are_medians() -> None:
    (report, *_) = reports(job(bench={"iterations": ITERATIONS}))
    record = replace(begin(Point.of(job(), Path()), {}), seconds=_seconds())
    both = replace(noted(report), warm_phases={"pack": [0.5] * 5, "wire": [0.5] * 5})
    events = trace.events(record, [both])
    pack, wire = [e for e in events if e["name"] in ("pack", "wire")][:2]
    assert (round(pack["dur"]), round(wire["dur"])) == (250_000, 250_000)
    assert pack["args"] == {"seconds": 0.5, "drawn": 0.5}
    assert wire["ts"] == pytest.approx(pack["ts"] + pack["dur"])
    old = replace(noted(report), warm_phases={}, phases={"pack": 0.125})
    assert [e["dur"] for e in trace.events(record, [old]) if e["name"] == "pack, median"] == (
        [125_000.0] * 3
    )


@pytest.mark.parametrize(
    ("warm", "shown"),
    [
        ([1.0], {0: "first, slowest, last"}),
        ([1.0, 3.0], {0: "first", 1: "slowest, last"}),
        ([2.0, 1.0, 9.0, 1.0] * 100, {0: "first", 2: "slowest", 399: "last"}),
    ],
)
def test_iterations_are_few_of_however_many(warm: list[float], shown: dict[int, str]) -> None:
    assert trace.shown(warm) == shown


def test_the_point_that_is_meant(point: Path, tmp_path: Path) -> None:
    results = point.parent
    failed = Point.of(job(seed=1), results)
    failed.freeze()
    write(failed.timing, ended(begin(failed, {}), "failed", "rank 0 raised"))
    assert traced(results, "--where", "status=ok") == traced(point)
    lost = Point.of(job(seed=2), tmp_path)
    write_measured(lost)
    for words, says in (
        ([results], "2 points in .* say one, or use --where"),
        ([failed.directory], "has no times: measured, failed: rank 0 raised"),
        ([lost.directory], "no attempt of its record"),
        ([tmp_path / "nowhere"], "no point in"),
        ([point, "--output", tmp_path / "no" / "x"], "cannot write"),
    ):
        with pytest.raises(UserError, match=says):
            trace.main([str(word) for word in words])
    report = point / "attempts" / "0" / "rank1.json"
    text = report.read_text()
    report.write_text(text[:-9])
    with pytest.raises(UserError, match=r"rank1\.json is no report of a rank"):
        trace.main([str(point)])
    report.write_text(text)
