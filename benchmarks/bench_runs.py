"""How few copies a refit is, once blocks that touch are one: `python -m benchmarks.bench_runs`.

Of the ten rows of the reference table and of Kimi K2's pairs, on the rank that receives most, of
what comes from other ranks: the blocks of the plan; the copies that are left where shards lie in
the order of their tensors' ids; those where they lie as `refit.plan.arena` has it; and the
descriptors that say them, as equal runs at equal distances are one. A copy is a run of bytes, a row
of `ROW_BYTES` or more of a strided block, or all narrower rows of one. Then the copies' median
size, and the processor's milliseconds of the plan and of that rank's runs, the best of three.

Kimi K2 has production's tensors, of MLA's down-projections a whole one on each rank: a build
without Transformer Engine cuts them, into 488 copies more of the pair of 256.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from refit import compose, schema
from refit.layout.layout import IntArray
from refit.plan import arena
from refit.plan.runs import Runs, received, together
from refit.rules.setup import Setup

MODEL = "moe_16e_swiglu"  # of the ten rows
ROW_BYTES = 1 << 16
REPEATS = 3

T = TypeVar("T")


class _ById(arena.Arenas):
    """Shards lie in the order of their ids, as every model's are numbered: by kind, then layer."""

    @property
    def position(self) -> IntArray:
        return np.arange(self.catalogue.num_tensors)


def pairs() -> Iterator[list[str]]:
    """Overrides of each line."""
    folder = schema.CONF / "parallel"
    for path in sorted(folder.glob("[cn]*.yaml")):
        yield [f"parallel={path.stem}", f"model={MODEL}"]
    for path in sorted((folder / "public").glob("kimi_k2_*.yaml")):
        yield [f"parallel={path.stem}", "cluster=slurm", "build=shards"]


def copies_of(table: Runs) -> Runs:
    """Wide rows each on its own."""
    wide = table.width >= ROW_BYTES
    return together([table.where(wide).by_rows(), table.where(~wide)])


def remote(table: Runs, rank: int) -> Runs:
    """Without what the rank has itself."""
    return table.where(table.peer != rank)


def best(call: Callable[[], T]) -> tuple[float, T]:
    """Processor seconds of the fastest of `REPEATS` calls, and what it returned."""
    seconds = []
    for _ in range(REPEATS):
        gc.collect()
        start = time.process_time()
        found = call()
        seconds.append(time.process_time() - start)
    return min(seconds), found


def line(overrides: list[str]) -> str:
    """One pair's numbers."""
    setup = Setup.of(compose.job(overrides))
    plan_s, plan = best(setup.plan)
    rank, (copies, *_) = int(plan.recv_bytes.argmax()), plan.hops

    def compiled() -> Runs:
        vars(copies).pop("arenas", None)  # so that they are laid out anew
        return received(copies, rank)

    runs_s, table = best(compiled)
    vars(copies)["arenas"] = _ById(copies.catalogue, copies.placement)
    by_id = copies_of(remote(received(copies, rank), rank))
    table = remote(table, rank)
    merged = copies_of(table)
    blocks = int(np.count_nonzero(copies.remote[copies.to_rank(rank)]))
    counts = f"{blocks:7} {len(by_id):7} {len(merged):7} {len(table):7}"
    median = np.median(merged.nbytes) / 1e6
    times = f"{plan_s * 1e3:8.0f} {runs_s * 1e3:7.1f} {(plan_s + runs_s) * 1e3:9.0f}"
    return f"{setup.job.parallel.name:42} {counts} {median:9.2f} {times}"


def main() -> None:
    print(
        f"{'busiest receiver':42} {'blocks':>7} {'by id':>7} {'copies':>7} {'descr.':>7}"
        f" {'median MB':>9} {'plan ms':>8} {'runs ms':>7} {'both ms':>9}"
    )
    with compose.configs():
        for overrides in pairs():
            print(line(overrides), flush=True)


if __name__ == "__main__":
    main()
