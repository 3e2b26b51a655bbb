"""Records on disk -> rows, CSV and Parquet; nothing is left out in silence."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from refit.errors import UserError
from refit.record.point import Point
from refit.record.record import SCHEMA, Record, begin, ended, write
from refit.record.row import Row
from sweeper import collect, status
from tests.support.jobs import job
from tests.support.reports import write_measured


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a point that is measured, one that failed, and one without a record."""
    root = tmp_path_factory.mktemp("real")
    ran = Point.of(job(), root, ("refit=ipc", "model=glob(a b)"))
    assert write_measured(ran).status == "ok"
    failed = Point.of(job(seed=1), root)
    failed.freeze()
    around = json.loads(ran.timing.read_text())["environment"]
    write(failed.timing, ended(begin(failed, around), "failed", 'rank 0: "x",\nline two'))
    Point.of(job(seed=2), root).freeze()
    schema = json.loads(SCHEMA.read_text())
    for path in root.glob("*/timing.json"):
        jsonschema.validate(json.loads(path.read_text()), schema)
    return root


@pytest.fixture
def folder(real: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(real, tmp_path / "results"))


def records(folder: Path) -> dict[str, dict[str, Any]]:
    return {p.parent.name: json.loads(p.read_text()) for p in folder.glob("*/timing.json")}


def by_status(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["status"]: row for row in rows}


def test_csv_says_what_the_records_say(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.csv"
    assert collect.main([str(folder), "--csv", str(file)]) == 0
    printed = capsys.readouterr().out
    heading, first, second, *_ = printed.splitlines()
    assert "median s" in heading and "floor" not in heading  # of which no record says anything
    assert [line.split()[-1] for line in (first, second)] == ["ok", "failed"]
    assert first.split()[:2] == ["pair", "0"] and second.split()[:2] == [
        "pair",
        "1",
    ]  # the seed, told apart
    assert "2 records, 0 left out, 1 points without one" in printed
    with file.open(newline="") as text:
        rows = by_status(list(csv.DictReader(text)))
    assert set(rows) == {"ok", "failed"}
    row, failed = rows["ok"], rows["failed"]
    assert list(row) == [f.name for f in fields(Row)]
    record = records(folder)[row["name"]]
    assert (row["ranks"], row["world"]) == ("3", "4")  # TP 2 -> TP 1, one rank idle
    assert float(row["median_s"]) == record["seconds"]["median"]
    assert float(row["fraction"]) == record["throughput"]["fraction"]
    assert int(row["bytes"]) == record["plan"]["bytes"]
    assert int(row["elements"]) == record["verification"]["elements"]
    assert (row["mismatches"], row["method"], row["repetition"]) == ("0", "ipc", "1")
    assert row["commit"] == (record["environment"]["commit"] or "")
    assert row["overrides"] == "refit=ipc 'model=glob(a b)'"
    assert failed["reason"] == 'rank 0: "x",\nline two'
    assert failed["median_s"] == failed["world"] == failed["bytes"] == ""


def test_parquet_has_the_same_rows_with_types(folder: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip(
        "pyarrow.parquet", reason="needs pyarrow: pip install 'refit-sweep[parquet]'"
    )
    file = tmp_path / "rows.parquet"
    assert collect.main([str(folder), "--parquet", str(file)]) == 0
    table = parquet.read_table(file)
    found, _ = collect.read(folder)
    assert table.to_pylist() == [vars(Row.of(r)) for r in found]
    # also without a value: a folder of failures has the columns of any other
    for path in folder.glob("*/timing.json"):
        if records(folder)[path.parent.name]["status"] == "ok":
            path.unlink()
    assert collect.main([str(folder), "--parquet", str(file)]) == 0
    assert parquet.read_table(file).schema == table.schema
    assert str(table.schema.field("median_s").type) == "double"


def test_parquet_without_pyarrow_names_the_extra(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"refit-sweep\[parquet\]"):
        collect.main([str(folder), "--parquet", str(tmp_path / "rows")])


BROKEN = {
    "half a file": ('{"schema_version": 1, "stat', "not a whole JSON object"),
    "a list": ("[]", "not a whole JSON object"),
    "a later version": ('{"schema_version": 3}', "schema version 3, and this reads 1 and 2"),
    "no version": ("{}", "schema version None"),
    "not a record": ('{"schema_version": 1}', "not a record: "),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_read_is_named(
    case: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, words = BROKEN[case]
    bad = folder / "bad" / "timing.json"
    bad.parent.mkdir()
    bad.write_text(text)
    assert collect.main([str(folder)]) == 1
    said = capsys.readouterr()
    assert f"left out: {bad}: {words}" in said.err
    assert "2 records, 1 left out" in said.out
    for path in folder.glob("*/timing.json"):
        path.write_text(text)
    with pytest.raises(UserError, match=r"no records in .* 3 left out"):
        collect.main([str(folder)])


def test_some_are_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By what they ran on, or any other column; of a point without a record by what it asks for."""
    for path in folder.glob("*/timing.json"):
        record = json.loads(path.read_text())
        where = {"partition": "low", "nodes": ["n1", "n2"]} if record["plan"] else {}
        record["environment"] |= where
        path.write_text(json.dumps(record))
    asking = replace(job(seed=3), cluster=replace(job().cluster, launcher="slurm"))
    slurm = {"partition": "low"}
    Point.of(replace(asking, cluster=replace(asking.cluster, slurm=slurm)), folder).freeze()

    def counted(*options: str) -> tuple[str, list[str]]:
        where = [word for option in options for word in ("--where", option)]
        assert collect.main([str(folder), *where]) == 0
        printed = capsys.readouterr().out.splitlines()[-1].partition(",")[0]
        assert status.main([str(folder), *where]) == 0
        return printed, sorted(capsys.readouterr().out.splitlines()[-1].split(", "))

    assert counted() == ("2 records", ["1 failed", "1 ok", "2 pending"])
    assert counted("partition=low") == ("1 records", ["1 ok", "1 pending"])
    assert counted("nodes=n2", "partition=l*", "device=cpu") == ("1 records", ["1 ok"])
    assert counted("status=failed") == ("1 records", ["1 failed"])
    words = "no point of 2 matches partition=main; there is partition: , low"
    for option, says in (
        ("partition=main", words),
        ("node=n1", r"--where node=n1: needs NAME=PATTERN, .* did you mean nodes\?"),
        ("partition", "--where partition: needs NAME=PATTERN"),
    ):
        with pytest.raises(UserError, match=says):
            collect.main([str(folder), "--where", option])


def test_a_folder_without_records(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no records in {tmp_path}"):
        collect.main([str(tmp_path)])


def test_a_file_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    for option in ("--csv", "--parquet"):
        if option == "--parquet":
            pytest.importorskip("pyarrow", reason="needs pyarrow: refit-sweep[parquet]")
        with pytest.raises(UserError, match=r"cannot write .*nowhere"):
            collect.main([str(folder), option, str(tmp_path / "nowhere" / "rows")])


def test_records_of_schema_version_1_are_read(folder: Path) -> None:
    (path,) = (p for p in folder.glob("*/timing.json") if json.loads(p.read_text())["plan"])
    new = Record.load(path)
    old = json.loads(path.read_text())
    old |= {"schema_version": 1, "mode": old.pop("placement")}
    # what a record did not have before it was measured
    del old["config"]["sweep"]["repetition"], old["seconds"]["drift"], old["prediction"]
    del old["throughput"]["limit_source"], old["throughput"]["limits"]
    path.write_text(json.dumps(old))
    read = Record.load(path)
    assert replace(read, throughput=new.throughput) == new
    assert read.throughput is not None
    assert (read.throughput.limit_source, read.throughput.limits) == ("measured", [])
    # which of its rates was which it did not say
    assert Row.of(read) == replace(Row.of(new), memory_copy_gbps=None)
