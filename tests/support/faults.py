"""Transports that do one thing wrong, on top of a real one: verification must never call them ok.

Named on the command line as `refit.method=tests.support.faults:gloo_DropsBlock` and the like.
"""

from __future__ import annotations

import importlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from refit.job import Refit
from refit.layout.cut import PADDING
from refit.plan.copies import Copies
from refit.rules.methods import locate
from refit.transport.gloo import GlooTransport
from refit.transport.ipc import IpcTransport
from refit.weights.weights import Weights
from tests.support.boxes import part


class Fault:
    """Runs the transport below it, then spoils what arrived."""

    def __init__(self, refit: Refit) -> None:
        super().__init__(refit)  # type: ignore[call-arg]
        self.calls = 0

    def prepare(
        self, copies: Copies, rank: int, source: Weights | None, destination: Weights | None
    ) -> None:
        super().prepare(copies, rank, source, destination)  # type: ignore[misc]
        self.copies, self.rank = copies, rank
        self.source, self.destination = source, destination

    def execute(self) -> dict[str, float]:
        self.calls += 1
        phases: dict[str, float] = super().execute()  # type: ignore[misc]
        if self.destination is not None:
            self.spoil(self.destination)
        return phases

    def spoil(self, destination: Weights) -> None:
        raise AssertionError("a fault says what it spoils")

    def experts(self, destination: Weights) -> list[torch.Tensor]:
        """The rank's expert fc1 weights of its first layer that has any."""
        first = next(s for s in destination.shards if "experts.linear_fc1" in s.name)
        alike = [s for s in destination.shards if s.family == first.family]
        return [destination.tensors[s.tensor] for s in alike[:2]]


class SwapsExperts(Fault):
    """Delivers two experts each in the other's place."""

    def spoil(self, destination: Weights) -> None:
        one, two = self.experts(destination)
        kept = one.clone()
        one.copy_(two)
        two.copy_(kept)


class MisordersGateUp(Fault):
    """Delivers the up half of one gated fc1 where the gate half belongs."""

    def spoil(self, destination: Weights) -> None:
        fc1 = self.experts(destination)[0]
        fc1.copy_(torch.cat(fc1.chunk(2)[::-1]))


class DropsBlock(Fault):
    """Delivers all but the last block that another rank should have sent."""

    def execute(self) -> dict[str, float]:
        if self.destination is None:
            return super().execute()
        rows = self.copies.to_rank(self.rank)
        row = int(rows[self.copies.remote[rows]][-1])
        into = part(self.copies, row, self.destination.tensors, of_source=False)
        before = into.clone()
        phases = super().execute()
        into.copy_(before)
        return phases

    def spoil(self, destination: Weights) -> None:
        pass


class DropsBlockOfSecondPool(DropsBlock):
    """The same on ranks of the second destination alone; the others' are whole."""

    def execute(self) -> dict[str, float]:
        if self.copies.placement.destination_numbers[self.rank] == 1:
            return super().execute()
        phases: dict[str, float] = super(DropsBlock, self).execute()
        return phases


class LeavesSecondPool(Fault):
    """Leaves the second destination as it was before the first refit."""

    def prepare(
        self, copies: Copies, rank: int, source: Weights | None, destination: Weights | None
    ) -> None:
        super().prepare(copies, rank, source, destination)
        self.before = None if destination is None else destination.arena.clone()

    def spoil(self, destination: Weights) -> None:
        if self.copies.placement.destination_numbers[self.rank] == 1:
            assert self.before is not None
            destination.arena.copy_(self.before)


class WritesWhatIsLeftOut(Fault):
    """Clears one element of a tensor that the plan leaves out."""

    def spoil(self, destination: Weights) -> None:
        left_out = next(iter(destination.tensors.keys() - set(self.copies.tensor.tolist())))
        destination.tensors[left_out].flatten()[0] = 0


class WritesPadding(Fault):
    """Delivers all, and writes one byte where the first padded shard has nothing."""

    def spoil(self, destination: Weights) -> None:
        for shard in destination.shards:
            for start, held in shard.stretches():
                if held[0] == PADDING:
                    part = destination.tensors[shard.tensor].narrow(shard.cut.axis, start, 1)
                    part.view(torch.uint8).flatten()[0] = 1
                    return


class WritesSpareSlot(Fault):
    """Delivers all, and writes one byte into a slot that has no expert."""

    def spoil(self, destination: Weights) -> None:
        destination.spare[0][-1] = 1


class RoundsUp(Fault):
    """Delivers all, and one element of each expert as the next of its dtype."""

    def spoil(self, destination: Weights) -> None:
        for tensor in self.experts(destination):
            tensor.view(torch.int16).flatten()[0] += 1


class DeliversStale(Fault):
    """Delivers what the source held at the first refit, each time."""

    def spoil(self, destination: Weights) -> None:
        if self.calls == 1:
            self.first = destination.arena.clone()
        destination.arena.copy_(self.first)


class ScribblesOnSource(Fault):
    """Delivers all, and changes one element of the trainer's weights after the last refit."""

    def spoil(self, destination: Weights) -> None:
        pass

    def execute(self) -> dict[str, float]:
        phases = super().execute()
        dist.barrier()  # nobody reads any more
        if self.source is not None and self.rank == 0 and self.calls == 4:
            self.source.arena[0] ^= 1
        return phases


def __getattr__(name: str) -> Any:
    """Any fault on top of any transport: `gloo_DropsBlock` and the like."""
    method, _, fault = name.partition("_")
    more = importlib.import_module("tests.support.broken")
    wrong = globals().get(fault) or getattr(more, fault, None)
    if wrong is None:
        raise AttributeError(name)
    module, transport = locate(method)
    return type(name, (wrong, getattr(importlib.import_module(module), transport)), {})


class Killed(IpcTransport):
    """Its first destination rank dies in the second refit, as under `kill -9`."""

    def prepare(
        self, copies: Copies, rank: int, source: Weights | None, destination: Weights | None
    ) -> None:
        super().prepare(copies, rank, source, destination)
        self.victim = rank == copies.receiving[0].ranks.start
        self.calls = 0

    def execute(self) -> dict[str, float]:
        self.calls += 1
        if self.victim and self.calls == 2:
            self._strike()
        return super().execute()

    def _strike(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class KillsServer(Killed):
    """The process that ranks are forked from dies, as the OOM killer may choose it."""

    def _strike(self) -> None:
        parent = os.getppid()
        assert b"forkserver" in Path(f"/proc/{parent}/cmdline").read_bytes()
        os.kill(parent, signal.SIGKILL)
        time.sleep(3600)


class KeepsMemory(IpcTransport):
    """Delivers all, and on a rank with a destination keeps 4 MiB of every refit."""

    def prepare(
        self, copies: Copies, rank: int, source: Weights | None, destination: Weights | None
    ) -> None:
        super().prepare(copies, rank, source, destination)
        self.kept: list[torch.Tensor] | None = None if destination is None else []

    def execute(self) -> dict[str, float]:
        phases = super().execute()
        if self.kept is not None:
            self.kept.append(torch.ones(1 << 20, dtype=torch.int32))
        return phases


class Hangs(Killed):
    """Its first destination rank sleeps past any deadline."""

    def _strike(self) -> None:
        time.sleep(3600)


class RunsOutOfMemory(Killed):
    """Its first destination rank cannot have the memory it asks for."""

    def _strike(self) -> None:
        torch.empty(1 << 60, dtype=torch.uint8)


class Raises(Killed):
    """Its first destination rank raises."""

    def _strike(self) -> None:
        raise ValueError("the transport's own words")


class GlooKilled(GlooTransport):
    """Its last destination rank, which is on the last node, dies in the second refit."""

    def prepare(
        self, copies: Copies, rank: int, source: Weights | None, destination: Weights | None
    ) -> None:
        super().prepare(copies, rank, source, destination)
        self.victim = rank == copies.receiving[-1].ranks[-1]
        self.calls = 0

    def execute(self) -> dict[str, float]:
        self.calls += 1
        if self.victim and self.calls == 2:
            self._strike()
        return super().execute()

    def _strike(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class GlooOutOfMemory(GlooKilled):
    """Its last destination rank outgrows a limit on its memory, and the kernel kills it."""

    def _strike(self) -> None:
        group = Path(
            "/sys/fs/cgroup/memory" if Path("/sys/fs/cgroup/memory").is_dir() else "/sys/fs/cgroup"
        )
        group = group / f"refit-test-{os.getpid()}"
        group.mkdir()
        limit = group / "memory.limit_in_bytes"
        (limit if limit.exists() else group / "memory.max").write_text(str(100 << 20))
        (group / "cgroup.procs").write_text(str(os.getpid()))
        torch.ones(1 << 30, dtype=torch.uint8)


class GlooWaits(GlooTransport):
    """Its refits wait until there is the file that the environment names in REFIT_TEST_GO_ON."""

    def execute(self) -> dict[str, float]:
        while not os.path.exists(os.environ["REFIT_TEST_GO_ON"]):
            time.sleep(0.05)
        return super().execute()


class SaysEnvironment(GlooTransport):
    """Right weights; it says what of these its process had when it began, before any import."""

    @property
    def details(self) -> dict[str, int | str]:  # type: ignore[override]
        pairs = Path("/proc/self/environ").read_text().split("\0")
        began = dict(pair.split("=", 1) for pair in pairs if pair)
        names = (
            "CUDA_DEVICE_MAX_CONNECTIONS", "GLIBC_TUNABLES", "REFIT_SHARE", "TORCH_CPP_LOG_LEVEL",
        )  # fmt: skip
        return {name: began[name] for name in names if name in began}


class RaisesEnvironment(SaysEnvironment):
    """Fails, and says it in its error."""

    def execute(self) -> dict[str, float]:
        raise ValueError(f"began with {self.details}")
