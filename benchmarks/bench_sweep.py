"""What a point costs the sweeper, against Hydra's own sweeper and launcher on the same points.

Both compose 500 points in a process of their own and run none of them: ours as a dry run, which
also checks the rules, names the points and prints the plan; Hydra's with a task that does nothing.
Starting the process is not counted: it is measured with one point. Target: a ratio of 1.2 or less.
Run: python -m benchmarks.bench_sweep
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

import hydra
from omegaconf import DictConfig

from refit import schema
from refit.schema import CONF

POINTS = 500
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


def seconds(command: list[str], points: int) -> float:
    """Wall time of a sweep of that many points, which must succeed."""
    with tempfile.TemporaryDirectory() as folder:
        sweep = [f"seed=range(0,{points})", f"hydra.sweep.dir={folder}"]
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, *command, *sweep],
            cwd=CONF.parent,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return time.perf_counter() - start


def per_point(command: list[str]) -> float:
    """Seconds that each further point adds."""
    start = min(seconds(command, 1) for _ in range(3))
    return (seconds(command, POINTS) - start) / (POINTS - 1)


def main() -> None:
    """Print one line for each and the ratio."""
    ours, hydras = per_point(OURS), per_point(HYDRAS)
    print(f"{POINTS} points, seed=range(0,{POINTS})")
    print(f"  Hydra's basic sweeper and launcher  {hydras * 1e3:6.1f} ms per point")
    print(f"  ours, sweep.dry_run=true            {ours * 1e3:6.1f} ms per point")
    print(f"  ratio {ours / hydras:.2f} (target <= 1.2)")


if __name__ == "__main__":
    main()
