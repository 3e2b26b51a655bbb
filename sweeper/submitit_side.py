"""All of submitit that it does not document: the one place to look at when a release changes it.

What it promises (an executor's parameters, `submit`, `batch`) is used here too, so that nobody
else imports it. Read in submitit 1.5; pyproject keeps the next version out.
"""

from __future__ import annotations

import io
import json
import re
import signal
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any, Protocol

import submitit
from submitit.core.job_environment import JobEnvironment
from submitit.core.utils import FailedJobError, JobPaths

from refit.errors import UserError
from refit.record import environment
from refit.record.point import read_json, write_atomic
from refit.record.typed import typed
from sweeper import clients

UNSAFE = "%\\\n"  # in a path: sbatch reads %j and the like, and a backslash turns that off

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


class Refused(UserError):
    """Slurm refuses a job, in its own words."""

    @property
    def is_of_their_number(self) -> bool:
        """Whether fewer jobs would be taken."""
        return bool(re.search(r"Max\w*Submit\w*", str(self)))


def executor(folder: Path, parameters: Mapping[str, Any]) -> Executor:
    """An executor of these parameters of sbatch, in submitit's names; `python` is its own.

    Raises:
        UserError: a parameter that submitit does not know; its text lists those it does. Or a
            folder whose name sbatch would not take as it is.
    """
    if bad := sorted(set(UNSAFE) & set(str(folder))):
        raise UserError(
            f"cannot have Slurm write to {folder.parent}: {' '.join(map(repr, bad))} has a meaning"
            " to sbatch in the names of files; choose another folder with hydra.sweep.dir=..."
        )
    asked = {name: value for name, value in parameters.items() if name != "python"}
    # whether it is run again is ours to say
    made = Executor(folder=folder, max_num_timeout=0, python=parameters.get("python"))
    try:
        made.update_parameters(**asked)
    except (ValueError, TypeError) as error:
        raise UserError(f"cluster.slurm: {error}") from None
    return made


def sbatch_text(made: Executor, jobs: int = 1) -> str:
    """The file that sbatch is given for so many jobs; several are an array."""
    if jobs > 1:
        made.parameters["map_count"] = jobs
    return made._make_submission_file_text(made._submitit_command_str, "dry-run")


class Call(Protocol):
    """What a job does, as `sweeper.pack.Pack`."""

    @property
    def points(self) -> Sequence[tuple[str, str]]:
        """Of each its folder, and the attempt's name."""

    def __call__(self) -> None:
        """Do it."""


def submit_array(made: Executor, calls: Sequence[Call]) -> list[str]:
    """Submit calls as one array; the Slurm id of each.

    Raises:
        Refused: by Slurm.
    """
    said = io.StringIO()  # submitit says there too what the error says
    try:
        with (
            environment.replaced(clients.environment()),
            redirect_stderr(said),
            made.batch(),
        ):
            jobs = [made.submit(call) for call in calls]
    except FailedJobError as error:
        clean(Path(made.folder))
        words = re.findall(r"sbatch: error: (.*)", str(error))
        raise Refused(f"Slurm refuses the job: {'; '.join(words) or str(error).strip()}") from None
    slurm_ids = [str(job.job_id) for job in jobs]
    _write_points(Path(made.folder), slurm_ids, calls)
    return slurm_ids


def clean(folder: Path) -> None:
    """Remove what a submission leaves that came to nothing.

    While it is under way, files have a name of their own, which is then the job's.
    """
    for path in folder.glob("*"):
        named_so = re.fullmatch(r"[0-9a-f]{32}\.pkl|\.submission_file_[0-9a-f]{32}\.sh", path.name)
        if named_so and not path.is_symlink():  # submitit keeps a link, of what was submitted
            path.unlink(missing_ok=True)


def given(folder: Path, slurm_id: str) -> list[str]:
    """The options that sbatch was given for a job; none where nobody can read them any more."""
    try:
        text = JobPaths(folder, slurm_id).submission_file.read_text()
    except OSError:
        return []
    return re.findall(r"^#SBATCH (.*)$", text, re.MULTILINE)


def submitted_points(folder: Path, slurm_id: str) -> list[tuple[str, str]]:
    """Folder and attempt of each point of a job that was submitted from here; empty otherwise.

    It is read from a file of our own: submitit's is a pickle, which does what is in it when it is
    read, and anybody who may write results may write one.
    """
    array, _, index = slurm_id.partition("_")
    packs = (read_json(_points_file(folder, array)) or {}).get("packs")
    try:
        pack = typed(list[list[list[str]]], packs)[int(index or 0)]
        return [(point, attempt) for point, attempt in pack]
    except (TypeError, ValueError, IndexError):
        return []


def _points_file(folder: Path, array: str) -> Path:
    return folder / f"{array}_points.json"


def _write_points(folder: Path, slurm_ids: Sequence[str], calls: Sequence[Call]) -> None:
    """What the jobs of an array hold. Where it cannot be written, status.json may be yet."""
    text = json.dumps({"packs": [call.points for call in calls]})
    with suppress(OSError):
        write_atomic(_points_file(folder, slurm_ids[0].partition("_")[0]), text)


def log(folder: Path, slurm_id: str) -> Path:
    """The output of a job's first node."""
    return JobPaths(folder, slurm_id, 0).stdout
