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
    needs, reused = {"source": 0, "destination": 0}, 0
    for rank in ranks:
        own = {s: weight_bytes(catalogue, getattr(placement, s), rank) for s in needs}
        needs = {side: nbytes + own[side] for side, nbytes in needs.items()}
        if slabs and rank in slabs:
            reused += min(sum(own.values()), slabs[rank].nbytes)
    free, total = available(), sum(needs.values())
    if free is None or total - reused <= free:
        return None
    return (
        f"needs {total / 1e9:.2f} GB of memory (source {needs['source'] / 1e9:.2f} + destination"
        f" {needs['destination'] / 1e9:.2f}), {(free + reused) / 1e9:.2f} GB is available; use a"
        " smaller model (model.num_layers=...) or a machine with more"
    )


def available(root: Path = Path("/")) -> int | None:
    """Bytes of memory that new processes can have; None where the system does not say.

    A container's limit counts, and that of a Slurm job: the machine's memory may be much more.

    Args:
        root: where /proc and /sys are.
    """
    kilobytes = _field(root / "proc/meminfo", "MemAvailable:")
    left = [] if kilobytes is None else [kilobytes * 1024]
    return min([*left, *_left_in_groups(root)], default=None)


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


def _left_in_groups(root: Path) -> Iterator[int]:
    """Bytes left below each limit that this process's control groups have."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, kinds, path = line.split(":", 2)
        if number != "0" and "memory" not in kinds.split(","):
            continue
        top, *names = _GROUPS[0 if number == "0" else 1]
        group = Path(path)
        for each in (group, *group.parents):  # in a container the last is the only one seen
            folder = root / top / each.relative_to("/")
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


def forget_peak() -> Resident | None:
    """Let the kernel's peak of this process begin anew; what is resident now.

    Returns:
        None where the system keeps no such peak.
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
    found = [_field(Path("/proc/self/status"), name) for name in (total, "RssShmem:")]
    if found[0] is None or found[1] is None:
        return None
    return Resident(found[0] * 1024, found[1] * 1024)


def _field(file: Path, name: str) -> int | None:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.split()[0] == name), None)
