"""Slurm's commands, in an environment of our own making: what is asked of them is said to them.

They read options from variables (SBATCH_PARTITION, SQUEUE_STATES, ...), also from those that a job
has of its own (SLURM_MEM_PER_NODE, ...), and sbatch hands all of them on to the job.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from refit.job import UserError

TIMEOUT_S = 60.0  # for a command; one whose controller is gone takes ten seconds to say so

READ = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_")
"""How variables begin that Slurm's commands read, or that Slurm sets in a job."""

REACH = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_SACK_KEY", "SLURM_SACK_JWKS")
"""Which cluster they reach, and as whom: the only ones that stay."""

OF_A_JOB = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")
"""What Slurm sets too, of the job that the controller may itself run in."""


def environment(around: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What Slurm's commands run in, and the jobs that they start.

    Args:
        around: this process's.
    """
    left_out = OF_A_JOB if "SLURM_JOB_ID" in around else ()
    return {
        name: value
        for name, value in around.items()
        if name in REACH or not (name.startswith(READ) or name in left_out)
    }


def of_steps(around: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What srun runs in within an allocation: the same, and which allocation that is."""
    job = {name: value for name, value in around.items() if name.startswith("SLURM_JOB")}
    return {**environment(around), **job}


def ask(*command: str) -> str:
    """What a Slurm command prints.

    Raises:
        UserError: the command is missing, fails, or does not answer.
    """
    try:
        done = subprocess.run(
            command, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except FileNotFoundError:
        raise _missing(command[0]) from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{' '.join(command)} gave no answer in {TIMEOUT_S:g} s") from None
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def check() -> None:
    """Ask whether there is a Slurm to submit to.

    Raises:
        UserError: its commands are missing, or its controller does not answer.
    """
    for command in ("scontrol", "sbatch", "srun", "squeue", "scancel"):
        if shutil.which(command) is None:
            raise _missing(command)
    try:
        answer = ask("scontrol", "ping")
    except UserError as error:
        answer = str(error)
    if "is UP" not in answer:
        lines = [line for line in answer.splitlines() if "slurmctld" in line.lower()]
        raise UserError(f"no Slurm controller answers: {lines[0] if lines else answer.strip()}")


@dataclass(frozen=True)
class Queued:
    """A job that Slurm has not finished with.

    Attributes:
        state: `PENDING`, `RUNNING`, ...
        reason: why it waits, in Slurm's word.
    """

    state: str
    reason: str = ""


def queue() -> dict[str, Queued]:
    """This user's jobs that Slurm has not finished with, array elements one by one."""
    lines = ask("squeue", "--me", "--noheader", "--array", "--format=%i|%T|%r").splitlines()
    return {
        slurm_id: Queued(state, reason)
        for slurm_id, state, reason in (line.split("|", 2) for line in lines)
    }


def _missing(command: str) -> UserError:
    return UserError(
        f"cluster=slurm needs Slurm's commands, and {command} is not on PATH; run on a login node,"
        " or use cluster=local"
    )
