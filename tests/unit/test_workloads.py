"""The 123 workloads against the published table, to the byte; as Hydra options; as plans."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType

from refit.forecast import traffic
from refit.job import UserError
from refit.layout.layout import Layout
from refit.layout.place import place
from refit.model.architecture import catalogue
from refit.model.workload_grid import Workload, workloads
from refit.plan.build import build_plan
from refit.rules.impossible import impossible
from refit.schema import CONF
from refit.workloads import as_csv, detail, main, messages, row, summary
from tests.support.composed import composed

EVERY = workloads()
PUBLISHED = list(
    csv.DictReader((Path(__file__).parents[1] / "data" / "moe_workloads_123.csv").open())
)


def test_rows_are_the_published_to_the_byte() -> None:
    """Every column but the file's prefix, which says nothing of the workload."""
    columns = [c for c in PUBLISHED[0] if c != "file_prefix"]
    ours = Counter(tuple(str(row(w)[c]) for c in columns) for w in EVERY)
    theirs = Counter(tuple(found[c] for c in columns) for found in PUBLISHED)
    assert ours == theirs and ours.total() == 123 and len(ours) == 122


def test_counts_by_ep_are_the_published() -> None:
    lines = summary(EVERY)
    # as published, and which of them Megatron can run
    assert [line.split() for line in lines[4:9]] == [
        ["2", "8", "5", "16", "/", "2", "=", "8", "3"],
        ["4", "4", "16", "16", "/", "4", "=", "4", "11"],
        ["8", "2", "33", "16", "/", "8", "=", "2", "25"],
        ["16", "1", "69", "16", "/", "16", "=", "1", "56"],
        ["all", "123", "95"],
    ]
    assert "Megatron cannot run 28 of them:" in lines
    counted = {line.split(":")[0].strip(): line for line in lines if ": parallel" in line}
    assert list(counted) == ["9"] and "36 layers do not divide among 8" in counted["9"]
    assert sum("num_attention_heads=40 does not divide by" in line for line in lines) == 2
    names = [line.strip() for line in lines if line.startswith("    ")]
    assert sum(n.startswith("gpt_13b_") for n in names) == 19
    assert sum(n.startswith("gpt_7b_") for n in names) == 9


def test_worlds_are_products() -> None:
    for w in EVERY:
        assert w.world == w.tp * w.pp * w.ep * w.dp
        assert w.layout.edp == w.dp and w.layout.etp == w.tp
        assert w.experts_per_rank * w.ep == 16


# published examples of how experts are distributed: world, tp, pp, ep -> DP, experts per rank
@pytest.mark.parametrize(
    ("world", "tp", "pp", "ep", "dp", "experts"),
    [(1024, 16, 2, 16, 2, 1), (512, 8, 8, 8, 1, 2), (1024, 4, 8, 4, 8, 4)],
)
def test_published_examples(world: int, tp: int, pp: int, ep: int, dp: int, experts: int) -> None:
    found = [w for w in EVERY if (w.world, w.tp, w.pp, w.ep) == (world, tp, pp, ep)]
    assert found
    assert all((w.dp, w.experts_per_rank) == (dp, experts) for w in found)


def test_dense_twins_have_no_expert_traffic() -> None:
    for w in EVERY:
        model, layout = w.dense_twin
        assert (layout.ep, layout.etp, layout.tp, layout.pp) == (1, 1, w.tp, w.pp)
        assert layout.gpus == w.world and not model.is_moe
        # what refuses a workload is in its heads and layers, which the twin shares
        assert bool(impossible(w.dense_job)) == bool(impossible(w.job))
        sizes = messages(model, layout, w.micro_batch, w.sequence)
        moe = messages(w.model, w.layout, w.micro_batch, w.sequence)
        assert {name for name, size in sizes.items() if size} <= {"tp_bytes", "pp_bytes"}
        assert sizes["tp_bytes"] == moe["tp_bytes"] and sizes["pp_bytes"] == moe["pp_bytes"]


def test_messages_by_hand() -> None:
    """Kimi K2 trained on 256 ranks, which has what the workloads lack: ETP 1, gated experts."""
    job = composed("model=kimi_k2", "parallel=kimi_k2_384_tp8pp8cp4ep32_to_tp4ep32")
    model, layout = job.model, place(job).source
    c = 2 * 4096 * 7168
    assert traffic.tensor_parallel_bytes(model, layout, 1, 4096) == c
    assert traffic.dispatch_bytes(model, layout, 1, 4096) == c  # top-8 on TP 8
    assert traffic.expert_tensor_parallel_bytes(model, layout, 1, 4096) == 0
    assert traffic.metadata_bytes(model, layout) == 2 * 384 * 32
    assert traffic.pipeline_bytes(model, layout, 1, 4096) == c // 8
    # 60 layers with experts over 8 stages, 12 experts on a rank; 256 ranks hold each expert once
    assert traffic.expert_parameters(model, layout) == 7 * 12 * 44_040_192
    assert traffic.expert_gather_bytes(model, layout) == 0
    twice = Layout(tp=8, cp=4, pp=8, ep=32, etp=1, gpus=512)
    assert traffic.expert_reduce_bytes(model, twice) == 4 * 7 * 12 * 44_040_192
    alone = Layout()
    assert traffic.tensor_parallel_bytes(model, alone, 1, 4096) == 0
    assert traffic.dispatch_bytes(model, alone, 1, 4096) == 0
    assert traffic.metadata_bytes(model, alone) == 0


def test_expert_parameters_are_the_catalogues() -> None:
    for w in EVERY:
        if impossible(w.job) is None:
            held = catalogue(w.model, w.tp).held_by(w.layout, 0)
            elements = sum(s.nbytes // 2 for s in held if s.family.grid == "expert")
            assert traffic.expert_parameters(w.model, w.layout) == elements


@pytest.fixture
def hydra_on_conf() -> Any:
    composed("workload=gpt_13b_512_tp8pp2ep16")  # registers the schema
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def test_options_are_the_workloads(hydra_on_conf: Any) -> None:
    listed = hydra_on_conf.get_group_options("workload", ObjectType.CONFIG)
    assert listed == sorted({w.name for w in EVERY}) and len(listed) == 122
    models = hydra_on_conf.get_group_options("model", ObjectType.CONFIG)
    assert {"gpt_7b_16e", "llama_405b_16e", "kimi_k2"} <= set(models)
    experiment = compose("config", ["experiment=moe_workloads"])
    assert (experiment.mode, experiment.cluster.name) == ("plan", "a100")


def test_an_option_is_the_workload_and_takes_overrides() -> None:
    for w in (EVERY[0], EVERY[60], EVERY[-1]):
        job = composed(f"workload={w.name}")
        assert (job.model, job.parallel) == (w.model, w.parallel)
    changed = composed(f"workload={w.name}", "model.num_layers=4", "parallel.destination.etp=1")
    assert changed.model == replace(w.model, num_layers=4)
    assert changed.parallel.destination.etp == 1


def test_every_possible_one_has_a_plan_to_the_serving_layout() -> None:
    """Each rank's destination bytes against the model's size, for the smallest of each model."""
    smallest: dict[str, Workload] = {}
    for w in EVERY:
        if impossible(w.job) is None:
            known = smallest.setdefault(w.size, w)
            smallest[w.size] = min(known, w, key=lambda x: (x.world, x.ep))
    assert len(smallest) == 5
    for w in smallest.values():
        placement = place(w.job)
        tensors = catalogue(w.model, placement.source.tp)
        plan = build_plan(tensors, placement)
        experts = sum(f.count * f.elements * 2 for f in tensors.families if f.grid == "expert")
        # each expert once; of the rest as many replicas as EP ranks, cut over TP or whole on each
        # of its 8 ranks; both end stages have the tied embedding
        assert (placement.destination.edp, placement.destination.dp) == (
            1,
            placement.destination.ep,
        )
        dense = sum(
            f.count
            * f.elements
            * 2
            * (8 if f.axis is None else 1)
            * (2 if f.stage == "both" else 1)
            for f in tensors.families
            if f.grid == "dense"
        )
        assert plan.total_bytes == experts + dense * placement.destination.dp


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--ep", "8", "--csv", str(tmp_path / "ep8.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "ep8.csv").open()))
    assert len(rows) == 33 and {r["ep"] for r in rows} == {"8"}
    assert as_csv([row(w) for w in EVERY if w.ep == 8]) == (tmp_path / "ep8.csv").read_text()
    assert "a2a_ep_bytes" in capsys.readouterr().out
    assert main(["--dense", "--csv", str(tmp_path / "dense.csv")]) == 0
    assert {r["ep"] for r in csv.DictReader((tmp_path / "dense.csv").open())} == {"1"}
    assert main(["gpt_13b_512_tp8pp2ep16"]) == 0
    assert "workload=gpt_13b_512_tp8pp2ep16" in capsys.readouterr().out
    refused = next(w for w in EVERY if w.name == "gpt_7b_512_tp4pp8ep2")
    assert "Megatron cannot run it: parallel.source: 36 layers" in detail(refused)[-1]
    with pytest.raises(UserError, match="did you mean gpt_13b_512_tp8pp2ep16"):
        main(["gpt_13b_512_tp8pp2ep1"])
    with pytest.raises(UserError, match="they have 2, 4, 8, 16"):
        main(["--ep", "3"])
    with pytest.raises(UserError, match="cannot write"):
        main(["--csv", str(tmp_path / "none" / "x.csv")])


def test_no_torch() -> None:
    code = (
        "import sys; from refit.workloads import main; main(['--ep', '2']);"
        "assert not {'torch', 'megatron.core'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = [sys.executable, "-m", "refit.workloads"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0
