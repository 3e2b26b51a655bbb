"""mode=plan: records without ranks, printed and kept like measured ones."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from refit.display import cells
from refit.forecast import predict
from refit.job import Hardware, Job, UserError
from refit.record.point import Point, identity
from refit.record.record import SCHEMA
from sweeper import collect
from tests.jobs import job

ROOT = Path(__file__).parents[3]
FAST = Hardware(memory_gb=1, memory_gbps=100, peer_gbps=10, nic_gbps=1, latency_us=10)


def planned(hardware: Hardware = FAST, **changes: object) -> Job:
    made = replace(job(**changes), mode="plan")  # type: ignore[arg-type]
    return replace(made, cluster=replace(made.cluster, hardware=hardware))


def test_the_record_holds_every_rank(tmp_path: Path) -> None:
    found = predict.run(Point.of(planned(), tmp_path))
    jsonschema.validate(found, json.loads(SCHEMA.read_text()))
    assert (found["kind"], found["status"], found["verification"]) == ("predicted", "ok", None)
    per_rank, plan = found["prediction"]["per_rank"], found["plan"]
    assert {len(values) for values in per_rank.values()} == {found["layout"]["world"]}
    assert sum(per_rank["recv_bytes"]) == sum(per_rank["send_bytes"]) == plan["bytes"]
    assert max(per_rank["send_bytes"]) == plan["max_send_bytes"]
    assert sum(per_rank["cross_node_recv_bytes"]) == plan["cross_node_bytes"] == 0
    assert sum(per_rank["destination_bytes"]) == plan["bytes"]
    said = "\n".join(predict.lines(found))
    for word in ("Busiest sender", "Busiest receiver", "Across nodes", "Floor: ", "Estimate: "):
        assert word in said
    row = collect.flat(found)
    assert (row.kind, row.median_s) == ("predicted", None)
    assert row.floor_s == found["prediction"]["floor"]["seconds"]
    assert row.estimate_s == found["prediction"]["estimate"]["seconds"] > row.floor_s
    assert "predicted, local" in cells(found)


def test_a_layout_that_does_not_fit_says_so(tmp_path: Path) -> None:
    found = predict.run(Point.of(planned(replace(FAST, memory_gb=1e-5)), tmp_path))
    jsonschema.validate(found, json.loads(SCHEMA.read_text()))
    held = found["prediction"]["per_rank"]["destination_bytes"][2]  # TP 1 on rank 2
    assert found["status"] == "oom"
    assert found["reason"].startswith(f"rank 2 needs {held / 1e9:.2f} GB of device memory")
    assert found["prediction"]["memory"] == {
        "max_bytes": held,
        "device_bytes": 10_000,
        "fits": False,
    }
    assert found["prediction"]["estimate"]["seconds"] > 0


def test_nothing_is_predicted_of_a_plan_that_is_not_ours(tmp_path: Path) -> None:
    peer = planned(method="megatron")
    found = predict.run(Point.of(peer, tmp_path))
    jsonschema.validate(found, json.loads(SCHEMA.read_text()))
    assert (found["kind"], found["status"], found["method"]) == (
        "predicted", "unsupported", "megatron",
    )  # fmt: skip
    assert (found["plan"], found["prediction"]) == (None, None)
    assert "refit=megatron carries out a plan of its own" in found["reason"]
    assert "use mode=measure" in found["reason"]
    assert cells(found)[3] == "megatron" and cells(found)[-1] == "unsupported"
    assert collect.flat(found).bytes is None
    with pytest.raises(UserError, match="mode=plan cannot say what it would move"):
        predict.predict(peer)


def test_collocated_ranks_hold_both_sides_and_staging() -> None:
    found = predict.predict(planned(mode="collocated", method="gloo"))
    both = found.source_bytes + found.destination_bytes
    assert (found.held_bytes == both + found.staging_bytes).all()
    assert found.source_bytes[0] > 0 < found.destination_bytes[0]
    assert 0 < found.staging_bytes.max() <= 2 * 4 * 64e6


def test_a_prediction_never_overwrites_a_measurement() -> None:
    measured = job()
    assert identity(planned()) != identity(measured)
    assert identity(planned()) != identity(planned(replace(FAST, nic_gbps=2)))
    known = replace(measured, cluster=replace(measured.cluster, hardware=FAST))
    assert identity(known) == identity(measured)  # what is measured is not what is stated


@pytest.mark.parametrize("cluster", ["slurm", "h100"])
def test_a_sweep_of_predictions_submits_nothing_and_imports_no_torch(
    cluster: str, tmp_path: Path
) -> None:
    arguments = ["mode=plan", "-m", f"cluster={cluster}", "parallel=glob(*_tp4ep?_to_*)"]
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['refit.run', *{arguments!r}, 'hydra.sweep.dir={tmp_path}']\n"
        "try: runpy.run_module('refit.run', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end: assert not end.code, end\n"
        "assert 'torch' not in sys.modules and 'megatron' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    schema = json.loads(SCHEMA.read_text())
    found = [json.loads(p.read_text()) for p in tmp_path.glob("*/timing.json")]
    assert {record["status"] for record in found} == {"ok", "skipped"}
    for record in found:
        jsonschema.validate(record, schema)
        assert record["kind"] == "predicted"
        if "the model is moe_16e" in record["reason"]:
            assert (record["status"], record["prediction"]) == ("skipped", None)
            continue
        assert (record["prediction"]["floor"] is None) is (cluster == "slurm")
    assert ("Floor: " in done.stdout) is (cluster == "h100")


def test_an_unknown_field_in_a_cluster_file(tmp_path: Path) -> None:
    text = (ROOT / "conf" / "cluster" / "a100.yaml").read_text()
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "typo.yaml").write_text(text.replace("nic_gbps", "nic_gpbs"))
    done = subprocess.run(
        [sys.executable, "-m", "refit.run", f"--config-dir={tmp_path}", "cluster=typo",
         "mode=plan", f"hydra.run.dir={tmp_path}"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "nic_gpbs" in done.stderr and "Traceback" not in done.stderr
