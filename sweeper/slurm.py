"""Points -> Slurm jobs through submitit, one array per resource shape; what Slurm says of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from refit.job import UserError
from refit.layout.place import place
from refit.record.point import Point
from sweeper import status, submitit_side
from sweeper.decisions import adoption
from sweeper.pack import Pack

# What a point's layouts and the agents decide, and cluster.slurm therefore may not.
OURS = frozenset(("nodes", "ntasks", "ntasks_per_node", "use_srun", "map_count", "array", "output"))
CLIENT_S = 60.0  # for a Slurm client; one whose controller is gone takes ten seconds to say so


def groups(points: Iterable[Point]) -> dict[str, list[Point]]:
    """Points that ask sbatch for the same, by what they ask for."""
    alike: dict[str, list[Point]] = {}
    for point in points:
        alike.setdefault(json.dumps(parameters(point), sort_keys=True), []).append(point)
    return alike


def labelled(points: Iterable[Point]) -> dict[str, list[Point]]:
    """The groups by a name that a person can tell them by: nodes, and what else differs."""
    alike = list(groups(points).values())
    shapes = [parameters(group[0]) for group in alike]
    keys = [
        key for key in dict.fromkeys(key for shape in shapes for key in shape) if key != "nodes"
    ]
    differ = [key for key in keys if len({str(shape.get(key)) for shape in shapes}) > 1]
    names = [
        ", ".join([f"{shape['nodes']} node(s)", *(f"{key}={shape.get(key)}" for key in differ)])
        for shape in shapes
    ]
    return dict(zip(names, alike, strict=True))


def parameters(point: Point) -> dict[str, Any]:
    """What a point asks of sbatch, in submitit's names.

    Raises:
        UserError: a value of cluster.slurm is not of the kind that its name needs.
    """
    requested = _requested(point.job.cluster.slurm)
    return {
        "job_name": "refit-sweep",
        "stderr_to_stdout": True,
        # not asked for: left to themselves submitit asks for five minutes and a wckey of its own
        "time": None,
        "wckey": None,
        **requested,
        "nodes": place(point.job).nodes,
        "ntasks_per_node": 1,
        # one node's agent that ends badly ends the others, and Slurm says FAILED
        "srun_args": ["--kill-on-bad-exit=1", *requested.get("srun_args", [])],
    }


def _requested(values: Any) -> dict[str, Any]:
    """What `cluster.slurm` asks for, checked as far as submitit does not."""
    if not isinstance(values, dict | None):
        raise UserError(
            f"cluster.slurm={values!r} is not a mapping; conf/cluster/slurm.yaml has its names"
        )
    requested = {k: v for k, v in (values or {}).items() if v is not None}
    for name in ("setup", "teardown", "srun_args"):
        value = requested.get(name, [])
        if not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            raise UserError(
                f"cluster.slurm.{name}={value!r} is not a list of strings; write"
                f" 'cluster.slurm.{name}=[\"...\"]'"
            )
    more = requested.get("additional_parameters", {})
    if not isinstance(more, dict):
        raise UserError(
            f"cluster.slurm.additional_parameters={more!r} is not a mapping of sbatch's own names;"
            " write 'cluster.slurm.additional_parameters={container-image: ...}'"
        )
    at_once = requested.get("array_parallelism", 1)
    if not isinstance(at_once, int) or at_once < 1:
        raise UserError(
            f"cluster.slurm.array_parallelism={at_once!r}: must be a whole number, 1 or more"
        )
    if ours := sorted({*requested, *(name.replace("-", "_") for name in more)} & OURS):
        raise UserError(
            f"cluster.slurm cannot say {', '.join(ours)}: a job has one task on each of the nodes"
            " that its layouts need, cluster.ranks_per_node ranks on each"
        )
    return requested


def check() -> None:
    """Ask whether there is a Slurm to submit to.

    Raises:
        UserError: its commands are missing, or its controller does not answer.
    """
    for command in ("scontrol", "sbatch", "srun", "squeue", "scancel"):
        if shutil.which(command) is None:
            raise _missing(command)
    try:
        answer = client("scontrol", "ping")
    except UserError as error:
        answer = str(error)
    if "is UP" not in answer:
        lines = [line for line in answer.splitlines() if "slurmctld" in line.lower()]
        raise UserError(f"no Slurm controller answers: {lines[0] if lines else answer.strip()}")


def client(*command: str) -> str:
    """What a Slurm command prints.

    Raises:
        UserError: the command is missing, fails, or does not answer.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CLIENT_S)
    except FileNotFoundError:
        raise _missing(command[0]) from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{' '.join(command)} gave no answer in {CLIENT_S:g} s") from None
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _missing(command: str) -> UserError:
    return UserError(
        f"cluster=slurm needs Slurm's commands, and {command} is not on PATH; run on a login node,"
        " or use cluster=local"
    )


def executor(point: Point, root: Path) -> submitit_side.Executor:
    """submitit's executor for a point's shape.

    Raises:
        UserError: a parameter that submitit does not know; its text lists those it does.
    """
    return submitit_side.executor(root / submitit_side.FOLDER, parameters(point))


def submit(points: Sequence[Point], root: Path, pack_size: int) -> None:
    """Submit every point that no queued job holds, one array per shape, split at MaxArraySize.

    Either all are submitted or none: when Slurm refuses one shape, the others are cancelled.

    Raises:
        UserError: Slurm refuses, with its own words; or the results' folder cannot be written.
    """
    largest = _max_array_size()
    submitted: list[_Submitted] = []
    try:
        for alike in groups(_without_job(points, root)).values():
            for array in split(alike, pack_size, largest):
                part = _submit_array(array, root)
                submitted += part
                for point, attempt, slurm_id in part:
                    # it may run by now, and have said so
                    if status.get(point).slurm_id != slurm_id:
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


def split(points: Sequence[Point], pack_size: int, largest: int) -> list[list[list[Point]]]:
    """Points -> arrays of packs: at most so many points in a pack, and packs in an array."""
    packs = [list(points[i : i + pack_size]) for i in range(0, len(points), pack_size)]
    return [packs[i : i + largest] for i in range(0, len(packs), largest)]


def _without_job(points: Sequence[Point], root: Path) -> list[Point]:
    """The points that no queued job holds; the others are given the id of theirs."""
    holders: dict[str, tuple[str, str]] = {}
    alive = queued() if points else {}
    for slurm_id in alive:
        pack = submitit_side.submitted_call(root / submitit_side.FOLDER, slurm_id)
        if pack is not None:
            holders |= {Path(folder).name: (attempt, slurm_id) for folder, attempt in pack.points}
    without = []
    for point in points:
        attempt, slurm_id = holders.get(point.name, ("", ""))
        what = adoption(status.get(point), slurm_id, alive)
        if what == "submit":
            without.append(point)
        elif what == "adopt":
            if not point.frozen.exists():  # somebody has deleted the folder of a queued point
                point.freeze()
            status.put(point, "submitted", attempt, slurm_id)
    return without


def _submit_array(packs: Sequence[Sequence[Point]], root: Path) -> list[_Submitted]:
    numbered = []
    for pack in packs:
        for point in pack:
            point.freeze()
        numbered.append([(point, point.attempt().directory.name) for point in pack])
    calls = [Pack(tuple((str(p.directory.resolve()), n) for p, n in pack)) for pack in numbered]
    slurm_ids = submitit_side.submit_array(executor(packs[0][0], root), calls)
    return [
        (point, attempt, slurm_id)
        for slurm_id, members in zip(slurm_ids, numbered, strict=True)
        for point, attempt in members
    ]


def _max_array_size() -> int:
    """The most jobs an array may have; 1000 where Slurm does not say."""
    setting = re.search(r"MaxArraySize\s*=\s*(\d+)", client("scontrol", "show", "config"))
    return max(1, int(setting[1]) - 1) if setting else 1000


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
        word = re.search(r"\bJobState=(\w+)", client("scontrol", "show", "job", "-o", slurm_id))
        if word:
            return word[1]
    except UserError:
        pass  # forgotten
    try:
        table = client("sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", slurm_id)
    except UserError:
        return "UNKNOWN"  # without accounting, say
    for line in reversed(table.splitlines()):
        job, _, words = line.partition("|")
        if job == slurm_id:
            return words.split()[0]  # of "CANCELLED by 0"
    return "UNKNOWN"
