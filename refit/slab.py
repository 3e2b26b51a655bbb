"""Memory that any process can map and that outlives the rank that wrote it. Torch-free."""

from __future__ import annotations

import os
import tempfile
from multiprocessing.reduction import DupFd
from typing import Any


class Slab:
    """Shared memory without a name, so nothing stays behind after SIGKILL.

    The agent keeps one per rank and side from point to point: the first touch of fresh memory costs
    ten times what writing it costs, and a sweep pays it once. A memfd is also not bounded by
    /dev/shm, 64 MB in many a container, whose exhaustion is a SIGBUS without a word.

    Sent to a process that is being started it is the same memory there.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = _anonymous_file() if descriptor is None else descriptor

    @property
    def nbytes(self) -> int:
        """Its size; what was never written takes no memory."""
        return os.fstat(self.descriptor).st_size

    def reserve(self, nbytes: int) -> None:
        """Make it at least so large."""
        if self.nbytes < nbytes:
            os.ftruncate(self.descriptor, nbytes)

    def clear(self) -> None:
        """Give its memory back."""
        os.ftruncate(self.descriptor, 0)

    def close(self) -> None:
        os.close(self.descriptor)

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (DupFd(self.descriptor),)


def _received(sent: Any) -> Slab:
    return Slab(sent.detach())


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("refit-weights", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
