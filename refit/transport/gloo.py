"""Two-sided messages over gloo: blocks packed per peer into bounded buckets; works across nodes."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

import torch
import torch.distributed as dist

from refit.job import Refit
from refit.plan import Plan
from refit.transport import blocks
from refit.transport.schedule import Message, messages
from refit.weights import Weights


class Transport:
    """See `refit.transport.Transport`.

    At most `in_flight` messages of each direction are under way, each in a staging buffer of its
    own, so staging is at most 2 * in_flight * bucket. Packing and unpacking overlap with the wire.
    """

    def __init__(self, refit: Refit) -> None:
        self._bucket_bytes = int(refit.bucket_mb * 1e6)
        self._in_flight = refit.in_flight
        self._into: list[torch.Tensor] = []
        self._out_of: list[torch.Tensor] = []
        self._steps: list[_Step] = []
        self._staging: list[torch.Tensor] = []

    def prepare(
        self, plan: Plan, rank: int, source: Weights | None, destination: Weights | None
    ) -> None:
        rows = plan.to_rank(rank)
        local = rows[~plan.remote[rows]].tolist()
        if local:
            assert source is not None and destination is not None
            own = {rank: source.tensors}
            self._into, self._out_of = blocks.pairs(plan, local, destination.tensors, own)
        todo = messages(plan, rank, self._bucket_bytes)
        for is_send, weights in ((False, destination), (True, source)):
            mine = [m for m in todo if m.is_send == is_send]
            size = max((m.nbytes for m in mine), default=0)
            slots = [torch.empty(size, dtype=torch.uint8) for _ in mine[: self._in_flight]]
            self._staging += slots
            for number, message in enumerate(mine):
                assert weights is not None
                slot = slots[number % len(slots)]
                self._steps.append(_Step.of(plan, message, slot, weights.tensors))
        self._steps.sort(key=lambda s: (s.message.order, s.message.is_send))

    def execute(self) -> dict[str, float]:
        clock = _Clock({"local": 0.0, "pack": 0.0, "wire": 0.0, "unpack": 0.0})
        blocks.copy(self._into, self._out_of)
        clock.lap("local")
        under_way: dict[bool, deque[tuple[_Step, dist.Work]]] = {False: deque(), True: deque()}
        for step in self._steps:
            queue = under_way[step.message.is_send]
            if len(queue) == self._in_flight:
                _finish(*queue.popleft(), clock)
            queue.append((step, _post(step, clock)))
        for queue in under_way.values():
            for step, work in queue:
                _finish(step, work, clock)
        return clock.seconds

    @property
    def staging_bytes(self) -> int:
        return sum(s.numel() for s in self._staging)

    def close(self) -> None:
        self._into, self._out_of, self._steps, self._staging = [], [], [], []


@dataclass(frozen=True)
class _Step:
    """A message, its staging buffer, and its blocks as views of the staging and of the weights."""

    message: Message
    wire: torch.Tensor
    staged: list[torch.Tensor]
    weights: list[torch.Tensor]

    @staticmethod
    def of(plan: Plan, message: Message, slot: torch.Tensor, tensors: blocks.Tensors) -> _Step:
        weights = [blocks.part(plan, b.tensor, tensors, b.start, b.length) for b in message.blocks]
        staged = [
            slot[b.offset : b.offset + b.nbytes].view(w.dtype).view(w.shape)
            for b, w in zip(message.blocks, weights, strict=True)
        ]
        return _Step(message, slot[: message.nbytes], staged, weights)


class _Clock:
    """Adds the time since the last lap to a phase."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] += now - self._last
        self._last = now


def _post(step: _Step, clock: _Clock) -> dist.Work:
    if step.message.is_send:
        blocks.copy(step.staged, step.weights)
        clock.lap("pack")
        work = dist.isend(step.wire, step.message.peer)
    else:
        work = dist.irecv(step.wire, step.message.peer)
    assert work is not None  # None is for ranks outside the group
    clock.lap("wire")
    return work


def _finish(step: _Step, work: dist.Work, clock: _Clock) -> None:
    work.wait()
    clock.lap("wire")
    if not step.message.is_send:
        blocks.copy(step.weights, step.staged)
        clock.lap("unpack")
