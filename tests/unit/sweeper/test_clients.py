"""The environment of Slurm's commands: nothing of the user's shell, or of a job around."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from refit.record import environment
from sweeper import clients

SHELL = {
    "PATH": "/bin",
    "HOME": "/home/me",
    "SLURM_CONF": "/etc/slurm.conf",
    "CUDA_VISIBLE_DEVICES": "0",
}
OPTIONS = (
    *("SBATCH_PARTITION", "SBATCH_TIMELIMIT", "SBATCH_MEM_PER_NODE", "SBATCH_EXPORT"),
    *("SQUEUE_STATES", "SQUEUE_PARTITION", "SQUEUE_FORMAT", "SACCT_FORMAT", "SCANCEL_STATE"),
    *("SLURM_CLUSTERS", "SLURM_TIME_FORMAT", "SRUN_CPUS_PER_TASK", "SALLOC_ACCOUNT"),
)
OF_A_JOB = {"SLURM_JOB_ID": "12", "SLURM_MEM_PER_NODE": "4096", "SLURM_NTASKS": "3"}


def test_what_slurm_reads_is_left_out() -> None:
    around = {**SHELL, **dict.fromkeys(OPTIONS, "x")}
    assert clients.environment(around) == SHELL
    # within a job its GPUs are not those of the next
    inside = {**around, **OF_A_JOB}
    ours = {name: value for name, value in SHELL.items() if name != "CUDA_VISIBLE_DEVICES"}
    assert clients.environment(inside) == ours
    assert clients.of_steps(inside) == {**ours, "SLURM_JOB_ID": "12"}


def test_a_command_and_what_submitit_starts_run_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "squeue").write_text("#!/bin/sh\nenv\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    before = dict(os.environ)
    said = [clients.ask("squeue")]
    with environment.replaced(clients.environment()):
        said.append(subprocess.check_output("squeue", text=True))
    for text in said:
        assert "SLURM_CONF=/etc/slurm.conf\n" in text and "SQUEUE_STATES" not in text
    assert dict(os.environ) == before
