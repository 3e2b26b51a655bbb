"""How long a user waits: for --help, for the config, for the ten rows of the table.

Targets on two cores: 1 s for the first two, 60 s for the rows. The ratio is to starting Python with
Hydra alone, or to the time inside refits. Run: python -m benchmarks.bench_start
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def seconds(*command: str) -> float:
    """Wall time of a Python command, which must succeed."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Print one line per command."""
    bare = min(seconds("-c", "import hydra") for _ in range(3))
    print(f"python -c 'import hydra'      {bare:6.2f} s")
    for option in (["--help"], ["--cfg", "job"]):
        took = min(seconds("-m", "refit.run", *option) for _ in range(3))
        label = f"refit.run {' '.join(option)}"
        ratio = f"{took / bare:.1f} x import hydra"
        print(f"{label:<29} {took:6.2f} s = {ratio} (target <= 1 s)")
    with tempfile.TemporaryDirectory() as folder:
        sweep = ["-m", "parallel=glob(*)", f"hydra.sweep.dir={folder}"]
        took = seconds("-m", "refit.run", *sweep)
        records = [json.loads(p.read_text()) for p in Path(folder).glob("*/timing.json")]
    rows = [r for r in records if r["status"] == "ok"]
    inside = sum(r["seconds"]["cold"] + sum(r["seconds"]["warm"]) for r in rows)
    ratio = f"{took / inside:.1f} x the timed refits"
    print(f"the table, {len(rows)} rows ok       {took:6.2f} s = {ratio} (target <= 60 s)")


if __name__ == "__main__":
    main()
