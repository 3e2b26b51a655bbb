"""Inside an allocation (salloc): points run as srun steps on the nodes it has, not as new jobs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from refit.errors import UserError
from refit.job import Job
from refit.layout.place import place
from refit.record import environment, record
from refit.record.allocation import asked, elsewhere
from refit.record.point import Point
from sweeper import clients, slurm, status
from sweeper.pack import Pack


def of_allocation(job: Job) -> Job:
    """The job with what this allocation is in place of what would be asked for one.

    So that it is the point, and has the record, of a job that ran on such nodes.

    Raises:
        UserError: it is not what `cluster.slurm` asks for.
    """
    around = environment.variables(environment.SLURM)
    if "SLURM_JOB_ID" not in around:
        return job  # a dry run, say; `run_steps` says that this is no allocation
    if reason := elsewhere(job, {"slurm": around}):
        what = reason.replace("it ran", "this allocation is", 1)
        raise UserError(f"sweep.here=true: {what}; make one that is, or leave sweep.here out")
    gpus = os.environ.get("SLURM_GPUS_PER_NODE", os.environ.get("SLURM_GPUS_ON_NODE"))
    partition = around.get("SLURM_JOB_PARTITION")
    slurm = {"partition": partition, "gpus_per_node": gpus, "python": _python(job)}
    return replace(job, cluster=replace(job.cluster, slurm=slurm))


HELD = frozenset(("partition", "nodelist", "exclude", "python"))
"""What of `cluster.slurm` an allocation is held against, or a step obeys."""


def without_effect(jobs: Iterable[Job]) -> str | None:
    """What is said of the rest that they ask of Slurm: the allocation was made before."""
    names = {name for job in jobs for name, value in asked(job).items() if value != "0"} - HELD
    if not names:
        return None
    return (
        f"sweep.here: the allocation stands as it was made; of cluster.slurm"
        f" {', '.join(sorted(names))} have no effect in it"
    )


def run_steps(points: Sequence[Point], pack_size: int, say: Callable[[str], None]) -> None:
    """Run points pack after pack, each pack as one step with one task per node.

    Args:
        points: to be run; each ends with a record.
        pack_size: the most points of one step.
        say: told which step starts.

    Raises:
        UserError: this is no allocation, or the results' folder cannot be written.
    """
    said = os.environ.get("SLURM_JOB_NUM_NODES", "0")
    if not re.fullmatch(r"\d{1,9}", said):
        raise UserError(
            f"sweep.here=true: SLURM_JOB_NUM_NODES={said!r} is no number of nodes, which Slurm sets"
            " in an allocation; start it below salloc, or leave sweep.here out"
        )
    have = int(said)
    if not have:
        raise UserError(
            "sweep.here=true runs on the nodes of an allocation, and this is none; start it below"
            " salloc --nodes=... --gpus-per-node=8, or leave sweep.here out to submit jobs"
        )
    for alike in slurm.groups(points).values():
        nodes = place(alike[0].job).nodes
        (packs,) = slurm.split(alike, pack_size, largest=len(alike))
        for pack in packs:
            say(f"step of {nodes} node(s): {', '.join(p.name for p in pack)}")
            try:
                if nodes <= have:
                    _step(pack, nodes)
                    continue
                reason = f"needs {nodes} nodes, this allocation has {have}"
                say(f"skipped: {reason}")
                for point in pack:
                    _end(point, "skipped", reason)
            except OSError as error:
                where = pack[0].directory.parent
                raise UserError(f"cannot write results to {where}: {error.strerror}") from None


def _step(pack: Sequence[Point], nodes: int) -> None:
    numbered = []
    for point in pack:
        point.freeze()
        attempt = point.attempt().directory.name
        status.put(point, "submitted", attempt, os.environ["SLURM_JOB_ID"])
        numbered.append((str(point.directory.resolve()), attempt))
    shape = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
    if "SLURM_STEP_ID" in os.environ:  # the step that this is may hold all there is
        shape.append("--overlap")
    python = shlex.split(_python(pack[0].job) or shlex.quote(sys.executable))
    command = [*python, "-m", "sweeper.here", json.dumps(numbered)]
    done = subprocess.run(
        ["srun", *shape, *command], stdout=subprocess.DEVNULL, env=clients.of_steps()
    )
    for point, (_, attempt) in zip(pack, numbered, strict=True):
        if not status.get(point).is_final:
            reason = f"srun ended with code {done.returncode} and left no record"
            _end(point, "crashed", reason, attempt)


def _python(job: Job) -> str | None:
    """What the site's own Python is, if `cluster.slurm` says."""
    found: str | None = (job.cluster.slurm or {}).get("python")
    return found


def _end(point: Point, how: record.Status, reason: str, attempt: str | None = None) -> None:
    """Give a point that could not run its record."""
    folder = point.attempt(attempt)
    final = record.ended(record.begin(point, environment.of_controller()), how, reason)
    final = record.keep(final, folder.timing, point.timing)
    status.put(point, final.status, folder.directory.name, os.environ["SLURM_JOB_ID"])


def main(argument: str) -> None:
    """What srun starts on each node; see `sweeper.pack.Pack`."""
    Pack(tuple((str(folder), str(attempt)) for folder, attempt in json.loads(argument)))()


if __name__ == "__main__":
    main(sys.argv[1])
