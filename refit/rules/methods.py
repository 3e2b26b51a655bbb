"""The refit methods: which there are, what each needs, and what `auto` picks. Torch-free."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from refit.job import Job
from refit.layout.layout import Placement
from refit.model import megatron_versions
from refit.plan.copies import Rows
from refit.rules import devices

if TYPE_CHECKING:
    from refit.rules.setup import Setup


def _ipc(job: Job, placement: Placement) -> str | None:
    if placement.nodes > 1:
        return f"ipc reads its peers' memory and so needs one node; {_spans(job, placement)}"
    return None


def _gloo(job: Job, placement: Placement) -> str | None:
    if devices.device(job) == "cuda":
        return (
            "gloo moves host memory, and this point's weights are on GPUs;"
            " use refit=ipc, nccl or nvshmem, or cluster.device=cpu"
        )
    return None


def _symmetric(job: Job, placement: Placement) -> str | None:
    if devices.device(job) == "cuda":
        return "symmetric is for CPU ranks; use refit=nvshmem, or cluster.device=cpu"
    if placement.nodes > 1:
        return f"symmetric is one node's shared memory; {_spans(job, placement)}"
    return None


def _nixl(job: Job, placement: Placement) -> str | None:
    if not _installed("nixl"):
        return "nixl is not installed; pip install 'refit-sweep[nixl]'"
    return None


def _nccl(job: Job, placement: Placement) -> str | None:
    if devices.device(job) == "cpu":
        return f"nccl needs a GPU for each rank; {_on_cpu()}; use refit=gloo"
    ranks = min(placement.ranks_per_node, placement.world)
    if ranks > devices.gpus():
        return (
            f"nccl needs a GPU for each rank; this node has {devices.gpus()} for {ranks} ranks;"
            " use refit=ipc or nvshmem, which can share one"
        )
    return None


def _not_megatrons(job: Job) -> str | None:
    """Why megatron-core's own refit cannot do this on any machine, or None."""
    if job.build != "megatron":
        return (
            f"refit=megatron is megatron-core's own refit, which takes GPTModels; build={job.build}"
            " has none, use build=megatron"
        )
    if job.refit.fanout != "direct":
        return "refit=megatron plans for itself, and has no fan-out; use refit.fanout=direct"
    if job.mode == "plan" and job.refit.peer_names != "production":
        return (
            "mode=plan gives megatron-core's planner experts under production's names;"
            " use refit.peer_names=production, or mode=measure"
        )
    return None


def _megatron(job: Job, placement: Placement) -> str | None:
    if reason := _not_megatrons(job):
        return reason
    backend = job.refit.backend
    if devices.device(job) == "cpu" and backend in ("nccl", "nvshmem"):
        # its nccl service would run here all the same, over gloo
        return f"refit.backend={backend} moves GPU memory; {_on_cpu()}; use refit.backend=gloo"
    if devices.device(job) == "cuda" and backend in ("auto", "nccl"):
        reason = _nccl(job, placement)
        return reason and f"refit.backend=nccl: {reason}, or refit.backend=gloo"
    return None


def _nvshmem(job: Job, placement: Placement) -> str | None:
    install = "pip install 'refit-sweep[nvshmem]'"
    if devices.device(job) == "cpu":
        return (
            f"nvshmem needs NVIDIA GPUs and nvshmem4py ({install}); {_on_cpu()};"
            " refit=symmetric runs the same schedule in CPU memory"
        )
    return None if _installed("nvshmem") else f"nvshmem4py is not installed; {install}"


@dataclass(frozen=True)
class Method:
    """One way for weights to travel.

    Attributes:
        transport: the class that does it, in refit/transport/<name>.py.
        cannot: why it cannot run here, or None; asked before any rank starts.
        one_sided: it copies each block on its own, straight to its place, and packs nothing.
        plans_itself: it carries out a plan of its own, and not ours.
        preload: what its ranks import that takes long and can be forked.
        refuses: why it cannot do a job on any machine, or None; asked where nothing is run.
        planner: of one that plans for itself, the module in refit/transport/ whose `planned(setup)`
            says without ranks which rows it would carry out; empty where that cannot be said.
    """

    transport: str
    cannot: Callable[[Job, Placement], str | None]
    one_sided: bool = False
    plans_itself: bool = False
    preload: tuple[str, ...] = ()
    refuses: Callable[[Job], str | None] = lambda job: None
    planner: str = ""


METHODS = {
    "ipc": Method("IpcTransport", _ipc, one_sided=True),
    "gloo": Method("GlooTransport", _gloo),
    "symmetric": Method("SharedTransport", _symmetric),
    "nixl": Method("NixlTransport", _nixl, one_sided=True, preload=("nixl",)),
    "nccl": Method("NcclTransport", _nccl),
    "nvshmem": Method("NvshmemTransport", _nvshmem),
    "megatron": Method(
        "MegatronTransport",
        _megatron,
        plans_itself=True,
        refuses=_not_megatrons,
        planner="megatron_planner" if megatron_versions.PLANS_WITHOUT_RANKS else "",
    ),
}

ON_GPUS = {
    "non-collocated": ("nvshmem", "ipc", "nccl", "nixl"),
    "collocated": ("nccl", "ipc", "nvshmem", "nixl"),
}
"""What `auto` tries: the reference table's NVSHMEM and NCCL first, then what comes closest."""


def choose(job: Job, placement: Placement) -> tuple[str, str]:
    """The method a job runs with, and why; the same for a measurement and its prediction.

    Returns:
        (method, reason): what `refit.method` names, or for `auto` what fits the hardware: this
        machine's, or that of the cluster for `mode=plan`.
    """
    if job.refit.method != "auto":
        return job.refit.method, "asked for"
    planned = job.mode == "plan"
    if (job.cluster.hardware.device if planned else devices.device(job)) == "cpu":
        if placement.nodes > 1:
            return "gloo", f"auto: the ranks are on {placement.nodes} nodes"
        return "ipc", "auto: all ranks are on one node"
    order = ON_GPUS[job.placement_mode]
    why = f"auto: {job.placement_mode} on GPUs"
    if planned:  # nobody can ask what is installed there
        return order[0], why
    for method in order:
        reason = METHODS[method].cannot(job, placement)
        if reason is None:
            return method, why
        why += f"; not {method}: {reason}"
    return order[0], why


def unsupported(method: str, job: Job, placement: Placement) -> str | None:
    """Why a method cannot run here, or None. Asked before any rank starts."""
    return (
        not_there(method)
        or devices.missing(job)
        or (METHODS[method].cannot(job, placement) if method in METHODS else None)
    )


def not_there(method: str) -> str | None:
    """Why there is no such method, or None; all that can be asked of it on another machine."""
    if method in METHODS or _importable(method):
        return None
    return (
        f"no refit method '{method}': it cannot be imported here; install its package, or put"
        " its folder on PYTHONPATH"
    )


def plans_itself(method: str) -> bool:
    """Whether a method is known to carry out a plan of its own."""
    return method in METHODS and METHODS[method].plans_itself


def planned(setup: Setup) -> Rows:
    """What a method that plans for itself would carry out, by its `planner`.

    Raises:
        UserError: it refuses the pair.
    """
    module = importlib.import_module(f"refit.transport.{METHODS[setup.method].planner}")
    rows: Rows = module.planned(setup)
    return rows


def preload(method: str) -> tuple[str, ...]:
    """What ranks that run a method import that takes long and can be forked."""
    return METHODS[method].preload if method in METHODS else ()


def locate(method: str) -> tuple[str, str]:
    """Module and class of a transport: `refit.transport.ipc`, `IpcTransport`; or as written."""
    if method in METHODS:
        return f"refit.transport.{method}", METHODS[method].transport
    module, _, name = method.partition(":")
    return module, name


def _spans(job: Job, placement: Placement) -> str:
    across = "nccl or nvshmem" if devices.device(job) == "cuda" else "gloo"
    return f"this point spans {placement.nodes}; use refit={across}"


def _on_cpu() -> str:
    return devices.no_cuda() or "this point's ranks are on CPUs (cluster.device=cpu)"


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _importable(method: str) -> bool:
    module, name = locate(method)
    try:
        return bool(name) and importlib.util.find_spec(module) is not None
    except ImportError:
        return False
