"""A sweep on the tests' Slurm cluster as a user runs it, and what is left of it on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.slurm.cluster import Cluster
from tests.slurm.processes import OUTER

ROOT = Path(__file__).parents[2]
TINY = [
    "build=shards", "model=moe_8e", "model.num_layers=1", "model.vocab_size=500",
    "model.hidden_size=64", "model.num_attention_heads=8",
    "model.ffn_hidden_size=96", "bench.iterations=1",
]  # fmt: skip
ROW_4 = "parallel=noncollocated_4_tp2ep1_to_tp1ep1"  # three ranks
FEW = "cluster.ranks_per_node=4"  # is enough for it
PAIR = (  # four ranks on two nodes
    "parallel=twonode_tp4ep4_to_tp8ep2", "parallel.source.tp=2", "parallel.source.ep=2",
    "parallel.destination.tp=4", "parallel.destination.ep=1", "cluster.ranks_per_node=2",
)  # fmt: skip


@dataclass(frozen=True)
class Sweep:
    """The command `python -m refit.run -m cluster=slurm ...` with its results in `folder`.

    Jobs inherit the controller's environment. `go_on` is the file that
    `tests.support.faults:GlooWaits` waits for.
    """

    cluster: Cluster
    folder: Path
    arguments: tuple[str, ...]
    checkout: Path = ROOT

    @property
    def go_on(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.go-on")

    @property
    def output(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    def start(self, *more: str, **shell: str) -> subprocess.Popen[bytes]:
        """The controller as a process; its stdout and stderr go to `output`.

        `shell`: variables of the user's besides.
        """
        kept = {k: v for k, v in os.environ.items() if not k.startswith(OUTER)}
        where = [f"hydra.sweep.dir={self.folder}", f"hydra.run.dir={self.folder}"]
        small = [*TINY, *([FEW] if ROW_4 in self.arguments else [])]
        command = [sys.executable, "-m", "refit.run", "-m", "cluster=slurm", *small, *where]
        with self.output.open("wb") as output:
            return subprocess.Popen(
                [*command, *self.arguments, *more],
                cwd=self.checkout,
                env={**kept, **self.cluster.env, "REFIT_TEST_GO_ON": str(self.go_on), **shell},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def end(self, controller: subprocess.Popen[bytes], limit_s: float = 180) -> tuple[int, str]:
        """Exit code and output of the controller started last, once it has ended."""
        try:
            controller.wait(limit_s)
        except subprocess.TimeoutExpired:
            controller.kill()
            controller.wait()
            raise AssertionError(f"not done after {limit_s:g} s:\n{self.said()}") from None
        return controller.returncode, self.said()

    def run(self, *more: str, limit_s: float = 180) -> tuple[int, str]:
        """Exit code and output of the command."""
        return self.end(self.start(*more), limit_s)

    def said(self) -> str:
        """What the controller has printed by now."""
        return self.output.read_text()

    def wait_for(self, *states: str, limit_s: float = 120) -> list[dict[str, Any]]:
        """Until the points are in these states, in any order; their status.json."""

        def there() -> list[dict[str, Any]]:
            found = list(self.states().values())
            return found if sorted(s["state"] for s in found) == sorted(states) else []

        try:
            return self.cluster.wait(there, limit_s, f"points in {states}")
        except TimeoutError as error:
            error.add_note(f"{self.states()}\n{self.said()}")
            raise

    def states(self) -> dict[str, dict[str, Any]]:
        """Every status.json, by point."""
        return self._read("status.json")

    def records(self) -> dict[str, dict[str, Any]]:
        """Every timing.json, by point."""
        return self._read("timing.json")

    def frozen(self) -> dict[str, dict[str, Any]]:
        """Every config as it was submitted, by point."""
        return {name: found["config"] for name, found in self._read("point.json").items()}

    def attempts(self) -> dict[str, list[str]]:
        """The attempts of each point."""
        found = self.folder.glob("*/attempts")
        return {p.parent.name: sorted(a.name for a in p.iterdir()) for p in found}

    def accounting(self, slurm_id: str) -> dict[str, str]:
        """sacct's line of a job that has ended, once it is complete."""

        def line() -> dict[str, str] | None:
            lines = self.cluster.sacct(slurm_id, "-X")
            found = [one for one in lines if one["JobID"] == slurm_id and one["End"] != "Unknown"]
            return found[-1] if found else None

        found = self.cluster.wait(line, 30, f"sacct of {slurm_id}")
        assert found is not None
        return found

    def _read(self, name: str) -> dict[str, dict[str, Any]]:
        return {p.parent.name: json.loads(p.read_text()) for p in self.folder.glob(f"*/{name}")}
