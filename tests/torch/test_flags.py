"""`ipc` as on GPUs, its streams threads with delays: flags alone keep readers behind writers.

Below it the driver's stream memory operations and batched copies are fakes, and peers' memory is
there as it is; all else is the transport's own.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

import pytest
import torch
import torch.distributed as dist

from refit.job import Degrees, Refit
from refit.plan.copies import Copies
from refit.rules import devices
from refit.transport import carry, flags, share
from refit.transport.flags import Flags
from refit.transport.ipc import IpcTransport
from refit.weights.pattern import Pattern
from refit.weights.weights import Weights
from tests.support import streams
from tests.support.streams import LIMIT_S, Stream
from tests.support.threads import on_threads
from tests.torch.test_twosided import Exchange, copies_of

TRIES = 5
KEPT: list[Any] = []  # what the streams of a run with a fault may still write when it has ended
REFITS = 3


class Driver:
    """`cuda.bindings.driver`'s writes and waits, of 32-bit words on streams that are threads."""

    limit_s = LIMIT_S

    def cuStreamWriteValue32(self, stream: int, address: int, value: int, how: int) -> tuple[int]:
        word = ctypes.c_uint32.from_address(address)
        Stream.of[stream].give(lambda: setattr(word, "value", value))
        return (0,)

    def cuStreamWaitValue32(self, stream: int, address: int, value: int, how: int) -> tuple[int]:
        assert how == 0
        word = ctypes.c_uint32.from_address(address)

        def wait() -> None:
            last = time.monotonic() + self.limit_s
            while word.value < value:
                if Stream.errors or time.monotonic() > last:
                    raise TimeoutError(f"a flag of {value} that never comes: {word.value}")
                time.sleep(0.0005)

        Stream.of[stream].give(wait)
        return (0,)


class Runtime:
    """`cuda.bindings.runtime`'s batched copy."""

    class cudaMemcpyAttributes:
        srcAccessOrder: Any = None

    class cudaMemcpySrcAccessOrder:
        cudaMemcpySrcAccessOrderStream = 1

    def cudaMemcpyBatchAsync(
        self, into: list[int], out_of: list[int], sizes: list[int], count: int, *rest: Any
    ) -> tuple[int]:
        assert len(into) == len(out_of) == len(sizes) == count
        for part in zip(into, out_of, sizes, strict=True):
            Stream.of[rest[-1]].give(lambda part=part: ctypes.memmove(*part))  # type: ignore[misc]
        return (0,)


def run(
    monkeypatch: pytest.MonkeyPatch,
    copies: Copies,
    seed: int = 0,
    driver: Driver | None = None,
    said: list[Any] | None = None,
) -> int:
    """Elements that were wrong after some refits, of all ranks; -1 where a rank failed.

    Args:
        seed: of the delays.
        driver: None: cuda.bindings is not installed.
        said: takes what the ranks say of how they meet.
    """
    streams.patch(monkeypatch, seed)
    world = copies.placement.world
    exchange, found, here = Exchange(world), [-1] * world, threading.local()

    def gathered(item: Any) -> list[Any]:
        exchange.items[here.rank] = item
        exchange.barrier.wait(LIMIT_S)
        items = list(exchange.items)
        exchange.barrier.wait(LIMIT_S)
        return items

    def gather(into: list[Any], item: Any) -> None:
        into[:] = gathered(item)

    def exchanged(mine: Any, rank: int, peers: Collection[int]) -> dict[int, torch.Tensor]:
        tensors = gathered(mine)
        return {peer: tensors[peer] for peer in peers if peer != rank}

    def words(count: int) -> torch.Tensor:
        KEPT.append(torch.zeros(count, dtype=torch.int32))
        return KEPT[-1]

    for where, name, value in (
        (dist, "get_world_size", lambda: world),
        (dist, "all_gather_object", gather),
        (dist, "barrier", lambda: exchange.barrier.wait(LIMIT_S)),
        (share, "exchange", exchanged),
        (share, "any_cuda", lambda device: True),
        (share, "on_same_gpu", lambda: {here.rank}),
        (torch.cuda, "is_initialized", lambda: True),
        (torch.cuda, "synchronize", lambda: None),
        (flags, "_driver", lambda: driver),
        (flags, "_words", words),
        (carry, "_runtime", Runtime),
        (carry, "ENGINE_BYTES", 1 << 10),
    ):
        monkeypatch.setattr(where, name, value)

    def rank_main(rank: int) -> None:
        here.rank = rank
        old = Weights.allocate(copies.shards(rank, of_source=True))
        new = Weights.allocate(copies.shards(rank, of_source=False))
        KEPT.extend((old, new))
        transport = IpcTransport(Refit())
        transport.prepare(copies, rank, old, new)
        if said is not None:
            said.append(transport.details["meeting"])
        wrong = 0
        for generation in range(REFITS):
            pattern = Pattern(0, generation)
            pattern.poison(new)
            exchange.barrier.wait(LIMIT_S)
            late = 0.03 * ((rank + generation) % 2)  # one rank's step takes longer
            streams.current_stream().give(lambda s=late: time.sleep(s))  # type: ignore[misc]
            streams.current_stream().give(lambda p=pattern: p.fill(old))  # type: ignore[misc]
            transport.execute()
            wrong += pattern.check(new).mismatches
            exchange.barrier.wait(LIMIT_S)  # as after a refit: nobody writes what others still read
        transport.close()
        found[rank] = wrong

    on_threads(world, rank_main)
    streams.drain()
    return sum(found) if min(found) >= 0 and not Stream.errors else -1


@pytest.fixture(params=["collocated", "non-collocated"])
def copies(request: pytest.FixtureRequest) -> Copies:
    if request.param == "collocated":
        return copies_of(Degrees(tp=2, etp=1), Degrees(tp=1, ep=2, etp=1), "collocated")
    return copies_of(Degrees(tp=2, etp=1), Degrees(tp=1, etp=1), "non-collocated")


def test_order_is_kept_by_flags_alone(monkeypatch: pytest.MonkeyPatch, copies: Copies) -> None:
    said: list[Any] = []
    assert run(monkeypatch, copies, driver=Driver(), said=said) == 0
    assert set(said) == {"flags on the device"}


def _no_wait(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Flags, "_wait", lambda of, at: None)


def _one_tells_nothing(patch: pytest.MonkeyPatch) -> None:
    tell = Flags._tell
    patch.setattr(Flags, "_tell", lambda of, at: tell(of, at[1:] if of._number > 1 else at))


def _tells_on_another_stream(patch: pytest.MonkeyPatch) -> None:
    tell = Flags._tell

    def elsewhere(of: Flags, addresses: list[int]) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            tell(of, addresses)

    patch.setattr(Flags, "_tell", elsewhere)


def _same_number(patch: pytest.MonkeyPatch) -> None:
    def again(of: Flags) -> None:
        of._tell(of._told)
        of._wait(of._waited_for)

    patch.setattr(Flags, "__call__", again)


def _waits_first(patch: pytest.MonkeyPatch) -> None:
    def turned(of: Flags) -> None:
        of._number += 1
        of._wait(of._waited_for)
        of._tell(of._told)

    patch.setattr(Flags, "__call__", turned)


def _wrong_word(patch: pytest.MonkeyPatch) -> None:
    call = Flags.__call__

    def elsewhere(of: Flags) -> None:
        if of._number == 1:
            of._waited_for = [address ^ 4 for address in of._waited_for]
        call(of)

    patch.setattr(Flags, "__call__", elsewhere)


def _copies_do_not_wait(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Stream, "wait_stream", lambda stream, other: None)


def _no_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Stream, "synchronize", lambda stream: None)


@pytest.mark.parametrize(
    "fault",
    [
        _no_wait, _one_tells_nothing, _tells_on_another_stream, _same_number, _waits_first,
        _wrong_word, _copies_do_not_wait, _no_end,
    ],
    ids=lambda fault: fault.__name__,
)  # fmt: skip
def test_what_does_not_wait_is_wrong(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[[pytest.MonkeyPatch], None]
) -> None:
    swap = copies_of(Degrees(tp=2, etp=1), Degrees(tp=1, ep=2, etp=1), "collocated")
    monkeypatch.setattr(Driver, "limit_s", 3.0)

    def seen(seed: int) -> bool:
        with monkeypatch.context() as patch:
            fault(patch)
            return run(patch, swap, seed, Driver()) != 0

    assert any(seen(seed) for seed in range(TRIES))


class Refuses(Driver):
    def cuStreamWriteValue32(self, *_: int) -> tuple[int]:
        return (801,)


class RefusesWaits(Driver):
    def cuStreamWaitValue32(self, *_: int) -> tuple[int]:
        return (801,)


class Loses(Driver):
    """Writes to other ranks' memory get lost: of each address the first."""

    def __init__(self) -> None:
        self.lost: set[int] = set()

    def cuStreamWriteValue32(self, stream: int, address: int, value: int, how: int) -> tuple[int]:
        if address in self.lost:
            return super().cuStreamWriteValue32(stream, address, value, how)
        self.lost.add(address)
        return (0,)


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        (None, "cuda.bindings is not installed"),
        (Refuses(), "cuStreamWriteValue32: 801"),
        (RefusesWaits(), "cuStreamWaitValue32: 801"),
        (Loses(), "a flag did not come within 0.3 s"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_without_flags_all_ranks_meet_on_the_host(
    monkeypatch: pytest.MonkeyPatch, driver: Driver | None, words: str, copies: Copies
) -> None:
    monkeypatch.setattr(flags, "PATIENCE_S", 0.3)
    said: list[Any] = []
    assert run(monkeypatch, copies, driver=driver, said=said) == 0
    assert set(said) == {f"on the host: {words}"}


def test_ranks_that_share_a_gpu_have_flags_under_mps_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flags, "_driver", Driver)
    monkeypatch.setattr(flags, "_first", lambda reason: reason)
    monkeypatch.setattr(flags, "Flags", lambda *_: type("Ready", (), {"tried": lambda of: ""})())
    for mps, here, on_device in ((False, {0, 1}, False), (True, {0, 1}, True), (False, {0}, True)):
        monkeypatch.setattr(devices, "mps", lambda mps=mps: mps)
        meet, how = flags.meeting(0, [1], here)
        assert (how == "flags on the device") is on_device is (meet is not share.meet)


def test_a_rank_that_neither_reads_nor_is_read_asks_nothing_of_its_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dist, "get_world_size", lambda: 1)
    monkeypatch.setattr(dist, "all_gather_object", lambda into, item: into.__setitem__(0, item))
    monkeypatch.setattr(dist, "barrier", lambda: None)
    monkeypatch.setattr(share, "exchange", lambda mine, rank, peers: {})
    idle = Flags(0, [], None)  # torch here has no CUDA: any question would raise
    assert idle.tried() == ""
    idle()
