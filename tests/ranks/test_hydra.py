"""Hydra's own sweepers and launchers, and those of others, run our points."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from refit import run
from refit.ranks.agent import Agent
from tests.support.forks import fork_in

ROOT = Path(__file__).parents[2]
SMALL = (
    "build=shards", "model=dense", "model.num_layers=1", "model.hidden_size=64",
    "model.num_attention_heads=4", "model.num_query_groups=4", "model.ffn_hidden_size=64",
    "model.vocab_size=128", "bench.iterations=1",
)  # fmt: skip
FEW = "cluster.ranks_per_node=4"  # of which three take part
PLAN = ("mode=plan", "cluster=cpu")


@pytest.fixture(autouse=True)
def _server(agent: Agent) -> None:
    """What `refit` runs has its ranks from the agent's server."""


@pytest.fixture
def _optuna() -> None:
    """Imported here, and so in every fork."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs hydra-optuna-sweeper")
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper._impl")


def refit(folder: Path, *words: str, code: int = 0) -> str:
    done = fork_in(ROOT, run.main, *words, f"hydra.sweep.dir={folder}")
    assert done.code == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/timing.json"))]


def test_hydras_basic_sweeper_and_launcher(tmp_path: Path) -> None:
    basic = ("-m", "hydra/sweeper=basic", "hydra/launcher=basic")
    refit(tmp_path, *basic, *SMALL, FEW, "refit=ipc,gloo")
    assert [(r["status"], r["method"]) for r in records(tmp_path)] == [
        ("ok", "gloo"),
        ("ok", "ipc"),
    ]


def test_a_failed_point_of_hydras_basic_launcher_is_exit_code_1(tmp_path: Path) -> None:
    basic = ("-m", "hydra/sweeper=basic", "hydra/launcher=basic")
    methods = "refit.method=tests.support.faults:Raises,ipc"
    said = refit(tmp_path, *basic, *SMALL, FEW, methods, code=1)
    assert "failed: rank 2: ValueError: the transport's own words" in said
    assert "failed" in {r["status"] for r in records(tmp_path)}


def test_what_only_our_launcher_does_is_said(tmp_path: Path) -> None:
    basic = ("-m", "hydra/sweeper=basic", "hydra/launcher=basic")
    said = refit(tmp_path, *basic, *SMALL, "cluster=slurm", "seed=0,1", code=2)
    assert "use hydra/launcher=refit" in said


@pytest.mark.usefixtures("_optuna")
@pytest.mark.parametrize("launcher", ["refit", "basic"])
def test_optuna_minimizes_the_estimate(tmp_path: Path, launcher: str) -> None:
    refit(
        tmp_path, "-m", "hydra/sweeper=optuna", f"hydra/launcher={launcher}",
        "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=1", *PLAN,
        "parallel=choice(collocated_1_tp4ep2_to_tp2ep4,noncollocated_4_tp2ep1_to_tp1ep1)",
    )  # fmt: skip
    best = yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())
    estimates = {
        str(r["config"]["parallel"]["name"]): float(r["prediction"]["estimate"]["seconds"])  # type: ignore[index]
        for r in records(tmp_path)
    }
    assert best["best_value"] == min(estimates.values())
    assert best["best_params"]["parallel"] == min(estimates, key=lambda name: estimates[name])


@pytest.mark.usefixtures("_optuna")
def test_optuna_with_a_point_that_fails_says_why(tmp_path: Path) -> None:
    said = refit(
        tmp_path, "-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=1", *SMALL, FEW,
        "refit.method=choice(tests.support.faults:Raises)", code=1,
    )  # fmt: skip
    assert "the transport's own words" in said


PITFALL = "parallel=choice(pitfall_12gpus_tp8_to_tp4)"


@pytest.mark.usefixtures("_optuna")
@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        ((PITFALL,), 1, "has no time to minimize: skipped: needs 12 GPUs"),
        ((PITFALL, "hydra.sweeper.max_failure_rate=1"), 2, "error: No trials are completed yet."),
        ((PITFALL, "hydra/launcher=basic"), 2, "needs 12 GPUs"),
        ((*PLAN, "sweep.dry_run=true"), 2, "goes by results; leave either out"),
    ],
)
def test_optuna_without_a_number_says_why(
    tmp_path: Path, words: tuple[str, ...], code: int, reason: str
) -> None:
    optuna = ("-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=1", "seed=choice(0)")
    assert reason in refit(tmp_path, *optuna, *words, code=code)


def test_hydras_own_sweeper_does_without_a_number(tmp_path: Path) -> None:
    pair = PITFALL.replace("choice(", "").rstrip(")")
    said = refit(tmp_path, "-m", "hydra/sweeper=basic", pair, "seed=0,1")
    assert "2 points: 2 skipped" in said


def test_the_table_is_all_that_glob_meets(tmp_path: Path) -> None:
    def met(glob: str, *more: str) -> list[str]:
        said = refit(tmp_path, f"parallel=glob({glob})", *more, "-m", *PLAN, "sweep.dry_run=true")
        return [line for line in said.splitlines() if "-plan-cpu-" in line]

    table = met("*")
    assert len(table) == 12 and not [x for x in table if "kimi" in x or "deepseek" in x]
    assert len(met("kimi_k2_*", "model=kimi_k2")) == 6
    assert len(met("kimi_k2_*,exclude=*_128_*", "model=kimi_k2")) == 4


def test_an_overridden_row_is_named_after_what_it_is(tmp_path: Path) -> None:
    said = refit(tmp_path, *SMALL, *PLAN, "-m", "parallel.source.tp=2,4", "-v")
    assert "[1/2] noncollocated_4_tp2ep1_to_tp1ep1: Minimal test\n  Model: " in said
    assert "[2/2] tp4_to_tp1: from noncollocated_4_tp2ep1_to_tp1ep1\n" in said
    assert said.count("  Estimate: ") == 2 and "[2/2] predicted" not in said  # in full, and once
    said = refit(tmp_path, *SMALL, *PLAN, "-m", "parallel.source.tp=2,4", "sweep.mode=force")
    assert "[2/2] predicted  tp4_to_tp1 auto  " in said and "Estimate: " not in said
    assert {path.name.split("-")[1] for path in tmp_path.glob("*/")} == {
        "noncollocated_4_tp2ep1_to_tp1ep1",
        "tp4_to_tp1",
    }


@pytest.mark.parametrize("word", ["~bench", "~model", "~bench.iterations"])
def test_a_deleted_group_is_refused_in_words(tmp_path: Path, word: str) -> None:
    said = refit(tmp_path, *SMALL, word, code=2)
    assert said.startswith(f"error: {word} deletes what every point needs")
