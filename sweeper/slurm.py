"""Points -> Slurm jobs through submitit, one array per resource shape; what Slurm says of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Container, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import DelayedSubmission, FailedJobError

from refit.job import UserError
from refit.layout.layout import place
from refit.record.point import Point
from sweeper import status
from sweeper.pack import KEPT, Pack

SUBMITIT = ".submitit"  # below the sweep's folder: submitit's files, and the logs of the agents
# What a point's layouts and the agents decide, and cluster.slurm therefore may not.
OURS = frozenset(("nodes", "ntasks", "ntasks_per_node", "use_srun", "map_count", "array", "output"))
CLIENT_S = 60.0  # for a Slurm client; one whose controller is gone takes ten seconds to say so


def groups(points: Iterable[Point]) -> dict[str, list[Point]]:
    """Points that ask for the same: nodes, everything below cluster, and the pack size."""
    found: dict[str, list[Point]] = {}
    for point in points:
        key = json.dumps([parameters(point), point.job.sweep.pack], sort_keys=True)
        found.setdefault(key, []).append(point)
    return found


def labelled(points: Iterable[Point]) -> dict[str, list[Point]]:
    """The groups by a name that a person can tell them by: nodes, and what else differs."""
    alike = list(groups(points).values())
    asked = [{**parameters(g[0]), "pack": g[0].job.sweep.pack} for g in alike]
    differ = [k for k in dict.fromkeys(k for a in asked for k in a) if k != "nodes"]
    differ = [k for k in differ if len({str(a.get(k)) for a in asked}) > 1]
    names = [
        ", ".join([f"{a['nodes']} node(s)", *(f"{k}={a.get(k)}" for k in differ)]) for a in asked
    ]
    return dict(zip(names, alike, strict=True))


def parameters(point: Point) -> dict[str, Any]:
    """What a point asks of sbatch, in submitit's names.

    Raises:
        UserError: a value of cluster.slurm is not of the kind that its name needs.
    """
    asked = _asked(point.job.cluster.slurm)
    return {
        "job_name": "refit-sweep",
        "stderr_to_stdout": True,
        # not asked for: left to themselves submitit asks for five minutes and a wckey of its own
        "time": None,
        "wckey": None,
        **asked,
        "nodes": place(point.job).nodes,
        "ntasks_per_node": 1,
        # one node's agent that ends badly ends the others, and Slurm says FAILED
        "srun_args": ["--kill-on-bad-exit=1", *asked.get("srun_args", [])],
    }


def _asked(said: Any) -> dict[str, Any]:
    """What `cluster.slurm` asks for, checked as far as submitit does not."""
    if not isinstance(said, dict | None):
        raise UserError(
            f"cluster.slurm={said!r} is not a mapping; conf/cluster/slurm.yaml has its names"
        )
    asked = {k: v for k, v in (said or {}).items() if v is not None}
    for name in ("setup", "teardown", "srun_args"):
        value = asked.get(name, [])
        if not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            raise UserError(
                f"cluster.slurm.{name}={value!r} is not a list of strings; write"
                f" 'cluster.slurm.{name}=[\"...\"]'"
            )
    more = asked.get("additional_parameters", {})
    if not isinstance(more, dict):
        raise UserError(
            f"cluster.slurm.additional_parameters={more!r} is not a mapping of sbatch's own names;"
            " write 'cluster.slurm.additional_parameters={container-image: ...}'"
        )
    at_once = asked.get("array_parallelism", 1)
    if not isinstance(at_once, int) or at_once < 1:
        raise UserError(
            f"cluster.slurm.array_parallelism={at_once!r}: must be a whole number, 1 or more"
        )
    if ours := sorted({*asked, *(name.replace("-", "_") for name in more)} & OURS):
        raise UserError(
            f"cluster.slurm cannot say {', '.join(ours)}: a job has one task on each of the nodes"
            " that its layouts need, cluster.ranks_per_node ranks on each"
        )
    return asked


def check() -> None:
    """Ask whether there is a Slurm to submit to.

    Raises:
        UserError: its commands are missing, or its controller does not answer.
    """
    if shutil.which("scontrol") is None:
        client("scontrol")  # says what is missing
    try:
        said = client("scontrol", "ping")
    except UserError as error:
        said = str(error)
    if "is UP" not in said:
        lines = [line for line in said.splitlines() if "slurmctld" in line.lower()]
        raise UserError(f"no Slurm controller answers: {lines[0] if lines else said.strip()}")


def client(*command: str) -> str:
    """Output of a Slurm command.

    Raises:
        UserError: the command is missing, fails, or does not answer.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CLIENT_S)
    except FileNotFoundError:
        raise UserError(
            f"cluster=slurm needs Slurm's commands, and {command[0]} is not on PATH; run on a"
            " login node, or use cluster=local"
        ) from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{' '.join(command)} gave no answer in {CLIENT_S:g} s") from None
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def executor(point: Point, folder: Path) -> submitit.SlurmExecutor:
    """submitit's executor for a point's shape.

    Raises:
        UserError: a parameter that submitit does not know; its text lists those it does.
    """
    made = submitit.SlurmExecutor(folder=folder, max_num_timeout=0)
    try:
        made.update_parameters(**parameters(point))
    except (ValueError, TypeError) as error:
        raise UserError(f"cluster.slurm: {error}") from None
    return made


def submit(points: Sequence[Point], root: Path) -> None:
    """Submit every point that no queued job holds, one array per shape, split at MaxArraySize.

    Either all are submitted or none: when Slurm refuses one shape, the others are cancelled.

    Raises:
        UserError: Slurm refuses, with its own words; or the results' folder cannot be written.
    """
    largest = _max_array_size()
    submitted: list[_Submitted] = []
    try:
        for alike in groups(_adopt(points, root)).values():
            size = alike[0].job.sweep.pack
            packs = [alike[i : i + size] for i in range(0, len(alike), size)]
            for start in range(0, len(packs), largest):
                part = _submit_array(packs[start : start + largest], root)
                submitted += part
                for point, attempt, slurm_id in part:
                    # it may run by now, and have said so
                    if status.get(point)["slurm_id"] != slurm_id:
                        status.put(point, "submitted", attempt, slurm_id)
    except (UserError, OSError) as error:
        if submitted:
            client("scancel", *sorted({slurm_id.split("_")[0] for _, _, slurm_id in submitted}))
        for point, attempt, _ in submitted:
            with suppress(OSError):
                status.put(point, "pending", attempt, "")
        if isinstance(error, OSError):
            raise UserError(f"cannot write results to {root}: {error.strerror}") from None
        raise


_Submitted = tuple[Point, str, str]  # with the attempt's name and Slurm's id


def waits(point: Point, slurm_id: str, alive: Container[str]) -> bool:
    """Whether a job that Slurm has not finished with may still run the point.

    One that has ended the point may take a while to end itself, or have its pack-mates to run.
    """
    said = status.get(point)
    ended = said["slurm_id"] == slurm_id and said["state"] in KEPT
    return slurm_id in alive and not ended


def _adopt(points: Sequence[Point], root: Path) -> list[Point]:
    """The points that no queued job holds; the others are given the id of theirs.

    A controller that is killed while it submits leaves jobs whose ids no status.json has.
    """
    held: dict[str, tuple[str, str]] = {}
    alive = queued() if points else {}
    for slurm_id in alive:
        pickled = root / SUBMITIT / f"{slurm_id}_submitted.pkl"
        if pickled.exists():
            pack: Any = DelayedSubmission.load(pickled).function
            held |= {Path(folder).name: (attempt, slurm_id) for folder, attempt in pack.points}
    left = []
    for point in points:
        if not waits(point, held.get(point.name, ("", ""))[1], alive):
            left.append(point)
        elif status.get(point)["slurm_id"] != held[point.name][1]:
            if not point.frozen.exists():  # somebody has deleted the folder of a queued point
                point.freeze()
            status.put(point, "submitted", *held[point.name])
    return left


def _submit_array(packs: Sequence[Sequence[Point]], root: Path) -> list[_Submitted]:
    made = executor(packs[0][0], root / SUBMITIT)
    numbered = []
    for pack in packs:
        for point in pack:
            point.freeze()
        numbered.append([(point, point.attempt().directory.name) for point in pack])
    calls = [Pack(tuple((str(p.directory.resolve()), n) for p, n in pack)) for pack in numbered]
    try:
        with made.batch():
            jobs = [made.submit(call) for call in calls]
    except FailedJobError as error:
        raise UserError(f"Slurm refuses the job: {_sbatch_words(error)}") from None
    return [
        (point, attempt, job.job_id)
        for job, members in zip(jobs, numbered, strict=True)
        for point, attempt in members
    ]


def _sbatch_words(error: FailedJobError) -> str:
    found = re.findall(r"sbatch: error: (.*)", str(error))
    return "; ".join(found) or str(error).strip()


def _max_array_size() -> int:
    """The most jobs an array may have; 1000 where Slurm does not say."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", client("scontrol", "show", "config"))
    return max(1, int(found[1]) - 1) if found else 1000


def queued() -> dict[str, str]:
    """State of each of this user's jobs that Slurm has not finished with.

    Array elements one by one, as `PENDING`, `RUNNING`, ...
    """
    lines = client("squeue", "--me", "--noheader", "--array", "--format=%i %T").splitlines()
    return dict(line.split(maxsplit=1) for line in lines)


def state(slurm_id: str) -> str:
    """What Slurm says of a job: RUNNING, COMPLETED, TIMEOUT, ...

    Its controller knows at once, and forgets after minutes; accounting learns of an array's
    elements seconds late, and never of one that was cancelled before it started. UNKNOWN where
    neither knows it, or neither answers.
    """
    try:
        found = re.search(r"\bJobState=(\w+)", client("scontrol", "show", "job", "-o", slurm_id))
        if found:
            return found[1]
    except UserError:
        pass  # forgotten
    try:
        said = client("sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", slurm_id)
    except UserError:
        return "UNKNOWN"  # without accounting, say
    for line in reversed(said.splitlines()):
        job, _, word = line.partition("|")
        if job == slurm_id:
            return word.split()[0]  # of "CANCELLED by 0"
    return "UNKNOWN"
