"""Where and with which code a point ran. Torch-free; the ranks add the versions they imported."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from refit import __version__
from refit.record import code
from refit.record.allocation import node_names

SLURM = (
    "SLURM_JOB_ID",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_JOB_PARTITION",
    "SLURM_JOB_QOS",
    "SLURM_JOB_NODELIST",
    "SLURM_STEP_NODELIST",
    "SLURM_CLUSTER_NAME",
)


def variables(names: Iterable[str]) -> dict[str, str]:
    """Those of these names that this process has, with their values."""
    return {name: os.environ[name] for name in names if name in os.environ}


def added(values: Mapping[str, Any] | None) -> AbstractContextManager[None]:
    """Within it a process that is started has these too; this one is then as it was."""
    texts = {name: str(value) for name, value in (values or {}).items()}
    return replaced({**os.environ, **texts}) if texts else nullcontext()


@contextmanager
def replaced(values: Mapping[str, str]) -> Iterator[None]:
    """Within it a process that is started has these alone; this one is then as it was."""
    before = dict(os.environ)
    _become(values)
    try:
        yield
    finally:
        _become(before)


def _become(values: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(values)


def describe() -> dict[str, Any]:
    """Host, nodes, code and scheduler, for the record of what runs here."""
    host, slurm = socket.gethostname(), variables(SLURM)
    # an allocation may have more nodes than the step
    nodes = slurm.get("SLURM_STEP_NODELIST") or slurm.get("SLURM_JOB_NODELIST", "")
    found = of_controller()
    partition = slurm.get("SLURM_JOB_PARTITION")
    return {**found, "nodes": node_names(nodes) or [host], "partition": partition, "slurm": slurm}


def with_variables(env_set: Mapping[str, str]) -> dict[str, Any]:
    """What `describe` lacks of a point with hydra.job.env_set: a digest of each value, by name.

    The values are no part of a point's identity, and may be secrets.
    """
    digests = {
        name: hashlib.sha256(str(value).encode()).hexdigest()[:10]
        for name, value in sorted(env_set.items())
    }
    return {"env_set": digests} if digests else {}


def other_variable(env_set: Mapping[str, str], environment: Mapping[str, Any]) -> str | None:
    """A variable of hydra.job.env_set that what ran had otherwise, or None.

    Args:
        environment: of a record.
    """
    asked = with_variables(env_set).get("env_set", {})
    had = environment.get("env_set", {})
    names = (name for name in sorted({*asked, *had}) if asked.get(name) != had.get(name))
    return next(names, None)


def of_controller() -> dict[str, Any]:
    """As `describe`, for the record of what did not run here, or nowhere: it has no nodes."""
    return {
        "host": socket.gethostname(),
        "nodes": [],
        "partition": None,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "refit_sweep": __version__,
        **code.describe(),
        "slurm": {},
    }
