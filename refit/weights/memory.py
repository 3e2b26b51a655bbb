"""Does a point fit this node's memory, and what did its refits take of it? Torch-free."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from refit.job import Refit
from refit.layout.layout import Placement
from refit.layout.tensors import Catalogue
from refit.model.weight_bytes import of_sides
from refit.weights.slab import Slab

MANY_RANKS = 64
"""From so many on what ranks take besides their weights counts: it may be most of it."""

RANK_BYTES = 25_000_000
"""Of each: what it writes of the pages that it shares at first, views, staging, connections.

14 MB were measured of 512 ranks, 22 of 256 that each gave and received (docs/measurements.md).
"""


def shortage(
    catalogue: Catalogue,
    placement: Placement,
    ranks: range,
    slabs: Mapping[int, Slab] | None = None,
) -> str | None:
    """Why the weights of one node's CPU ranks do not fit its memory, or None.

    Args:
        ranks: the node's.
        slabs: memory that earlier points left, by rank; it is used again.
    """
    sides = needed(catalogue, placement, ranks)
    reused = sum(
        min(source + destination, slabs[rank].nbytes)
        for rank, source, destination in zip(ranks, *sides, strict=True)
        if slabs and rank in slabs
    )
    source, destination, free = sum(sides[0]), sum(sides[1]), available()
    own = RANK_BYTES * len(ranks) if len(ranks) >= MANY_RANKS else 0
    if free is None or source + destination + own - reused <= free:
        return None
    of_ranks = f" + {len(ranks)} ranks' own {own / 1e9:.2f}" if own else ""
    return (
        f"needs {(source + destination + own) / 1e9:.2f} GB of memory (source {source / 1e9:.2f} +"
        f" destination {destination / 1e9:.2f}{of_ranks}), {(free + reused) / 1e9:.2f} GB is"
        f" available; use {'fewer ranks, ' if own else ''}{_WAY_OUT}"
    )


def require_staging(nbytes: int, refit: Refit) -> None:
    """Check that a CPU rank's buckets alone fit this node, before they are allocated.

    Args:
        nbytes: of all its buckets, both ways.

    Raises:
        MemoryError: they do not; the kernel would end somebody, once they are written.
    """
    free = available()
    if free is not None and nbytes > free:
        raise MemoryError(
            f"refit.in_flight={refit.in_flight} buckets of refit.bucket_mb={refit.bucket_mb:g} or"
            f" less need {nbytes / 1e9:.2f} GB on a rank, and {free / 1e9:.2f} GB is available; use"
            " fewer or smaller ones"
        )


def needed_gb(reason: str) -> float:
    """What `shortage` says in its text is needed; 0 of any other text."""
    found = re.match(r"needs ([\d.]+) GB of memory ", reason)
    return float(found[1]) if found else 0.0


_WAY_OUT = "a smaller model (model.num_layers=...) or a machine with more"


def needed(catalogue: Catalogue, placement: Placement, ranks: range) -> tuple[list[int], list[int]]:
    """Bytes of the source's weights and of all destinations', by rank of one node."""
    return (
        of_sides(catalogue, placement, placement.source)[ranks.start : ranks.stop].tolist(),
        of_sides(catalogue, placement, *placement.destinations)[ranks.start : ranks.stop].tolist(),
    )


@dataclass(frozen=True)
class Room:
    """What this node has before a point's ranks start: to say later what became of it.

    Attributes:
        weights: bytes that the ranks' weights take.
        free: bytes of memory that were available; None where the system does not say.
        kills: as `oom_kills` said.
        refusals: as `refusals` said.
    """

    weights: int
    free: int | None
    kills: int = 0
    refusals: int = 0

    @staticmethod
    def now(weights: int) -> Room:
        """As it is."""
        return Room(weights, available(), oom_kills(), refusals())

    def killed(self) -> bool:
        """Whether the kernel has killed a process for memory since."""
        return oom_kills() > self.kills

    def refused(self) -> bool:
        """Whether a control group has refused a process or thread since."""
        return refusals() > self.refusals

    def numbers(self) -> str:
        """What there was and what is needed, and the way out."""
        was = "" if self.free is None else f"{self.free / 1e9:.2f} GB was available before, and "
        return (
            f"{was}the weights alone take {self.weights / 1e9:.2f} GB, besides what each rank takes"
            f" to run; use {_WAY_OUT}"
        )


def available(root: Path = Path("/")) -> int | None:
    """Bytes of memory that new processes can have; None where the system does not say.

    A container's limit counts, and that of a Slurm job: the machine's memory may be much more.

    Args:
        root: where /proc and /sys are.
    """
    kilobytes = _field(root / "proc/meminfo", "MemAvailable:")
    of_machine = [] if kilobytes is None else [kilobytes * 1024]
    return min([*of_machine, *_available_in_groups(root)], default=None)


# Of cgroup v2 and v1: the limit, what is used, what of it can be had back.
_NAMES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def _available_in_groups(root: Path) -> Iterator[int]:
    """Bytes available below each limit that this process's control groups have."""
    for version, folder in _groups(root, "memory"):
        *names, reclaimable = _NAMES[2 - version]
        try:
            limit, used = (int((folder / name).read_text()) for name in names)
        except (OSError, ValueError):  # not there, or "max"
            continue
        yield max(0, limit - used + (_field(folder / "memory.stat", reclaimable) or 0))


def of_groups(controller: str, name: str, root: Path = Path("/")) -> int | None:
    """The lowest number that this process's control groups have under a name; None without.

    Args:
        controller: whose file it is, such as `pids`.
        root: where /proc and /sys are.
    """
    found = []
    for _, folder in _groups(root, controller):
        with suppress(OSError, ValueError):
            found.append(int((folder / name).read_text()))
    return min(found, default=None)


def _groups(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """The folders of this process's control groups, each with its version of them, 2 or 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        version = 2 if number == "0" else 1
        if version == 1 and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("" if version == 2 else controller)
        leaf = Path(path)
        for group in (leaf, *leaf.parents):  # in a container the last is the only one seen
            yield version, top / group.relative_to("/")


def oom_kills() -> int:
    """How many processes this kernel has killed for memory since boot; 0 where it does not say."""
    return _field(Path("/proc/vmstat"), "oom_kill") or 0


def refusals() -> int:
    """How many processes or threads this process's control groups have refused."""
    return sum(_field(f / "pids.events", "max") or 0 for _, f in _groups(Path("/"), "pids"))


@dataclass(frozen=True)
class Resident:
    """This process's memory, in bytes.

    Attributes:
        total: all that is resident.
        shared: of it shared memory, and pages of files, which libraries' code is.
    """

    total: int
    shared: int


def held_bytes() -> int:
    """What is resident of this process now, shared memory too; 0 where the system does not say."""
    resident = _resident("VmRSS:")
    return resident.total if resident else 0


class Peak:
    """The most private memory that this process holds, above what is resident now.

    Shared memory, that of weights which peers have mapped too, does not count, nor does a library's
    code, of which the kernel maps more or less at a touch. Both are taken not to shrink meanwhile.
    """

    def __init__(self) -> None:
        self._before, self._most = _forget_peak(), 0

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is taken meanwhile does not count, nor what of it is kept."""
        self._most = self.bytes or 0
        was = _forget_peak()
        yield
        now = _forget_peak()
        if self._before and was and now:
            self._before = Resident(
                self._before.total + now.total - was.total,
                self._before.shared + now.shared - was.shared,
            )

    @property
    def bytes(self) -> int | None:
        """So far; None where the system keeps no peak."""
        peak = _resident("VmHWM:")
        if self._before is None or peak is None:
            return None
        private = peak.total - self._before.total - (peak.shared - self._before.shared)
        return max(self._most, private)


def _forget_peak() -> Resident | None:
    """Let the kernel's peak of this process begin anew.

    Returns:
        What is resident now; None where the system keeps no such peak.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc_pid_clear_refs(5): resets VmHWM
    except OSError:
        return None
    return _resident("VmRSS:")


def _resident(total: str) -> Resident | None:
    """This process's memory, its total under that name in /proc/self/status, which is in KiB."""
    status = Path("/proc/self/status")
    resident, shared, files = (_field(status, name) for name in (total, "RssShmem:", "RssFile:"))
    if resident is None or shared is None or files is None:
        return None
    return Resident(resident * 1024, (shared + files) * 1024)


def _field(file: Path, name: str) -> int | None:
    """The number that follows a name at the beginning of a line; None where there is none."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.split()[0] == name), None)
