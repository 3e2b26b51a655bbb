"""What the fork server imports for ranks, and what not."""

from __future__ import annotations

import multiprocessing
import os
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


def use_wandb() -> None:
    """In a rank."""
    import asks_wandb  # type: ignore[import-not-found]
    import wandb

    print(asks_wandb.found, wandb.__name__, flush=True)


def test_what_no_rank_needs_is_not_found_by_what_the_server_imports(tmp_path: Path) -> None:
    (tmp_path / "wandb.py").write_text("")
    (tmp_path / "asks_wandb.py").write_text(
        "try:\n    import wandb\n    found = True\nexcept ImportError:\n    found = False\n"
    )

    def main() -> None:
        os.environ[server.AHEAD] = ",".join([*server.ALWAYS, "asks_wandb"])
        context: Any = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["refit.ranks.ahead"])
        process = context.Process(target=use_wandb)
        process.start()
        process.join()

    said = fork_of(main, PYTHONPATH=str(tmp_path))
    assert (said.code, said.stdout.strip()) == (0, "False wandb"), said.stderr
