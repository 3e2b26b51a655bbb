"""A plan of two stages, carried out by one transport for each: what a rank fetched it passes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from refit.plan.plan import Plan
from refit.transport import Transport
from refit.weights.weights import Weights


class Staged:
    """See `refit.transport.Transport`. A plan of one stage goes to a single transport as it is.

    Args:
        make: the transport that carries out a stage.
    """

    def __init__(self, make: Callable[[], Transport]) -> None:
        self._make = make
        self._stages: list[Transport] = []

    def prepare(
        self, plan: Plan, rank: int, source: Weights | None, destination: Weights | None
    ) -> None:
        for number, stage in enumerate(plan.stages):
            transport = self._make()
            transport.prepare(stage, rank, destination if number else source, destination)
            self._stages.append(transport)

    def execute(self) -> dict[str, float]:
        seconds: dict[str, float] = {}
        for number, transport in enumerate(self._stages):
            if number:
                dist.barrier()  # nobody reads, one-sidedly, what has not arrived yet
            prefix = "forward " if number else ""
            seconds |= {prefix + phase: s for phase, s in transport.execute().items()}
        return seconds

    @property
    def staging_bytes(self) -> int | None:
        held = [transport.staging_bytes for transport in self._stages]
        return None if None in held else sum(nbytes or 0 for nbytes in held)

    @property
    def details(self) -> dict[str, Any]:
        found = [getattr(transport, "details", {}) for transport in self._stages]
        second = {f"forward {name}": said for d in found[1:] for name, said in d.items()}
        return {"stages": len(found), **found[0], **second}

    def close(self) -> None:
        for transport in self._stages:
            transport.close()
