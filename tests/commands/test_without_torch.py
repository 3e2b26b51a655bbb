"""Where torch is missing or does not load: what needs none of it works, and what does says why."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from refit import advise, calibrate, megatron_args, program, published, run, workloads
from sweeper import collect, status
from sweeper.report import __main__ as report
from tests.support.forks import Ended, fork_of

MISSING = "raise ModuleNotFoundError(\"No module named 'torch'\")"
UNLOADABLE = "raise OSError('libtorch_cpu.so: cannot open shared object file')"
SMALL = ("model=moe_8e", "build=shards", "bench.iterations=1")


def fork_with(torch: str, folder: Path, main: Callable[[], object], *words: str) -> Ended:
    """A program in a fork of this process, where torch is a module of this text."""
    package = folder / "broken" / "torch"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(torch)

    def with_it() -> None:
        assert "torch" not in sys.modules
        sys.path.insert(0, str(package.parent))
        tempfile.tempdir = str(folder)
        main()

    return fork_of(with_it, *words, PYTHONPATH=str(package.parent))


def program_of(module: Any) -> Callable[[], object]:
    return run.main if module is run else partial(program.exit_with, module.main)


PROGRAMS = {
    "a plan": (run, "mode=plan cluster=h100", 0, "Estimate"),
    "plans": (run, "-m mode=plan refit=gloo,nccl cluster=h100", 0, "2 points: 2 ok"),
    "a dry run": (run, "-m refit=ipc,gloo sweep.dry_run=true", 0, "3 of 8 ranks"),
    "advise": (advise, "model=moe_8e source.tp=2 source.etp=1 gpus=2 cluster=h100", 0, "place"),
    "workloads": (workloads, "--ep 2", 0, "5 MoE workloads"),
    "published": (published, "", 0, "[1]"),
    "flags": (megatron_args, "--from refit=nccl", 0, "--refit-method"),
    "status": (status, "DIR", 0, "1 ok"),
    "collect": (collect, "DIR", 0, "1 records"),
    "report": (report, "DIR --markdown", 0, "| TP2 -> TP1 |"),
    "calibrate": (calibrate, "DIR", 2, ""),  # there are only predictions in it
}


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planned")
    done = fork_with(MISSING, folder, run.main, "mode=plan", f"hydra.run.dir={folder / 'results'}")
    assert done.code == 0, done.stderr
    return folder / "results"


@pytest.mark.parametrize("case", PROGRAMS)
def test_what_needs_no_torch_works_without(case: str, planned: Path, tmp_path: Path) -> None:
    module, line, code, words = PROGRAMS[case]
    results = [f"hydra.{mode}.dir={tmp_path}/results" for mode in ("run", "sweep")]
    arguments = [*line.replace("DIR", str(planned)).split(), *(results if module is run else ())]
    done = fork_with(MISSING, tmp_path, program_of(module), *arguments)
    assert done.code == code, done.stderr
    assert words in done.stdout and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("torch", "words"),
    [
        (MISSING, "ModuleNotFoundError: No module named 'torch'"),
        (UNLOADABLE, "OSError: libtorch_cpu.so: cannot open shared object file"),
    ],
)
def test_ranks_say_the_imports_own_line(torch: str, words: str, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    done = fork_with(torch, tmp_path, run.main, *SMALL, f"hydra.run.dir={folder}")
    assert done.code == 2 and done.stderr.startswith("error: ranks cannot import torch")
    assert f"unsupported: ranks cannot import torch or what they need with it: {words}" in (
        done.stdout
    )
    (record,) = (json.loads(path.read_text()) for path in folder.glob("*/timing.json"))
    assert record["status"] == "unsupported" and words in record["reason"]


def test_a_sweep_without_torch_goes_on(tmp_path: Path) -> None:
    sweep = ("-m", "refit=ipc,gloo", *SMALL, f"hydra.sweep.dir={tmp_path / 'results'}")
    done = fork_with(UNLOADABLE, tmp_path, run.main, *sweep)
    assert (done.code, done.stderr) == (1, "")
    assert "2 points: 2 unsupported" in done.stdout
