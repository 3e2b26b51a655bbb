"""What megatron-core's own refit gets right: the ten rows of the reference table, by version.

Each row is refitted by ipc and by the peer over gloo, which is given experts as production names
them, as the models built here do, and, in model=dense, none; below the ten, of moe_16e_swiglu two
pairs that no row has. The models are narrow: whether a row is refitted right, wrong, or not at all
does not depend on widths. Run: python -m benchmarks.bench_peer_table [PATH ...]

A PATH holds another megatron-core, unpacked, and what that needs besides, as PYTHONPATH is written:
folder:folder. Each runs in a process of its own, after the installed version.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.common import job
from refit.model.megatron_versions import VERSION
from refit.ranks.agent import Agent
from refit.record.point import Point
from refit.schema import CONF

Verdicts = dict[str, dict[str, tuple[str, str]]]  # column -> row -> verdict, reason

ROWS = {p.stem: [f"parallel={p.stem}"] for p in sorted((CONF / "parallel").glob("*coll*_?_*.yaml"))}
SMALLEST = "parallel=noncollocated_4_tp2ep1_to_tp1ep1"
GATED = "model=moe_16e_swiglu"
BESIDES = {
    "gated experts, etp 2 to 1": [SMALLEST, GATED, "parallel.source.etp=2"],
    "attention sinks, tp 2 to 1": [SMALLEST, GATED, "model.softmax_type=learnable"],
}
NARROW = ["model.num_layers=1", "model.vocab_size=2000"]
EXPERTS = ["model.moe_ffn_hidden_size=256"]
TWIN = ["model=dense", "parallel.source.ep=1", "parallel.destination.ep=1"]
COLUMNS = {
    "ipc": [*EXPERTS, "refit=ipc"],
    "peer, experts as in production": [*EXPERTS, "refit=megatron"],
    "peer, experts as installed": [*EXPERTS, "refit=megatron", "refit.peer_names=installed"],
    "peer, dense twin": [*TWIN, "refit=megatron"],
}
WIDTH = 26  # of a verdict


def main(paths: list[str]) -> None:
    """Print the table, then what the peer says where it refuses."""
    found = dict(_of_version(path) for path in ["", *paths])
    for column in COLUMNS:
        print(f"{column:36}" + "".join(f"{v:{WIDTH}}" for v in found).rstrip())
        for row in [*ROWS, *BESIDES]:
            cells = [verdicts[column][row][0] for verdicts in found.values()]
            print(f"  {row:34}" + "".join(f"{cell:{WIDTH}}" for cell in cells).rstrip())
        sums = []
        for verdicts in found.values():
            counts = Counter(verdicts[column][row][0].split()[0] for row in ROWS)
            sums.append("/".join(str(counts[word]) for word in ("right", "wrong", "refused")))
        print(
            f"  {'ten rows: right/wrong/refused':34}"
            + "".join(f"{s:{WIDTH}}" for s in sums).rstrip()
        )
    print("reasons, of those that differ in numbers alone the first:")
    said = [
        reason
        for verdicts in found.values()
        for of in verdicts.values()
        for _, reason in of.values()
        if reason
    ]
    alike = [re.sub(r"(?<![.\d])\d+", "#", reason) for reason in said]
    for first in dict(reversed(list(zip(alike, said, strict=True)))).values():
        print(f"  {first}")


def _of_version(path: str) -> tuple[str, Verdicts]:
    """The version on a path, and its verdicts."""
    paths = [p for p in (path, os.environ.get("PYTHONPATH", "")) if p]
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name, "--rows"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    name, verdicts = json.loads(done.stdout.splitlines()[-1])
    return name, verdicts


def rows() -> Verdicts:
    """Every row by every column, with the megatron-core that is found first."""
    with TemporaryDirectory() as folder, Agent([job()]) as agent:

        def verdict(*overrides: str) -> tuple[str, str]:
            what = job(*overrides, *NARROW, "bench.iterations=1", "bench.deadline_s=120")
            record = agent.measure_point(Point.of(what, Path(folder)))
            checked = record.verification
            if record.status == "invalid" and checked is not None:
                wrong = checked.mismatches
                return f"wrong {wrong} ({wrong / checked.elements:.1%})", ""
            words = {"ok": "right", "unsupported": "refused"}
            reason = "" if record.status == "ok" else record.reason.splitlines()[0]
            return words.get(record.status, record.status), reason

        return {
            column: {row: verdict(*pair, *how) for row, pair in (ROWS | BESIDES).items()}
            for column, how in COLUMNS.items()
        }


if __name__ == "__main__":
    if sys.argv[1:] == ["--rows"]:
        print(json.dumps([VERSION, rows()]))
    else:
        main(sys.argv[1:])
