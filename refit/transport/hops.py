"""A plan's hops, one transport for each: from the second on, a rank passes on what has arrived."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.distributed as dist

from refit.plan.copies import Copies
from refit.record.moved import Moved
from refit.transport import Transport
from refit.weights.weights import Weights


class Hops:
    """Carries out a whole plan. All ranks call each method in order, as with a `Transport`.

    Args:
        make: the transport that carries out one hop.
    """

    def __init__(self, make: Callable[[], Transport]) -> None:
        self._make = make
        self._hops: list[Transport] = []

    def prepare(
        self, hops: Sequence[Copies], rank: int, source: Weights | None, destination: Weights | None
    ) -> None:
        """See `Transport.prepare`."""
        for number, copies in enumerate(hops):
            transport = self._make()
            transport.prepare(copies, rank, destination if number else source, destination)
            self._hops.append(transport)

    def execute(self) -> dict[str, float]:
        """One refit. Returns seconds per phase; those of later hops begin with "forward "."""
        seconds: dict[str, float] = {}
        for number, transport in enumerate(self._hops):
            if number:
                dist.barrier()  # nobody reads, one-sidedly, what has not arrived yet
            prefix = "forward " if number else ""
            seconds |= {prefix + phase: s for phase, s in transport.execute().items()}
        return seconds

    @property
    def plan_s(self) -> float:
        """Seconds of `prepare` that went into the transports' own planning."""
        return sum(transport.plan_s for transport in self._hops)

    @property
    def moved(self) -> Moved | None:
        """What this rank moved by a plan that is not ours, in one refit; see `Transport.moved`."""
        return self._hops[0].moved

    @property
    def staging_bytes(self) -> int | None:
        """Of all hops; None where one does not know."""
        held = [transport.staging_bytes for transport in self._hops]
        return None if None in held else sum(nbytes or 0 for nbytes in held)

    @property
    def details(self) -> dict[str, int | str]:
        """What the transports say of themselves, and the number of hops where there are several."""
        first, *later = [dict(transport.details) for transport in self._hops]
        if not later:
            return first
        forward = {f"forward {name}": value for hop in later for name, value in hop.items()}
        return {"hops": len(self._hops), **first, **forward}

    def close(self) -> None:
        """Give everything back."""
        for transport in self._hops:
            transport.close()
