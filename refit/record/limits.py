"""How fast a refit could be: copy rates measured beside it, and what the links allow. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from refit.job import Hardware
from refit.record.parts import Limit, LimitKind, PlanNumbers


def memory_copy(nbytes: int, seconds: Sequence[float], device: str) -> Limit:
    """The rate of the destination ranks' own copy of as many bytes.

    Args:
        seconds: of each of several such copies, of which the fastest is what can be done: what a
            busy machine adds to a copy is no limit.
        device: as in the ranks' reports; `cpu`, or the name of a GPU, whose memory it then is.
    """
    where = "" if device == "cpu" else f" in the memory of {device}"
    what = f"memory copy by the destination ranks{where}, measured in this run"
    return _measured(what, nbytes, seconds, "memory")


def peer_copy(nbytes: int, seconds: Sequence[float], device: str) -> Limit:
    """The rate of as many bytes between the same ranks as the plan's, each pair's in one copy.

    Args:
        seconds, device: as for `memory_copy`.
    """
    by = "shared memory" if device == "cpu" else "CUDA IPC"
    what = (
        f"plain copies between the plan's ranks by {by}, one for each two of them, all at once,"
        " measured in this run"
    )
    return _measured(what, nbytes, seconds, "peers")


def _measured(what: str, nbytes: int, seconds: Sequence[float], kind: LimitKind) -> Limit:
    fastest = min(seconds)
    return Limit(what, nbytes / fastest / 1e9, "measured", kind, max(seconds) / fastest)


def no_peer_copy(cross_node_bytes: int, on_cpu: bool, method: str) -> str:
    """Why that cannot be measured; empty where it can. For it ranks map each other's memory.

    Args:
        cross_node_bytes: of the plan.
        on_cpu: the weights are there.
    """
    why = ""
    if cross_node_bytes:
        why = "blocks go between nodes, whose ranks cannot map each other's memory"
    elif not on_cpu and method != "ipc":
        why = f"on GPUs it needs CUDA IPC, which refit=ipc shows to work here and {method} does not"
    return why and f"no plain copies between the plan's ranks were measured: {why}"


def links(plan: PlanNumbers, hardware: Hardware, device: str) -> list[Limit]:
    """What links of configured rates allow: the busiest rank's bytes over its link's rate.

    Args:
        plan: a null in it, where it is not known who sent what, limits nothing.
        hardware: a rate that is null limits nothing.
        device: as for `memory_copy`; CPU ranks of a node have no link but their memory.
    """
    peer_gbps = None if device == "cpu" else hardware.peer_gbps
    found = []
    links: tuple[tuple[LimitKind, str, int | None, float | None, str], ...] = (
        ("links", "links between GPUs of a node", plan.max_peer_bytes, peer_gbps, "peer_gbps"),
        ("network", "network", plan.max_cross_node_bytes, hardware.nic_gbps, "nic_gbps"),
    )
    for kind, what, busiest_bytes, gbps, field in links:
        if gbps and busiest_bytes:
            words = f"{what}, {gbps:g} GB/s per rank and direction by cluster.hardware.{field}"
            found.append(Limit(words, plan.bytes / busiest_bytes * gbps, "configured", kind))
    return found
