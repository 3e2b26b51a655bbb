"""What a sweep of ten thousand points costs: its dry run, its status, its table; and one point.

Wall and processor time (user and system: what a machine that others use too tells apart), and the
most memory, of each program as a process of its own. Targets: the dry run 60 s and 1 GB, status and
collect 20 s each. A point is also held against Hydra's own sweeper and launcher, which compose as
many and run none of them with a task that does nothing; starting the process is not counted there.
Run: python -m benchmarks.bench_sweep [POINTS]
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import hydra
from omegaconf import DictConfig

from benchmarks import common
from refit import schema
from refit.record.point import Point
from refit.record.record import begin, ended
from refit.schema import CONF

POINTS = 10_000
HYDRAS_POINTS = 100
OURS = ["-m", "refit.run", "-m", "sweep.dry_run=true"]
HYDRAS = [
    "-c",
    "from benchmarks import bench_sweep; bench_sweep.nothing()",
    "-m",
    "hydra/sweeper=basic",
    "hydra/launcher=basic",
]


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def nothing(config: DictConfig) -> None:
    """The task of each of Hydra's points."""


schema.register()


@dataclass(frozen=True)
class Cost:
    """Of a process that has ended."""

    wall_s: float
    cpu_s: float
    peak_mb: float

    def __str__(self) -> str:
        return f"{self.wall_s:6.1f} s wall, {self.cpu_s:6.1f} s CPU, {self.peak_mb:5.0f} MB"


def cost(arguments: Sequence[str]) -> Cost:
    """Run Python with these arguments, which must succeed; what it prints goes nowhere."""
    command = [sys.executable, *arguments]
    start = time.perf_counter()
    silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=silent)
    _, status, used = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"exit code {os.waitstatus_to_exitcode(status)}: {' '.join(command)}")
    wall_s = time.perf_counter() - start
    return Cost(wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def sweep(command: Sequence[str], points: int) -> Cost:
    """Of a sweep of that many points."""
    with tempfile.TemporaryDirectory() as folder:
        return cost([*command, f"seed=range(0,{points})", f"hydra.sweep.dir={folder}"])


def per_point_s(command: Sequence[str], points: int) -> float:
    """Processor seconds that each further point adds."""
    start_s = min(sweep(command, 1).cpu_s for _ in range(2))
    return (sweep(command, points).cpu_s - start_s) / (points - 1)


def ended_points(folder: Path, points: int) -> None:
    """A folder as a sweep leaves it, each point's record that of one prediction."""
    job = common.job("mode=plan", "cluster=h100")
    for seed in range(points):
        point = Point.of(replace(job, seed=seed), folder, (f"seed={seed}",))
        record = ended(begin(point, {"nodes": ["node1"]}), "ok", "")
        point.directory.mkdir()
        point.timing.write_text(json.dumps(asdict(record), indent=2))
        point.frozen.write_text(json.dumps({"overrides": [], "config": job.to_dict()}))


def main() -> None:
    """Print a line for each program, and both costs of a point."""
    points = int(sys.argv[1]) if sys.argv[1:] else POINTS
    print(f"{points} points, seed=range(0,{points})")
    print(f"  sweep.dry_run=true  {sweep(OURS, points)}  (60 s, 1000 MB)")
    with tempfile.TemporaryDirectory() as folder:
        ended_points(Path(folder), points)
        for name in ("status", "collect"):
            print(f"  sweeper.{name:10}  {cost(['-m', f'sweeper.{name}', folder])}  (20 s)")
    ours, hydras = per_point_s(OURS, points), per_point_s(HYDRAS, HYDRAS_POINTS)
    print(f"  a point of ours {ours * 1e3:.1f} ms CPU, of Hydra's {hydras * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
