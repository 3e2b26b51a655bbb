"""The 123 workloads against the published table, to the byte; as Hydra options; as plans."""

from __future__ import annotations

import csv
import json
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

from refit import run
from refit.errors import UserError
from refit.forecast import traffic
from refit.layout.layout import Layout
from refit.layout.place import place
from refit.model.architecture import catalogue
from refit.model.workload_grid import Workload, workloads
from refit.plan.build import build_plan
from refit.rules.impossible import impossible
from refit.schema import CONF
from refit.workloads import as_csv, detail, main, messages, row, summary
from tests.support.composed import composed
from tests.support.forks import fork_of

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
        ["2", "8", "5", "16", "/", "2", "=", "8", "4"],
        ["4", "4", "16", "16", "/", "4", "=", "4", "13"],
        ["8", "2", "33", "16", "/", "8", "=", "2", "28"],
        ["16", "1", "69", "16", "/", "16", "=", "1", "59"],
        ["all", "123", "104"],
    ]
    cannot = lines.index("Megatron cannot run 19 of them:")
    assert sum("num_attention_heads=40 does not divide by" in line for line in lines) == 2
    refused = [line.strip() for line in lines[cannot:] if line.startswith("    ")]
    assert len(refused) == 19 and all(name.startswith("gpt_13b_") for name in refused)
    begins = "9 with 36 layers on 8 stages run with 3 layers in the first and the last stage:"
    uneven = [line.strip() for line in lines[lines.index(begins) + 1 : cannot] if line]
    assert len(uneven) == 9 and all("pp8" in n and n.startswith("gpt_7b_") for n in uneven)
    assert "gpt_7b_1024_tp4pp8ep4" in uneven  # the documents' third example


def test_nine_have_fewer_layers_at_the_ends() -> None:
    """What 36 layers leave to 8 stages, in the row, in the option, and on the ranks."""
    nine = [w for w in EVERY if w.end_layers]
    assert {(w.size, w.pp, w.end_layers) for w in nine} == {("gpt_7B", 8, 3)} and len(nine) == 9
    for w in nine:
        assert impossible(w.job) is None and row(w)["end_stage_layers"] == 3
        said = composed(f"workload={w.name}").parallel.source
        assert said.num_layers_in_first_pipeline_stage == 3
        assert said.num_layers_in_last_pipeline_stage == 3
        for layout in (w.layout, w.dense_twin[1]):
            assert [len(stage) for stage in layout.stage_layers(36)] == [3, 5, 5, 5, 5, 5, 5, 3]
        assert "3 in the first and the last (3,5,5,5,5,5,5,3)" in "\n".join(detail(w))
    assert {row(w)["end_stage_layers"] for w in EVERY if not w.end_layers} == {""}


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
            if w.end_layers:  # the published even share, rounded down, and what the first stage has
                elements = elements // w.end_layers * (36 // w.pp)
            assert traffic.expert_parameters(w.model, w.layout) == elements


@pytest.fixture
def hydra_on_conf() -> Any:
    composed("workload=gpt_13b_512_tp8pp2ep16")  # registers the schema
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def test_options_are_the_workloads(hydra_on_conf: Any) -> None:
    listed = hydra_on_conf.get_group_options("workload", ObjectType.CONFIG)
    names = {w.name for w in EVERY}
    assert listed == sorted(names | {f"{name}_dense" for name in names}) and len(listed) == 246
    models = hydra_on_conf.get_group_options("model", ObjectType.CONFIG)
    assert {"gpt_7b_16e", "gpt_7b_16e_dense", "llama_405b_16e", "kimi_k2"} <= set(models)
    experiment = compose("config", ["experiment=moe_workloads"])
    assert (experiment.mode, experiment.cluster.name) == ("plan", "a100")


def test_an_option_is_the_workload_and_takes_overrides() -> None:
    for w in (EVERY[0], EVERY[60], EVERY[-1]):
        job = composed(f"workload={w.name}")
        assert (job.model, job.parallel) == (w.model, w.parallel)
        twin = composed(f"workload={w.name}_dense")
        assert (twin.model, twin.parallel) == (w.dense_twin[0], w.dense_parallel)
        source = replace(place(twin).source, vocab_rows=None)
        assert not twin.model.is_moe and source == w.dense_twin[1]
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
    refused = next(w for w in EVERY if w.name == "gpt_13b_512_tp16pp2ep16")
    assert "Megatron cannot run it: model.num_attention_heads=40" in detail(refused)[-1]
    with pytest.raises(UserError, match="did you mean gpt_13b_512_tp8pp2ep16"):
        main(["gpt_13b_512_tp8pp2ep1"])
    with pytest.raises(UserError, match="they have 2, 4, 8, 16"):
        main(["--ep", "3"])
    with pytest.raises(UserError, match="cannot write"):
        main(["--csv", str(tmp_path / "none" / "x.csv")])


@pytest.mark.parametrize("dense", [False, True])
def test_the_printed_command_runs_as_printed(
    dense: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the largest world of the smallest model, whose nodes a person would have to count."""
    assert main(["gpt_7b_4096_tp4pp1ep16"]) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if "python -m" in line]
    (words,) = (line.split(": ", 1)[1].split() for line in printed if dense == ("twin" in line))
    assert words[:3] == ["python", "-m", "refit.run"]
    done = fork_of(run.main, *words[3:], f"hydra.run.dir={tmp_path}")
    assert done.code == 0, done.stderr
    (record,) = (json.loads(p.read_text()) for p in tmp_path.glob("*/timing.json"))
    assert record["status"] == "ok" and record["layout"]["world"] == 4096
    assert record["config"]["parallel"]["name"] == words[-1].removeprefix("workload=")


def test_a_sweep_names_the_twins(tmp_path: Path) -> None:
    """Two of the 123 are the same point as another; their dense twins may be planned as well."""
    sweep = ["-m", "experiment=moe_workloads", f"hydra.sweep.dir={tmp_path}"]
    twins = "workload=glob([gpt_22b_1024_tp8pp8*,gpt_7b_64_*],exclude=*_dense)"
    done = fork_of(run.main, *sweep, twins, "sweep.dry_run=true")
    assert done.code == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("the same point")]
    assert [line.partition(" make one job, ")[0] for line in said] == [
        "the same point, runs once: workload=gpt_22b_1024_tp8pp8ep16 and"
        " workload=gpt_22b_1024_tp8pp8ep16_gbs8192",
        "the same point, runs once: workload=gpt_7b_64_tp4pp2ep8_gbs2048_seq2048 and"
        " workload=gpt_7b_64_tp4pp2ep8_gbs2048_seq2048_again",
    ]
    fates = [line for line in done.stdout.splitlines() if line.endswith("  plan  run")]
    assert len(fates) == len(set(fates)) == 4  # of six options
    jobs = {line.rpartition(" ")[2] for line in said}
    assert len(jobs) == 2 and jobs < {line.split()[0] for line in fates}
    dense = fork_of(run.main, *sweep, "workload=glob([gpt_7b_64_*_dense,gpt_7b_128_*_dense])")
    assert dense.code == 0, dense.stderr
    records = [json.loads(p.read_text()) for p in tmp_path.glob("*/timing.json")]
    assert len(records) == 2 and {r["status"] for r in records} == {"ok"}
    assert {r["config"]["model"]["name"] for r in records} == {"gpt_7b_16e_dense"}


def test_messages_say_what_is_in_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever sizes are printed it says of what, and whether a rank's own share is counted."""
    for arguments in (["--ep", "2"], ["--csv", str(tmp_path / "x.csv")], [EVERY[0].name]):
        assert main(arguments) == 0
        said = capsys.readouterr().out
        assert "its own share included" in said and "\n4 per gradient" in said
    assert "reduce-scatter: gradients" in said and "all-gather: weights" in said
    # as the legend has it: of gradients twice the bytes, and nothing less for a rank's own share
    for w in EVERY:
        sizes = messages(w.model, w.layout, w.micro_batch, w.sequence)
        held = traffic.expert_parameters(w.model, w.layout)
        both = (sizes["ag_dp_ep_bytes"], sizes["rs_dp_ep_bytes"])
        assert both == ((2 * held, 4 * held) if w.dp > 1 else (0, 0))


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
