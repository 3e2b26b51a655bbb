"""What one Slurm job does on each of its nodes: points of one shape, one after another."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from refit.agent import Agent
from refit.point import Point
from sweeper import status


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
        node, nodes = int(os.environ["SLURM_NODEID"]), int(os.environ["SLURM_JOB_NUM_NODES"])
        restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        loaded = [(Point.load(Path(folder)), number) for folder, number in self.points]
        failed = []
        with Agent(point.job for point, _ in loaded) as agent:
            for point, number in loaded:
                if restart and status.get(point)["state"] in status.FINAL:
                    continue  # done before Slurm started this job anew
                attempt = f"{number}.{restart}" if restart else number
                if node == 0:
                    status.put(point, "running", attempt, slurm_id())
                found = agent.run(point, print, attempt, node, nodes)
                if node == 0:
                    status.put(point, found["status"], attempt, slurm_id())
                if found["status"] != "ok":
                    failed.append(f"{point.name}: {found['status']}")
        if failed:
            raise RuntimeError("; ".join(failed))


def slurm_id() -> str:
    """This job's id as squeue and sacct print it: `12`, or `12_3` in an array."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
