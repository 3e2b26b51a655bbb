"""Does a point fit this node's memory, and what did its refits take of it? Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from refit.layout.layout import Placement
from refit.layout.tensors import Catalogue
from refit.model.weight_bytes import weight_bytes
from refit.weights.slab import Slab


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
    source_bytes = [weight_bytes(catalogue, placement.source, rank) for rank in ranks]
    destination_bytes = [
        sum(weight_bytes(catalogue, side, rank) for side in placement.destinations)
        for rank in ranks
    ]
    reused = sum(
        min(source + destination, slabs[rank].nbytes)
        for rank, source, destination in zip(ranks, source_bytes, destination_bytes, strict=True)
        if slabs and rank in slabs
    )
    source, destination, free = sum(source_bytes), sum(destination_bytes), available()
    if free is None or source + destination - reused <= free:
        return None
    return (
        f"needs {(source + destination) / 1e9:.2f} GB of memory (source {source / 1e9:.2f} +"
        f" destination {destination / 1e9:.2f}), {(free + reused) / 1e9:.2f} GB is available; use a"
        " smaller model (model.num_layers=...) or a machine with more"
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


# Of cgroup v2 and v1: where they are, the limit, what is used, what of it can be had back.
_GROUPS = (
    ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    (
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)


def _available_in_groups(root: Path) -> Iterator[int]:
    """Bytes available below each limit that this process's control groups have."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number != "0" and "memory" not in controllers.split(","):
            continue
        top, *names = _GROUPS[0 if number == "0" else 1]
        leaf = Path(path)
        for group in (leaf, *leaf.parents):  # in a container the last is the only one seen
            folder = root / top / group.relative_to("/")
            try:
                limit, used = (int((folder / name).read_text()) for name in names[:2])
            except (OSError, ValueError):  # not there, or "max"
                continue
            yield max(0, limit - used + (_field(folder / "memory.stat", names[2]) or 0))


def oom_kills() -> int:
    """How many processes this kernel has killed for memory since boot; 0 where it does not say."""
    return _field(Path("/proc/vmstat"), "oom_kill") or 0


@dataclass(frozen=True)
class Resident:
    """This process's memory: all that is resident, and what of it is shared; bytes."""

    total: int
    shared: int


def held_bytes() -> int:
    """What is resident of this process now, shared memory too; 0 where the system does not say."""
    resident = _resident("VmRSS:")
    return resident.total if resident else 0


def forget_peak() -> Resident | None:
    """Let the kernel's peak of this process begin anew.

    Returns:
        What is resident now; None where the system keeps no such peak.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc_pid_clear_refs(5): resets VmHWM
    except OSError:
        return None
    return _resident("VmRSS:")


def peak_since(before: Resident | None) -> int | None:
    """Bytes of private memory that this process held at most, above what was resident before.

    Shared memory, that of weights which peers have mapped too, does not count. It is taken not to
    shrink meanwhile.
    """
    peak = _resident("VmHWM:")
    if before is None or peak is None:
        return None
    return max(0, peak.total - before.total - (peak.shared - before.shared))


def _resident(total: str) -> Resident | None:
    """This process's memory, its total under that name in /proc/self/status, which is in KiB."""
    resident, shared = (_field(Path("/proc/self/status"), name) for name in (total, "RssShmem:"))
    if resident is None or shared is None:
        return None
    return Resident(resident * 1024, shared * 1024)


def _field(file: Path, name: str) -> int | None:
    """The number that follows a name at the beginning of a line; None where there is none."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.split()[0] == name), None)
