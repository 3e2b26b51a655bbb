"""How fast a refit could be: the copy rate measured beside it, and what the links allow. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Limit:
    """A rate that a refit cannot exceed, but for what it finds in a cache.

    Attributes:
        what: in words.
        gbps: of the whole refit: bytes written at all destinations per second.
        source: measured in the same run, or configured for the cluster.
    """

    what: str
    gbps: float
    source: Literal["measured", "configured"]


def memory_copy(nbytes: int, seconds: float, device: str) -> Limit:
    """The rate of the destination ranks' own copy of as many bytes.

    Args:
        device: as in the ranks' reports; `cpu`, or the name of a GPU, whose memory it then is.
    """
    where = "" if device == "cpu" else f" in the memory of {device}"
    what = f"memory copy by the destination ranks{where}, measured in this run"
    return Limit(what, nbytes / seconds / 1e9, "measured")


def links(plan: Mapping[str, Any], hardware: Mapping[str, Any], device: str) -> list[Limit]:
    """What links of configured rates allow: the busiest rank's bytes over its link's rate.

    Args:
        plan: of a record: `bytes`, `max_peer_bytes` and `max_cross_node_bytes`; a null of the
            latter, where it is not known who sent what, limits nothing.
        hardware: a cluster's `peer_gbps` (a rank to its node's other ranks) and `nic_gbps` (a rank
            to other nodes), GB/s in one direction; what is missing or null limits nothing.
        device: as for `memory_copy`; CPU ranks of a node have no link but their memory.
    """
    found = []
    for what, busiest, rate in (
        ("links between GPUs of a node", "max_peer_bytes", "peer_gbps"),
        ("network", "max_cross_node_bytes", "nic_gbps"),
    ):
        gbps, nbytes = hardware.get(rate), plan[busiest]
        if not gbps or not nbytes or (rate == "peer_gbps" and device == "cpu"):
            continue
        words = f"{what}, {gbps:g} GB/s per rank and direction by cluster.hardware.{rate}"
        found.append(Limit(words, plan["bytes"] / nbytes * gbps, "configured"))
    return found


def tightest(limits: Sequence[Limit]) -> Limit:
    """The one that binds."""
    return min(limits, key=lambda limit: limit.gbps)
