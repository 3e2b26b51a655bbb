"""Where a transport's work runs: one after another on the CPU, on streams of its own on CUDA."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist

PHASES = ("local", "pack", "wire", "unpack")


@dataclass(frozen=True)
class Mark:
    """Begin and end of one piece of work on its stream; nothing on the CPU."""

    begin: torch.cuda.Event | None = None
    end: torch.cuda.Event | None = None


class Lanes(Protocol):
    """Runs a transport's phases, keeps their order, and times them."""

    def start(self) -> None:
        """Begin a refit: everything waits for what the caller's stream has been given so far."""

    @contextmanager
    def on(self, phase: str, number: int = 0, after: Sequence[Mark] = ()) -> Iterator[Mark]:
        """A piece of work of a phase; `after` says which earlier ones must be done before it."""

    def wait(self, works: Sequence[dist.Work], posted: Mark) -> None:
        """Let all packing and unpacking that starts from now on wait for these messages.

        Args:
            posted: of the wire's work in which they were posted; their time begins with it.
        """

    def finish(self) -> dict[str, float]:
        """Wait for everything; returns seconds per phase, which overlap where streams do."""


def lanes(device: torch.device, streams: int) -> Lanes:
    """The lanes of a device; `streams` of its own for packing and as many for unpacking."""
    return CudaLanes(device, streams) if device.type == "cuda" else CpuLanes()


class Clock:
    """Adds the time since the last lap to a phase."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """Add the time since the last call, of this or of another phase."""
        now = time.perf_counter()
        self.seconds[phase] += now - self._last
        self._last = now


class CpuLanes:
    """Program order is the only order there is."""

    def start(self) -> None:
        self._seconds = dict.fromkeys(PHASES, 0.0)

    @contextmanager
    def on(self, phase: str, number: int = 0, after: Sequence[Mark] = ()) -> Iterator[Mark]:
        begin = time.perf_counter()
        yield Mark()
        self._seconds[phase] += time.perf_counter() - begin

    def wait(self, works: Sequence[dist.Work], posted: Mark) -> None:
        with self.on("wire"):
            for work in works:
                work.wait()

    def finish(self) -> dict[str, float]:
        return self._seconds


class CudaLanes:
    """Streams: one for local copies, one for the wire, several each for packing and unpacking.

    Piece `number` of a phase runs on the phase's stream `number % streams`. Seconds are the
    device's own, between events on the streams.
    """

    def __init__(self, device: torch.device, streams: int) -> None:
        self._device = device
        self._streams = {
            phase: [
                torch.cuda.Stream(device)
                for _ in range(streams if phase in ("pack", "unpack") else 1)
            ]
            for phase in PHASES
        }
        self._spans: list[tuple[str, Mark]] = []

    def start(self) -> None:
        self._spans = []
        # Megatron-LM issue #6823: a copy on a side stream that does not wait for the stream of the
        # optimizer step delivers the weights of the step before.
        producer = torch.cuda.current_stream(self._device)
        for stream in self._all():
            stream.wait_stream(producer)

    @contextmanager
    def on(self, phase: str, number: int = 0, after: Sequence[Mark] = ()) -> Iterator[Mark]:
        of_phase = self._streams[phase]
        stream = of_phase[number % len(of_phase)]
        for mark in after:
            if mark.end is not None:
                stream.wait_event(mark.end)
        with torch.cuda.stream(stream):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            mark = Mark(begin, end)
            begin.record(stream)
            yield mark
            end.record(stream)
        self._spans.append((phase, mark))

    def wait(self, works: Sequence[dist.Work], posted: Mark) -> None:
        # On CUDA a work's wait() holds the current stream, not this thread.
        arrived = torch.cuda.Event(enable_timing=True)
        for stream in self._streams["pack"] + self._streams["unpack"]:
            with torch.cuda.stream(stream):
                for work in works:
                    work.wait()
        arrived.record(self._streams["unpack"][0])
        self._spans.append(("wire", Mark(posted.begin, arrived)))

    def finish(self) -> dict[str, float]:
        for stream in self._all():
            stream.synchronize()
        seconds = dict.fromkeys(PHASES, 0.0)
        for phase, mark in self._spans:
            assert mark.begin is not None and mark.end is not None
            seconds[phase] += mark.begin.elapsed_time(mark.end) / 1e3
        return seconds

    def _all(self) -> list[torch.cuda.Stream]:
        return [stream for of_phase in self._streams.values() for stream in of_phase]
