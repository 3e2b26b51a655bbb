"""Where the ranks of a node meet: a barrier in shared memory. Torch-free."""

from __future__ import annotations

import mmap
import os
import time

import numpy as np

from refit.weights.slab import Slab

SPIN_S = 0.01  # then it sleeps between looks: so late others have no core to come on
SLEEP_S = 0.002

LINE = 64  # bytes: a cache line for each rank, which it alone writes


class Meeting:
    """A barrier of the ranks of one node in shared memory: each spins until all are there.

    It takes a microsecond where every rank has a core. While it spins it yields, so that where
    cores are fewer the others get there at all; ranks that may be long in coming are waited for
    elsewhere (`refit.ranks.clock`).

    Args:
        memory: the same zeroes in every rank of the node.
        ranks: how many meet.
        number: of this rank among them, from 0.
        spin_s: before it sleeps; 0 where hundreds share the cores, and would wait for who spins.
    """

    def __init__(self, memory: Slab, ranks: int, number: int, spin_s: float = SPIN_S) -> None:
        shared = mmap.mmap(memory.descriptor, ranks * LINE)
        self._arrived = np.frombuffer(shared, dtype=np.int64)[:: LINE // 8]
        self._number, self._times, self._spin_s = number, 0, spin_s

    @staticmethod
    def room(memory: Slab, ranks: int) -> Slab:
        """The memory, as large as so many ranks need; nothing of an earlier meeting is left."""
        memory.clear()
        os.ftruncate(memory.descriptor, ranks * LINE)
        return memory

    def wait(self) -> None:
        """Return once every rank has called it as often."""
        self._times += 1
        self._arrived[self._number] = self._times
        asleep_from = time.monotonic() + self._spin_s
        while int(self._arrived.min()) < self._times:
            if time.monotonic() < asleep_from:
                os.sched_yield()
            else:
                time.sleep(SLEEP_S)
