"""The dry runs of docs/slurm.md print what the page says; what is printed is what sbatch gets."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from refit import compose
from refit.record.point import Point
from refit.show.display import Display
from sweeper import submission
from sweeper.snapshot import Snapshot
from sweeper.submission import How
from sweeper.sweep import run_sweep
from tests.support.pages import ROOT

PAGE = (ROOT / "docs/slurm.md").read_text()
TYPED = r"```sh\npython -m refit.run -m (.*?[^\\])\n```\n```\n(.*?)\n```"
COMMANDS = re.findall(TYPED, PAGE, re.S)


def test_the_page_shows_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(COMMANDS) == 6
    with compose.configs():
        for words, lines in COMMANDS:
            assert (
                run_sweep(
                    [shlex.split(words.replace("\\\n", " "))], compose.job, tmp_path, Display()
                )
                == []
            )
            printed = capsys.readouterr().out
            for line in lines.splitlines():
                assert line in printed, (words, printed)
    assert not list(tmp_path.iterdir())


SLURM = {
    # as far as a submission asks it; what sbatch is given is kept
    "squeue": "",
    "scontrol": "echo 'MaxArraySize = 1001'",
    "srun": "",
    "sbatch": 'cp "$1" "$(dirname $0)/given.$$"; echo Submitted batch job $$',
}


def test_it_is_what_sbatch_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in SLURM.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    root, shared = tmp_path / "results", ["cluster=slurm", "cluster.slurm.array_parallelism=3"]
    batch = [[*shared, f"seed={seed}"] for seed in range(5)]
    batch += [[*shared, "cluster.slurm.mem=9G"]]
    with compose.configs():
        jobs = [compose.job(overrides) for overrides in batch[::5]]
        jobs = [replace(jobs[0], seed=seed) for seed in range(5)] + jobs[1:]
        dry = [replace(job, sweep=replace(job.sweep, dry_run=True)) for job in jobs]
        numbers = [[str(n)] for n in range(6)]
        run_sweep(numbers, lambda o: dry[int(o[0])], root, Display())
    printed = capsys.readouterr().out
    assert "5 points in 5 jobs:" in printed and "1 points in 1 jobs:" in printed
    points = [Point.of(job, root) for job in jobs]
    assert not submission.submit(points, How(root, 1, Snapshot.of(root).folder)).waiting
    given = sorted(path.read_text() for path in tmp_path.glob("given.*"))
    assert len(given) == 2 and all(text in printed for text in given)
    assert sum("#SBATCH --array=0-4%2\n" in text for text in given) == 1
    assert sum("--array" in text for text in given) == 1
    assert not list((root / ".submitit").glob("?" * 36))  # as they were called before
