"""docs/method.md against what it speaks of: the fields that are null, and the remarks."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import pytest

from refit.forecast.predict import predict_point
from refit.record import remarks
from refit.record.imported import Imported
from refit.record.point import Point
from refit.record.record import Record, Status
from tests.support.jobs import job
from tests.support.records import CHECKER
from tests.support.reports import write_measured

PAGE = (Path(__file__).parents[3] / "docs" / "method.md").read_text()


def table(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its line of dashes."""
    part = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [rows[0], *rows[2:]]


def named(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def kind_of(column: str) -> str:
    """Of records in a column."""
    return next((kind for kind in ("predicted", "imported") if kind in column), "measured")


HEAD, *BODY = table("Which fields are null")
NULLS: dict[tuple[str, str, str], str] = {
    (kind_of(column), status, field): word
    for fields, *words in BODY
    for column, word in zip(HEAD[1:], words, strict=True)
    for status in named(column)
    for field in named(fields)
}
"""What the page says: kind, status, field -> set, null or either."""


def test_the_page_names_every_field_that_may_be_null_and_every_status() -> None:
    nullable = {name for name, h in get_type_hints(Record).items() if NoneType in get_args(h)}
    assert {field for _, _, field in NULLS} == nullable
    assert {status for kind, status, _ in NULLS if kind != "predicted"} == set(get_args(Status))
    assert set(NULLS.values()) == {"set", "null", "either"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A value of every field, as real records have it: a measured one's, and the prediction."""
    folder = tmp_path_factory.mktemp("whole")
    measured = asdict(write_measured(Point.of(job(), folder)))
    predicted = asdict(predict_point(Point.of(replace(job(), mode="plan"), folder)))
    made = {**measured, "prediction": predicted["prediction"]}
    made["transport"] = {}
    made["imported"] = asdict(Imported("a metric", "a log", [1.0], 1.0))
    assert all(made[field] is not None for _, _, field in NULLS)
    return made


@pytest.mark.parametrize(("kind", "status"), sorted({key[:2] for key in NULLS}))
def test_the_schema_takes_what_the_page_says_and_nothing_else(
    kind: str, status: str, whole: dict[str, Any]
) -> None:
    said = {field: word for (k, s, field), word in NULLS.items() if (k, s) == (kind, status)}
    record = {**whole, "kind": kind, "status": status, "reason": "" if status == "ok" else "why"}
    least = {**record, **{field: None for field, word in said.items() if word != "set"}}
    CHECKER.validate(least)
    CHECKER.validate({**record, **{f: None for f, word in said.items() if word == "null"}})
    for field, word in said.items():
        other = whole[field] if word == "null" else None
        assert CHECKER.is_valid({**least, field: other}) is (word == "either"), field


def test_the_page_has_every_remark() -> None:
    source = Path(remarks.__file__).read_text()
    kinds = re.findall(r'Remark\(\s*"(\w+)"', source)
    assert len(set(kinds)) == len(kinds) == 9
    listed = [kind for row in table("Remarks on a result")[1:] for kind in named(row[0])]
    assert listed == kinds
