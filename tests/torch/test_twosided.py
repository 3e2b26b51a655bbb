"""Groups of messages over threads that, as NCCL does, complete a group only as a whole."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from refit.job import Degrees, Refit
from refit.plan.copies import Copies
from refit.plan.runs import received
from refit.rules.setup import Setup
from refit.transport.collect import Decided, Item
from refit.transport.schedule import group_numbers, messages
from refit.transport.symmetric import SymmetricTransport
from refit.transport.twosided import Parts, TwoSided
from refit.weights import memory
from refit.weights.pattern import Check, Pattern
from refit.weights.weights import Weights
from tests.support.jobs import job
from tests.support.threads import on_threads

LIMIT_S = 5.0


class Exchange:
    """Where threads meet. A group is done when each of its messages is posted at both ends."""

    def __init__(self, world: int) -> None:
        self.barrier = threading.Barrier(world)
        self.items: list[Any] = [None] * world
        self.changed = threading.Condition()
        self.sent: dict[tuple[int, int, int], torch.Tensor] = {}
        self.received: dict[tuple[int, int, int], torch.Tensor] = {}
        self.largest_group = 0


class ThreadWire:
    """One rank's end. Its groups run one after another on a thread, like kernels on a stream."""

    in_place_bytes = 1 << 12
    at_once = 2

    def __init__(self, exchange: Exchange, rank: int) -> None:
        self._exchange, self._rank = exchange, rank
        self._numbers: dict[tuple[int, bool], int] = {}
        self._last: threading.Thread | None = None
        self.before: Callable[[], None] = lambda: None  # the next group's bytes are there

    def open(self, device: torch.device) -> None:
        pass

    def gather(self, item: Any) -> list[Any]:
        self._exchange.items[self._rank] = item
        self._exchange.barrier.wait(LIMIT_S)
        return list(self._exchange.items)

    def agree(self, item: Item, decide: Callable[[list[Item]], Decided]) -> Decided:
        return decide(self.gather(item))

    def post(self, sends: Parts, receives: Parts) -> Sequence[dist.Work]:
        exchange = self._exchange
        exchange.largest_group = max(exchange.largest_group, len(sends) + len(receives))
        ends = [(self._key(peer, True), part) for peer, part in sends]
        into = [(self._key(peer, False), part) for peer, part in receives]
        before, there = self._last, self.before

        def run() -> None:
            if before is not None:
                before.join()
            there()
            with exchange.changed:
                exchange.sent.update(ends)
                exchange.received.update(into)
                exchange.changed.notify_all()

                def met() -> bool:
                    return all(k in exchange.received for k, _ in ends) and all(
                        k in exchange.sent for k, _ in into
                    )

                if exchange.changed.wait_for(met, LIMIT_S):
                    for key, part in into:
                        part.copy_(exchange.sent[key])
                        del exchange.sent[key]
                    exchange.changed.notify_all()
                    # as with NCCL, a send is over when its receiver has it
                    exchange.changed.wait_for(
                        lambda: not any(k in exchange.sent for k, _ in ends), LIMIT_S
                    )

        self._last = threading.Thread(target=run)
        self._last.start()
        return [_Joined(self._last)]  # type: ignore[list-item]  # all that is used of a Work

    def _key(self, peer: int, is_send: bool) -> tuple[int, int, int]:
        number = self._numbers.get((peer, is_send), 0)
        self._numbers[peer, is_send] = number + 1
        return (self._rank, peer, number) if is_send else (peer, self._rank, number)


class _Joined:
    def __init__(self, thread: threading.Thread) -> None:
        self._thread = thread

    def wait(self) -> None:
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive(), "deadlock"


def copies_of(source: Degrees, destination: Degrees, mode: str) -> Copies:
    (copies,) = Setup.of(job(source, destination, mode, ranks_per_node=8)).plan().hops
    return copies


DEGREES = st.builds(
    Degrees,
    tp=st.sampled_from([1, 2, 4]),
    pp=st.sampled_from([1, 2]),
    ep=st.sampled_from([1, 2]),
    etp=st.just(1),
).filter(lambda d: d.tp * d.pp * d.ep <= 4)


# not shrunk, as each deadlock costs LIMIT_S
@settings(max_examples=25, phases=[Phase.explicit, Phase.generate])
@given(
    DEGREES,
    DEGREES,
    st.sampled_from(["collocated", "non-collocated"]),
    st.sampled_from([0.001, 0.01, 0.1]),
    st.integers(1, 4),
    st.sampled_from([2, 3, 1000]),
)
def test_any_plan_in_any_groups(
    source: Degrees,
    destination: Degrees,
    mode: str,
    bucket_mb: float,
    in_flight: int,
    max_ops: int,
) -> None:
    copies = copies_of(source, destination, mode)
    world = copies.placement.world
    refit = Refit(bucket_mb=bucket_mb, in_flight=in_flight, max_ops_per_group=max_ops)
    exchange = Exchange(world)
    found: list[Check | None] = [None] * world

    def rank_main(rank: int) -> None:
        old = Weights.allocate(copies.shards(rank, of_source=True))
        new = Weights.allocate(copies.shards(rank, of_source=False))
        transport = TwoSided(refit, ThreadWire(exchange, rank))
        transport.prepare(copies, rank, old, new)
        checks = Check(0, 0)
        for generation in range(2):
            pattern = Pattern(0, generation)
            pattern.fill(old)
            pattern.poison(new)
            exchange.barrier.wait(LIMIT_S)
            transport.execute()
            checks += pattern.check(new)
            exchange.barrier.wait(LIMIT_S)
        found[rank] = checks

    on_threads(world, rank_main)
    assert [c and c.mismatches for c in found] == [0] * world
    assert exchange.largest_group <= max_ops


class Alone:
    """A wire of one rank, who agrees with itself."""

    in_place_bytes = 1 << 12
    at_once = 1

    def open(self, device: torch.device) -> None:
        pass

    def agree(self, item: Item, decide: Callable[[list[Item]], Decided]) -> Decided:
        return decide([item])


@pytest.mark.parametrize("make", ["twosided", "symmetric"])
def test_buckets_are_held_against_memory_before_there_are_any(
    make: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = copies_of(Degrees(tp=2, etp=1), Degrees(tp=1, etp=1), "non-collocated")
    refit = Refit(bucket_mb=0.01, in_flight=3)
    old = Weights.allocate(copies.shards(0, of_source=True))

    def prepare() -> None:
        if make == "twosided":
            TwoSided(refit, Alone()).prepare(copies, 0, old, None)  # type: ignore[arg-type]
            return
        transport = SymmetricTransport(refit, lambda *_: pytest.fail("a heap is made"))
        monkeypatch.setattr(transport, "_agree", lambda largest, *_: (largest, {}))
        transport.prepare(copies, 0, old, None)

    monkeypatch.setattr(memory, "available", lambda: 100)
    words = "refit.in_flight=3 buckets of refit.bucket_mb=0.01 or less need 0.00 GB on a rank"
    with pytest.raises(MemoryError, match=words):
        prepare()


def test_groups_by_hand() -> None:
    # seven messages of 16 bytes, of which a rank may have three sends and three receives in a group
    seven = [{(1, n): 16 for n in range(7)}]
    assert list(group_numbers(seven, 1000, 6).values()) == [0, 0, 0, 1, 1, 1, 2]
    # 16 bytes start at 0, 16 and 32: two fit into 32 bytes, and three into 48
    assert list(group_numbers(seven, 32, 1000).values()) == [0, 0, 1, 1, 2, 2, 3]
    assert list(group_numbers(seven, 48, 1000).values()) == [0, 0, 0, 1, 1, 1, 2]
    # the larger of two ranks counts, whoever has it; what is too large goes alone
    ranks = [{(1, 0): 8, (1, 1): 90, (2, 0): 8}, {(2, 0): 40, (1, 0): 48}]
    assert group_numbers(ranks, 64, 1000) == {(1, 0): 0, (1, 1): 1, (2, 0): 2}
    assert group_numbers([], 64, 2) == {}


def test_groups_keep_both_limits_and_the_order() -> None:
    copies = copies_of(Degrees(tp=4, etp=1), Degrees(tp=2, ep=2, etp=1), "collocated")
    todo = [
        messages(copies, rank, received(copies, rank), 4096)
        for rank in range(copies.placement.world)
    ]
    sent = [{m.order: m.nbytes for m in of_rank if m.is_send} for of_rank in todo]
    numbers = group_numbers(sent, 8192, 6)
    assert [numbers[order] for order in sorted(numbers)] == sorted(numbers.values())
    for of_rank in todo:
        for group in set(numbers.values()):
            mine = [m for m in of_rank if numbers[m.order] == group]
            assert len(mine) <= 6
            for is_send in (False, True):
                sizes = [m.nbytes for m in mine if m.is_send == is_send]
                assert sum(sizes) <= 8192


def test_each_byte_is_in_one_message_at_both_ends() -> None:
    copies = copies_of(Degrees(tp=2, etp=1), Degrees(tp=4, etp=1), "non-collocated")
    ends: dict[tuple[int, int, tuple[int, int]], list[tuple[int, bool]]] = {}
    for rank in range(copies.placement.world):
        for m in messages(copies, rank, received(copies, rank), 4096, in_place_bytes=2048):
            pair = (rank, m.peer) if m.is_send else (m.peer, rank)
            ends.setdefault((*pair, m.order), []).append((m.nbytes, m.in_place))
            assert m.runs.nbytes.sum() <= m.nbytes <= 4096
            assert not m.in_place or len(m.runs) == 1
    assert all(len(both) == 2 and both[0] == both[1] for both in ends.values())
    assert any(in_place for both in ends.values() for _, in_place in both)
