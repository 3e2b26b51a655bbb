"""The refit methods: which there are, what each needs, and what `auto` picks. Torch-free."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from refit.job import Job
from refit.layout.layout import Placement, Side
from refit.layout.place import place
from refit.layout.tensors import ITEMSIZE
from refit.model import megatron_versions
from refit.plan.copies import Rows
from refit.rules import devices, needs

if TYPE_CHECKING:
    from refit.rules.setup import Setup


@dataclass(frozen=True)
class Method:
    """One way for weights to travel. All that is known of it without its transport stands here.

    Attributes:
        transport: the class that does it, in refit/transport/<name>.py.
        how: what it does, for the README's table.
        devices: where the weights may be: cpu, cuda.
        one_node: it moves nothing between nodes.
        library: what must be installed besides, a module and the extra that brings it.
        cannot: any other reason why it cannot run here; asked before any rank starts.
        one_sided: it copies each block on its own, straight to its place, and packs nothing.
        slots: it stages at most this many times `refit.in_flight` buckets on a rank.
        plans_itself: it carries out a plan of its own, and not ours.
        refuses: why it cannot do a job on any machine, or None; asked where nothing is run, too.
        planner: of one that plans for itself, the module in refit/transport/ whose `planned(setup)`
            says without ranks which rows it would carry out; empty where that cannot be said.
        preload: what its ranks import that takes long and can be forked.
    """

    transport: str
    how: str
    devices: tuple[str, ...] = ("cpu", "cuda")
    one_node: bool = False
    library: str = ""
    cannot: Callable[[Job, Placement], str | None] = lambda job, placement: None
    one_sided: bool = False
    slots: int = 2
    plans_itself: bool = False
    refuses: Callable[[Job], str | None] = lambda job: None
    planner: str = ""
    preload: tuple[str, ...] = ()


METHODS = {
    "ipc": Method(
        "IpcTransport", "each destination rank reads its peers' source shards in place",
        one_node=True, one_sided=True, slots=0,
    ),
    "gloo": Method("GlooTransport", "packed messages in bounded buckets", devices=("cpu",)),
    "nccl": Method(
        "NcclTransport", "the same messages on streams of their own, a GPU per rank",
        devices=("cuda",), cannot=needs.gpu_per_rank,
    ),
    "symmetric": Method(
        "SharedTransport", "pack, put, signal, unpack in a heap of shared memory",
        devices=("cpu",), one_node=True,
    ),
    "nvshmem": Method(
        "NvshmemTransport", "the same schedule in NVSHMEM's heap, by nvshmem4py",
        devices=("cuda",), library="nvshmem", cannot=needs.nvshmem,
    ),
    "nixl": Method(
        "NixlTransport", "reads of registered memory, by NIXL and UCX",
        library="nixl", one_sided=True, slots=1, preload=("nixl",),
    ),
    "megatron": Method(
        "MegatronTransport",
        "the peer: the installed megatron-core's own planner and copy service, `refit.backend`;"
        " `build=megatron`",
        cannot=needs.megatron, plans_itself=True, refuses=needs.not_megatrons,
        planner="megatron_planner" if megatron_versions.PLANS_WITHOUT_RANKS else "",
    ),
}  # fmt: skip

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
        reason = _cannot(method, job, placement)
        if reason is None:
            return method, why
        why += f"; not {method}: {reason}"
    return order[0], why


def unsupported(method: str, job: Job, placement: Placement) -> str | None:
    """Why a method cannot run here, or None. Asked before any rank starts."""
    return (
        not_there(method)
        or devices.missing(job)
        or (_cannot(method, job, placement) if method in METHODS else None)
    )


def cannot_anywhere(job: Job) -> str | None:
    """Why a method of ours can do a job on no machine, or None: what needs no device to be asked.

    Args:
        job: a possible one (`refit.rules.impossible`).
    """
    method, placement = METHODS.get(job.refit.method), place(job)
    if method is None:
        return None
    device = "cpu" if job.cluster.device == "cpu" else "cuda"
    return _of_the_job(job.refit.method, job, placement, device) or method.refuses(job)


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


def cast_at(method: str, job: Job, placement: Placement) -> list[Side]:
    """By destination, the side that casts where its dtype differs from the source's.

    As `refit.cast_at` says; for auto, a method that packs casts where fewer bytes then travel, and
    any other on arrival.
    """
    packs = method in METHODS and not METHODS[method].one_sided
    trained = ITEMSIZE[placement.source.dtype or "bfloat16"]
    at: list[Side] = []
    for destination in placement.destinations:
        fewer = packs and ITEMSIZE[destination.dtype or "bfloat16"] < trained
        source = fewer if job.refit.cast_at == "auto" else job.refit.cast_at == "source"
        at.append("source" if source else "destination")
    return at


def preload(method: str) -> tuple[str, ...]:
    """What ranks that run a method import that takes long and can be forked."""
    return METHODS[method].preload if method in METHODS else ()


def locate(method: str) -> tuple[str, str]:
    """Module and class of a transport: `refit.transport.ipc`, `IpcTransport`; or as written."""
    if method in METHODS:
        return f"refit.transport.{method}", METHODS[method].transport
    module, _, name = method.partition(":")
    return module, name


def _cannot(name: str, job: Job, placement: Placement) -> str | None:
    """Why a method of ours cannot run here, or None: what its entry says of it, in order."""
    method, device = METHODS[name], devices.device(job)
    if device not in method.devices:
        others = _others(device, placement.nodes)
        if device == "cuda":
            return (
                f"{name} moves host memory, and this point's weights are on GPUs;"
                f" use refit={others}, or cluster.device=cpu"
            )
        also = f" and {method.library} ({_install(method)})" if method.library else ""
        return f"{name} needs GPUs{also}; {needs.on_cpu()}; use refit={others}"
    if reason := _of_the_job(name, job, placement, device):
        return reason
    if method.library and not needs.installed(method.library):
        return f"{method.library} is not installed; {_install(method)}"
    return method.refuses(job) or method.cannot(job, placement)


def _of_the_job(name: str, job: Job, placement: Placement, device: str) -> str | None:
    method = METHODS[name]
    if method.one_node and placement.nodes > 1:
        others = _others(device, placement.nodes)
        return f"{name} needs one node, and this point spans {placement.nodes}; use refit={others}"
    if method.one_sided and placement.source.casts and job.refit.cast_at == "source":
        return (
            f"{name} reads the source's own memory, so casts are on arrival, and"
            " refit.cast_at=source asks otherwise; use refit.cast_at=destination"
        )
    return None


def _others(device: str, nodes: int) -> str:
    """The methods that move what is on a device, over so many nodes: `ipc, nccl or nvshmem`."""
    names = [
        name
        for name, method in METHODS.items()
        if device in method.devices
        and not (method.one_node and nodes > 1)
        and not method.plans_itself
    ]
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _install(method: Method) -> str:
    is_older = method.library == "nvshmem" and devices.torch_cuda() == 12
    extra = "nvshmem-cu12" if is_older else method.library
    return f"pip install 'refit-sweep[{extra}]'"


def _importable(method: str) -> bool:
    module, name = locate(method)
    try:
        return bool(name) and importlib.util.find_spec(module) is not None
    except ImportError:
        return False
