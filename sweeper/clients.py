"""Slurm's commands, in an environment of our own making: what is asked of them is said to them.

They read options from variables (SBATCH_PARTITION, SQUEUE_STATES, ...), also from those that a job
has of its own (SLURM_MEM_PER_NODE, ...), and sbatch hands all of them on to the job.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from refit.errors import UserError
from sweeper import marker

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
    except (FileNotFoundError, PermissionError):
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
        sweep: the id of its sweep (`sweeper.marker`); empty where it is none of ours.
    """

    state: str
    reason: str = ""
    sweep: str = ""


def queue() -> dict[str, Queued]:
    """This user's jobs that Slurm has not finished with, array elements one by one."""
    lines = ask("squeue", *_MINE, "--format=%i|%T|%r|%j %k").splitlines()
    return {
        slurm_id: Queued(state, reason, marker.found(text))
        for slurm_id, state, reason, text in (line.split("|", 3) for line in lines)
    }


def states(slurm_ids: Collection[str]) -> dict[str, str]:
    """What Slurm says of jobs: RUNNING, COMPLETED, TIMEOUT, ...; by one call for all, or two.

    Its controller knows at once, and forgets after minutes; accounting learns of an array's
    elements seconds late, and never of one that was cancelled before it started. Those that neither
    knows are left out, as all are where neither answers.
    """
    if not slurm_ids:
        return {}
    found = _states(slurm_ids, "squeue", *_MINE, "--states=all", "--format=%i|%T")
    if missing := set(slurm_ids) - found.keys():
        jobs = ",".join(sorted({slurm_id.partition("_")[0] for slurm_id in missing}))
        table = ("sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", jobs)
        found |= _states(missing, *table)
    return found


_MINE = ("--me", "--noheader", "--array")


def _states(slurm_ids: Collection[str], *command: str) -> dict[str, str]:
    """Of these jobs; the last line of each, as a requeued one has several."""
    try:
        lines = [line.partition("|") for line in ask(*command).splitlines()]
    except UserError:
        return {}  # without accounting, say
    wanted = set(slurm_ids)
    # the first word of "CANCELLED by 0"; elements that were cancelled in the queue are one line
    return {
        one: words.split()[0]
        for listed, _, words in lines
        if words.strip()
        for one in elements(listed)
        if one in wanted
    }


def elements(listed: str) -> list[str]:
    """`12_[0-2,5%2]` -> 12_0, 12_1, 12_2, 12_5; another id is itself."""
    array, bracket, tasks = listed.partition("_[")
    if not bracket:
        return [listed]
    numbers = re.findall(r"(\d+)(?:-(\d+))?", tasks.rstrip("]").partition("%")[0])
    return [f"{array}_{n}" for low, high in numbers for n in range(int(low), int(high or low) + 1)]


def _missing(command: str) -> UserError:
    return UserError(
        f"cluster=slurm needs Slurm's commands, and {command} is not on PATH; run on a login node,"
        " or use cluster=local"
    )
