"""How fast a refit could be: the copy rate measured beside it, and what the links allow. Pure."""

from __future__ import annotations

from refit.job import Hardware
from refit.record.parts import Limit, PlanNumbers


def memory_copy(nbytes: int, seconds: float, device: str) -> Limit:
    """The rate of the destination ranks' own copy of as many bytes.

    Args:
        device: as in the ranks' reports; `cpu`, or the name of a GPU, whose memory it then is.
    """
    where = "" if device == "cpu" else f" in the memory of {device}"
    what = f"memory copy by the destination ranks{where}, measured in this run"
    return Limit(what, nbytes / seconds / 1e9, "measured")


def links(plan: PlanNumbers, hardware: Hardware, device: str) -> list[Limit]:
    """What links of configured rates allow: the busiest rank's bytes over its link's rate.

    Args:
        plan: a null in it, where it is not known who sent what, limits nothing.
        hardware: a rate that is null limits nothing.
        device: as for `memory_copy`; CPU ranks of a node have no link but their memory.
    """
    peer_gbps = None if device == "cpu" else hardware.peer_gbps
    limits = []
    for what, busiest_bytes, gbps, field in (
        ("links between GPUs of a node", plan.max_peer_bytes, peer_gbps, "peer_gbps"),
        ("network", plan.max_cross_node_bytes, hardware.nic_gbps, "nic_gbps"),
    ):
        if gbps and busiest_bytes:
            words = f"{what}, {gbps:g} GB/s per rank and direction by cluster.hardware.{field}"
            limits.append(Limit(words, plan.bytes / busiest_bytes * gbps, "configured"))
    return limits
