"""Parallel degrees -> rank grids, in Megatron's rank order; and where both layouts stand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import lcm
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from refit.job import Degrees, Job, UserError

IntArray = NDArray[np.int64]

Side = Literal["source", "destination"]


@dataclass(frozen=True)
class Layout:
    """The degrees of one model instance, all resolved, and the first global rank it stands on.

    Rank order is Megatron's, fastest first: dense `tp-cp-dp-pp`, experts `etp-ep-edp-pp`. So local
    rank = tp + TP*(cp + CP*(dp + DP*pp)), and likewise for experts.

    Raises:
        UserError: a degree is not positive, or `gpus` does not divide as Megatron demands.
    """

    tp: int = 1
    cp: int = 1
    pp: int = 1
    ep: int = 1
    etp: int = 1
    gpus: int = 0  # 0: tp*cp*pp*ep
    first_stage_layers: int | None = None
    last_stage_layers: int | None = None
    offset: int = 0

    def __post_init__(self) -> None:
        for name in ("tp", "cp", "pp", "ep", "etp"):
            value = getattr(self, name)
            if value < 1:
                raise UserError(f"{name}={value}: a parallel degree must be 1 or more")
        for end, count in (("first", self.first_stage_layers), ("last", self.last_stage_layers)):
            if count is not None and (count < 1 or self.pp == 1):
                raise UserError(
                    f"num_layers_in_{end}_pipeline_stage={count} needs pp of 2 or"
                    f" more and a count of 1 or more; here pp={self.pp}"
                )
        if self.gpus == 0:
            object.__setattr__(self, "gpus", self.tp * self.cp * self.pp * self.ep)
        dense, expert = self.tp * self.cp * self.pp, self.etp * self.ep * self.pp
        smallest = self.pp * lcm(self.tp * self.cp, self.etp * self.ep)
        if self.gpus < 1 or self.gpus % dense or self.gpus % expert:
            raise UserError(
                f"gpus={self.gpus} must be a positive multiple of"
                f" tp*cp*pp = {self.tp}*{self.cp}*{self.pp} = {dense}"
                f" and of etp*ep*pp = {self.etp}*{self.ep}*{self.pp} = {expert};"
                f" the smallest that works is {smallest}"
            )

    @property
    def dp(self) -> int:
        """Replicas of a dense shard: ranks that differ only in their data-parallel index."""
        return self.gpus // (self.tp * self.cp * self.pp)

    @property
    def edp(self) -> int:
        """Replicas of an expert shard."""
        return self.gpus // (self.etp * self.ep * self.pp)

    @property
    def ranks(self) -> range:
        """The global ranks this layout spans."""
        return range(self.offset, self.offset + self.gpus)

    @cached_property
    def dense(self) -> IntArray:
        """Global ranks as [pp, dp, cp, tp]."""
        return np.arange(self.offset, self.offset + self.gpus).reshape(
            self.pp, self.dp, self.cp, self.tp
        )

    @cached_property
    def expert(self) -> IntArray:
        """Global ranks as [pp, edp, ep, etp]."""
        return np.arange(self.offset, self.offset + self.gpus).reshape(
            self.pp, self.edp, self.ep, self.etp
        )

    def stage_layers(self, num_layers: int) -> list[range]:
        """Global layer numbers (from 0) of each pipeline stage, as Megatron distributes them.

        Raises:
            UserError: the layers that remain for the other stages do not divide among them.
        """
        counts: list[int | None] = [None] * self.pp
        if self.first_stage_layers is not None:
            counts[0] = self.first_stage_layers
        if self.last_stage_layers is not None:
            counts[-1] = self.last_stage_layers
        fixed = sum(c for c in counts if c is not None)
        open_stages = counts.count(None)
        remaining = num_layers - fixed
        even = remaining // open_stages if open_stages else 0
        if remaining != even * open_stages or (open_stages and even < 1):
            how = f" after {fixed} in the fixed first/last stages" if fixed else ""
            raise UserError(
                f"{remaining} layers{how} do not divide among {open_stages} pipeline stages"
                f" (pp={self.pp}, num_layers={num_layers}); choose pp that divides, or set"
                " num_layers_in_first_pipeline_stage / num_layers_in_last_pipeline_stage"
            )
        stages, start = [], 0
        for count in counts:
            size = even if count is None else count
            stages.append(range(start, start + size))
            start += size
        return stages

    def describe(self) -> str:
        """`TP=2, PP=1, EP=2`, and CP and ETP where they are above 1; not how many GPUs."""
        parts = [f"TP={self.tp}", f"PP={self.pp}", f"EP={self.ep}"]
        if self.cp > 1:
            parts.append(f"CP={self.cp}")
        if self.etp > 1:
            parts.append(f"ETP={self.etp}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Placement:
    """Both layouts in the world: whole nodes of `ranks_per_node` ranks; spare ranks are idle."""

    source: Layout
    destination: Layout
    ranks_per_node: int
    world: int

    def side(self, name: Side) -> Layout:
        """The layout of a side by its name."""
        return self.source if name == "source" else self.destination

    @property
    def used(self) -> int:
        """Ranks that hold weights."""
        return max(self.source.ranks.stop, self.destination.ranks.stop)

    @property
    def nodes(self) -> int:
        """Whole nodes of the world, those of idle ranks too."""
        return self.world // self.ranks_per_node

    @property
    def idle(self) -> range:
        """Ranks that join the rendezvous and wait."""
        return range(self.used, self.world)

    def node_of(self, rank: int) -> int:
        """The number of a global rank's node, from 0."""
        return rank // self.ranks_per_node

    def header(self) -> list[str]:
        """Lines for a person: how many ranks there are, and which belong to which side."""
        lines = [
            f"World size: {self.world} (using {self.used} GPUs)",
            f"Source ranks: {span(self.source.ranks)} ({self.source.describe()})",
            f"Destination ranks: {span(self.destination.ranks)} ({self.destination.describe()})",
        ]
        if self.idle:
            lines.append(f"Idle ranks: {span(self.idle)} (not participating)")
        return lines


def span(ranks: range) -> str:
    """`0-3`, or `4` for a single rank."""
    return f"{ranks.start}-{ranks.stop - 1}" if len(ranks) > 1 else f"{ranks.start}"


def resolve(degrees: Degrees, default_etp: int, offset: int = 0) -> Layout:
    """A side's degrees with every default filled in.

    Args:
        degrees: as written in the config.
        default_etp: the ETP that a `null` means here.
        offset: first global rank.

    Raises:
        UserError: from `Layout`; or `gpus` is below 1.
    """
    return Layout(
        tp=degrees.tp,
        cp=degrees.cp,
        pp=degrees.pp,
        ep=degrees.ep,
        etp=default_etp if degrees.etp is None else degrees.etp,
        gpus=_explicit(degrees.gpus),
        first_stage_layers=degrees.num_layers_in_first_pipeline_stage,
        last_stage_layers=degrees.num_layers_in_last_pipeline_stage,
        offset=offset,
    )


def _explicit(gpus: int | None) -> int:
    if gpus is None:
        return 0
    if gpus < 1:
        raise UserError(f"gpus={gpus}: a layout spans 1 GPU or more")
    return gpus


def place(job: Job) -> Placement:
    """Both layouts of a job in the world.

    Non-collocated: source ranks first, then destination; needs source + destination GPUs.
    Collocated: both start at rank 0; needs max(source, destination).
    A source's ETP defaults to its TP, a destination's to the *source's* ETP (both Megatron's); a
    dense model's to 1.

    Raises:
        UserError: from `Layout`, with the side named; or an unknown mode.
    """
    if job.placement_mode not in ("collocated", "non-collocated"):
        raise UserError(
            f"mode '{job.placement_mode}' is not collocated or non-collocated"
            " (auto in refit.mode: the pair's)"
        )
    source = _side(job, "source", job.parallel.source.tp, 0)
    start = 0 if job.placement_mode == "collocated" else source.gpus
    destination = _side(job, "destination", source.etp, start)
    per_node = job.cluster.ranks_per_node
    if per_node < 1:
        raise UserError(f"cluster.ranks_per_node={per_node} must be 1 or more")
    used = max(source.ranks.stop, destination.ranks.stop)
    return Placement(source, destination, per_node, -(-used // per_node) * per_node)


def _side(job: Job, name: str, default_etp: int, offset: int) -> Layout:
    degrees: Degrees = getattr(job.parallel, name)
    dense = not job.model.is_moe
    try:
        return resolve(degrees, 1 if dense and degrees.etp is None else default_etp, offset)
    except UserError as error:
        hint = "" if dense else _etp_hint(degrees, default_etp, name)
        raise UserError(f"parallel.{name}: {error}{hint}") from None


def _etp_hint(degrees: Degrees, default_etp: int, name: str) -> str:
    """What to add where a layout is impossible by its default ETP alone."""
    if degrees.etp is not None:
        return ""
    try:
        resolve(degrees, 1)
    except UserError:
        return ""
    whose = "tp" if name == "source" else "the source's"
    return (
        f". etp is {whose}, {default_etp}, by default, as Megatron has it; with etp=1, each expert"
        f" whole, this works: parallel.{name}.etp=1"
    )
