"""Any JSON in the place of a file of ours is a record, a point, a standing, or a reason."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from refit.errors import UserError
from refit.forecast.fit import row_of
from refit.job import Job
from refit.record.allocation import elsewhere
from refit.record.environment import other_variable
from refit.record.point import Point
from refit.record.record import NotARecord, Record, begin, ended, write
from refit.record.remarks import remarks
from refit.record.row import Row
from refit.show import table
from sweeper import status
from sweeper.decisions import keeps
from tests.support.anything import ANYTHING, changed, paths
from tests.support.jobs import job
from tests.support.reports import write_measured


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Point:
    """A point with a record that is ok, a point.json and a status.json."""
    point = Point.of(job(), tmp_path_factory.mktemp("real"))
    write_measured(point)
    status.put(point, "ok", "0", "3_1")
    return point


@cache
def places(file: Path) -> list[tuple[Any, ...]]:
    """Those of a file, in an order of their own."""
    return sorted(paths(json.loads(file.read_text())), key=str)


def read_as_all_do(record: Record, what: Job, path: Path) -> None:
    """What is done with a record that was loaded."""
    Row.of(record)
    table.plain([record])
    remarks(record)
    keeps("retry", record)
    elsewhere(what, record.environment)
    other_variable({"A": "1"}, record.environment)
    asdict(record)
    if record.status == "ok" and record.kind == "measured":
        with suppress(UserError):
            row_of(record, path)


@settings(max_examples=250)
@given(st.data(), ANYTHING | st.just(...))
def test_any_change_of_a_record_is_a_record_or_a_reason(
    real: Point, data: st.DataObject, value: Any
) -> None:
    whole = json.loads(real.timing.read_text())
    place = data.draw(st.sampled_from(places(real.timing)))
    file = real.directory / "fuzzed.json"
    file.write_text(json.dumps(changed(whole, place, value)))
    try:
        record = Record.load(file)
    except NotARecord:
        assert Record.find(file) is None
    else:
        read_as_all_do(record, real.job, file)


@settings(max_examples=60)
@given(st.data(), ANYTHING | st.just(...))
def test_any_change_of_a_point_is_a_point_or_a_reason(
    real: Point, data: st.DataObject, value: Any
) -> None:
    folder = real.directory.parent / "fuzzed"
    folder.mkdir(exist_ok=True)
    for name in ("point.json", "status.json"):
        whole = json.loads((real.directory / name).read_text())
        place = data.draw(st.sampled_from(places(real.directory / name)))
        (folder / name).write_text(json.dumps(changed(whole, place, value)))
    try:
        point = Point.load(folder)
    except UserError:
        pass
    else:
        assert isinstance(point.variables, dict) and isinstance(point.id, str)
    assert isinstance(status._standing(folder).is_final, bool)


@settings(max_examples=60)
@given(st.binary(max_size=40) | st.sampled_from([b"[" * 10**5, b"9" * 5000, b'{"a":' * 900]))
@example(b"")
@example(b"\x80{}")
def test_any_bytes_are_a_reason(real: Point, content: bytes) -> None:
    file = real.directory / "bytes.json"
    file.write_bytes(content)
    with pytest.raises(NotARecord):
        Record.load(file)


DAMAGED = {
    "no status": (("status",), ..., "status is missing"),
    "no config": (("config",), ..., "config is missing"),
    "no model's name": (("config", "model", "name"), ..., "config.model.name is missing"),
    "of the future": (("schema_version",), 99, "schema version 99, and this reads 1 and 2"),
    "of no version": (("schema_version",), "2", "schema version 2, and this reads"),
    "text for a number": (("seconds", "median"), "fast", "seconds.median is 'fast', which is no"),
    "no time": (("seconds", "median"), 0, "seconds.warm is empty, or seconds.median no time"),
    "a node that is no name": (("environment", "nodes"), [3], "environment.nodes's '3' is '3'"),
    "not finished": (("finished_at",), 3, "finished_at is '3', which is no str"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_record_says_why(case: str, real: Point) -> None:
    place, value, words = DAMAGED[case]
    file = real.directory / "damaged.json"
    file.write_text(json.dumps(changed(json.loads(real.timing.read_text()), place, value)))
    with pytest.raises(NotARecord, match=f"^(not a record: )?{words}"):
        Record.load(file)


def test_what_is_deep_is_a_reason(real: Point) -> None:
    whole = json.loads(real.timing.read_text())
    file = real.directory / "deep.json"
    for depth in (60, 300):
        deep: Any = 1
        for _ in range(depth):
            deep = [deep]
        file.write_text(json.dumps(changed(whole, ("environment", "more"), deep)))
        with pytest.raises(NotARecord, match="nested too deep"):
            Record.load(file)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_lies_in_a_records_place_is_kept_aside(kind: str, real: Point, tmp_path: Path) -> None:
    record = ended(begin(Point.of(job(), tmp_path), {}), "crashed", "it is")
    path = tmp_path / "timing.json"
    for number in (1, 2):
        path.unlink(missing_ok=True)
        if kind == "file":
            path.write_text(f"half {number}")
        else:
            path.mkdir()
        write(path, record)
        aside = tmp_path / f"timing.json.damaged-{number}"
        assert aside.is_dir() or aside.read_text() == f"half {number}"
    write(path, record)
    assert Record.load(path) == record
    assert len(list(tmp_path.iterdir())) == 3  # a record is replaced
