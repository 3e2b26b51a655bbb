"""All of submitit that it does not document: the one place to look at when a release changes it.

What it promises (an executor's parameters, `submit`, `batch`) is used here too, so that nobody
else imports it. Read in submitit 1.5; pyproject keeps the next version out.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.job_environment import JobEnvironment
from submitit.core.utils import DelayedSubmission, FailedJobError, JobPaths

from refit.job import UserError

FOLDER = ".submitit"  # below the sweep's folder: submitit's files, and the logs of the agents

# By which submitit and Slurm announce a job's end: before the time limit, and with it. submitit
# installs handlers of its own in each task, before it calls what was submitted.
SIGNALS = (JobEnvironment._usr_sig(), signal.SIGTERM)


class Executor(submitit.SlurmExecutor):
    """submitit's executor, which also writes an sbatch file where there is no Slurm.

    `sweeper.slurm.check` looks for Slurm's commands, and says what is missing.
    """

    @classmethod
    def affinity(cls) -> int:
        """What submitit asks on construction; -1 would be an error."""
        return 1


def executor(folder: Path, parameters: Mapping[str, Any]) -> Executor:
    """An executor of these parameters of sbatch, in submitit's names.

    Raises:
        UserError: a parameter that submitit does not know; its text lists those it does.
    """
    made = Executor(folder=folder, max_num_timeout=0)  # whether it is run again is ours to say
    try:
        made.update_parameters(**parameters)
    except (ValueError, TypeError) as error:
        raise UserError(f"cluster.slurm: {error}") from None
    return made


def sbatch_text(made: Executor) -> str:
    """The file that sbatch is given."""
    return made._make_submission_file_text("python -m submitit.core._submit", "dry-run")


def submit_array(made: Executor, calls: Sequence[Callable[[], None]]) -> list[str]:
    """Submit calls as one array; the Slurm id of each.

    Raises:
        UserError: Slurm refuses, with its own words.
    """
    try:
        with made.batch():
            jobs = [made.submit(call) for call in calls]
    except FailedJobError as error:
        words = re.findall(r"sbatch: error: (.*)", str(error))
        raise UserError(
            f"Slurm refuses the job: {'; '.join(words) or str(error).strip()}"
        ) from None
    return [str(job.job_id) for job in jobs]


def submitted_call(folder: Path, slurm_id: str) -> Any:
    """What was submitted as this job from this folder; None where it was not."""
    path = JobPaths(folder, slurm_id).submitted_pickle
    return DelayedSubmission.load(path).function if path.exists() else None


def log(folder: Path, slurm_id: str) -> Path:
    """The output of a job's first node."""
    return JobPaths(folder, slurm_id, 0).stdout
