"""Ours against megatron-core's own refit, on the same tensors in one run; and what that gets right.

Targets: ipc at least 6 times as fast as megatron-core's gloo, our gloo not slower than it. First
the methods in turn on the dense twin of the table's model with 12 layers, collocated, 4 ranks. Then
the ten rows of the eight-GPU table, in a narrow model: whether it refits right, wrong, or not at
all does not depend on widths. Run: python -m benchmarks.bench_peer
"""

from __future__ import annotations

import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.common import job, run
from refit.compose import CONF
from refit.model.megatron_versions import VERSION
from refit.ranks.agent import Agent
from refit.record.point import Point

REPEATS = 5
METHODS = ("ipc", "gloo", "megatron")

TP4_TO_TP2 = [
    "model=dense",
    "model.num_layers=12",  # 1.0 GB written, some 3 GB of memory in all
    "parallel=collocated_1_tp4ep2_to_tp2ep4",
    "parallel.name=collocated_tp4_to_tp2",
    "parallel.source={tp: 4, ep: 1, gpus: 4}",
    "parallel.destination={tp: 2, ep: 1, gpus: 4}",
    "cluster.ranks_per_node=4",
    "bench.iterations=5",
]
NARROW = ["model.num_layers=1", "model.moe_ffn_hidden_size=256", "model.vocab_size=2000"]


def main() -> None:
    """Print the ratios, then the table."""
    peer = f"megatron-core {VERSION}"
    speed(peer)
    rows(peer)


def speed(peer: str) -> None:
    """Each method in turn, several times; ratios of the medians of one turn."""
    jobs = [job(*TP4_TO_TP2, f"refit={method}") for method in METHODS]
    print(
        f"ours and {peer} (gloo), dense, collocated TP4 -> TP2, 4 ranks; slowest rank, median of 5"
    )
    turns = []
    records = run(jobs * REPEATS)
    print(f"  {records[0]['plan']['bytes'] / 1e9:.2f} GB written per refit, all verified")
    for start in range(0, len(records), len(METHODS)):
        turn = dict(zip(METHODS, records[start : start + len(METHODS)], strict=True))
        turns.append({m: r["seconds"]["median"] for m, r in turn.items()})
        print("  " + ", ".join(f"{m} {_line(r)}" for m, r in turn.items()))
    for method, target in (("ipc", "6"), ("gloo", "1")):
        ratios = [t["megatron"] / t[method] for t in turns]
        print(
            f"  megatron / {method}: median ratio {statistics.median(ratios):.2f}"
            f" ({min(ratios):.2f} to {max(ratios):.2f}; target >= {target})"
        )


def _line(record: dict[str, Any]) -> str:
    seconds, extra = record["seconds"], record["memory"]["refit_peak_bytes"]
    took = f"{seconds['median']:.3f} s (cold {seconds['cold']:.3f})"
    return took if extra is None else f"{took} +{extra / 1e6:.0f} MB"


def rows(peer: str) -> None:
    """The ten rows: by ours, by the peer as it is, and by the peer on the dense twin."""
    names = sorted(p.stem for p in (CONF / "parallel").glob("*collocated_*.yaml"))
    print(f"the ten rows, {peer} as installed; the twin has the row's TP and no experts")
    print(f"  {'':33}{'ipc':10}{'peer':24}peer, dense twin")
    words: dict[str, list[str]] = {}
    with TemporaryDirectory() as folder, Agent([job()]) as agent:

        def ended(*overrides: str) -> dict[str, Any]:
            what = job(*overrides, "bench.iterations=1", "bench.deadline_s=120")
            return agent.run(Point.of(what, Path(folder)))

        for name in names:
            dense = ["model=dense", "parallel.source.ep=1", "parallel.destination.ep=1"]
            pair = [f"parallel={name}", *NARROW]
            ours = ended(*pair, "refit=ipc")
            theirs = ended(*pair, "refit=megatron")
            twin = ended(*dense, f"parallel={name}", *NARROW[:1], *NARROW[2:], "refit=megatron")
            print(f"  {name:33}{_verdict(ours):10}{_verdict(theirs):24}{_verdict(twin)}")
            for record in (theirs, twin):
                if record["status"] not in ("ok", "invalid"):
                    words.setdefault(record["reason"].splitlines()[0], []).append(name)
    build = theirs["model_build"]
    engine = "with" if build["transformer_engine"] else "without"
    print(f"  models are built {engine} Transformer Engine; what the peer says:")
    for reason, of in words.items():
        print(f"    {', '.join(of)}:\n      {reason}")


def _verdict(record: dict[str, Any]) -> str:
    """`right`, `wrong` and how much of it, `refused`; else the status."""
    checked = record["verification"]
    if record["status"] == "invalid":
        return f"wrong, {checked['mismatches'] / checked['elements']:.0%} of elements"
    return {"ok": "right", "unsupported": "refused"}.get(record["status"], record["status"])


if __name__ == "__main__":
    main()
