"""The clock: ranks start together, each notes its own start and end, nobody goes on too early."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch.distributed as dist

from refit.ranks import device as rank_device
from refit.ranks.meeting import Meeting
from refit.record.report import Span


class Clock:
    """Times work on all ranks at once.

    Before the start all ranks of the world pass a barrier of gloo, whose messages let them go tens
    of microseconds apart, then those of each node a `Meeting`. Each node has a clock of its own,
    which starts when its first rank does. On a GPU a `Watch` of the device runs beside it.
    """

    def __init__(self, meeting: Meeting) -> None:
        self._meeting = meeting

    def timed(
        self, work: Callable[[], dict[str, float]], look: Callable[[], None] = lambda: None
    ) -> tuple[Span, dict[str, float]]:
        """Run something.

        Args:
            look: called outside the span, as soon as the work has returned on this rank: what
                comes later is too late.

        Returns:
            This rank's start and end, and what the work returned.
        """
        watch = rank_device.Watch()
        rank_device.synchronize()
        dist.barrier()
        self._meeting.wait()
        start = time.perf_counter()
        watch.start()
        phases = work()
        watch.stop()
        rank_device.synchronize()
        span = Span(start, time.perf_counter(), watch.seconds())
        look()
        # a source that nobody waits for must not change its weights while others still read
        dist.barrier()
        return span, phases
