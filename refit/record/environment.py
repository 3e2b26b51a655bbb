"""Where and with which code a point ran. Torch-free; the ranks add the versions they imported."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from refit import __version__

SLURM = (
    "SLURM_JOB_ID",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_JOB_NODELIST",
    "SLURM_CLUSTER_NAME",
)


def variables(names: Iterable[str]) -> dict[str, str]:
    """Those of these names that this process has, with their values."""
    return {name: os.environ[name] for name in names if name in os.environ}


@contextmanager
def added(values: Mapping[str, Any] | None) -> Iterator[None]:
    """Within it a process that is started has these too; this one is then as it was."""
    if not values:
        yield
        return
    before = dict(os.environ)
    os.environ.update({name: str(value) for name, value in values.items()})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def describe() -> dict[str, Any]:
    """Host, code and scheduler, for the record."""
    commit, dirty = _commit()
    return {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "refit_sweep": __version__,
        "commit": commit,
        "dirty": dirty,
        "slurm": {name: os.environ[name] for name in SLURM if name in os.environ},
    }


def _commit() -> tuple[str | None, bool | None]:
    """The commit this package is imported from and whether files differ.

    None where no repository tracks it: one around a virtual environment is somebody else's.
    """

    def git(*args: str) -> str:
        folder = Path(__file__).parent
        done = subprocess.run(
            ["git", "-C", str(folder), *args], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None, None
