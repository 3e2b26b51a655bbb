"""Puts into a symmetric heap: the transport, and its `symmetric` form in CPU ranks' shared memory.

`nvshmem` is the same with another heap.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
import torch.distributed as dist

from refit.job import Refit
from refit.plan.copies import Copies
from refit.plan.runs import received
from refit.transport import Transport, blocks
from refit.transport.heap import OpenHeap, SymmetricHeap
from refit.transport.heap_shared import SharedHeap
from refit.transport.lanes import CpuLanes, Lanes, Mark, lanes
from refit.transport.schedule import Message, aligned, messages
from refit.weights import memory
from refit.weights.weights import Weights, device_of


class SymmetricTransport(Transport):
    """Messages through slots of a symmetric heap.

    A sender packs a message into a slot of its own, puts it into a slot of its receiver and tells a
    counter there; the receiver waits for it, unpacks, and grants the slot to the sender of the
    message that comes `in_flight` later. The receiver's slots go round by its messages' order, so
    both ends know the slot without asking, and a grant tells a counter at the sender, one for each
    slot. The first slots of a refit are granted by the one before.

    What is told, of an arrival and of its grant, is the message's number among all that its
    receiver takes, over all refits (`_Step.value`): in a slot these grow. Nobody tells a counter
    before the value that it has was waited for, as a message follows its grant, and a grant the
    arrival before it in the slot. So a counter is set, though its writers take turns.

    Memory: every rank's heap has `in_flight` slots each way of the largest message of any rank: at
    most 2 * in_flight * bucket, and 64 bytes for each counter: (1 + ranks) * `in_flight`.

    No deadlock: a rank takes its sends in order and its receives in order. A send waits for a grant
    that follows a receive of lesser order at its receiver; a receive waits for the send of its own
    order. So of all steps not yet done the least, sends before receives of equal order, can
    always go on, and it is next in its rank's queue.
    """

    def __init__(self, refit: Refit, open_heap: OpenHeap) -> None:
        self._bucket_bytes = int(refit.bucket_mb * 1e6)
        self._refit, self._in_flight = refit, refit.in_flight
        self._streams = refit.streams
        self._open_heap = open_heap
        self._local: blocks.Start = blocks.nothing
        self._steps: dict[bool, list[_Step]] = {True: [], False: []}
        self._lanes: Lanes = CpuLanes()
        self._heap: SymmetricHeap | None = None
        self._heap_bytes = 0
        self._refits = 0

    def prepare(
        self, copies: Copies, rank: int, source: Weights | None, destination: Weights | None
    ) -> None:
        table = received(copies, rank)
        self._local = blocks.local(table, rank, source, destination)
        device = device_of(source, destination)
        self._lanes = lanes(device, self._streams)
        todo = messages(copies, rank, table, self._bucket_bytes)
        sends = [m for m in todo if m.is_send]
        receives = [m for m in todo if not m.is_send]
        world = copies.placement.world
        largest = max((m.nbytes for m in todo), default=0)
        self._slot_bytes, numbers_at = self._agree(largest, receives, rank, world)

        # Counters: arrivals in each receiving slot, then grants of each slot of each rank: streams
        # may free two slots in either order.
        self._heap_bytes = 2 * self._in_flight * self._slot_bytes
        if device.type == "cpu":
            memory.require_staging(self._heap_bytes, self._refit)
        self._heap = heap = self._open_heap(
            rank, self._heap_bytes, self._in_flight * (1 + world), {m.peer for m in todo}, device
        )
        half = self._in_flight * self._slot_bytes
        receiving, sending = heap.local[:half], heap.local[half:]
        for number, message in enumerate(sends):
            assert source is not None
            place = numbers_at[message.peer].popleft()
            bucket = self._bucket(sending, number, message)
            self._steps[True].append(_Step.of(message, bucket, source.arena, place))
        for number, message in enumerate(receives):
            assert destination is not None
            place = number, len(receives)
            bucket = self._bucket(receiving, number, message)
            self._steps[False].append(_Step.of(message, bucket, destination.arena, place))
        self._rank = rank
        for step in self._steps[False][: self._in_flight]:
            self._grant(step, self._refits)

    def _agree(
        self, largest: int, receives: list[Message], rank: int, world: int
    ) -> tuple[int, dict[int, deque[tuple[int, int]]]]:
        """What all ranks agree on: each receiver tells its senders their messages' numbers.

        Args:
            largest: bytes of this rank's largest message.

        Returns:
            bytes of every slot, and by receiver, for each of this rank's messages there in order,
            its number and of how many in a refit.
        """
        numbers: dict[int, list[int]] = {}
        for number, message in enumerate(receives):
            numbers.setdefault(message.peer, []).append(number)
        gathered: list[tuple[int, int, dict[int, list[int]]]] = [(0, 0, {}) for _ in range(world)]
        dist.all_gather_object(gathered, (largest, len(receives), numbers))
        numbers_at = {
            receiver: deque((number, count) for number in by_sender[rank])
            for receiver, (_, count, by_sender) in enumerate(gathered)
            if rank in by_sender
        }
        return aligned(max(nbytes for nbytes, *_ in gathered)), numbers_at

    def _bucket(self, slots: torch.Tensor, number: int, message: Message) -> torch.Tensor:
        """The bytes of this rank's message of that number: slots go round."""
        start = number % self._in_flight * self._slot_bytes
        return slots[start : start + message.nbytes]

    def execute(self) -> dict[str, float]:
        assert self._heap is not None
        self._lanes.start()
        with self._lanes.on("local"):
            self._local()
        put = [Mark()] * self._in_flight  # by slot of this rank's own: its bytes have left it
        at = {True: 0, False: 0}
        while heads := [(s, i) for s, i in at.items() if i < len(self._steps[s])]:
            heads.sort(key=lambda head: self._steps[head[0]][head[1]].message.order)
            for is_send, number in heads:
                step = self._steps[is_send][number]
                if self._heap.ready(self._counter(step)):
                    if is_send:
                        self._send(step, number, put)
                    else:
                        self._receive(step, number)
                    at[is_send] += 1
                    break
            else:
                with self._lanes.on("wire"):
                    self._heap.pause()
        self._refits += 1
        return self._lanes.finish()

    def _counter(self, step: _Step) -> int:
        """What the step waits for: its receiver's grant, or the arrival in its slot."""
        slot = self._slot(step)
        return self._in_flight * (1 + step.message.peer) + slot if step.message.is_send else slot

    def _slot(self, step: _Step) -> int:
        """The receiver's slot that a message goes through."""
        return step.number % self._in_flight

    def _send(self, step: _Step, number: int, put: list[Mark]) -> None:
        assert self._heap is not None
        slot = number % self._in_flight  # of this rank's own
        with self._lanes.on("pack", number, after=[put[slot]]) as packed:
            step.move()
        with self._lanes.on("wire", after=[packed]) as put[slot]:
            value, there = step.value(self._refits), self._slot(step)
            self._heap.wait(self._counter(step), value)
            start = there * self._slot_bytes
            self._heap.put_signal(step.message.peer, start, step.bucket, there, value)

    def _receive(self, step: _Step, number: int) -> None:
        assert self._heap is not None
        with self._lanes.on("unpack", number):
            self._heap.wait(self._counter(step), step.value(self._refits))
            step.move()
            # the slot's next message, of this refit or the next
            receives, refit = self._steps[False], self._refits
            follower = number + self._in_flight
            if follower >= len(receives):
                follower, refit = number % self._in_flight, refit + 1
            self._grant(receives[follower], refit)

    def _grant(self, step: _Step, refit: int) -> None:
        """Tell a message's sender that its slot is free for it in a refit."""
        assert self._heap is not None
        counter = self._in_flight * (1 + self._rank) + self._slot(step)
        self._heap.signal(step.message.peer, counter, step.value(refit))

    @property
    def staging_bytes(self) -> int:
        return self._heap_bytes

    @property
    def details(self) -> dict[str, int | str]:
        """For the record: which heap, and how the rank's runs became messages."""
        return {
            "heap": self._heap.name if self._heap else "",
            "messages": len(self._steps[True]) + len(self._steps[False]),
            "slots": 2 * self._in_flight,
            "slot_bytes": self._slot_bytes,
        }

    def close(self) -> None:
        self._local, self._steps = blocks.nothing, {True: [], False: []}
        if self._heap is not None:
            self._heap.close()
            self._heap = None


@dataclass(frozen=True)
class _Step:
    """A message, its bucket in this rank's heap, and what packs or unpacks it.

    Attributes:
        number, count: of the messages that its receiver takes in a refit, which, and how many.
    """

    message: Message
    bucket: torch.Tensor
    move: blocks.Start
    number: int
    count: int

    @staticmethod
    def of(
        message: Message, bucket: torch.Tensor, arena: torch.Tensor, place: tuple[int, int]
    ) -> _Step:
        into, out_of = (bucket, arena) if message.is_send else (arena, bucket)
        _, move = blocks.mover(message.staged(), into, {0: out_of})
        return _Step(message, bucket, move, *place)

    def value(self, refit: int) -> int:
        """Of its arrival and its grant in the refit of that number, both from 0: 1 and up."""
        return refit * self.count + self.number + 1


class SharedTransport(SymmetricTransport):
    """Between CPU ranks of one node, through shared memory. See `SymmetricTransport`."""

    def __init__(self, refit: Refit) -> None:
        super().__init__(refit, SharedHeap)
