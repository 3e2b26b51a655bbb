"""What a plan costs: a floor that no plan can beat, and an estimate of this one. Pure numpy.

The floor is the largest of lower bounds; the estimate is a sum of named terms. They are never
mixed: docs/numbers.md derives both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from refit.job import Hardware, Refit
from refit.layout.layout import IntArray
from refit.plan.copies import Rows
from refit.plan.plan import Plan
from refit.rules.methods import METHODS

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
class Traffic:
    """What each rank does in a plan, or in one hop of it; every array is [world].

    Attributes:
        near_in, near_out: bytes from and to other ranks of the node.
        far_in, far_out: bytes from and to other nodes.
        local: bytes whose source is the rank itself.
        blocks: block copies that the rank receives, local ones included.
    """

    rows: Rows
    near_in: IntArray
    near_out: IntArray
    far_in: IntArray
    far_out: IntArray
    local: IntArray
    blocks: IntArray

    @staticmethod
    def of(rows: Rows) -> Traffic:
        """The sums of a plan or of a hop."""
        world = rows.placement.world
        far = rows.crosses_nodes
        near = rows.remote & ~far

        def total(rank: IntArray, which: NDArray[np.bool_]) -> IntArray:
            return np.bincount(rank[which], rows.nbytes[which], world).astype(np.int64)

        return Traffic(
            rows,
            near_in=total(rows.destination, near),
            near_out=total(rows.source, near),
            far_in=total(rows.destination, far),
            far_out=total(rows.source, far),
            local=total(rows.destination, ~rows.remote),
            blocks=np.bincount(rows.destination, minlength=world),
        )

    @property
    def active(self) -> NDArray[np.bool_]:
        """[world]: the rank moves something."""
        return (self.received + self.sent + self.local) > 0

    @property
    def received(self) -> IntArray:
        """[world], bytes from other ranks."""
        return self.near_in + self.far_in

    @property
    def sent(self) -> IntArray:
        """[world], bytes to other ranks."""
        return self.near_out + self.far_out

    @cached_property
    def pairs(self) -> tuple[IntArray, IntArray, IntArray]:
        """Source, destination and bytes of each pair of different ranks that talk, [pairs]."""
        rows, world = self.rows, self.rows.placement.world
        key = rows.source[rows.remote] * world + rows.destination[rows.remote]
        both, which = np.unique(key, return_inverse=True)
        nbytes = np.bincount(which, rows.nbytes[rows.remote], len(both)).astype(np.int64)
        return both // world, both % world, nbytes

    def messages(self, refit: Refit) -> IntArray:
        """[world]: buckets that a rank sends or receives, each pair's bytes cut by bucket_mb."""
        source, destination, nbytes = self.pairs
        count = -(-nbytes // int(refit.bucket_mb * 1e6))
        world = self.rows.placement.world
        both = np.bincount(source, count, world) + np.bincount(destination, count, world)
        return both.astype(np.int64)

    def staging_bytes(self, method: str, refit: Refit) -> IntArray:
        """[world]: buffers of a packing method, in_flight buckets of each direction at most."""
        world, bucket = self.rows.placement.world, int(refit.bucket_mb * 1e6)
        held = np.zeros(world, dtype=np.int64)
        if _is_one_sided(method):
            return held
        source, destination, nbytes = self.pairs
        for rank in (source, destination):
            largest = np.zeros(world, dtype=np.int64)
            np.maximum.at(largest, rank, np.minimum(nbytes, bucket))
            count = np.bincount(rank, -(-nbytes // bucket), world).astype(np.int64)
            held += largest * np.minimum(count, refit.in_flight)
        return held


@dataclass(frozen=True)
class Floor:
    """Seconds below which no plan for the same two layouts can be, on links at their full rates.

    Attributes:
        receive: what a rank lacks, through all its links at once.
        send: what a set of ranks alone holds, each byte leaving it once, through all its links.
        node_in: what a node lacks, once, through all NICs of the node.
        node_out: what must leave the source's nodes, once, through all their NICs.
        memory: what a rank writes, and what it reads of its own, in its memory.
        node: what the ranks of a node write, where they share one memory.
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
        wire: the mean rank's busiest link, at the rates that software reaches.
        imbalance: how much longer the busiest rank's is.
        operations: blocks (one-sided) or messages (packed) of the rank that has most.
        staging: packing and unpacking in the memory of the rank that has most to do.
        fixed: of every refit.
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
        receive_s=_seconds(traffic.received.max(initial=0), ports),
        send_s=_seconds(plan.least_send, ports),
        node_in_s=_seconds(needs.max(initial=0), nic * per_node),
        node_out_s=_seconds(leaving, nic * per_node * source_nodes),
        memory_s=_seconds(
            (traffic.received + 2 * traffic.local).max(initial=0), hardware.memory_gbps
        ),
        node_s=_seconds(_per_node(traffic).max(initial=0), hardware.node_gbps),
    )


def features(traffic: Traffic, hardware: Hardware, method: str, refit: Refit) -> Features:
    """What `estimate` weighs.

    Args:
        hardware: with every rate that `lacking` asks for.
        method: of `refit.rules.methods`; one that is not one-sided packs.
    """
    h, per_node = hardware, traffic.rows.placement.ranks_per_node
    reached = {
        "peer": (h.peer_gbps or 0.0) * h.peer_efficiency,
        "nic": (h.nic_gbps or 0.0) * h.nic_efficiency,
        "memory": (h.memory_gbps or 0.0) * h.memory_efficiency,
    }
    busiest = np.maximum.reduce(
        [
            _each(np.maximum(traffic.near_in, traffic.near_out), reached["peer"]),
            _each(np.maximum(traffic.far_in, traffic.far_out), reached["nic"]),
            _each(traffic.received + traffic.sent + 2 * traffic.local, reached["memory"]),
            np.repeat(_each(_per_node(traffic), h.node_gbps), per_node),
        ]
    )
    active = traffic.active
    mean = float(busiest[active].mean()) if active.any() else 0.0
    one_sided = _is_one_sided(method)
    operations = traffic.blocks if one_sided else traffic.messages(refit)
    staged = np.zeros_like(traffic.local) if one_sided else traffic.received + traffic.sent
    # packing reads and writes a byte that then travels; where memory is shared, all ranks at once
    staging = max(
        _seconds(2 * staged.max(initial=0), reached["memory"]),
        _seconds(staged.reshape(-1, per_node).sum(1).max(initial=0), h.node_gbps),
    )
    return Features(
        wire_s=mean,
        imbalance_s=float(busiest.max(initial=0.0)) - mean,
        operations=int(operations.max(initial=0)),
        staging_s=staging,
    )


def total(hops: Sequence[Features]) -> Features:
    """Of a plan whose hops are carried out one after another."""
    return Features(
        wire_s=sum(s.wire_s for s in hops),
        imbalance_s=sum(s.imbalance_s for s in hops),
        operations=sum(s.operations for s in hops),
        staging_s=sum(s.staging_s for s in hops),
    )


def fit_of(hardware: Hardware, method: str) -> Fit:
    """What was fitted for the method, or the hardware's own latency and links as they are."""
    fitted = (hardware.fitted or {}).get(method)
    return Fit(**fitted) if fitted else Fit(latency_us=hardware.latency_us)


def estimate(found: Features, fit: Fit) -> Estimate:
    """The terms of an estimate."""
    return Estimate(
        wire_s=fit.wire * found.wire_s,
        imbalance_s=fit.wire * found.imbalance_s,
        operations_s=found.operations * fit.latency_us * 1e-6,
        staging_s=fit.staging * found.staging_s,
        fixed_s=fit.fixed_us * 1e-6,
    )


def _is_one_sided(method: str) -> bool:
    return method in METHODS and METHODS[method].one_sided


def _per_node(traffic: Traffic) -> IntArray:
    """[nodes]: bytes that the ranks of a node write."""
    written = traffic.received + traffic.local
    return written.reshape(-1, traffic.rows.placement.ranks_per_node).sum(1)


def _each(nbytes: IntArray, gbps: float | None) -> FloatArray:
    """Seconds of each; none where there is no such link."""
    return nbytes / (gbps * 1e9) if gbps else np.zeros(len(nbytes))


def _seconds(nbytes: int | np.int64, gbps: float | None) -> float:
    return float(nbytes) / (gbps * 1e9) if gbps else 0.0
