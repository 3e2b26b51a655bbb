"""What ranks and their libraries leave in /dev/shm, and nothing of anybody else."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

SHM = Path("/dev/shm")
OURS = ("torch_", "psm_", "mp-", "pym-", "sem.", "ucx", "nixl", "nccl", "nvshmem", "refit")
"""How the names begin that Python, torch and the libraries of transports give."""


def left() -> list[str]:
    """Such segments of this user that no process has open any more."""
    found = [name for name in os.listdir(SHM) if name.startswith(OURS) and _is_ours(SHM / name)]
    if not found:
        return []
    open_ones = {name for process in Path("/proc").glob("[0-9]*") for name in _open(process)}
    closed = [name for name in found if str(SHM / name) not in open_ones]
    # a process of another test's may have taken its own away since they were listed
    return sorted(name for name in closed if (SHM / name).exists())


def _is_ours(path: Path) -> bool:
    try:
        return path.stat().st_uid == os.getuid()
    except FileNotFoundError:
        return False


def held() -> set[str]:
    """All files there that this process has open or mapped."""
    return _open(Path("/proc/self"))


def _open(process: Path) -> set[str]:
    found = set()
    with suppress(OSError):  # it is gone, or another user's
        for link in (process / "fd").iterdir():
            with suppress(FileNotFoundError):  # what lists the folder is in it
                found.add(os.readlink(link))
        for line in (process / "maps").read_text(errors="replace").splitlines():
            found.add(line[line.find("/") :])
    return {name for name in found if name.startswith(f"{SHM}/")}
