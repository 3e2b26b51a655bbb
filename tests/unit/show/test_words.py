"""A record in words, and the columns of tables: digits, units, what fits a terminal; by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

from refit.plan.plan import Bounds
from refit.record.parts import (
    DeviceMemory,
    Forecast,
    Limit,
    PlanNumbers,
    Seconds,
    Throughput,
    Verification,
)
from refit.record.point import Point
from refit.record.record import Record, begin
from refit.record.row import Row
from refit.record.varied import axes
from refit.show.columns import Column, above, known, lines, shortened
from refit.show.figures import metrics
from refit.show.matrix import matrices
from refit.show.words import in_sweep, outcome, prediction, size
from tests.support.jobs import job

PLAN = PlanNumbers(
    9, 3_000_000_000, 10**9, 10**9, 10**9, 0, 2 * 10**9, 0, 0, Bounds(0, 8 * 10**8, 2 * 10**9, 0)
)
BARE = replace(
    begin(Point.of(job(), Path("results")), {}), status="ok", reason="", plan=PLAN, method="ipc"
)
RATES = [Limit("copies", 4.0, "measured", "memory"), Limit("pairs", 5.0, "measured", "peers")]
MEASURED = replace(
    BARE,
    seconds=Seconds(2.5, [1.5] * 5, 1.5, 1.5, 1.75, None, {}, {}, {}, {}),
    throughput=Throughput(2.0, 4.0, "copies", "measured", 0.5, RATES),
    verification=Verification(2184, 0, 0, None, True, None),
)
FORECAST = Forecast(
    {
        "source_bytes": [10**9, 0],
        "destination_bytes": [0, 2 * 10**9],
        "staging_bytes": [5 * 10**8, 0],
    },
    DeviceMemory(2 * 10**9, 80 * 10**9, True),
    {"seconds": 1.0, "receive_s": 1.0, "send_s": 0.25},
    {"seconds": 1.5, "wire_s": 1.25, "fixed_s": 0.25},
    None,
)
UNSTATED = replace(FORECAST, floor=None, estimate=None, missing="x.y")
PREDICTED = replace(BARE, kind="predicted", prediction=FORECAST)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (999, "999 B"), (1000, "1.00 kB"), (999_999, "1000.00 kB"), (1_000_000, "1.00 MB"),
        (1_610_000_000, "1.61 GB"), (10**9, "1.00 GB"), (0, "0 B"),
    ],
)  # fmt: skip
def test_sizes(nbytes: int, text: str) -> None:
    assert size(nbytes) == text


def test_how_a_point_ended() -> None:
    timed = "in 1.500 s (slowest rank, median of 5; cold 2.500 s), 2.00 GB/s, 50% of"
    seen = "2184 elements verified bit for bit"
    assert outcome(MEASURED) == f"ok: 3.00 GB by ipc {timed} this machine's memory copy; {seen}"
    assert MEASURED.throughput is not None
    pairs = replace(MEASURED.throughput, limit="pairs")
    links = replace(MEASURED.throughput, limit="links between nodes", limit_source="configured")
    for rate, words in ((pairs, "plain copies between the ranks"), (links, "links between nodes")):
        said = outcome(replace(MEASURED, throughput=rate))
        assert said == f"ok: 3.00 GB by ipc {timed} {words}; {seen}"
    assert outcome(PREDICTED) == "predicted: 3.00 GB by ipc; nothing was run"
    some = replace(PLAN, left_out_tensors=2, left_out_bytes=1500)
    assert outcome(replace(PREDICTED, plan=some)) == (
        "predicted: 3.00 GB by ipc (2 tensors, 1.50 kB, left out); nothing was run"
    )
    unknown = replace(some, left_out_tensors=None)
    assert "left out" not in outcome(replace(PREDICTED, plan=unknown))
    assert outcome(replace(BARE, status="oom", reason="a\nb")) == "oom: a\nb"


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (MEASURED, "3.00 GB in 1.5 s (cold 2.5 s), 50% of limit"),
        (PREDICTED, "3.00 GB, floor 1 s, estimate 1.5 s"),
        (replace(BARE, status="oom", reason="a\nb"), "a"),
        (replace(BARE, plan=None), ""),
        (
            replace(PREDICTED, prediction=UNSTATED),
            "3.00 GB, no estimate: x.y not set",
        ),
    ],
)  # fmt: skip
def test_how_a_point_of_a_sweep_ended(record: Record, words: str) -> None:
    assert in_sweep(record) == words


def test_a_prediction_term_by_term() -> None:
    assert list(prediction(PREDICTED)) == [
        "Bytes: 3.000 GB in 9 blocks, 1.000 GB of them local",
        "Busiest sender: 1.000 GB, lower bound 0.800 GB (+25.0%)",
        "Busiest receiver: 2.000 GB, lower bound 2.000 GB (+0.0%)",
        "Across nodes: 1.000 GB, lower bound 0.000 GB (nothing to move)",
        "Memory: 2.00 GB on the fullest rank of 80 GB"
        " (largest: source 1.00, destination 2.00, staging 0.50)",
        "Floor: 1.0000 s (largest of receive 1.0000, send 0.2500)",
        "Estimate: 1.5000 s (sum of wire 1.2500, fixed 0.2500)",
    ]
    per_rank = {n: v for n, v in FORECAST.per_rank.items() if n != "staging_bytes"}
    memory = DeviceMemory(2 * 10**9, None, None)
    of_its_own = replace(FORECAST, per_rank=per_rank, memory=memory, estimate=None)
    passed_on = replace(PLAN, max_forward_bytes=5 * 10**8)
    said = list(prediction(replace(PREDICTED, plan=passed_on, prediction=of_its_own)))
    assert said[2] == "Busiest forwarder, within its node: 0.500 GB"
    assert said[5:] == [
        "Memory: 2.00 GB on the fullest rank, the device's is not stated"
        " (largest: source 1.00, destination 2.00)",
        "Floor: 1.0000 s (largest of receive 1.0000, send 0.2500)",
        "Estimate: none, as the method carries out a plan of its own in its own way",
    ]
    assert list(prediction(replace(PREDICTED, prediction=UNSTATED)))[5:] == [
        "Floor, estimate: unknown, as x.y is not set; use cluster=h100 or another cluster that"
        " states its rates"
    ]


# ---- the numbers of columns

ROW = Row.of(MEASURED)


def said_of(rows: list[Row], name: str) -> list[str]:
    (column,) = (n for n in metrics(rows) if n.name == name)
    values = [column.of(row) for row in rows]
    return [column.heading, *(column.text(v) for v in values if v is not None)]


@pytest.mark.parametrize(
    ("seconds", "texts"),
    [
        ((1.5, 20.0), ["1.500", "20.000"]),
        ((0.0125, 2.0), ["0.0125", "2.0000"]),
        ((0.00001, 1.0), ["0.000010", "1.000000"]),
        ((0.1, 1.0), ["0.100", "1.000"]),
        ((0.099, 1.0), ["0.0990", "1.0000"]),
    ],
)
def test_digits_suit_the_smallest(seconds: tuple[float, float], texts: list[str]) -> None:
    rows = [replace(ROW, cold_s=None, max_s=None, median_s=value) for value in seconds]
    assert said_of(rows, "median") == ["median s", *texts]


@pytest.mark.parametrize(
    ("sizes", "texts"),
    [
        ((10**8, 2 * 10**9), ["GB", "0.10", "2.00"]),
        ((99_999_999, 2 * 10**9), ["MB", "100.00", "2000.00"]),
        ((10**5, 10**6), ["MB", "0.10", "1.00"]),
        ((100, 1000), ["kB", "0.10", "1.00"]),
        ((99, 1000), ["B", "99.00", "1000.00"]),
        ((None, 0), ["B", "0.00"]),
    ],
)
def test_a_unit_suits_the_smallest(sizes: tuple[Any, Any], texts: list[str]) -> None:
    assert said_of([replace(ROW, bytes=nbytes) for nbytes in sizes], "size") == texts


# ---- columns


def plain(made: list[Text]) -> list[str]:
    return [line.plain for line in made]


def test_columns_stand_beside_each_other_or_below() -> None:
    name = Column("name", ("a", "bbbbbb"), is_text=True)
    numbers = [
        Column("one", ("1", "22"), group="both"),
        Column("two", ("333", "4"), group="both"),
        Column("far", ("5", "6"), group="a long one"),
    ]
    wide = [
        "          both    a long one",
        "name    one  two         far",
        "a         1  333           5",
        "bbbbbb   22    4           6",
    ]
    assert plain(lines([name], numbers, None)) == wide
    assert plain(lines([name], numbers, 28)) == wide
    assert plain(lines([name], numbers, 27)) == [
        "          both",
        "name    one  two",
        "a         1  333",
        "bbbbbb   22    4",
        "",
        "        a long one",
        "name           far",
        "a                5",
        "bbbbbb           6",
    ]


@pytest.mark.parametrize(
    ("cells", "short", "pattern"),
    [
        (("a_b_c", "a_d_c"), ("b", "d"), "a_*_c"),
        (("a_b", "a_c_d"), ("b", "c_d"), "a_*"),
        (("b_a", "c_d_a"), ("b", "c_d"), "*_a"),
        (("a_a_a", "a_a"), ("a_a", "a"), "a_*"),
        (("a", "b"), ("a", "b"), ""),
        (("a_b", "a_b"), ("a_b", "a_b"), ""),
    ],
)
def test_what_names_have_in_common(
    cells: tuple[str, ...], short: tuple[str, ...], pattern: str
) -> None:
    column, said = shortened(Column("name", cells))
    assert (column.cells, said) == (short, pattern)


def test_what_says_nothing_is_left_out() -> None:
    full, empty = Column("a", ("", "1")), Column("b", ("", ""))
    assert known([full, empty]) == [full]
    assert plain(above("one two three", 8)) == ["one two", "three"]
    assert plain(above("one two three", None)) == ["one two three"] and above("", 8) == []


# ---- a matrix


def swept(*points: tuple[str, str, float | None, str]) -> tuple[list[Row], list[dict[str, Any]]]:
    """Rows and configs of pairs and methods, of which each took so long and ended so."""
    rows, configs = [], []
    for pair, method, median, status in points:
        what = job(method=method)
        configs.append(replace(what, parallel=replace(what.parallel, name=pair)).to_dict())
        share = None if median is None else median / 4
        rows.append(replace(ROW, median_s=median, status=status, fraction=share))
    return rows, configs


def test_two_things_that_were_pointsare_a_matrix() -> None:
    rows, configs = swept(
        ("p1", "ipc", 2.0, "ok"), ("p1", "gloo", 1.0, "ok"), ("p2", "ipc", 3.0, "ok"),
        ("p2", "gloo", None, "oom"),
    )  # fmt: skip
    found = axes(configs)
    assert [axis.key for axis in found] == ["parallel", "refit"]
    assert plain(matrices(rows, found, ["seed 0"], None)) == [
        "seed 0; * the best of its row",
        "                   median s      of limit",
        "parallel    GB    ipc    gloo   ipc  gloo",
        "p1        3.00  2.000   1.000*  50%   25%",
        "p2        3.00  3.000     oom   75%",
    ]
    # a list says more where a point is not told apart
    assert matrices([*rows, rows[0]], axes([*configs, configs[0]]), [], None) == []


def test_a_matrix_is_at_least_half_full() -> None:
    points = [("p1", "ipc"), ("p2", "gloo"), ("p3", "nixl"), ("p1", "gloo"), ("p2", "ipc")]
    rows, configs = swept(*((pair, method, 1.0, "ok") for pair, method in points))
    assert matrices(rows[:4], axes(configs[:4]), [], None) == []  # four of nine
    assert plain(matrices(rows, axes(configs), [], None))[-1].split() == ["p3", "3.00", "-", "-",
        "1.000", "25%"]  # fmt: skip


def test_of_other_things_the_one_with_most_values_goes_down() -> None:
    points = [(seed, times) for times in (5, 6) for seed in (0, 1, 2)]
    configs = [job(seed=seed, bench={"iterations": n}).to_dict() for seed, n in points]
    made = plain(matrices([ROW] * 6, axes(configs), [], None))
    assert made[2].split() == ["seed", "GB", *["bench.iterations=5", "bench.iterations=6"] * 2]
    assert [line.split()[0] for line in made[3:]] == ["0", "1", "2"]
