"""mode=plan: records without ranks, printed and kept like measured ones."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refit.errors import UserError
from refit.forecast import predict
from refit.job import Hardware, Job
from refit.record.parts import DeviceMemory
from refit.record.point import Point, identity
from refit.record.record import Record
from refit.record.row import Row
from refit.rules.methods import METHODS
from refit.rules.setup import Setup
from refit.show.table import plain
from refit.show.words import prediction
from tests.support.jobs import SMALL, TINY, job
from tests.support.records import CHECKER

ROOT = Path(__file__).parents[2]
WIDE = replace(TINY, hidden_size=1024, vocab_size=4000)
FAST = Hardware(memory_gb=1, memory_gbps=100, peer_gbps=10, nic_gbps=1, latency_us=10)


def planned(hardware: Hardware = FAST, **changes: object) -> Job:
    made = replace(job(**changes), mode="plan")  # type: ignore[arg-type]
    return replace(made, cluster=replace(made.cluster, hardware=hardware))


def predicted(what: Job, folder: Path) -> tuple[Record, dict[str, Any]]:
    """The record of a prediction, as returned and as it lies on disk."""
    point = Point.of(what, folder)
    record, text = predict.predict_point(point), json.loads(point.timing.read_text())
    CHECKER.validate(text)
    assert Record.load(point.timing) == record
    return record, text


def test_a_method_that_is_not_there_is_unsupported(tmp_path: Path) -> None:
    record, _ = predicted(planned(method="nomod:Cls"), tmp_path)
    assert record.status == "unsupported"
    assert "no refit method 'nomod:Cls': it cannot be imported here" in record.reason
    # what is installed there is not known here
    assert predicted(planned(method="nvshmem"), tmp_path)[0].status == "ok"


def test_a_disk_that_refuses_a_prediction_is_a_failed_record(
    tmp_path: Path,
) -> None:
    point = Point.of(planned(), tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))  # the point fits, its record not
    try:
        record = predict.predict_point(point)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert record.status == "failed" and f"cannot write {point.timing}: " in record.reason


def test_the_record_holds_every_rank(tmp_path: Path) -> None:
    record, found = predicted(planned(), tmp_path)
    assert (found["kind"], found["status"], found["verification"]) == ("predicted", "ok", None)
    per_rank, plan = found["prediction"]["per_rank"], found["plan"]
    assert {len(values) for values in per_rank.values()} == {found["layout"]["world"]}
    assert sum(per_rank["recv_bytes"]) == sum(per_rank["send_bytes"]) == plan["bytes"]
    assert max(per_rank["send_bytes"]) == plan["max_send_bytes"]
    assert sum(per_rank["cross_node_recv_bytes"]) == plan["cross_node_bytes"] == 0
    assert sum(per_rank["destination_bytes"]) == plan["bytes"]
    said = "\n".join(prediction(record))
    for word in ("Busiest sender", "Busiest receiver", "Across nodes", "Floor: ", "Estimate: "):
        assert word in said
    row = Row.of(record)
    assert (row.kind, row.median_s) == ("predicted", None)
    assert row.floor_s == found["prediction"]["floor"]["seconds"]
    assert row.estimate_s == found["prediction"]["estimate"]["seconds"] > row.floor_s
    assert "  predicted, local  " in plain([record])[1].plain


def test_a_layout_that_does_not_fit_says_so(tmp_path: Path) -> None:
    _, found = predicted(planned(replace(FAST, memory_gb=1e-5)), tmp_path)
    held = found["prediction"]["per_rank"]["destination_bytes"][2]  # TP 1 on rank 2
    assert found["status"] == "oom"
    assert found["reason"].startswith(f"rank 2 needs {held / 1e9:.2f} GB of device memory")
    assert found["prediction"]["memory"] == {
        "max_bytes": held,
        "device_bytes": 10_000,
        "fits": False,
    }
    assert found["prediction"]["estimate"]["seconds"] > 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"build": "shards"}, "build=shards has none"),
        ({"refit": {"fanout": "hierarchical"}}, "has no fan-out"),
        ({"refit": {"peer_names": "installed"}}, "use refit.peer_names=production"),
    ],
)
def test_what_the_peer_cannot_do_anywhere_it_cannot_plan(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    peer = planned(method="megatron")
    refit = replace(peer.refit, **changes.pop("refit", {}))
    made = replace(peer, refit=refit, **{"build": "megatron", **changes})
    record, _ = predicted(made, tmp_path)
    assert record.status == "unsupported" and words in record.reason


def test_nothing_is_predicted_where_it_plans_on_ranks_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as with every megatron-core before 0.19; tests/ranks/test_megatron.py has both for real
    on_ranks = replace(METHODS["megatron"], planner="")
    monkeypatch.setitem(METHODS, "megatron", on_ranks)
    peer = replace(planned(method="megatron"), build="megatron")
    record, found = predicted(peer, tmp_path)
    assert (found["kind"], found["status"], found["method"]) == (
        "predicted", "unsupported", "megatron",
    )  # fmt: skip
    assert (found["plan"], found["prediction"]) == (None, None)
    assert "refit=megatron carries out a plan of its own" in found["reason"]
    assert "mode=measure with any" in found["reason"]
    assert plain([record])[1].plain.split()[3::2] == ["megatron", "unsupported"]
    assert Row.of(record).bytes is None
    with pytest.raises(UserError, match="from real models on real ranks"):
        predict.predict(Setup.of(peer))


def test_collocated_ranks_hold_both_sides_and_staging() -> None:
    found = predict.predict(Setup.of(planned(mode="collocated", method="gloo")))
    both = found.source_bytes + found.destination_bytes
    assert found.staging_bytes is not None
    assert (found.held_bytes == both + found.staging_bytes).all()
    assert found.source_bytes[0] > 0 < found.destination_bytes[0]
    assert 0 < found.staging_bytes.max() <= 2 * 4 * 64e6


# TP 2 -> TP 1 of 728 parameters of two bytes: ranks 0 and 1 have 704 bytes of what is cut and 48 of
# norms each, and send all of it that rank 2 lacks
HELD = [752, 752, 0, 0], [0, 0, 1456, 0]


def test_bytes_of_every_rank_by_hand() -> None:
    found = predict.predict(Setup.of(planned(model=SMALL, method="gloo")))
    assert found.missing is None and (found.job, found.placement.world) == (found.setup.job, 4)
    assert (found.source_bytes.tolist(), found.destination_bytes.tolist()) == HELD
    per_rank = found.forecast().per_rank
    sent = per_rank["send_bytes"]
    assert sorted(sent) == [0, 0, 720, 736]
    assert per_rank == {
        "send_bytes": sent,
        "recv_bytes": [0, 0, 1456, 0],
        "cross_node_send_bytes": [0] * 4,
        "cross_node_recv_bytes": [0] * 4,
        "source_bytes": HELD[0],
        "destination_bytes": HELD[1],
        # a bucket for each pair, at either end; the receiver's are of one size
        "staging_bytes": [sent[0], sent[1], 2 * 736, 0],
    }


def test_bytes_across_nodes_by_hand() -> None:
    what = planned(model=SMALL, ranks_per_node=2)
    what = replace(what, cluster=replace(what.cluster, nodes=2))
    per_rank = predict.predict(Setup.of(what)).forecast().per_rank
    assert per_rank["cross_node_send_bytes"] == per_rank["send_bytes"]
    assert per_rank["cross_node_recv_bytes"] == per_rank["recv_bytes"] == [0, 0, 1456, 0]
    assert per_rank["staging_bytes"] == [0] * 4  # ipc packs nothing


@pytest.mark.parametrize(
    ("memory_gb", "memory"),
    [
        (None, DeviceMemory(1456, None, None)),
        (1456e-9, DeviceMemory(1456, 1456, True)),
        (1455e-9, DeviceMemory(1456, 1455, False)),
    ],
)
def test_what_fits(memory_gb: float | None, memory: DeviceMemory) -> None:
    found = predict.predict(Setup.of(planned(replace(FAST, memory_gb=memory_gb), model=SMALL)))
    assert found.forecast().memory == memory
    assert (found.shortage is None) is (memory.fits is not False)


def test_a_shortage_says_what_takes_how_much() -> None:
    hardware = replace(FAST, memory_gb=0.001)
    found = predict.predict(
        Setup.of(planned(hardware, mode="collocated", method="gloo", model=WIDE))
    )
    most = found.held_bytes.argmax()
    assert found.staging_bytes is not None
    source, destination, staging = (
        of[most] / 1e9 for of in (found.source_bytes, found.destination_bytes, found.staging_bytes)
    )
    assert min(source, destination, staging) > 0.005  # each is seen in two digits
    assert found.shortage == (
        f"rank {most} needs {source + destination + staging:.2f} GB of device memory"
        f" (source {source:.2f} + destination {destination:.2f} + staging {staging:.2f}),"
        " cluster 'local' has 0.001 GB; use more GPUs per layout or non-collocated mode"
    )


def test_rates_that_are_not_stated_are_in_the_forecast() -> None:
    found = predict.predict(Setup.of(planned(Hardware()))).forecast()
    assert (found.floor, found.estimate) == (None, None)
    assert found.missing == "cluster.hardware.peer_gbps, cluster.hardware.memory_gbps"
    whole = predict.predict(Setup.of(planned())).forecast()
    assert whole.floor is not None and whole.estimate is not None and whole.missing is None
    for terms in (whole.floor, whole.estimate):
        parts = [value for name, value in terms.items() if name != "seconds"]
        assert terms["seconds"] == pytest.approx(max(parts) if terms is whole.floor else sum(parts))


def test_another_plan_than_the_setups_is_the_one_that_is_costed() -> None:
    setup = Setup.of(planned(model=SMALL))
    plan = setup.plan()
    # all that either rank has from rank 0
    worst = replace(plan, source=np.where(plan.length > 0, 0, plan.source))
    assert predict.predict(setup, worst).traffic.sent_bytes.tolist() == [1456, 0, 0, 0]
    assert predict.predict(setup).traffic.sent_bytes.max() == 736


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
    pairs = "twonode_tp4ep4_to_tp8ep2,qwen3_30b_a3b_32_tp4pp4ep4_to_tp4ep4"  # of another model
    arguments = ["mode=plan", "-m", "model=moe_16e", f"cluster={cluster}", f"parallel={pairs}"]
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
    found = [json.loads(p.read_text()) for p in tmp_path.glob("*/timing.json")]
    assert {record["status"] for record in found} == {"ok", "skipped"}
    for record in found:
        CHECKER.validate(record)
        assert record["kind"] == "predicted"
        if "the model is moe_16e" in record["reason"]:
            assert (record["status"], record["prediction"]) == ("skipped", None)
            continue
        assert (record["prediction"]["floor"] is None) is (cluster == "slurm")
    said, skipped = done.stdout.split("\n\n")[0::2][:2]
    assert ("floor " in said and "estimate " in said) is (cluster == "h100")
    assert len(said.splitlines()) == 1 and said.startswith("[1/2] predicted  twonode_tp4ep4")
    assert skipped.startswith("skipped: qwen3_30b_a3b_32_tp4pp4ep4_to_tp4ep4: ")


def test_an_unknown_field_in_a_hardware_file(tmp_path: Path) -> None:
    text = (ROOT / "conf" / "hardware" / "a100.yaml").read_text()
    (tmp_path / "hardware").mkdir()
    (tmp_path / "hardware" / "typo.yaml").write_text(text.replace("nic_gbps", "nic_gpbs"))
    done = subprocess.run(
        [sys.executable, "-m", "refit.run", f"--config-dir={tmp_path}", "hardware=typo",
         "mode=plan", f"hydra.run.dir={tmp_path}"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "nic_gpbs" in done.stderr and "Traceback" not in done.stderr
