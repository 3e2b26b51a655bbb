"""Where and with which code a point ran. Torch-free; the ranks add the versions they imported."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from refit import __version__
from refit.record import code

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
    return {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "refit_sweep": __version__,
        **code.describe(),
        "slurm": {name: os.environ[name] for name in SLURM if name in os.environ},
    }
