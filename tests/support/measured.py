"""Transports that measure how much memory they take: `refit.method=tests.support.measured:gloo`.

The proportional set sizes of all processes, of anonymous and of shared memory, count a shared page
once: a shared heap is in them, mapped weights of peers are not. It is what the transport holds
after two refits; the peak of private memory during them is `memory.refit_peak_bytes` of the record.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from refit.plan.copies import Copies
from refit.rules.methods import locate
from refit.weights.weights import Weights


class _Measured:
    def prepare(
        self, copies: Copies, rank: int, source: Weights | None, destination: Weights | None
    ) -> None:
        self._before, self._calls, self.grown = _all_resident(), 0, 0
        super().prepare(copies, rank, source, destination)  # type: ignore[misc]

    def execute(self) -> dict[str, float]:
        phases: dict[str, float] = super().execute()  # type: ignore[misc]
        self._calls += 1
        if self._calls == 2:
            self.grown = _all_resident() - self._before
        return phases

    @property
    def details(self) -> dict[str, int]:
        return {"grown_bytes": self.grown}


def _all_resident() -> int:
    """Bytes of memory of all ranks together."""
    dist.barrier()
    text = Path("/proc/self/smaps_rollup").read_text()
    # without the pages of files: of a library's code the kernel maps as many at a touch as it likes
    kinds = ("Pss_Anon:", "Pss_Shmem:")
    kilobytes = [int(line.split()[1]) for line in text.splitlines() if line.startswith(kinds)]
    total = torch.tensor(sum(kilobytes) * 1024)
    dist.all_reduce(total)
    return int(total)


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    module, transport = locate(name)
    return type(name, (_Measured, getattr(importlib.import_module(module), transport)), {})
