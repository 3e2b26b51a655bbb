"""What one Slurm job does on each of its nodes: points of one shape, one after another."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from refit import told
from refit.ranks.agent import Agent
from refit.record.point import Point
from refit.record.record import Record
from sweeper import status, submitit_side
from sweeper.decisions import SETTLED
from sweeper.submitit_side import SIGNALS


@dataclass(frozen=True)
class Pack:
    """Called by submitit in one task per node.

    Attributes:
        points: directory of each point, and the number of the attempt.
    """

    points: tuple[tuple[str, str], ...]

    def __call__(self) -> None:
        """Run this node's part of every point.

        Raises:
            RuntimeError: a point is not ok, so that Slurm too says FAILED; all were run before.
        """
        # of the step: an allocation (sweep.here) may have more nodes than it
        node, nodes = int(os.environ["SLURM_NODEID"]), int(os.environ["SLURM_STEP_NUM_NODES"])
        restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        failed = []
        with _until_killed():
            loaded = [(Point.load(Path(folder)), number) for folder, number in self.points]
            given = _given(loaded[0][0].job.cluster.slurm or {})
            with Agent((point.job for point, _ in loaded), given) as agent:
                for point, number in loaded:
                    state = status.get(point).state
                    if not (restart and state in SETTLED):  # by this job, before it began anew
                        attempt = f"{number}.{restart}" if restart else number
                        state = _run_point(agent, point, attempt, node, nodes)
                    if state != "ok":
                        failed.append(f"{point.name}: {state}")
        if failed:
            raise RuntimeError("; ".join(failed))


def _run_point(agent: Agent, point: Point, attempt: str, node: int, nodes: int) -> str:
    """Run a point and write where it stands; whatever goes wrong, its pack-mates have their turn.

    Without a final status.json the controller asks Slurm, which says FAILED.
    """
    try:
        if node == 0:
            status.put(point, "running", attempt, slurm_id())
        measure = partial(agent.measure_point, point, print, attempt, node, nodes)
        record = measure() if point.hydra is None else _as_job(point, measure, node)
        if node == 0:
            status.put(point, record.status, attempt, slurm_id())
    except Exception:  # a full disk, say
        traceback.print_exc()
        return "failed"
    return record.status


def _as_job(point: Point, measure: Callable[[], Record], node: int) -> Record:
    from sweeper import hydra_job  # it imports Hydra, which a job has no use for otherwise

    return hydra_job.in_job(node)(point, measure)


@contextmanager
def _until_killed() -> Iterator[None]:
    """Ignore, here and in the ranks, the signals by which Slurm and submitit announce the end.

    SIGUSR2 comes before the time limit, SIGTERM with it, on preemption and after scancel, each with
    some time left, in which a point may get done; SIGKILL follows. submitit would raise at the
    first and requeue by rules of its own, so that Slurm would not say TIMEOUT; ranks would die of
    either, and their agent would call that a crash. Slurm itself knows better what happened.
    """
    before = {s: signal.signal(s, signal.SIG_IGN) for s in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _given(slurm: Mapping[str, Any]) -> dict[str, Any]:
    """What sbatch was given for this job, for the record; a step of an allocation was not."""
    folder = os.environ.get("SUBMITIT_FOLDER")
    if not folder:
        return {}
    return {"sbatch": told.options_as_written(submitit_side.given(Path(folder), slurm_id()), slurm)}


def slurm_id() -> str:
    """This job's id as squeue and sacct print it: `12`, or `12_3` in an array."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
