"""Two-sided messages, packed per peer and posted in bounded groups: what gloo and nccl share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.distributed as dist

from refit.job import Refit
from refit.plan.copies import Copies
from refit.plan.runs import received, together
from refit.transport import Transport, blocks
from refit.transport.collect import Decided, Item
from refit.transport.lanes import CpuLanes, Lanes, Mark, lanes
from refit.transport.schedule import ALIGN, Message, aligned, group_numbers, messages
from refit.weights import memory
from refit.weights.weights import Weights, device_of

Parts = list[tuple[int, torch.Tensor]]  # (peer, contiguous bytes)


class Wire(Protocol):
    """What carries the messages.

    Attributes:
        in_place_bytes: below this a message of its own costs more than the two copies that it
            saves.
        at_once: how many messages fill a bucket, so that a group is for as many peers.
    """

    in_place_bytes: int
    at_once: int

    def open(self, device: torch.device) -> None:
        """All ranks: whatever must be there before the first message."""

    def agree(self, item: Item, decide: Callable[[list[Item]], Decided]) -> Decided:
        """As `refit.transport.collect.agree`."""

    def post(self, sends: Parts, receives: Parts) -> Sequence[dist.Work]:
        """Start one group; return what to wait for."""


class TwoSided(Transport):
    """Messages in groups that all ranks number alike.

    At most `in_flight` groups are under way. A group has at most `max_ops_per_group` operations and
    `bucket_mb` bytes each way, so staging is at most 2 * in_flight * bucket. Long runs of bytes are
    not staged at all: they go from arena to arena. Packing and unpacking overlap with the wire.

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
        self._local: blocks.Start = blocks.nothing
        self._groups: list[_Group] = []
        self._staging: list[torch.Tensor] = []
        self._lanes: Lanes = CpuLanes()

    def prepare(
        self, copies: Copies, rank: int, source: Weights | None, destination: Weights | None
    ) -> None:
        device = device_of(source, destination)
        self._wire.open(device)
        self._lanes = lanes(device, self._streams)
        table = received(copies, rank)
        self._local = blocks.local(table, rank, source, destination)
        largest = max(ALIGN, self._bucket_bytes // self._wire.at_once)
        todo = messages(copies, rank, table, largest, self._wire.in_place_bytes)
        numbers = self._wire.agree(
            {m.order: m.nbytes for m in todo if m.is_send},
            lambda sent: group_numbers(sent, self._bucket_bytes, self._max_ops),
        )
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
                ours = [message for message in of_group if message.is_send == is_send]
                if ours:
                    assert weights is not None
                    slot = slots[is_send][index % self._in_flight] if slots[is_send] else None
                    group.bind(ours, is_send, slot, weights.arena)
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
                group.pack()
            with self._lanes.on("wire", after=[packed, unpacked[slot]]) as posted:
                works = self._wire.post(group.parts[True], group.parts[False])
            under_way.append((group, works, posted))
        with self._lanes.on("local"):
            self._local()
        while under_way:
            self._finish(*under_way.popleft(), unpacked)
        return self._lanes.finish()

    def _finish(
        self, group: _Group, works: Sequence[dist.Work], posted: Mark, unpacked: list[Mark]
    ) -> None:
        self._lanes.wait(works, posted)
        with self._lanes.on("unpack", group.number) as done:
            group.unpack()
        unpacked[group.number % self._in_flight] = done

    @property
    def staging_bytes(self) -> int:
        return sum(s.numel() for s in self._staging)

    @property
    def details(self) -> dict[str, int]:
        """For the record: how the rank's runs became messages."""
        return {
            "groups": len(self._groups),
            "messages": sum(len(g.parts[s]) for g in self._groups for s in (False, True)),
            "largest_group_ops": max((g.num_ops for g in self._groups), default=0),
        }

    def close(self) -> None:
        self._local, self._groups, self._staging = blocks.nothing, [], []


@dataclass
class _Group:
    """One rank's part of one group. `parts` is by `is_send`."""

    number: int
    parts: dict[bool, Parts] = field(default_factory=lambda: {False: [], True: []})
    pack: blocks.Start = blocks.nothing
    unpack: blocks.Start = blocks.nothing

    @property
    def num_ops(self) -> int:
        return len(self.parts[False]) + len(self.parts[True])

    def bind(
        self, ours: list[Message], is_send: bool, slot: torch.Tensor | None, arena: torch.Tensor
    ) -> None:
        """Take in the messages of one direction.

        Args:
            slot: of staging, if there is any.
            arena: of this rank's weights at this end.
        """
        offsets, _ = _staged(ours, is_send)
        for message in ours:
            memory, at = arena, offsets.get(message.order)
            if at is None:
                at = message.start
            else:
                assert slot is not None
                memory = slot
            self.parts[is_send].append((message.peer, memory[at : at + message.nbytes]))
        staged = [m.staged(offsets[m.order]) for m in ours if m.order in offsets]
        if staged and slot is not None:
            into, out_of = (slot, arena) if is_send else (arena, slot)
            _, start = blocks.mover(together(staged), into, {0: out_of})
            if is_send:
                self.pack = start
            else:
                self.unpack = start


def _staged(group: list[Message], is_send: bool) -> tuple[dict[tuple[int, int], int], int]:
    """Offset of each staged message of one direction in the group's slot, and the bytes used."""
    offsets, used = {}, 0
    for message in group:
        if message.is_send == is_send and not message.in_place:
            offsets[message.order] = aligned(used)
            used = aligned(used) + message.nbytes
    return offsets, used
