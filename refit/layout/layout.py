"""Parallel degrees -> rank grids, in Megatron's rank order; and where both layouts stand."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
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
    kind: str = "megatron"  # or fsdp
    shard: int = 1  # of fsdp: ranks that share each parameter
    vocab_rows: int | None = None  # as this side stores them; None: as many as the tensor has
    dtype: str | None = None  # of what the model has in bfloat16; None: that
    trained_dtype: str | None = None  # the source's `dtype`
    casts: bool = False  # the sides differ in it

    def __post_init__(self) -> None:
        if self.kind == "fsdp":
            self._check_fsdp()
            return
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

    def _check_fsdp(self) -> None:
        if self.shard < 1:
            raise UserError(f"shard={self.shard} must be 1 or more")
        if self.gpus == 0:
            object.__setattr__(self, "gpus", self.shard)
        if self.gpus % self.shard:
            raise UserError(f"gpus={self.gpus} must be a multiple of shard={self.shard}")

    @property
    def dp(self) -> int:
        """Replicas of a dense shard: ranks that differ only in their data-parallel index."""
        return self.gpus // (self.tp * self.cp * self.pp * self.shard)

    @property
    def edp(self) -> int:
        """Replicas of an expert shard."""
        return self.gpus // (self.etp * self.ep * self.pp * self.shard)

    @property
    def ranks(self) -> range:
        """The global ranks this layout spans."""
        return range(self.offset, self.offset + self.gpus)

    @cached_property
    def dense(self) -> IntArray:
        """Global ranks as [pp, dp, cp, tp]; of fsdp as [1, replicas, 1, shard]."""
        if self.kind == "fsdp":
            return np.array(self.ranks).reshape(1, -1, 1, self.shard)
        return np.arange(self.offset, self.offset + self.gpus).reshape(
            self.pp, self.dp, self.cp, self.tp
        )

    @cached_property
    def expert(self) -> IntArray:
        """Global ranks as [pp, edp, ep, etp]; of fsdp as `dense`."""
        if self.kind == "fsdp":
            return self.dense
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
        if self.kind == "fsdp":
            return " ".join([f"FSDP={self.shard}"] + [f"as {self.dtype}"] * bool(self.dtype))
        parts = [f"TP={self.tp}", f"PP={self.pp}", f"EP={self.ep}"]
        if self.cp > 1:
            parts.append(f"CP={self.cp}")
        if self.etp > 1:
            parts.append(f"ETP={self.etp}")
        if self.dtype:
            parts.append(f"as {self.dtype}")
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
    if degrees.kind == "fsdp":
        return _fsdp(degrees, offset)
    if degrees.kind not in (None, "megatron"):
        raise UserError(f"kind '{degrees.kind}' is not megatron or fsdp")
    if degrees.shard is not None:
        raise UserError(f"shard={degrees.shard} is of kind=fsdp; here the kind is megatron")
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
        dtype=_dtype(degrees.dtype),
    )


def _fsdp(degrees: Degrees, offset: int) -> Layout:
    """A side of PyTorch's fully_shard; what only Megatron has must not be said of it."""
    others = replace(Degrees(), **{name: getattr(degrees, name) for name in _OF_FSDP})
    said = [f.name for f in fields(Degrees) if getattr(degrees, f.name) != getattr(others, f.name)]
    if said:
        name = said[0]
        raise UserError(
            f"{name}={getattr(degrees, name)} is Megatron's, and kind=fsdp has"
            f" {', '.join(_OF_FSDP)}; set {name}={getattr(others, name) or 'null'} here, or write"
            " the pair as a file of its own"
        )
    return Layout(
        kind="fsdp",
        shard=_explicit(degrees.shard) or _explicit(degrees.gpus) or 1,
        gpus=_explicit(degrees.gpus),
        offset=offset,
        dtype=_dtype(degrees.dtype),
    )


_OF_FSDP = ("kind", "shard", "gpus", "dtype", "make_vocab_size_divisible_by")
DTYPES = ("bfloat16", "float16", "float32")


def _dtype(name: str | None) -> str | None:
    if name is not None and name not in DTYPES:
        raise UserError(f"dtype '{name}' is not {', '.join(DTYPES)}")
    return None if name == "bfloat16" else name


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
    etp = job.parallel.destination.tp if source.kind == "fsdp" else source.etp
    destination = _side(job, "destination", etp, start)
    source, destination = _told_of_each_other(job, source, destination)
    per_node = job.cluster.ranks_per_node
    if per_node < 1:
        raise UserError(f"cluster.ranks_per_node={per_node} must be 1 or more")
    used = max(source.ranks.stop, destination.ranks.stop)
    return Placement(source, destination, per_node, -(-used // per_node) * per_node)


def _told_of_each_other(job: Job, source: Layout, destination: Layout) -> tuple[Layout, Layout]:
    """Both sides with their vocabulary's rows, and with the dtype that the values come from.

    Megatron pads the vocabulary to a multiple of make_vocab_size_divisible_by * TP, FSDP not at
    all. The destination has as many rows as the source, but where it says its own multiple.
    """
    model, pair = job.model, job.parallel
    multiple = pair.source.make_vocab_size_divisible_by
    if multiple is None:
        multiple = 1 if source.kind == "fsdp" else model.make_vocab_size_divisible_by
    rows = padded(model.vocab_size, multiple * source.tp)
    multiple = pair.destination.make_vocab_size_divisible_by
    theirs = rows if multiple is None else padded(model.vocab_size, multiple * destination.tp)
    trained, casts = source.dtype, source.dtype != destination.dtype
    return (
        replace(source, vocab_rows=rows, trained_dtype=trained, casts=casts),
        replace(destination, vocab_rows=theirs, trained_dtype=trained, casts=casts),
    )


def padded(size: int, multiple: int) -> int:
    """The least multiple that is no smaller.

    Raises:
        UserError: the multiple is below 1.
    """
    if multiple < 1:
        raise UserError(f"make_vocab_size_divisible_by must be 1 or more, not {multiple}")
    return -(-size // multiple) * multiple


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
