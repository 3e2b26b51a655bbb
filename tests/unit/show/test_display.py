"""What a person sees of a sweep while it runs, in a pipe and on terminals of all sorts."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from refit.record.point import Point
from refit.record.record import begin, ended
from refit.record.varied import axes, labels
from refit.show.display import Display
from refit.show.running import Running
from tests.support.jobs import job
from tests.support.terminals import on_terminal, read_as_text

BEFORE = {"1 node(s)": Counter(pending=3, running=1), "2 node(s)": Counter(pending=1)}
AFTER = {
    "1 node(s)": Counter(running=1, done=2, failed=1),
    "2 node(s)": Counter(pending=1),
}
KEPT = replace(
    ended(begin(Point.of(job(), Path("results")), {}), "failed", "rank 0: [lost]\nits log"),
    method="ipc",
)


def test_groups_in_a_pipe_are_lines_when_counts_change(capsys: pytest.CaptureFixture[str]) -> None:
    with Display().running(5) as running:
        for groups in (BEFORE, BEFORE, AFTER, AFTER):
            running.counts(groups)
    lines = [line.split(" ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "1 node(s): 3 pending, 1 running, 0 done, 0 failed",
        "2 node(s): 1 pending, 0 running, 0 done, 0 failed",
        "1 node(s): 0 pending, 1 running, 2 done, 1 failed",
    ]


def ran() -> None:
    """A sweep of 105 points, of which 100 need not run."""
    with Display().running(105, 100) as running:
        running.told(7, "pair ipc", KEPT, " (kept)")
        running.told(101, "pair gloo", KEPT)
        running.ended()
        running.counts(AFTER)


LINES = [
    "[  7/105] failed  pair ipc  rank 0: [lost] (kept)",
    "[101/105] failed  pair gloo  rank 0: [lost]",
]


def test_a_point_that_has_ended_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    ran()
    out = capsys.readouterr().out
    assert out.splitlines()[:2] == LINES and "\x1b" not in out


@pytest.mark.parametrize(
    ("columns", "variables", "is_live", "is_coloured"),
    [
        (80, {}, True, True),
        (80, {"NO_COLOR": "1"}, True, False),
        (80, {"TERM": "dumb"}, False, False),
        (80, {"COLUMNS": "0"}, True, True),
        (0, {"COLUMNS": "0"}, True, True),
        (0, {"COLUMNS": "many"}, True, True),
    ],
)
def test_one_bar_over_all_points(
    columns: int,
    variables: dict[str, str],
    is_live: bool,
    is_coloured: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = on_terminal(columns, ran, monkeypatch, **variables)
    said = read_as_text(written)
    assert all(line in said for line in LINES)
    bar = re.search(r"104/105 left: .*1 pending, 1 running, 2 done, 1 failed", said)
    assert bool(bar) is ("left:" in said) is is_live
    assert ("1 node(s): 0 pending, 1 running" in said) is not is_live  # as in a pipe
    assert ("\x1b[" in written) is is_live
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]", written)) is is_coloured
    # no frame is wider than the terminal, which would fold it and draw it anew
    assert max(len(line) for line in said.splitlines()) <= 80 or not is_live


@pytest.mark.parametrize(
    ("columns", "variable", "width"),
    [(120, None, 120), (120, "90", 90), (120, "0", 120), (0, "0", 80), (0, "x", 80)],
)
def test_how_wide_a_terminal_is(
    columns: int, variable: str | None, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {} if variable is None else {"COLUMNS": variable}
    words = "a " * 100
    for more in ({}, {"TERM": "dumb"}):
        written = on_terminal(
            columns, lambda: Display().paragraph(words), monkeypatch, **said, **more
        )
        assert max(map(len, read_as_text(written).splitlines())) == width - 1


def test_the_time_left_is_known_from_the_first_point_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def two() -> None:
        with Display().running(2) as running:
            running.ended()
            running.doing("pair gloo: filling weights")

    said = read_as_text(on_terminal(80, two, monkeypatch))
    assert re.search(r"1/2 left: \d:\d\d:\d\d pair gloo: filling weights", said)


def test_points_are_named_by_what_tells_them_apart() -> None:
    jobs = [job(seed=0), job(seed=1), job(method="gloo", seed=1), job(bench={"deadline_s": 9.0})]
    configs = [each.to_dict() for each in jobs]
    assert [axis.key for axis in axes(configs[:3])] == ["refit", "seed"]
    assert labels(configs[:3], axes(configs[:3])) == [
        "pair ipc seed=0", "pair ipc seed=1", "pair gloo seed=1",
    ]  # fmt: skip
    # what changes no result tells nothing apart, nor what an older record does not have
    older = {key: value for key, value in configs[1].items() if key != "verify"}
    assert axes([configs[0], configs[3]]) == []
    assert [axis.key for axis in axes([configs[0], older])] == ["seed"]


def test_a_pipe_has_no_bar() -> None:
    said: list[str] = []
    with Running.of(said.append, None, 1) as running:
        running.doing("nothing that anybody sees")
    assert said == []


def test_escape_codes_never_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    display, point = Display(), Point.of(job(), tmp_path)
    reason = "rank 0: \x1b]0;owned\x07\x1b[31mred\x9b2J\r\nsecond line"
    display.line(reason)
    display.result(replace(begin(point, {}), status="failed", reason=reason))
    display.summary([replace(begin(point, {}), overrides=["a=\x1b[2J"])] * 2)
    said = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\x9b", "\r"} & set(said)
    assert r"\x1b[31mred\x9b2J\r" in said and "\nsecond line" in said


def test_a_method_without_an_option_of_its_own_is_named_too() -> None:
    option = job(method="ipc").refit
    methods = ("ipc", "mine.transport:Fast")
    configs = [
        replace(job(), refit=replace(option, name="auto", method=each)).to_dict()
        for each in methods
    ]
    found = axes(configs)
    assert [(axis.key, axis.values) for axis in found] == [("refit.method", methods)]
    assert labels(configs, found) == ["pair auto ipc", "pair auto mine.transport:Fast"]
