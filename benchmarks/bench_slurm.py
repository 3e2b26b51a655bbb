"""What a sweep on Slurm costs: from -m to the first point running; sixty points packed and not.

On a throw-away, real Slurm cluster of two pretended nodes (`bash tests/slurm/install.sh`). Run:
python -m benchmarks.bench_slurm
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.slurm.cluster import Cluster, missing_packages
from tests.slurm.test_many import test_sixty_points_packed_and_not


def main() -> None:
    """Print the times of both sweeps and their ratio."""
    if missing := missing_packages():
        print(f"no {', '.join(missing)} here: install with `bash tests/slurm/install.sh`")
        return
    # munge refuses a socket that others cannot reach, and unix sockets need a short path
    with tempfile.TemporaryDirectory(prefix="rs", dir="/tmp") as root:
        Path(root).chmod(0o755)
        with Cluster(Path(root) / "a") as cluster:
            test_sixty_points_packed_and_not(cluster, Path(root))


if __name__ == "__main__":
    main()
