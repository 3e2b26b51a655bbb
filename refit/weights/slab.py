"""Memory that any process can map and that outlives the rank that wrote it. Torch-free."""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.reduction import DupFd
from threading import Event, Thread
from typing import Any

ALIGNMENT = 2 << 20  # bytes: a huge page
MOUNT_S = 10.0  # for a mount that takes a millisecond; a system that hangs there has none
TOUCH_BYTES = 16 << 20  # at a time of memory that is touched ahead: 20 ms where it is slowest
MADV_POPULATE_WRITE = 23  # Linux 5.14; not in Python's mmap module


def populate(address: int, nbytes: int) -> None:
    """Map every page now, which is faster than by a fault each. Where it fails, they fault."""
    ctypes.CDLL(None).madvise(
        ctypes.c_void_p(address), ctypes.c_size_t(nbytes), MADV_POPULATE_WRITE
    )


class Slab:
    """Shared memory without a name, so nothing stays behind after SIGKILL.

    The agent keeps one per rank from point to point: the first touch of fresh memory costs ten
    times what writing it costs, and a sweep pays it once. It is not bounded by /dev/shm, 64 MB in
    many a container, whose exhaustion is a SIGBUS without a word.

    Sent to a process that is being started it is the same memory there.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._taken = 0

    @property
    def nbytes(self) -> int:
        """Its size; what was never written takes no memory."""
        return os.fstat(self.descriptor).st_size

    def take(self, nbytes: int) -> int:
        """The offset of that many bytes that this process has not taken yet."""
        start = self._taken
        self._taken = start + _rounded_up(nbytes)
        if self.nbytes < self._taken:
            os.ftruncate(self.descriptor, self._taken)
        return start

    def write(self, content: bytes, start: int) -> None:
        """Put bytes there, whole."""
        while content:
            written = os.pwrite(self.descriptor, content, start)
            content, start = content[written:], start + written

    def touch(self, nbytes: int, until: Callable[[], bool]) -> None:
        """Have its first bytes in memory, so that whoever takes them need not wait for that.

        Nothing of it stays mapped in this process: the memory is nobody's yet.

        Args:
            nbytes: a multiple of `ALIGNMENT`.
            until: asked time and again whether to stop.

        Raises:
            OSError: there is no more memory to have.
        """
        for start in range(0, nbytes, TOUCH_BYTES):
            if until():
                return
            size = min(TOUCH_BYTES, nbytes - start)
            os.posix_fallocate(self.descriptor, start, size)  # never shrinks what a rank has made
            with mmap.mmap(self.descriptor, size, offset=start) as there:
                first = ctypes.c_char.from_buffer(there)
                populate(ctypes.addressof(first), size)
                del first  # else it could not be unmapped

    def clear(self, keep: int = 0) -> None:
        """Give its memory back, but for the first bytes of it."""
        if self.nbytes > keep:
            os.ftruncate(self.descriptor, keep)

    def close(self) -> None:
        """Let go of it; the memory goes with the last process that has it."""
        os.close(self.descriptor)

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (DupFd(self.descriptor),)


def _rounded_up(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def _received(sent: Any) -> Slab:
    return Slab(sent.detach())


def anonymous() -> Slab:
    """A new slab of ordinary pages."""
    if hasattr(os, "memfd_create"):
        return Slab(os.memfd_create("refit", os.MFD_CLOEXEC))
    with tempfile.TemporaryFile() as file:
        return Slab(os.dup(file.fileno()))


class SlabSource:
    """Makes slabs, of huge pages where an ordinary user can have them, else of ordinary ones.

    A page fault per 4 KiB bounds the first touch of shared memory at about 1 GB/s; the kernel gives
    huge pages to a tmpfs that asks for them, and a mount namespace of our own may have such a one.
    """

    def __init__(self) -> None:
        self._folder = _huge_folder()

    @property
    def huge_pages(self) -> bool:
        """Whether its slabs are made of huge pages, as far as the kernel has them."""
        return self._folder is not None

    def slab(self) -> Slab:
        """A new, empty one."""
        if self._folder is not None:
            return Slab(os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600, dir_fd=self._folder))
        return anonymous()

    def close(self) -> None:
        """Let the mount go; slabs that were made stay."""
        if self._folder is not None:
            os.close(self._folder)


class Kept:
    """The slabs of a node's ranks, kept from point to point: no more than the largest point took.

    A rank's slab is as large as that rank ever needed; of points in which now these and now those
    ranks have most, all of them together would be larger than any point.
    """

    def __init__(self) -> None:
        self._source = SlabSource()
        self.by_rank: dict[int, Slab] = {}
        self._largest = 0

    @property
    def huge_pages(self) -> bool:
        """As of `SlabSource`."""
        return self._source.huge_pages

    def of(self, rank: int) -> Slab:
        """The slab of a rank, empty at first."""
        if rank not in self.by_rank:
            self.by_rank[rank] = self._source.slab()
        return self.by_rank[rank]

    def fit(self, needed: Mapping[int, int]) -> None:
        """Give back what earlier points left too much of, from those who need least of theirs.

        Args:
            needed: bytes of the point that comes, by rank.
        """
        self._largest = max(self._largest, sum(needed.values()))
        left = {rank: slab.nbytes for rank, slab in self.by_rank.items()}
        then = sum(max(needed.get(rank, 0), left.get(rank, 0)) for rank in {*needed, *left})
        too_much = then - self._largest
        if too_much <= 2 * ALIGNMENT * len(left):  # each side of a rank begins at a huge page
            return
        spare = {rank: left[rank] - needed.get(rank, 0) for rank in left}
        for rank in sorted(spare, key=lambda rank: -spare[rank]):
            keep = left[rank] - min(spare[rank], max(0, too_much))
            self.by_rank[rank].clear(keep=_rounded_up(keep))
            too_much -= left[rank] - self.by_rank[rank].nbytes

    @contextmanager
    def touching(self, sizes: Mapping[int, Sequence[int]], end: Event) -> Iterator[None]:
        """Within it memory of ranks is touched, until all is or the end has come: see `Slab.touch`.

        Args:
            sizes: by rank, bytes of each side, as the rank will take them; empty: of none.
            end: set from outside; leaving sets it too.
        """
        needed = {rank: sum(map(_rounded_up, both)) for rank, both in sizes.items()}

        def touch() -> None:
            with suppress(OSError):
                for rank, nbytes in needed.items():
                    self.of(rank).touch(nbytes, end.is_set)

        thread = Thread(target=touch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    def clear(self) -> None:
        """Give all memory back."""
        for slab in self.by_rank.values():
            slab.clear()

    def close(self) -> None:
        """Let go of all of it."""
        for slab in self.by_rank.values():
            slab.close()
        self._source.close()


def _huge_folder() -> int | None:
    """A tmpfs of huge pages that has no name and goes with its last descriptor; None without."""
    mount = (
        "mount -t tmpfs -o huge=always,size=0,mode=700 refit-weights /tmp && echo there && read _"
    )
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount]
    pipe = subprocess.PIPE
    with (
        suppress(OSError),
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as holder,
    ):
        assert holder.stdout is not None
        readable, _, _ = select.select([holder.stdout], [], [], MOUNT_S)
        if readable and holder.stdout.readline() == b"there\n":
            return os.open(f"/proc/{holder.pid}/root/tmp", os.O_RDONLY | os.O_DIRECTORY)
        holder.kill()
    return None
