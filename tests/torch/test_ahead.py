"""What the fork server imports for ranks, and what not."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from refit.ranks import server
from tests.support.forks import fork_of


def use_the_gpu() -> None:
    """In a rank."""
    torch.zeros(1, device="cuda")


@pytest.mark.gpu
def test_a_server_that_an_import_had_ask_cuda_begins_anew(tmp_path: Path) -> None:
    """Torch refuses CUDA in a process forked from one that has used it."""
    (tmp_path / "asks_cuda.py").write_text("import torch\ntorch.cuda.init()\n")

    def main() -> None:
        os.environ[server.AHEAD] = ",".join([*server.ALWAYS, "asks_cuda"])
        context: Any = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["refit.ranks.ahead"])
        process = context.Process(target=use_the_gpu)
        process.start()
        process.join()
        print(process.exitcode)

    said = fork_of(main, PYTHONPATH=str(tmp_path))
    assert (said.code, said.stdout.strip()) == (0, "0"), said.stderr


ASKS = """
try:
    import wandb
    found = True
except ImportError:
    found = False

def say():
    import wandb
    print(found, wandb.__name__, flush=True)
"""
STARTS = """
import multiprocessing
import asks_wandb
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["refit.ranks.ahead"])
process = context.Process(target=asks_wandb.say)
process.start()
process.join()
"""


def test_what_no_rank_needs_is_not_found_by_what_the_server_imports(tmp_path: Path) -> None:
    for name, text in (("wandb", ""), ("asks_wandb", ASKS), ("starts", STARTS)):
        (tmp_path / f"{name}.py").write_text(text)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    around = {**os.environ, server.AHEAD: "asks_wandb", "PYTHONPATH": path}
    code = [sys.executable, "-c", "import starts"]
    said = subprocess.run(code, env=around, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout.strip()) == (0, "False wandb"), said.stderr
