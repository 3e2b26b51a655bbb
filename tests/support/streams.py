"""CUDA's streams as threads and its events as flags, so that order is only what was asked for.

Each piece of work starts after a delay that is drawn, so that two streams which do not wait for
each other meet in any order.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from queue import SimpleQueue
from typing import Any, ClassVar

import pytest
import torch

from refit.transport import blocks, memcpy

LIMIT_S = 20.0  # a wait that takes longer is for ever
DELAYS_S = (0.0, 0.0, 0.001, 0.004)


class Stream:
    """Does what it is given, one after another, late."""

    seeds = count()
    errors: list[BaseException]
    of: ClassVar[dict[int, Stream]] = {}  # by handle, which C libraries are given

    def __init__(self, device: object = None) -> None:
        self.cuda_stream = id(self)
        Stream.of[self.cuda_stream] = self
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._random = random.Random(next(Stream.seeds))
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            time.sleep(self._random.choice(DELAYS_S))
            try:
                work()
            except BaseException as error:
                Stream.errors.append(error)

    def give(self, work: Callable[[], object]) -> None:
        self._work.put(work)

    def wait_event(self, event: Event) -> None:
        self.give(event.reached())

    def wait_stream(self, other: Stream) -> None:
        event = Event()
        event.record(other)
        self.wait_event(event)

    def synchronize(self) -> None:
        event = Event()
        event.record(self)
        event.reached()()

    def end(self) -> None:
        self._work.put(None)


class Event:
    """A flag that a stream sets when it comes by."""

    def __init__(self, enable_timing: bool = False) -> None:
        self._flag = threading.Event()

    def record(self, stream: Stream | None = None) -> None:
        self._flag = threading.Event()
        (stream or current_stream()).give(self._flag.set)

    def reached(self) -> Callable[[], None]:
        """What returns once it is, as it was last recorded."""
        flag = self._flag

        def wait() -> None:
            if not flag.wait(LIMIT_S):
                raise TimeoutError("an event that nobody reaches")

        return wait

    def query(self) -> bool:
        return self._flag.is_set()

    def elapsed_time(self, other: Event) -> float:
        return 0.0


_of_thread = threading.local()


def current_stream(device: object = None) -> Stream:
    """The calling thread's, as in CUDA."""
    if not hasattr(_of_thread, "streams"):
        _of_thread.streams = [Stream()]
    return _of_thread.streams[-1]


@contextmanager
def stream(current: Stream) -> Iterator[None]:
    current_stream()
    _of_thread.streams.append(current)
    yield
    _of_thread.streams.pop()


def drain() -> None:
    """Let all streams do what they were given, and end."""
    while Stream.of:
        _, stream = Stream.of.popitem()
        event = Event()
        event.record(stream)
        event.reached()()
        stream.end()


def patch(monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> None:
    """Have torch.cuda's streams and events, and a transport's copies, be these.

    Args:
        seed: of all delays.
    """
    Stream.seeds, Stream.errors = count(seed << 20), []
    here: dict[str, Any] = {
        "Stream": Stream, "Event": Event, "current_stream": current_stream, "stream": stream,
    }  # fmt: skip
    for name, value in here.items():
        monkeypatch.setattr(torch.cuda, name, value)
    now = blocks.copy

    def copy(destinations: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
        current_stream().give(lambda: now(destinations, sources))

    monkeypatch.setattr(blocks, "copy", copy)
    prepared = memcpy.copier

    def copier(
        destinations: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]
    ) -> Callable[[], None]:
        move = prepared(destinations, sources)
        return lambda: current_stream().give(move)

    monkeypatch.setattr(memcpy, "copier", copier)
