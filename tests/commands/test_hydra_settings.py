"""What Hydra promises of a run holds in a sweep too, or is refused; no rank starts."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from refit import run
from tests.support.callbacks import asked, told
from tests.support.forks import fork_of

PLAN = ("mode=plan", "cluster=h100", "model=moe_8e", "model.num_layers=1")
UNSUPPORTED = ("refit=nccl", "build=shards", "model=moe_8e", "model.num_layers=1")  # on CPUs
PITFALL = "parallel=pitfall_12gpus_tp8_to_tp4"


def test_callbacks_and_env_set_of_a_single_run(tmp_path: Path) -> None:
    path, folder = tmp_path / "told", f"hydra.run.dir={tmp_path}"
    done = fork_of(run.main, *PLAN, "seed=3", *asked(path, "s3"), folder)
    assert done.code == 0, done.stderr
    start, begun, ended, end = told(path)
    assert start["event"] == "on_run_start" and begun["event"] == "on_job_start"
    assert (begun["variable"], begun["task"]) == ("s3", "refit.run.run")
    assert (ended["status"], end["status"]) == ("COMPLETED", "COMPLETED") and ended["what"] > 0


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [(UNSUPPORTED, 1, "unsupported: "), ((*PLAN, PITFALL), 2, "needs 12 GPUs")],
)
def test_callbacks_of_a_single_run_that_fails(
    words: tuple[str, ...], code: int, what: str, tmp_path: Path
) -> None:
    done = fork_of(run.main, *words, *asked(tmp_path / "told", "x"), f"hydra.run.dir={tmp_path}")
    assert done.code == code
    assert done.stderr.startswith("error: ") and "Error executing job" not in done.stderr
    _, _, ended, end = told(tmp_path / "told")
    assert (ended["status"], end["status"]) == ("FAILED", "FAILED") and what in ended["what"]
    assert end["event"] == "on_run_end"


def test_callbacks_and_env_set_of_a_sweep(tmp_path: Path) -> None:
    """Two predictions, then two points that are impossible."""
    path, folder = tmp_path / "told", tmp_path / "results"
    words = (*asked(path, "s${seed}"), "-m", f"hydra.sweep.dir={folder}", "hydra.output_subdir=.h")
    done = fork_of(run.main, *words, *PLAN, "seed=3,4")
    assert done.code == 0, done.stderr
    first, *jobs, last = told(path)
    assert (first["event"], last["event"]) == ("on_multirun_start", "on_multirun_end")
    assert [job["event"] for job in jobs] == ["on_job_start", "on_job_end"] * 2
    assert [job["variable"] for job in jobs] == ["s3", None, "s4", None]  # as in a single run
    assert [job["task"] for job in jobs[::2]] == ["refit.run.run"] * 2
    points = [Path(job["folder"]) for job in jobs[::2]]
    assert {point.parent for point in points} == {folder} and len({*points}) == 2
    for point, seed in zip(points, (3, 4), strict=True):
        assert json.loads((point / "timing.json").read_text())["config"]["seed"] == seed
        assert f"seed: {seed}\n" in (point / ".h" / "config.yaml").read_text()
    path.unlink()
    assert fork_of(run.main, *words, *PLAN, "seed=3,4", PITFALL).code == 0  # skipped: no job
    assert [job["event"] for job in told(path)] == ["on_multirun_start", "on_multirun_end"]


def test_callbacks_of_a_sweep_whose_point_fails(tmp_path: Path) -> None:
    path = tmp_path / "told"
    words = ("-m", *UNSUPPORTED, *asked(path, "s3"), f"hydra.sweep.dir={tmp_path}/results")
    assert fork_of(run.main, *words).code == 1
    _, begun, ended, last = told(path)
    assert begun["variable"] == "s3" and ended["status"] == "FAILED"
    assert "unsupported: " in ended["what"] and last["event"] == "on_multirun_end"


def test_hydras_resolver_is_there_in_a_sweep(tmp_path: Path) -> None:
    """In a point's values by its own number, and in the sweep's settings."""
    words = ("-m", *PLAN, "seed=${hydra:job.num}", "model.name=${hydra:runtime.choices.parallel}")
    where = f"hydra.sweep.dir=${{hydra:runtime.cwd}}/{os.path.relpath(tmp_path)}"
    done = fork_of(run.main, *words, "bench.iterations=4,5", where)
    assert done.code == 0, done.stderr
    configs = [json.loads(p.read_text())["config"] for p in tmp_path.glob("*/timing.json")]
    assert {(c["seed"], c["bench"]["iterations"]) for c in configs} == {(0, 4), (1, 5)}
    assert {c["model"]["name"] for c in configs} == {"noncollocated_4_tp2ep1_to_tp1ep1"}


OPTIONS = {
    "experiment/mine": "# @package _global_\nhydra: {launcher: {_target_: nosuch.Launcher}}",
    "model/loud": "# @package _global_\nhydra: {callbacks: {t: {_target_: nosuch.Callback}}}",
    "refit/abreast": "# @package _global_\nhydra: {sweeper: {max_batch_size: 3}}",
}


@pytest.mark.parametrize(
    ("word", "brings"),
    [
        ("experiment=eight_gpu,moe_workloads", "experiment=eight_gpu brings hydra.sweeper of its"),
        ("experiment=mine,eight_gpu", "experiment=mine brings hydra.launcher of its own"),
        ("model=moe_8e,loud", "model=loud brings hydra.callbacks of its own"),
        ("refit=glob([auto,a*])", "refit=abreast brings hydra.sweeper of its own"),
    ],
)
def test_a_swept_option_brings_no_settings_of_the_sweep(
    word: str, brings: str, tmp_path: Path
) -> None:
    for name, text in OPTIONS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(f"{text}\n")
    where = f"hydra.sweep.dir={tmp_path}/results"
    done = fork_of(run.main, "-m", f"--config-dir={tmp_path}", "mode=plan", word, where)
    assert done.code == 2 and done.stderr.startswith("error: ") and brings in done.stderr
    assert "make it a sweep for each" in done.stderr and not (tmp_path / "results").exists()


def test_a_launcher_that_is_not_installed_says_what_to_use() -> None:
    done = fork_of(run.main, "-m", *PLAN, "hydra/launcher=submitit_local")
    assert done.code == 2 and "use hydra/launcher=refit: points run here" in done.stderr


def test_a_bad_point_of_hydras_launcher_does_not_stop_the_others(tmp_path: Path) -> None:
    words = ("-m", *PLAN, "hydra/launcher=basic", f"hydra.sweep.dir={tmp_path}")
    done = fork_of(run.main, *words, f"{PITFALL},noncollocated_1_tp2ep2_to_tp2ep1")
    assert done.code == 1 and done.stderr.count("error: ") == 1
    assert f"{PITFALL}: needs 12 GPUs" in done.stderr
    (record,) = tmp_path.glob("*/timing.json")
    assert "noncollocated_1_tp2ep2_to_tp2ep1" in record.parent.name
