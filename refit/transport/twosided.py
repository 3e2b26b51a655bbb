"""Two-sided messages, packed per peer and posted in bounded groups: what gloo and nccl share."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist

from refit.job import Refit
from refit.plan.copies import Copies
from refit.transport import Transport, blocks
from refit.transport.lanes import CpuLanes, Lanes, Mark, lanes
from refit.transport.schedule import Message, aligned, group_numbers, messages
from refit.weights import memory
from refit.weights.weights import Weights, device_of

# Below this a message of its own costs more than the two copies that it saves (gloo, loopback).
IN_PLACE_BYTES = 1 << 18

Parts = list[tuple[int, torch.Tensor]]  # (peer, contiguous bytes)


class Wire(Protocol):
    """What carries the messages."""

    def open(self, device: torch.device) -> None:
        """All ranks: whatever must be there before the first message."""

    def gather(self, item: Any) -> list[Any]:
        """One item from each rank, in rank order."""

    def post(self, sends: Parts, receives: Parts) -> Sequence[dist.Work]:
        """Start one group; return what to wait for."""


class TwoSided(Transport):
    """Messages in groups that all ranks number alike.

    At most `in_flight` groups are under way. A group has at most `max_ops_per_group` operations and
    `bucket_mb` bytes each way, so staging is at most 2 * in_flight * bucket, where one index of a
    cut axis is no larger. Large contiguous blocks are not staged at all: they go from shard to
    shard. Packing and unpacking overlap with the wire.

    All ranks number the groups alike and a rank posts its own in that order, waiting only for
    earlier ones. The least group not yet done is therefore posted at all its ranks: no deadlock,
    also where a group's operations only complete together (NCCL).
    """

    def __init__(self, refit: Refit, wire: Wire) -> None:
        self._bucket_bytes = int(refit.bucket_mb * 1e6)
        self._max_ops = refit.max_ops_per_group
        self._refit, self._in_flight = refit, refit.in_flight
        self._streams = refit.streams
        self._wire = wire
        self._into: list[torch.Tensor] = []
        self._out_of: list[torch.Tensor] = []
        self._groups: list[_Group] = []
        self._staging: list[torch.Tensor] = []
        self._lanes: Lanes = CpuLanes()

    def prepare(
        self, copies: Copies, rank: int, source: Weights | None, destination: Weights | None
    ) -> None:
        self._into, self._out_of = blocks.local_pairs(copies, rank, source, destination)
        device = device_of(source, destination)
        self._wire.open(device)
        self._lanes = lanes(device, self._streams)
        todo = messages(copies, rank, self._bucket_bytes, IN_PLACE_BYTES)
        sent = self._wire.gather({m.order: m.nbytes for m in todo if m.is_send})
        numbers = group_numbers(sent, self._bucket_bytes, self._max_ops)
        grouped: dict[int, list[Message]] = {}
        for message in todo:
            grouped.setdefault(numbers[message.order], []).append(message)
        groups = [grouped[number] for number in sorted(grouped)]
        slots: dict[bool, list[torch.Tensor]] = {}
        for is_send in (False, True):
            size = max((_staged(group, is_send)[1] for group in groups), default=0)
            count = min(self._in_flight, len(groups)) if size else 0
            if device.type == "cpu":
                memory.require_staging(count * size, self._refit)
            slots[is_send] = [
                torch.empty(size, dtype=torch.uint8, device=device) for _ in range(count)
            ]
            self._staging += slots[is_send]
        for index, of_group in enumerate(groups):
            group = _Group(index)
            for is_send, weights in ((False, destination), (True, source)):
                offsets, _ = _staged(of_group, is_send)
                for message in of_group:
                    if message.is_send == is_send:
                        assert weights is not None
                        slot = slots[is_send][index % self._in_flight] if offsets else None
                        offset = offsets.get(message.order)
                        group.add(copies, message, slot, offset, weights.tensors)
            self._groups.append(group)

    def execute(self) -> dict[str, float]:
        self._lanes.start()
        under_way: deque[tuple[_Group, Sequence[dist.Work], Mark]] = deque()
        unpacked = [Mark()] * self._in_flight  # by slot: its last group has left it
        for group in self._groups:
            if len(under_way) == self._in_flight:
                self._finish(*under_way.popleft(), unpacked)
            slot = group.number % self._in_flight
            with self._lanes.on("pack", group.number) as packed:
                blocks.copy(group.staged[True], group.weights[True])
            with self._lanes.on("wire", after=[packed, unpacked[slot]]) as posted:
                works = self._wire.post(group.parts[True], group.parts[False])
            under_way.append((group, works, posted))
        with self._lanes.on("local"):
            blocks.copy(self._into, self._out_of)
        while under_way:
            self._finish(*under_way.popleft(), unpacked)
        return self._lanes.finish()

    def _finish(
        self, group: _Group, works: Sequence[dist.Work], posted: Mark, unpacked: list[Mark]
    ) -> None:
        self._lanes.wait(works, posted)
        with self._lanes.on("unpack", group.number) as done:
            blocks.copy(group.weights[False], group.staged[False])
        unpacked[group.number % self._in_flight] = done

    @property
    def staging_bytes(self) -> int:
        return sum(s.numel() for s in self._staging)

    @property
    def details(self) -> dict[str, int]:
        """For the record: how the rank's blocks became messages."""
        return {
            "groups": len(self._groups),
            "messages": sum(len(g.parts[s]) for g in self._groups for s in (False, True)),
            "largest_group_ops": max((g.num_ops for g in self._groups), default=0),
        }

    def close(self) -> None:
        self._into, self._out_of, self._groups, self._staging = [], [], [], []


@dataclass(frozen=True)
class _Group:
    """One rank's part of one group. Dictionaries are by `is_send`."""

    number: int
    parts: dict[bool, Parts] = field(default_factory=lambda: {False: [], True: []})
    staged: dict[bool, list[torch.Tensor]] = field(default_factory=lambda: {False: [], True: []})
    weights: dict[bool, list[torch.Tensor]] = field(default_factory=lambda: {False: [], True: []})

    @property
    def num_ops(self) -> int:
        return len(self.parts[False]) + len(self.parts[True])

    def add(
        self,
        copies: Copies,
        message: Message,
        slot: torch.Tensor | None,
        offset: int | None,
        tensors: blocks.Tensors,
    ) -> None:
        """Take in a message; `offset` is its place in the slot, None where it goes in place."""
        if offset is None or slot is None:
            (block,) = message.blocks
            part = blocks.part(
                copies, block.row, tensors, message.is_send, block.first, block.count
            )
            self.parts[message.is_send].append((message.peer, part.view(-1).view(torch.uint8)))
            return
        bucket = slot[offset : offset + message.nbytes]
        staged, weights = blocks.staged_pairs(copies, message, bucket, tensors)
        self.parts[message.is_send].append((message.peer, bucket))
        self.staged[message.is_send] += staged
        self.weights[message.is_send] += weights


def _staged(group: list[Message], is_send: bool) -> tuple[dict[tuple[int, int], int], int]:
    """Offset of each staged message of one direction in the group's slot, and the bytes used."""
    offsets, used = {}, 0
    for message in group:
        if message.is_send == is_send and not message.in_place:
            offsets[message.order] = aligned(used)
            used = aligned(used) + message.nbytes
    return offsets, used
