"""Lines of training runs -> records that are never ok; ct-perftest's table -> a limit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import pytest

from refit import compose
from refit.errors import UserError
from refit.job import Job
from refit.record.point import Point
from refit.record.record import SCHEMA, Record
from refit.record.row import Row
from sweeper import collect, compare, import_metrics, logs, status
from sweeper.export import refit_timing
from tests.support.jobs import job
from tests.support.reports import write_measured

# as each program writes them, and the seconds in them; `None` where a value is no time
SLIME = "perf/update_weights_time"
VERL = "timing_s/update_weights"
NEMO = "prepare_for_generation/transfer_and_update_weights"
PRIME = "time/broadcast_weights"
LINES = {
    "slime": (
        "(pid=7) perf 1: {'perf/update_weights_time': 0.25, 'perf/update_weights_wire_bytes': 9}",
        {SLIME: [0.25]},
    ),
    "a numpy number": ("{'perf/update_weights_time': np.float64(1.5e-1)}", {SLIME: [0.15]}),
    "verl": ("step:3 - timing_s/gen:228.2 - timing_s/update_weights:10.2 - x:1", {VERL: [10.2]}),
    "verl, by =": ("timing_s/update_weights=4.88", {VERL: [4.88]}),
    "NeMo-RL": (f"  \u2022 {NEMO}: 0.41s (3.2%)", {NEMO: [0.41]}),
    "NeMo-RL, JSON": (f'{{"timing/train/{NEMO}": 2, "step": 1}}', {NEMO: [2.0]}),
    "prime-rl": ('{"time/step": 9.0, "time/broadcast_weights": 5.0}', {PRIME: [5.0]}),
    "coloured": ("\x1b[32mtime/broadcast_weights\x1b[0m: 5.0", {PRIME: [5.0]}),
    "another metric": ("timing_s/update_weights_total: 3 my_time/broadcast_weightsx=2", {}),
    "no time": ("timing_s/update_weights:nan timing_s/update_weights:-1 timing_s/update_weights:0",
                {}),
    "an environment": ("export MX_REFIT_TIMING=1 MX_REFIT_TIMING_STDOUT=1", {}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of pytest-xdist has 80 columns, which fold a row of the table."""
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.parametrize("case", LINES)
def test_a_line_is_read(case: str) -> None:
    line, expected = LINES[case]
    found = logs.read(["noise", line], "run.log")
    assert {each.source: each.seconds for each in found.found} == expected
    assert found.left_out == (3 if case == "no time" else 0)


def payload(version: int, rank: int, e2e_ms: float, which: str = "warm", wire_ms: float = 1) -> str:
    stages = {
        name: {"status": "ok", "duration_ms": 0.0, "count": 0} for name in refit_timing.STAGES
    }
    stages["wire_transfer"]["duration_ms"] = wire_ms
    said = {"version": version, "rank": rank, "cold_warm": which, "bytes": 100, "e2e_ms": e2e_ms}
    return f"INFO refit: MX_REFIT_TIMING {json.dumps({**said, 'stages': stages})}"


def test_the_slowest_rank_of_a_version_counts() -> None:
    lines = [payload(0, 0, 900.0, "cold"), payload(0, 1, 800.0, "cold")]
    lines += [payload(1, 0, 100.0), payload(1, 1, 200.0, wire_ms=150.0)]
    lines += [payload(2, 0, 400.0, wire_ms=350.0), payload(2, 1, 300.0)]
    lines += ["MX_REFIT_TIMING {half", payload(3, 0, float("nan")), payload(4, 0, -1.0)]
    read = logs.read(lines, "worker.log")
    (found,) = read.found
    assert (found.source, found.seconds, found.cold) == ("MX_REFIT_TIMING", [0.2, 0.4], 0.9)
    assert found.median == pytest.approx(0.3) and found.bytes == 200 and read.left_out == 3
    assert found.stages is not None and found.stages["wire_transfer"] == 0.25
    assert tuple(found.stages) == refit_timing.STAGES


def test_what_we_export_is_read(tmp_path: Path) -> None:
    record = write_measured(Point.of(job(method="gloo"), tmp_path), 2.0)
    (found,) = logs.read(refit_timing.text([record]).splitlines(), "x").found
    assert (found.cold, found.seconds) == (4.0, [2.0])  # no plan, 2 s each of two phases
    assert record.plan is not None and found.bytes == record.plan.bytes


def imported(tmp_path: Path, text: str, *words: str) -> list[Record]:
    log = tmp_path / "run.log"
    log.write_text(text)
    assert import_metrics.main([str(log), *words, "--output", str(tmp_path / "results")]) == 0
    return collect.read(tmp_path / "results")[0]


def test_a_file_alone_claims_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(LINES[name][0] for name in ("verl", "slime", "no time"))
    records = imported(tmp_path, text)
    assert "left out: 3 values" in capsys.readouterr().err
    schema = json.loads(SCHEMA.read_text())
    for record in records:
        path = tmp_path / "results" / record.name / "timing.json"
        values = json.loads(path.read_text())
        jsonschema.validate(values, schema)
        # never as ok: imported is not proven
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**values, "status": "ok", "reason": ""}, schema)
        assert (record.kind, record.status, record.seconds) == ("imported", "imported", None)
        assert record.verification is None and record.reason.startswith("not proven")
        assert record.config["model"]["num_layers"] is None and record.placement == "unknown"
        assert list(record.clock) == ["imported"]
    assert {Row.of(record).median_s for record in records} == {10.2, 0.25}
    # and all that reads records reads them
    results = str(tmp_path / "results")
    assert collect.main([results]) == status.main([results]) == 0
    assert compare.main([results, results]) == 0
    printed = capsys.readouterr().out
    assert "2 imported" in printed and "10.2" in printed and "not enough iterations" in printed


def test_it_stands_beside_the_plan_of_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def composed(overrides: list[str]) -> Job:
        asked.extend(overrides)
        return job()

    monkeypatch.setattr(compose, "job", composed)  # Hydra takes seconds
    text = "\n".join(f"time/broadcast_weights: {t}" for t in (1.0, 1.1, 0.9, 1.0, 1.0, 1.0))
    (record,) = imported(tmp_path, text, "model=tiny", "--name", "prime")
    assert asked == record.overrides == ["model=tiny"]
    assert record.name.startswith("prime-imported-time-broadcast_weights-")
    measured = write_measured(Point.of(job(bench={"iterations": 6}), tmp_path / "ours"), 0.5)
    assert record.id != measured.id
    assert compare.main([str(tmp_path / "ours"), str(tmp_path / "results")]) == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if "slower" in line]
    assert "2.000" in row and "(imported none -> time/broadcast_weights" in row
    assert not any("status changed" in line for line in lines)  # it did not end otherwise
    assert any("not alike: kind: measured -> imported" in line for line in lines)


TABLE = """\
INFO Performance metrics:
  Iters    Total time (s)    Avg latency/iter (s)    Total size (GB)
-------  ----------------  ----------------------  -----------------
     50         12.500000                0.250000           {size:.6f}
"""


@pytest.fixture(scope="module")
def point(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Point.of(job(method="gloo"), tmp_path_factory.mktemp("real"))
    write_measured(made, 0.5)
    return made.directory


def test_ct_perftest_is_a_limit(point: Path, tmp_path: Path) -> None:
    here = Path(shutil.copytree(point, tmp_path / "point"))
    before = Record.load(here / "timing.json")
    assert before.plan is not None and before.plan.local_bytes == 0 and before.throughput
    log = tmp_path / "ct.log"
    log.write_text(TABLE.format(size=before.plan.bytes / 1e9))
    for _ in range(2):  # in place of the earlier one
        assert import_metrics.main([str(log), "--limit-of", str(here)]) == 0
    after = Record.load(here / "timing.json")
    jsonschema.validate(
        json.loads((here / "timing.json").read_text()), json.loads(SCHEMA.read_text())
    )
    assert after.throughput is not None
    *others, limit = after.throughput.limits
    assert others == before.throughput.limits
    assert (limit.kind, limit.source) == ("nixl", "imported")
    assert limit.what.startswith("nixl ct-perftest")
    assert limit.gbps == before.plan.bytes / 0.25 / 1e9
    tightest = min(after.throughput.limits, key=lambda each: each.gbps)
    assert after.throughput.limit == tightest.what
    assert after.throughput.fraction == after.throughput.gbps / tightest.gbps


def test_what_cannot_be_imported_is_said(point: Path, tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text("nothing\n" + TABLE.format(size=1.0))
    cases = (
        ([str(tmp_path / "nowhere")], "cannot read"),
        ([str(log)], r"none of the metrics that are read: MX_REFIT_TIMING, perf/update_weights"),
        ([str(log), "--limit-of", str(tmp_path)], "not a whole JSON object"),
        ([str(log), "--limit-of", str(point)], r"is of 1\.000000 GB, and the plan of .* --nixl"),
    )
    for words, says in cases:
        with pytest.raises(UserError, match=says):
            import_metrics.main(words)
    log.write_text("time/broadcast_weights: 1\n")
    with pytest.raises(UserError, match="has no table of ct-perftest"):
        import_metrics.main([str(log), "--limit-of", str(point)])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        import_metrics.main([str(log), "--output", str(tmp_path / "file")])
