"""What a person sees of a sweep: rows that can be told apart, live lines on a real terminal."""

from __future__ import annotations

import os
import pty
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from refit.display import Display
from refit.record.point import Point
from refit.record.record import begin
from tests.support.jobs import job

BEFORE = {"1 node(s)": Counter(pending=3, running=1), "2 node(s)": Counter(pending=1)}
AFTER = {
    "1 node(s)": Counter(running=1, done=2, failed=1),
    "2 node(s)": Counter(pending=1),
}


def test_groups_in_a_pipe_are_lines_when_counts_change(capsys: pytest.CaptureFixture[str]) -> None:
    with Display().groups() as show:
        for groups in (BEFORE, BEFORE, AFTER, AFTER):
            show(groups)
    lines = [line.split(" ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "1 node(s): 3 pending, 1 running, 0 done, 0 failed",
        "2 node(s): 1 pending, 0 running, 0 done, 0 failed",
        "1 node(s): 0 pending, 1 running, 2 done, 1 failed",
    ]


def shown(terminal: int) -> str:
    """All that was written to the other end, which is closed."""
    said = b""
    with suppress(OSError):
        while more := os.read(terminal, 65536):
            said += more
    os.close(terminal)
    return said.decode()


def test_groups_on_a_terminal_are_live(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        display = Display()
        with display.groups() as show:
            show(BEFORE)
            display.line("something happened")
            show(AFTER)
        monkeypatch.undo()
    text = shown(ours)
    assert "something happened" in text
    assert "0 pending, 1 running, 2 done, 1 failed" in text and "left:" in text
    assert "\x1b[" in text  # written over itself


@pytest.mark.parametrize("variable", ["NOTHING", "FORCE_COLOR"])  # which makes rich draw a table
def test_rows_that_begin_alike_say_what_differs(
    variable: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, "1")
    monkeypatch.setenv("COLUMNS", "400")
    said = [("a=1", "seed=0"), ("a=1", "seed=1"), ("a=1", "refit=gloo", "seed=0")]
    methods = ("ipc", "ipc", "gloo")
    points = [
        Point.of(job(method=m), tmp_path, overrides)
        for m, overrides in zip(methods, said, strict=True)
    ]
    records = [replace(begin(p, {}), method=m) for p, m in zip(points, methods, strict=True)]
    Display().table(records)
    first, *rows = capsys.readouterr().out.splitlines()
    assert first.startswith("row")
    assert [row.split("  ")[0] for row in rows] == ["pair seed=0", "pair seed=1", "pair"]


@pytest.mark.parametrize(("columns", "is_table"), [(80, False), (200, True)])
def test_a_table_that_a_terminal_is_too_narrow_for_is_lines(
    columns: int, is_table: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        Display().table([begin(Point.of(job(), tmp_path), {})])
        monkeypatch.undo()
    said = shown(ours)
    assert "non-collocated" in said and "verified" in said  # none of it is cut
    assert ("\u2503" in said) is is_table  # between rich's headings


def test_escape_codes_never_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    display, point = Display(), Point.of(job(), tmp_path)
    reason = "rank 0: \x1b]0;owned\x07\x1b[31mred\x9b2J\r\nsecond line"
    display.line(reason)
    display.result(replace(begin(point, {}), status="failed", reason=reason))
    display.table([replace(begin(point, {}), overrides=["a=\x1b[2J"])] * 2)
    said = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\x9b", "\r"} & set(said)
    assert r"\x1b[31mred\x9b2J\r" in said and "\nsecond line" in said
