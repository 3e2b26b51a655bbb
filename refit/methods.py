"""The refit methods: which there are, what each needs, and what `auto` picks. Torch-free."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from refit.job import Job, UserError
from refit.layout import Placement


def _ipc(job: Job, placement: Placement) -> str | None:
    if placement.nodes > 1:
        return (
            "ipc reads its peers' memory and so needs one node;"
            f" this point spans {placement.nodes}; use refit=gloo"
        )
    return None


def _gloo(job: Job, placement: Placement) -> str | None:
    return None


def _megatron(job: Job, placement: Placement) -> str | None:
    if job.build != "megatron":
        return (
            f"refit=megatron is megatron-core's own refit, which takes GPTModels; build={job.build}"
            " has none, use build=megatron"
        )
    return None


METHODS: dict[str, Callable[[Job, Placement], str | None]] = {
    "ipc": _ipc,
    "gloo": _gloo,
    "megatron": _megatron,
}
"""Each method's file is refit/transport/<name>.py; the function says why it cannot run, or None."""


def choose(job: Job, placement: Placement) -> tuple[str, str]:
    """The method a job runs with, and why.

    Returns:
        (method, reason): what `refit.method` names, or for `auto` what fits the hardware.

    Raises:
        UserError: there is no such method.
    """
    method = job.refit.method
    if method == "auto":
        if placement.nodes > 1:
            return "gloo", f"auto: the ranks are on {placement.nodes} nodes"
        return "ipc", "auto: all ranks are on one node"
    if method not in METHODS and not _importable(method):
        allowed = ", ".join(["auto", *METHODS])
        raise UserError(
            f"no refit method '{method}'; there are {allowed},"
            " and any importable package.module:Class"
        )
    return method, "asked for"


def unsupported(method: str, job: Job, placement: Placement) -> str | None:
    """Why a method cannot run here, or None. Asked before any rank starts."""
    check = METHODS.get(method)
    return check(job, placement) if check else None


def locate(method: str) -> tuple[str, str]:
    """Module and class of a transport: `refit.transport.ipc`, `Transport`; or as written."""
    if method in METHODS:
        return f"refit.transport.{method}", "Transport"
    module, _, name = method.partition(":")
    return module, name


def _importable(method: str) -> bool:
    module, name = locate(method)
    try:
        return bool(name) and importlib.util.find_spec(module) is not None
    except ImportError:
        return False
