"""The parts of a timing.json, each a frozen dataclass. Sizes are bytes, rates GB/s (1e9 bytes)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from refit.plan.plan import Bounds


@dataclass(frozen=True)
class Side:
    """One layout with all its degrees.

    Attributes:
        ranks: global ranks that hold its weights, ascending.
        first_stage_layers, last_stage_layers: null where they are not said on their own.
        kind: `fsdp` or `engine`; null where it is Megatron's.
        shard: of fsdp, the ranks that share each parameter.
        dtype: of what the model has in bfloat16; null: that.
        vocab_rows: of the vocabulary as the side stores it.
        expert_slots: of the tensor that has all of a rank's experts; null: one each.
        padding: `unchecked` where anything may lie beside the weights; null: it is proven zero.
        order: of ranks, fastest first; null where it is Megatron's default.
        virtual_stages: of each pipeline rank; null where there is one.
        layers_per_stage: in the order of the model, where they are listed, counted with the
            embedding or the loss, or virtual; stage i is on pipeline rank i % pp.
    """

    ranks: list[int]
    tp: int
    cp: int
    pp: int
    ep: int
    etp: int
    dp: int
    edp: int
    gpus: int
    first_stage_layers: int | None = None
    last_stage_layers: int | None = None
    kind: str | None = None
    shard: int | None = None
    dtype: str | None = None
    vocab_rows: int | None = None
    expert_slots: int | None = None
    padding: str | None = None
    order: str | None = None
    virtual_stages: int | None = None
    layers_per_stage: list[int] | None = None


@dataclass(frozen=True)
class Placed:
    """Where all layouts are.

    Attributes:
        world: ranks, idle ones too.
        destination: null where there are several, so that none is taken for all.
        idle: global ranks that hold no weights.
        destinations: where there are several, in the config's order; null where there is one.
    """

    world: int
    ranks_per_node: int
    source: Side
    destination: Side | None
    idle: list[int]
    destinations: list[Side] | None = None

    @property
    def receiving(self) -> list[Side]:
        """The destinations, one or several."""
        one = [] if self.destination is None else [self.destination]
        return one if self.destinations is None else self.destinations

    @property
    def used(self) -> int:
        """How many ranks hold weights."""
        return len({*self.source.ranks, *(rank for side in self.receiving for rank in side.ranks)})


@dataclass(frozen=True)
class PlanNumbers:
    """What the plan moves, in bytes; of a method that plans for itself what it moved in a refit.

    Null where that is not known.

    Attributes:
        copies: blocks, local ones too.
        bytes: written at all destinations.
        left_out_bytes: held at all destinations and not written, by refit.include and exclude, or
            as a method that plans for itself does not know it; `left_out_tensors` counts them, and
            is null where such a method left some out.
        local_bytes: whose source is the destination itself.
        max_send_bytes, max_recv_bytes: of the busiest rank, to and from others.
        max_forward_bytes: of the busiest rank that passes on what it fetched; 0 without fan-out.
        max_peer_bytes, max_cross_node_bytes: of the busiest rank in one direction, within its node
            and across nodes.
        lower_bounds: what no choice of sources can beat.
    """

    copies: int | None
    bytes: int
    local_bytes: int | None
    cross_node_bytes: int | None
    max_send_bytes: int | None
    max_forward_bytes: int | None
    max_recv_bytes: int | None
    max_peer_bytes: int | None
    max_cross_node_bytes: int | None
    lower_bounds: Bounds
    left_out_tensors: int | None = 0
    left_out_bytes: int | None = 0


@dataclass(frozen=True)
class Seconds:
    """Times; those of a refit are the slowest rank's.

    Attributes:
        warm: of each timed refit; `median`, `p90` and `max` are of these.
        drift: median of the last tenth of `warm` over that of the first; null below 20 refits.
        cold_phases, phases: of each phase the rank that spent longest.
        phases_per_rank, per_rank: by rank that holds weights.
        skew: of each timed refit how far apart the ranks of a node began, of the node where that is
            most; null in records of before it was kept.
        device: of each timed refit the longest that a GPU says it took, by events; null on CPUs.
        proof: the longest that a rank filled, stamped and looked, in none of these times; null in
            records of before it was measured.
    """

    cold: float
    warm: list[float]
    median: float
    p90: float
    max: float
    drift: float | None
    cold_phases: dict[str, float]
    phases: dict[str, float]
    phases_per_rank: dict[str, dict[str, float]]
    per_rank: dict[str, float]
    proof: float | None = None
    skew: list[float] | None = None
    device: list[float] | None = None


LimitSource = Literal["measured", "configured", "imported"]
LimitKind = Literal[
    "memory",  # copies within the destinations' memory
    "peers",  # one plain copy for each two ranks of the plan
    "links", "network",  # between GPUs of a node, between nodes
    "nixl",  # the plan's bytes by NIXL's ct-perftest
]  # fmt: skip


@dataclass(frozen=True)
class Limit:
    """A rate that a refit cannot exceed, but for what it finds in a cache.

    Attributes:
        what: in words.
        gbps: of the whole refit: bytes written at all destinations per second.
        source: measured in the same run, configured for the cluster, or imported afterwards.
        kind: null in records of before it was kept.
        spread: of a measured one, the slowest copy over the fastest; null as above.
    """

    what: str
    gbps: float
    source: LimitSource
    kind: LimitKind | None = None
    spread: float | None = None


@dataclass(frozen=True)
class Throughput:
    """Bytes written at all destinations per second of the median refit.

    Attributes:
        limit: the tightest of `limits`, in words; `limit_gbps` and `limit_source` are its own.
        fraction: of that limit.
        missing: which limit was not measured, and why; null where none is missing.
        forecast_gbps: what mode=plan estimates of this plan; null where the cluster does not state
            rates of such devices, where there is no estimate, and in older records.
    """

    gbps: float
    limit_gbps: float
    limit: str
    limit_source: LimitSource
    fraction: float
    limits: list[Limit]
    missing: str | None = None
    forecast_gbps: float | None = None


@dataclass(frozen=True)
class Memory:
    """The most that any rank held, in bytes.

    Attributes:
        device_peak_bytes: of torch's allocator on a GPU, weights too, from before the cold refit to
            the last timed one; in older records since the process began.
        refit_peak_bytes: private memory above what was held before the cold refit; null where the
            system does not say.
        staging_bytes: null where the method does not say.
        growth: what a rank holds after the last tenth of the timed refits over what it holds after
            the first tenth, medians, of the rank where that is most; null below 20 refits.
        growth_per_rank: the same of each rank that holds weights.
    """

    host_peak_bytes: int
    device_peak_bytes: int
    refit_peak_bytes: int | None
    staging_bytes: int | None
    growth: float | None = None
    growth_per_rank: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Logits:
    """The forward passes of both models compared.

    Attributes:
        tolerance: relative to `max_abs_logit`.
        dispatcher: of tokens; null without experts.
    """

    max_abs_diff: float
    max_abs_logit: float
    tolerance: float
    ok: bool
    tokens: int
    dtype: str
    dispatcher: str | None


@dataclass(frozen=True)
class Checked:
    """What was looked at on the ranks of one destination: of `Verification` the share."""

    elements: int
    mismatches: int


@dataclass(frozen=True)
class Verification:
    """What was looked at, bit by bit, at all destinations.

    Attributes:
        elements, mismatches: looked at, each after `whole_checks` refits, and wrong there.
        per_destination: of several, each its own; null where there is one.
        source_mismatches: elements of the source that the refits changed.
        first_mismatch: a tensor; null where there is none. Refit `first_after` left it so.
        stale_checked: a refit of changed weights was looked at too.
        logits: null unless verify=logits.
        whole_checks: null in records of before there were stamps; 2 then.
        stamps, stamp_mismatches: elements that changed before each other refit, looked at after it,
            and wrong there; null as above.
    """

    elements: int
    mismatches: int
    source_mismatches: int
    first_mismatch: str | None
    stale_checked: bool
    logits: Logits | None
    per_destination: list[Checked] | None = None
    whole_checks: int | None = None
    stamps: int | None = None
    stamp_mismatches: int | None = None
    first_after: str | None = None


@dataclass(frozen=True)
class DeviceMemory:
    """Of the fullest rank, in bytes.

    Attributes:
        device_bytes, fits: null where the cluster does not state it.
    """

    max_bytes: int
    device_bytes: int | None
    fits: bool | None


@dataclass(frozen=True)
class Forecast:
    """What mode=plan says; see docs/numbers.md.

    Attributes:
        per_rank: bytes of each rank of the world, by name; without `staging_bytes` for a method
            that plans for itself.
        floor, estimate: `seconds` and their terms; null where the cluster does not state the rates,
            and no estimate of a method that plans for itself.
        missing: the rates that it does not state; null where there are none.
    """

    per_rank: dict[str, list[int]]
    memory: DeviceMemory
    floor: dict[str, float] | None
    estimate: dict[str, float] | None
    missing: str | None
