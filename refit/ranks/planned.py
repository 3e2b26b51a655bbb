"""A plan made once for all ranks of an agent, of which each has only its own part."""

from __future__ import annotations

import os
import pickle

import numpy as np
import torch.distributed as dist

from refit.plan.part import Part, parts
from refit.rules.setup import Setup
from refit.weights.slab import Slab


class Planned:
    """Where the first of an agent's ranks leaves the others their parts.

    A plan grows with the ranks of the world, a rank's part of it hardly does: of hundreds of ranks
    that each made the whole of it, memory and time would go to plans.

    Args:
        memory: the same in every rank of the agent; what was there is written over.
        ranks: of the agent.
        rank: this one.
    """

    def __init__(self, memory: Slab, ranks: range, rank: int) -> None:
        self._memory, self._ranks, self._rank = memory, ranks, rank

    def part(self, setup: Setup) -> Part:
        """This rank's part; all ranks of the world call together."""
        if self._rank == self._ranks[0]:
            self._write(setup)
        dist.barrier()  # each agent has made its own
        return self._read()

    def _write(self, setup: Setup) -> None:
        written = [pickle.dumps(part) for part in parts(setup.plan(), self._ranks)]
        table = np.cumsum([0, *map(len, written)], dtype=np.int64)
        table += table.nbytes
        self._memory.write(table.tobytes(), 0)
        for start, of_rank in zip(table.tolist(), written, strict=False):
            self._memory.write(of_rank, start)

    def _read(self) -> Part:
        number, width = self._ranks.index(self._rank), np.dtype(np.int64).itemsize
        ends = os.pread(self._memory.descriptor, 2 * width, number * width)
        start, end = np.frombuffer(ends, dtype=np.int64).tolist()
        part: Part = pickle.loads(os.pread(self._memory.descriptor, end - start, start))
        return part
