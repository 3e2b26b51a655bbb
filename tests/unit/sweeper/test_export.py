"""Records in others' formats, read back by the tool that owns each or by what it has published."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from refit.errors import UserError
from refit.job import Degrees
from refit.record.point import Point
from refit.record.record import Record, begin, ended, write
from refit.record.row import Row
from refit.rules.setup import Setup
from sweeper import collect
from sweeper.export import __main__ as export
from sweeper.export import nixl, refit_timing
from tests.support.jobs import job
from tests.support.reports import write_measured


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A point, its second repetition, another method and one that failed."""
    root = tmp_path_factory.mktemp("real")
    again = replace(job(), sweep=replace(job().sweep, repetition=2))
    times = {"a": (job(), 0.5), "b": (again, 1.0), "c": (job(method="gloo"), 2.0)}
    for each, seconds in times.values():
        record = write_measured(Point.of(each, root), seconds)
    failed = Point.of(job(seed=1), root, ("=1+1", "+x"))
    failed.freeze()
    write(failed.timing, ended(begin(failed, record.environment), "failed", "@SUM(1)"))
    return root


def exported(folder: Path, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert export.main([str(folder), *map(str, words)]) == 0
    return capsys.readouterr().out


def records(folder: Path) -> list[Record]:
    return collect.read(folder)[0]


def test_jsonl_is_read_by_arrow(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = pytest.importorskip("pyarrow.json", reason="needs pyarrow: refit-sweep[parquet]")
    file = tmp_path / "rows.jsonl"
    assert exported(folder, capsys, "--jsonl", "--output", file) == f"written: {file}\n"
    assert file.read_text() == exported(folder, capsys, "--jsonl")
    assert reader.read_json(file).to_pylist() == [asdict(Row.of(r)) for r in records(folder)]


# its README: `name`, `unit` and `value` of every entry, `range` and `extra` if one likes
GITHUB = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["name", "unit", "value"],
        "properties": {
            "value": {"type": "number"},
            **{name: {"type": "string"} for name in ("name", "unit", "range", "extra")},
        },
        "additionalProperties": False,
    },
}


def test_github_takes_the_list(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main([str(folder), "--github"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "left out: 1 records without verified times\n"
    entries = json.loads(printed.out)
    jsonschema.validate(entries, GITHUB)
    found = {entry["name"]: (entry["value"], entry["range"]) for entry in entries}
    # repetitions are one: 0.5, 0.5, 1, 1 of the first; and what failed has no time
    assert found == {
        "tiny-pair-ipc": (0.75, "\u00b1 0.25"),
        "tiny-pair-gloo": (2.0, "\u00b1 0"),
    }
    assert {entry["unit"] for entry in entries} == {"s"}


def test_refit_timing_has_model_express_stages(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = exported(folder, capsys, "--refit-timing", "--where", "method=gloo").splitlines()
    assert all(line.startswith("MX_REFIT_TIMING {") for line in lines)
    cold, warm = (json.loads(line.partition(" ")[2]) for line in lines)  # of the one receiver
    assert [cold["cold_warm"], warm["cold_warm"], cold["rank"], cold["tp_size"]] == [
        "cold", "warm", 2, 1,
    ]  # fmt: skip
    (record,) = (r for r in records(folder) if r.method == "gloo")
    assert record.seconds is not None
    for payload in (cold, warm):
        assert tuple(payload["stages"]) == refit_timing.STAGES
        spent = sum(stage["duration_ms"] for stage in payload["stages"].values())
        assert payload["e2e_ms"] == pytest.approx(spent + payload["unattributed_ms"])
    status = {name: stage["status"] for name, stage in cold["stages"].items()}
    assert [name for name, said in status.items() if said == "ok"] == [
        "setup_registration", "transfer_planning", "wire_transfer",
    ]  # fmt: skip
    assert status["source_preparation"] == "combined" and status["rollout_readiness"] == (
        "not_applicable"
    )
    assert cold["stages"]["setup_registration"]["duration_ms"] == 2000.0
    assert warm["e2e_ms"] == 1e3 * record.seconds.per_rank["2"]


def test_our_phases_are_their_stages(folder: Path) -> None:
    (record,) = (r for r in records(folder) if r.method == "gloo")
    assert record.seconds is not None
    phases = {"plan": 1.0, "prepare": 2.0, "transfer": 3.0}
    phases |= {"pack": 0.25, "wire": 0.5, "unpack": 0.125, "local": 0.5, "forward pack": 0.25}
    times = replace(
        record.seconds, phases_per_rank={"2": phases}, per_rank={"2": 2.0}, phases={}, warm=[2.0]
    )
    warm = refit_timing.text([replace(record, seconds=times)]).splitlines()[1]
    payload = json.loads(warm.partition(" ")[2])
    spent = {name: stage["duration_ms"] for name, stage in payload["stages"].items()}
    assert {name: ms for name, ms in spent.items() if ms} == {
        "source_preparation": 500.0, "wire_transfer": 500.0, "installation": 625.0,
    }  # fmt: skip
    assert payload["unattributed_ms"] == 375.0


@pytest.mark.parametrize("fanout", ["direct", "hierarchical"])
def test_nixl_gets_the_plans_bytes(
    fanout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the rows of the plan, one by one; a hierarchical plan has two hops."""
    two_nodes = job(
        Degrees(tp=2, etp=1), Degrees(tp=1, etp=1, gpus=3), method="gloo", ranks_per_node=2,
        mode="collocated" if fanout == "direct" else "non-collocated",
        refit={"fanout": fanout},
    )  # fmt: skip
    root, out = tmp_path / "results", tmp_path / "out"
    planned = replace(two_nodes, cluster=replace(two_nodes.cluster, nodes=3))
    write_measured(Point.of(planned, root))
    printed = exported(root, capsys, "--nixl", "--output", out).splitlines()
    plan = Setup.of(planned).plan()
    assert bool(plan.local_bytes) == (fanout == "direct")  # which are on no wire
    assert len(printed) == len(plan.hops) == (1 if fanout == "direct" else 2)
    for line, hop in zip(printed, plan.hops, strict=True):
        settings = Path(line.removeprefix("written: "))
        said = dict(
            x.strip().split(": ", 1) for x in settings.read_text().splitlines() if ": " in x
        )
        assert (said["mem_type"], said["xfer_op"], said["shards"]) == ('"cpu"', '"WRITE"', "1")
        matrix = np.loadtxt(said["matrix_file"].strip('"'), dtype=np.int64)
        expected = np.zeros_like(matrix)
        for source, destination, nbytes in zip(
            hop.source.tolist(), hop.destination.tolist(), hop.nbytes.tolist(), strict=True
        ):
            expected[source, destination] += nbytes * (source != destination)
        for rank in range(plan.placement.world):  # ct-perftest fails on a buffer of no bytes
            if not expected[rank].any() or not expected[:, rank].any():
                expected[rank, rank] = 1
        assert matrix.shape == (plan.placement.world,) * 2 and (matrix == expected).all()
    assert np.sum([m.sum() for m in nixl.matrices(records(root)[0])]) == plan.bounds.move


def test_nixl_refuses_what_this_version_plans_otherwise(folder: Path) -> None:
    (record,) = (r for r in records(folder) if r.method == "gloo")
    assert record.plan is not None
    other = replace(record, plan=replace(record.plan, bytes=record.plan.bytes + 1))
    with pytest.raises(UserError, match=r"this version plans .* plan it anew with mode=plan"):
        nixl.matrices(other)
    with pytest.raises(UserError, match="no point has a plan of ours"):
        nixl.write([replace(record, method="megatron")], folder)


def test_mlflow_reads_back_what_was_logged(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database takes 20 s to be made
    client = pytest.importorskip("mlflow", reason="needs refit-sweep[mlflow]").MlflowClient(
        tracking_uri=(uri := (tmp_path / "runs").as_uri())
    )
    assert "4 new runs of 4 records" in exported(folder, capsys, "--mlflow", uri)
    assert "0 new runs of 4 records" in exported(folder, capsys, "--mlflow", uri)
    experiment = client.get_experiment_by_name("refit-sweep").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert set(runs) == {record.name for record in records(folder)}
    (record,) = (r for r in records(folder) if r.method == "gloo")
    run, row = runs[record.name], Row.of(record)
    assert run.data.params["refit.bucket_mb"] == str(record.config["refit"]["bucket_mb"])
    found = run.data.metrics
    assert (found["median_s"], found["gbps"], found["fraction"], found["proven"]) == (
        row.median_s, row.gbps, row.fraction, 1.0,
    )  # fmt: skip
    assert record.seconds is not None
    history = client.get_metric_history(run.info.run_id, "refit_s")
    assert [(m.step, m.value) for m in history] == list(enumerate(record.seconds.warm))
    timing = Path(client.download_artifacts(run.info.run_id, "timing.json", str(tmp_path)))
    assert Record.load(timing) == record
    (failed,) = (run for run in runs.values() if run.info.status == "FAILED")
    assert failed.data.tags["reason"] == "@SUM(1)" and failed.data.metrics["proven"] == 0


def messages(path: Path) -> Iterator[Any]:
    """What stands in a run's file, in wandb's own messages: a LevelDB log behind seven bytes."""
    protocol = import_module("wandb.proto.wandb_internal_pb2")
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:  # the rest of a block
            at += left
            continue
        length, part = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):  # all of it, or its last
            record = protocol.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def test_wandb_reads_its_own(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb", reason="needs wandb: pip install 'refit-sweep[wandb]'")
    said = exported(folder, capsys, "--wandb", "offline", "--output", tmp_path)
    assert said.startswith("4 runs in")
    loaded = map(Record.load, folder.glob("*/timing.json"))
    records = {record.name: record for record in loaded}
    runs = {}
    for path in tmp_path.glob("wandb/offline-run-*/*.wandb"):
        found = list(messages(path))
        (run,) = (m.run for m in found if m.WhichOneof("record_type") == "run")
        runs[run.display_name] = (run, found)
    assert runs.keys() == records.keys()
    for name, (run, found) in runs.items():
        record, row = records[name], Row.of(records[name])
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        assert config["model.name"] == record.config["model"]["name"]
        assert config["refit.bucket_mb"] == str(record.config["refit"]["bucket_mb"])
        history = [
            json.loads(item.value_json)
            for m in found if m.WhichOneof("record_type") == "history"
            for item in m.history.item if list(item.nested_key) == ["refit_s"]
        ]  # fmt: skip
        assert history == (list(record.seconds.warm) if record.seconds else [])
        summary = {i.key: i.value_json for m in found for i in m.summary.update if i.key}
        if row.median_s is not None:
            assert json.loads(summary["median_s"]) == row.median_s
        assert json.loads(summary["proven"]) == (record.status == "ok")
        assert any(m.artifact.name == f"timing-{record.id}" for m in found)


def test_a_library_that_is_missing_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for words, module, says in (
        (["--mlflow", tmp_path.as_uri()], "mlflow", r"refit-sweep\[mlflow\]"),
        (["--wandb", "offline"], "wandb", r"refit-sweep\[wandb\]"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UserError, match=says):
            export.main([str(folder), *words])
    with pytest.raises(UserError, match="cannot write"):
        export.main([str(folder), "--jsonl", "--output", str(tmp_path / "nowhere" / "x")])
    with pytest.raises(UserError, match="no records in"):
        export.main([str(tmp_path), "--jsonl"])


def test_no_cell_of_csv_is_a_formula(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    collect.write_csv([Row.of(record) for record in records(folder)], file)
    (failed,) = (r for r in csv.DictReader(StringIO(file.read_text())) if r["status"] == "failed")
    assert (failed["reason"], failed["overrides"]) == ("'@SUM(1)", "'=1+1 +x")
