"""What a plan costs: a floor that no plan can beat, and an estimate of this one. Pure numpy.

The floor is the largest of lower bounds; the estimate is a sum of named terms. They are never
mixed: docs/numbers.md derives both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from refit.forecast.per_rank import Traffic, is_one_sided
from refit.job import Hardware, Refit
from refit.layout.layout import IntArray
from refit.plan.plan import Plan

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """How far software is from the links, for one method.

    Attributes:
        wire: times the seconds that the links need at the rates software reaches; 1 or more.
        latency_us: of one operation.
        staging: times the seconds that packing and unpacking need.
        fixed_us: of every refit, whatever it moves.
    """

    wire: float = 1.0
    latency_us: float = 0.0
    staging: float = 1.0
    fixed_us: float = 0.0


@dataclass(frozen=True)
class Floor:
    """Seconds below which no plan for the same two layouts can be, on links at their full rates.

    Attributes:
        receive_s: what a rank lacks, through all its links at once.
        send_s: what a set of ranks alone holds, each byte leaving it once, through all its links.
        node_in_s: what a node lacks, once, through all NICs of the node.
        node_out_s: what must leave the source's nodes, once, through all their NICs.
        memory_s: what a rank writes, and what it reads of its own, in its memory.
        node_s: what the ranks of a node write, where they share one memory.
    """

    receive_s: float
    send_s: float
    node_in_s: float
    node_out_s: float
    memory_s: float
    node_s: float

    @property
    def seconds(self) -> float:
        """The floor: the largest of its bounds."""
        return max(asdict(self).values())


@dataclass(frozen=True)
class Estimate:
    """Seconds that a refit by this plan and method likely takes: the sum of its terms.

    Attributes:
        wire_s: the mean rank's busiest link, at the rates that software reaches.
        imbalance_s: how much longer the busiest rank's is.
        operations_s: runs (one-sided) or messages (packed) of the rank that has most.
        staging_s: packing and unpacking in the memory of the rank that has most to do.
        fixed_s: of every refit.
    """

    wire_s: float
    imbalance_s: float
    operations_s: float
    staging_s: float
    fixed_s: float

    @property
    def seconds(self) -> float:
        """The estimate: the sum of its terms."""
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Features:
    """What an estimate is linear in: seconds, but for `operations`, a count."""

    wire_s: float
    imbalance_s: float
    operations: int
    staging_s: float


def lacking(hardware: Hardware, plan: Plan) -> str | None:
    """Which rate of the cluster is unknown though this plan needs it, or None."""
    needed = ["peer_gbps", "memory_gbps"] + ["nic_gbps"] * (plan.placement.nodes > 1)
    unknown = [name for name in needed if getattr(hardware, name) is None]
    return ", ".join(f"cluster.hardware.{name}" for name in unknown) or None


def floor(plan: Plan, traffic: Traffic, hardware: Hardware) -> Floor:
    """The floor; see `Floor` and docs/numbers.md.

    Args:
        plan, traffic: of any choices between the two layouts; these are not used.
        hardware: with every rate that `lacking` asks for.
    """
    per_node = plan.placement.ranks_per_node
    nic = (hardware.nic_gbps or 0.0) * (plan.placement.nodes > 1)
    ports = (hardware.peer_gbps or 0.0) + nic
    source_nodes = len(np.unique(np.asarray(plan.placement.source.ranks) // per_node))
    needs = plan.node_needs
    leaving = plan.leaving_bytes
    return Floor(
        receive_s=_seconds(traffic.received_bytes.max(initial=0), ports),
        send_s=_seconds(plan.least_send, ports),
        node_in_s=_seconds(needs.max(initial=0), nic * per_node),
        node_out_s=_seconds(leaving, nic * per_node * source_nodes),
        memory_s=_seconds(
            (traffic.received_bytes + 2 * traffic.local_bytes).max(initial=0), hardware.memory_gbps
        ),
        node_s=_seconds(_per_node(traffic).max(initial=0), hardware.node_gbps),
    )


def features(traffic: Traffic, hardware: Hardware, method: str, refit: Refit) -> Features:
    """What `estimate` weighs.

    Args:
        hardware: with every rate that `lacking` asks for.
        method: of `refit.rules.methods`; one that is not one-sided packs.
    """
    busiest_s = _busiest_link_s(traffic, hardware)
    mean_s = float(busiest_s[traffic.active].mean()) if traffic.active.any() else 0.0
    one_sided = is_one_sided(method)
    operations = traffic.runs() if one_sided else int(traffic.messages(refit).max(initial=0))
    return Features(
        wire_s=mean_s,
        imbalance_s=float(busiest_s.max(initial=0.0)) - mean_s,
        operations=operations,
        staging_s=0.0 if one_sided else _staging_s(traffic, hardware),
    )


def _busiest_link_s(traffic: Traffic, hardware: Hardware) -> FloatArray:
    """[world]: seconds of each rank's busiest link, at the rates that software reaches."""
    h, t = hardware, traffic
    in_memory = t.received_bytes + t.sent_bytes + 2 * t.local_bytes
    node_s = _each_s(_per_node(t), h.node_gbps)
    return np.maximum.reduce(
        [
            _each_s(np.maximum(t.near_in_bytes, t.near_out_bytes), _peer_gbps(h)),
            _each_s(np.maximum(t.far_in_bytes, t.far_out_bytes), _nic_gbps(h)),
            _each_s(in_memory, _memory_gbps(h)),
            np.repeat(node_s, t.rows.placement.ranks_per_node),
        ]
    )


def _staging_s(traffic: Traffic, hardware: Hardware) -> float:
    """Seconds of the rank, or of the node with one memory, that packs and unpacks most."""
    staged = traffic.received_bytes + traffic.sent_bytes
    of_nodes = staged.reshape(-1, traffic.rows.placement.ranks_per_node).sum(1)
    return max(
        # packing reads and writes a byte that then travels
        _seconds(2 * staged.max(initial=0), _memory_gbps(hardware)),
        # where memory is shared, all ranks at once
        _seconds(of_nodes.max(initial=0), hardware.node_gbps),
    )


def total(hops: Sequence[Features]) -> Features:
    """The features of a plan whose hops are carried out one after another: their sums."""
    return Features(
        wire_s=sum(hop.wire_s for hop in hops),
        imbalance_s=sum(hop.imbalance_s for hop in hops),
        operations=sum(hop.operations for hop in hops),
        staging_s=sum(hop.staging_s for hop in hops),
    )


def fit_of(hardware: Hardware, method: str) -> Fit:
    """What was fitted for the method, or the hardware's own latency and links as they are."""
    fitted = (hardware.fitted or {}).get(method)
    return Fit(**fitted) if fitted else Fit(latency_us=hardware.latency_us)


def estimate(features: Features, fit: Fit) -> Estimate:
    """The terms of an estimate."""
    return Estimate(
        wire_s=fit.wire * features.wire_s,
        imbalance_s=fit.wire * features.imbalance_s,
        operations_s=features.operations * fit.latency_us * 1e-6,
        staging_s=fit.staging * features.staging_s,
        fixed_s=fit.fixed_us * 1e-6,
    )


def _per_node(traffic: Traffic) -> IntArray:
    """[nodes]: bytes that the ranks of a node write, all together."""
    written = traffic.received_bytes + traffic.local_bytes
    return written.reshape(-1, traffic.rows.placement.ranks_per_node).sum(1)


def _peer_gbps(hardware: Hardware) -> float:
    return (hardware.peer_gbps or 0.0) * hardware.peer_efficiency


def _nic_gbps(hardware: Hardware) -> float:
    return (hardware.nic_gbps or 0.0) * hardware.nic_efficiency


def _memory_gbps(hardware: Hardware) -> float:
    return (hardware.memory_gbps or 0.0) * hardware.memory_efficiency


def _each_s(nbytes: IntArray, gbps: float | None) -> FloatArray:
    """Seconds of each; 0 where there is no such link."""
    return nbytes / (gbps * 1e9) if gbps else np.zeros(len(nbytes))


def _seconds(nbytes: int | np.int64, gbps: float | None) -> float:
    return float(nbytes) / (gbps * 1e9) if gbps else 0.0
