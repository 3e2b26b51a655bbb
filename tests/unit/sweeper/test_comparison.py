"""Pairs, verdicts and gates of records that are made by hand, in numbers worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from math import exp, log, sqrt
from typing import Any

import numpy as np
import pytest

from refit.errors import UserError
from refit.record.imported import Imported
from refit.record.parts import DeviceMemory, Forecast, Seconds
from refit.record.record import Record
from sweeper import ratio
from sweeper.comparison import Compared, Result, compared, conditions, name, samples, status
from sweeper.matched import Group, Matches, Pair, one, two
from sweeper.ratio import Ratio

NONE = Matches([], [], [], [])


def record(warm: list[float] | None = None, **changes: Any) -> Record:
    made = Record("ok", "", "0" * 9 + "7", f"point-{'0' * 9}7", [], {}, "collocated", clock={})
    if warm:
        median = float(np.median(warm))
        made = replace(
            made, seconds=Seconds(9.0, warm, median, median, median, None, {}, {}, {}, {})
        )
    return replace(made, **changes)


def group(*records: Record, config: Any = None, **fields: Any) -> Group:
    """Records of such fields, `refit__method="ipc"`; without any, one of that config."""
    found = records or (record(config=config or {}),)
    return Group({n.replace("__", "."): json.dumps(v) for n, v in fields.items()}, found)


# ---- ratios


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (1.5, 1.4, 1.6, "slower"),
        (0.5, 0.4, 0.6, "faster"),
        (1.5, 1.0, 1.6, "same"),
        (0.5, 0.4, 1.0, "same"),
        (1.009, 1.008, 1.0095, "same"),
        (0.991, 0.9905, 0.992, "same"),
        (1.0101, 1.01, 1.02, "slower"),
        (0.9899, 0.98, 0.99, "faster"),
        (1 + ratio.NOISE, 1.001, 1.02, "slower"),
    ],
)
def test_a_verdict(value: float, low: float, high: float, verdict: str) -> None:
    assert ratio.verdict(value, low, high) == verdict


def test_a_side_of_four_decides_nothing() -> None:
    five, four = [[1.0, 2.0], [3.0, 1.0], [2.0, 2.0]], [[2.0, 2.0], [2.0, 2.0]]
    for before, after in ((five, four), (four, five)):
        found = ratio.ratio(before, after)
        assert (found.low, found.high, len(found.log_draws)) == (None, None, 0)
        assert found.verdict == "not enough iterations" and found.value == 1.0
    assert ratio.ratio([[1.0] * 5], [[3.0] * 5]).verdict == "slower"


def test_one_repetition_has_the_interval_of_its_draws() -> None:
    found = ratio.ratio([[2.0] * 5], [[3.0] * 5])
    assert len(found.log_draws) == ratio.DRAWS
    assert (found.value, found.low, found.high) == pytest.approx((1.5, 1.5, 1.5))
    assert np.allclose(found.log_draws, log(1.5))


def test_draws_are_of_the_seed_that_is_stated() -> None:
    times, random = np.array([1.0, 2.0, 4.0, 8.0, 16.0]), np.random.default_rng([0, 7])
    random.integers(0, 1, (250, 1, 1))
    each = random.integers(0, 5, (250, 1, 5))
    found = ratio.ratio([[1.0] * 5], [times.tolist()], 7)
    assert np.allclose(found.log_draws[:250], np.log(np.median(times[each[:, 0]], axis=1)))


def test_two_repetitions_stand_for_more_than_they_are() -> None:
    # medians of what is drawn: 1, 2.5 or 4, each further from 2.5 by sqrt(2 / 1), as logarithms
    found = ratio.ratio([[1.0] * 5], [[1.0] * 3, [4.0] * 3])
    assert found.value == 2.5
    low, high = (exp(log(2.5) + sqrt(2) * (log(end) - log(2.5))) for end in (1.0, 4.0))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.verdict == "same"


def test_what_has_no_noise_has_no_interval() -> None:
    found = ratio.exact(2.0, 3.0)
    assert (found.value, found.low, found.high, found.verdict) == (1.5, None, None, "slower")
    assert len(found.log_draws) == ratio.DRAWS and np.allclose(found.log_draws, log(1.5))
    assert ratio.geometric_mean([ratio.exact(1.0, 2.0), ratio.exact(1.0, 8.0)]) == pytest.approx(
        (4.0, 4.0, 4.0)
    )
    # 99 % in the middle of 1 to 2
    assert ratio.interval(np.log(np.linspace(1, 2, 1001))) == pytest.approx((1.005, 1.995))


# ---- what a point's records say


def test_a_points_name_has_neither_repetition_nor_identity() -> None:
    for of in ("a-r1-b", "a-0123456789-r2b"):
        for tail in ("-0123456789", "-r12-0123456789"):
            assert name(group(record(name=of + tail))) == of
    assert name(group(record(name="a-r2"))) == "a-r2"


def test_how_a_point_and_its_repetitions_ended() -> None:
    ok, oom, crashed = (record(status=word) for word in ("ok", "oom", "crashed"))
    assert status(group(ok, ok)) == "ok" and status(group(ok, oom, crashed)) == "oom"


def test_times_of_each_repetition_are_equally_many() -> None:
    log_ = Imported("refit", "log", [7.0, 8.0, 9.0], 8.0)
    several = group(record([1.0, 2.0]), record(), record(imported=log_), record([4.0]))
    assert samples(several) == [[1.0], [7.0], [4.0]]
    assert samples(group(record())) == []


def predicted(seconds: float | None) -> Record:
    terms = None if seconds is None else {"seconds": seconds}
    forecast = Forecast({}, DeviceMemory(1, None, None), terms, terms, None)
    return record(kind="predicted", prediction=forecast)


def test_an_estimate_is_compared_without_noise() -> None:
    sides = {n: group(predicted(n)) for n in (None, 1.0, 2.0)}
    found = compared(Pair(sides[2.0], sides[1.0])).ratio
    assert found is not None and (found.value, found.low, found.verdict) == (0.5, None, "faster")
    assert compared(Pair(sides[2.0], sides[None])).ratio is None
    measured = group(record([1.0] * 6))
    found = compared(Pair(sides[2.0], measured)).ratio
    assert found is not None and found.value == 0.5 and found.low == pytest.approx(0.5)
    assert compared(Pair(measured, sides[None])).ratio is None
    # each comparison draws on its own, by its point's identity
    noisy = group(record([1.0, 1.3, 0.9, 1.2, 1.1, 0.8]))
    draws = ratio.ratio(samples(noisy), samples(noisy), 7).log_draws
    again = compared(Pair(noisy, noisy)).ratio
    assert again is not None and np.array_equal(again.log_draws, draws)


def row(before: str, after: str, found: Ratio | None) -> Compared:
    first, second = (group(record(status=word)) for word in (before, after))
    return Compared(Pair(first, second), found)


SLOWER, SAME = ratio.exact(1.0, 1.25), ratio.exact(1.0, 1.0)
UNDECIDED = ratio.ratio([[1.0]], [[2.0]])


@pytest.mark.parametrize(
    ("rows", "above", "says"),
    [
        ([row("ok", "ok", SAME)], 1.1, []),
        ([row("ok", "ok", SLOWER)], 1.1, ["point: 1.250, above 1.1"]),
        ([row("ok", "ok", SLOWER)], 1.25, []),
        ([row("ok", "ok", SAME), row("ok", "oom", None)], 1.1, ["point: was ok, is oom"]),
        ([row("ok", "ok", SAME), row("oom", "ok", None)], 1.1, []),
        ([row("ok", "ok", SAME), row("ok", "imported", None)], 1.1, []),
        ([], 1.1, ["no point could be decided, so nothing says that none is slower"]),
        (
            [row("ok", "ok", UNDECIDED), row("ok", "ok", None)],
            1.1,
            ["no point could be decided, so nothing says that none is slower"],
        ),
    ],
)
def test_why_a_gate_does_not_open(rows: list[Compared], above: float, says: list[str]) -> None:
    assert Result("", [], rows, NONE).failures(above) == says


def test_which_pairs_ended_otherwise() -> None:
    rows = [row("ok", "ok", SLOWER), row("ok", "oom", None), row("imported", "ok", SAME)]
    result = Result("", [], rows, NONE)
    assert result.changed == [rows[1]]
    mean = (sqrt(1.25),) * 3
    assert result.mean == pytest.approx(mean)


def test_what_else_differs_has_a_line_each() -> None:
    around = {"host": "a", "cpus": 4, "commit": None, "versions": {"torch": "1"}, "load": 3}
    other = {"host": "b", "cpus": 4, "device": "cpu", "versions": {"torch": "2"}}
    before = [record(environment=around, clock={"warm": "x", "cold": "y"})]
    after = [
        record(environment=other, clock={"warm": "x", "cold": "z"}),
        record(environment=around, kind="imported"),
    ]
    assert conditions(before, after) == [
        "kind: measured -> imported and measured",
        "host: a -> a and b",
        "torch: 1 -> 1 and 2",
        "clock, cold: the words differ",
    ]
    assert conditions(before, before) == []


@pytest.mark.parametrize(
    "name", ["host", "platform", "cpus", "device", "partition", "python", "refit_sweep", "commit"]
)
def test_what_a_time_depends_on(name: str) -> None:
    sides = [[record(environment={name: value})] for value in ("a", "b")]
    assert conditions(*sides) == [f"{name}: a -> b"]


# ---- who is paired with whom


def numbers(found: Matches) -> tuple[list[tuple[str, str, str]], int, int, list[str]]:
    pairs = [(p.before.fields["x"], p.after.fields["x"], p.change) for p in found.pairs]
    return pairs, len(found.new), len(found.gone), found.unclear


def test_what_has_no_value_in_common_was_varied() -> None:
    before = [group(x=1, y=1), group(x=2, y=1), group(x=3, y=1)]
    after = [group(x=2, y=2), group(x=1, y=2), group(x=4, y=2), group(x=5, y=2)]
    assert numbers(two(before, after)) == (
        [("1", "1", "y 1 -> 2"), ("2", "2", "y 1 -> 2")],
        2,
        1,
        [],
    )
    # one value in common, and it is as any other field
    assert numbers(two(before, [*after, group(x=9, y=1)]))[0] == []
    assert numbers(two(before, before))[0] == [("1", "1", ""), ("2", "2", ""), ("3", "3", "")]
    assert numbers(two(before, [])) == ([], 0, 3, [])
    assert numbers(two([], after)) == ([], 4, 0, [])


def test_several_that_could_be_paired_are_not() -> None:
    before = [group(x=1, a=1, b=1, c=1, d=1), group(x=1, a=2, b=1, c=1, d=1)]
    after = [group(x=1, a=3, b=2, c=2, d=2)]
    found = two(before, after)
    assert not found.pairs and found.unclear == [
        "2 points before and 1 after differ in a, b, c and 1 more fields alone, such as"
        f" {before[0].records[0].name}; --where or --by says which belong together"
    ]
    three = two([group(x=1, a=n, b=n, c=n) for n in (1, 2)], [group(x=1, a=3, b=3, c=3)])
    assert "differ in a, b, c alone, such as" in three.unclear[0]
    assert "differ in a alone" in two(after, [group(x=1, a=4, b=2, c=2, d=2)] * 2).unclear[0]


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ({"a": 1}, {"a": None}, "a 1 -> none"),
        ({"a": "b c"}, {}, "a b c -> none"),
        ({"a": 1, "refit__method": "gloo"}, {"a": 2, "refit__method": "ipc"},
         "refit.method gloo -> ipc and 1 more"),
        ({"a": 1, "mode": "plan", "b": 1}, {"a": 2, "mode": "measure", "b": 2},
         "mode plan -> measure and 2 more"),
    ],
)  # fmt: skip
def test_a_change_in_a_few_words(
    before: dict[str, Any], after: dict[str, Any], change: str
) -> None:
    (pair,) = two([group(x=1, **before)], [group(x=1, **after)]).pairs
    assert pair.change == change


def by_method(method: str, bucket: int, x: int) -> Group:
    config = {"refit": {"method": method, "bucket_mb": bucket}, "x": {"y": x}}
    fields = {"refit__method": method, "refit__bucket_mb": bucket, "x": x}
    return group(config=config, **fields)


def test_a_bucket_goes_with_its_method_where_each_has_one() -> None:
    points = [by_method("ipc", 1, 1), by_method("gloo", 2, 1), by_method("gloo", 2, 2)]
    found = one(points, "method")
    assert numbers(found) == ([("1", "1", "gloo -> ipc")], 0, 1, [])
    found = one(points, "refit.method=ipc")
    assert numbers(found) == ([("1", "1", "ipc -> gloo")], 1, 0, [])
    # of several buckets each is a point of its own
    found = one([*points, by_method("gloo", 1, 1)], "method")
    assert numbers(found)[0] == [("1", "1", "gloo -> ipc")] and len(found.gone) == 2
    assert numbers(one(points, "x.y")) == ([("1", "2", "1 -> 2")], 0, 1, [])


@pytest.mark.parametrize("part", ["model", "parallel", "refit", "cluster"])
def test_all_of_a_group_goes_with_its_option(part: str) -> None:
    sides = [
        group(config={part: {"name": name}}, x=1, **{f"{part}__a": name, f"{part}__b": name})
        for name in ("one", "two")
    ]
    assert numbers(one(sides, part)) == ([("1", "1", "one -> two")], 0, 0, [])


@pytest.mark.parametrize(
    ("by", "words"),
    [
        (
            "refit.buckets_mb",
            r"--by refit.buckets_mb: no such field; did you mean refit.bucket_mb\?",
        ),
        (
            "zzz",
            r"--by zzz: no such field\. It is one of method, refit, model, parallel, cluster, or",
        ),
        ("method=nccl", "--by method=nccl: no point has it; method is one of gloo, ipc"),
        ("refit", "--by refit: no such field"),
    ],
)
def test_what_pairs_cannot_differ_in(by: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        one([by_method("ipc", 1, 1), by_method("gloo", 1, 1)], by)
    with pytest.raises(UserError, match="--by method: all points have ipc; nothing to compare"):
        one([by_method("ipc", 1, 1), by_method("ipc", 2, 1)], "method")
