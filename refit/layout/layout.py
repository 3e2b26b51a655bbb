"""Parallel degrees -> rank grids, in Megatron's rank order; and where both layouts stand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import lcm
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from refit.errors import UserError
from refit.job import destination_names
from refit.layout import order as rank_order
from refit.layout import stages
from refit.layout.ranks import span

IntArray = NDArray[np.int64]

Side = Literal["source", "destination"]

KINDS = ("megatron", "fsdp", "engine")
DTYPES = ("bfloat16", "float16", "float32")
"""What a side may store as; the first is what a model has."""
PADDINGS = ("zero", "unchecked")
"""What a side may have beside its weights; the first is what it has where it says nothing."""


@dataclass(frozen=True)
class Layout:
    """The degrees of one model instance, all resolved, and the first global rank it stands on.

    Rank order is Megatron's, fastest first. By default local rank = tp + TP*(cp + CP*(dp + DP*pp)),
    and likewise for experts.

    Attributes:
        first_stage_layers, last_stage_layers: of the first and the last pipeline rank; None: as
            many as the others have.
        listed_layers: of every stage, where they are listed.
        virtual_stages: of each pipeline rank.
        counts_embedding, counts_loss: as a layer, where layers are dealt out evenly.

    Raises:
        UserError: a degree is not positive, `gpus` does not divide as Megatron demands, or it
            refuses the order or what is said of stages.
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
    order: str = rank_order.DEFAULT
    listed_layers: tuple[int, ...] | None = None
    virtual_stages: int = 0  # 0: one, or what the list says
    counts_embedding: bool = False
    counts_loss: bool = False
    kind: str = "megatron"  # or fsdp, or engine: with Megatron's degrees
    shard: int = 1  # of fsdp: ranks that share each parameter
    tied: bool = True  # embeddings, where the model ties them
    gate_up_interleaved: bool = False  # of an engine
    sequence_parallel: bool = False
    expert_slots: int | None = None  # of the tensor that has all of a rank's experts; None: many
    vocab_rows: int | None = None  # as this side stores them; None: as many as the tensor has
    dtype: str | None = None  # of what the model has in bfloat16; None: that
    trained_dtype: str | None = None  # the source's `dtype`
    casts: bool = False  # the sides differ in it
    padding_is_checked: bool = True  # zero, and no refit may write it; else it may be anything

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
        by_default = ""
        if self.gpus == 0:
            by_default = ", by default tp*cp*pp*ep,"
            object.__setattr__(self, "gpus", self.tp * self.cp * self.pp * self.ep)
        dense, expert = self.tp * self.cp * self.pp, self.etp * self.ep * self.pp
        smallest = self.pp * lcm(self.tp * self.cp, self.etp * self.ep)
        if self.gpus < 1 or self.gpus % dense or self.gpus % expert:
            raise UserError(
                f"gpus={self.gpus}{by_default} must be a positive multiple of"
                f" tp*cp*pp = {self.tp}*{self.cp}*{self.pp} = {dense}"
                f" and of etp*ep*pp = {self.etp}*{self.ep}*{self.pp} = {expert};"
                f" the smallest that works is {smallest}"
            )
        rank_order.check(self.order, self.dense_sizes)
        if self.etp * self.ep > 1:
            rank_order.check_pipelines(self.order, self.dense_sizes, self.expert_sizes)
        said = {
            "num_layers_in_first_pipeline_stage": self.first_stage_layers,
            "num_layers_in_last_pipeline_stage": self.last_stage_layers,
            "account_for_embedding_in_pipeline_split": self.counts_embedding or None,
            "account_for_loss_in_pipeline_split": self.counts_loss or None,
        }
        said = {name: value for name, value in said.items() if value is not None}
        virtual = stages.check(self.pp, self.virtual_stages, self.listed_layers, said)
        object.__setattr__(self, "virtual_stages", virtual)
        object.__setattr__(self, "order", self.order.lower())

    def _check_fsdp(self) -> None:
        if self.shard < 1:
            raise UserError(f"shard={self.shard} must be 1 or more")
        if self.gpus == 0:
            object.__setattr__(self, "gpus", self.shard)
        object.__setattr__(self, "virtual_stages", 1)
        if self.gpus % self.shard:
            below = self.gpus // self.shard * self.shard
            fits = [n for n in (below, below + self.shard) if n]
            raise UserError(
                f"gpus={self.gpus} must be a multiple of shard={self.shard}; use"
                f" gpus={' or '.join(map(str, fits))}"
            )

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

    @property
    def dense_sizes(self) -> dict[str, int]:
        """Of attention's degrees, by the names that a rank order has."""
        return {"tp": self.tp, "cp": self.cp, "dp": self.dp, "pp": self.pp}

    @property
    def expert_sizes(self) -> dict[str, int]:
        """Of experts' degrees, by the names that a rank order has."""
        return {"tp": self.etp, "ep": self.ep, "dp": self.edp, "pp": self.pp}

    @cached_property
    def dense(self) -> IntArray:
        """Global ranks as [pp, dp, cp, tp], whatever their order.

        Of fsdp [1, replicas, 1, shard].
        """
        if self.kind == "fsdp":
            return np.array(self.ranks).reshape(1, -1, 1, self.shard)
        order = rank_order.parsed(self.order)
        return self.offset + rank_order.grid(order, self.dense_sizes, ("pp", "dp", "cp", "tp"))

    @cached_property
    def expert(self) -> IntArray:
        """Global ranks as [pp, edp, ep, etp], whatever their order; of fsdp as `dense`."""
        if self.kind == "fsdp":
            return self.dense
        if self.etp * self.ep == 1:  # a stage's ranks are all alike, and a dense model has no order
            return self.dense.reshape(self.pp, self.edp, 1, 1)
        order = rank_order.parsed(self.order)
        return self.offset + rank_order.grid(order, self.expert_sizes, ("pp", "dp", "ep", "tp"))

    def layers_per_stage(self, num_layers: int) -> list[int]:
        """[pp * virtual stages]: in the order of the model; stage i is on pipeline rank i % pp.

        Raises:
            UserError: they do not divide, or the listed ones are not as many.
        """
        if self.listed_layers is None:
            return stages.layers_per_stage(
                num_layers,
                self.pp,
                self.virtual_stages,
                self.first_stage_layers,
                self.last_stage_layers,
                self.counts_embedding,
                self.counts_loss,
            )
        if sum(self.listed_layers) != num_layers:
            raise UserError(
                f"{stages.LAYOUT} lists {' + '.join(map(str, self.listed_layers))} ="
                f" {sum(self.listed_layers)} layers, and the model has num_layers={num_layers}"
            )
        return list(self.listed_layers)

    def rank_of_layers(self, num_layers: int) -> IntArray:
        """[num_layers]: the pipeline rank that holds each layer.

        Raises:
            UserError: see `layers_per_stage`.
        """
        counts = self.layers_per_stage(num_layers)
        return np.repeat(np.arange(len(counts)) % self.pp, counts)

    def stage_layers(self, num_layers: int) -> list[list[int]]:
        """[pp] of global layer numbers (from 0), ascending: what each pipeline rank holds.

        With virtual stages they are several runs.

        Raises:
            UserError: see `layers_per_stage`.
        """
        holder = self.rank_of_layers(num_layers)
        return [np.flatnonzero(holder == rank).tolist() for rank in range(self.pp)]

    def describe(self) -> str:
        """`TP=2, PP=1, EP=2`, and what else is not as by default; not how many GPUs."""
        if self.kind == "fsdp":
            return " ".join([f"FSDP={self.shard}"] + [f"as {self.dtype}"] * bool(self.dtype))
        parts = [f"TP={self.tp}", f"PP={self.pp}", f"EP={self.ep}"]
        if self.kind == "engine":
            parts.insert(0, "engine")
        if self.cp > 1:
            parts.append(f"CP={self.cp}")
        if self.etp > 1:
            parts.append(f"ETP={self.etp}")
        if self.virtual_stages > 1:
            parts.append(f"VPP={self.virtual_stages}")
        if self.listed_layers is not None:
            parts.append(f"layers {'+'.join(map(str, self.listed_layers))}")
        if self.order != rank_order.DEFAULT:
            parts.append(f"order {self.order}")
        if self.dtype:
            parts.append(f"as {self.dtype}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Placement:
    """All layouts in the world: whole nodes of `ranks_per_node` ranks; spare ranks are idle.

    Attributes:
        destinations: one or more; a rank is of one of them at most.
        listed: the config has them as a list, which says how they are called.
    """

    source: Layout
    destinations: tuple[Layout, ...]
    ranks_per_node: int
    world: int
    listed: bool = False

    @property
    def destination(self) -> Layout:
        """The only one, for what knows no several."""
        (only,) = self.destinations
        return only

    @property
    def sides(self) -> dict[str, Layout]:
        """The source, then each destination, by their names in the config."""
        names = ("source", *destination_names(len(self.destinations), self.listed))
        return dict(zip(names, (self.source, *self.destinations), strict=True))

    @cached_property
    def destination_numbers(self) -> IntArray:
        """[world]: which of the destinations a rank is of; -1: of none."""
        numbers = np.full(self.world, -1, dtype=np.int64)
        for number, layout in enumerate(self.destinations):
            numbers[layout.offset : layout.ranks.stop] = number
        return numbers

    def destination_of(self, rank: int) -> Layout | None:
        """The destination that a rank is of."""
        number = int(self.destination_numbers[rank])
        return None if number < 0 else self.destinations[number]

    @property
    def receiving_ranks(self) -> list[int]:
        """Of all destinations, ascending."""
        return sorted(rank for layout in self.destinations for rank in layout.ranks)

    @property
    def end(self) -> int:
        """One past the last rank that holds weights: the GPUs that a cluster must have."""
        return max(layout.ranks.stop for layout in self.sides.values())

    @property
    def used(self) -> int:
        """How many ranks hold weights."""
        return len({*self.source.ranks, *self.receiving_ranks})

    @property
    def nodes(self) -> int:
        """Whole nodes of the world, those of idle ranks too."""
        return self.world // self.ranks_per_node

    @property
    def idle(self) -> list[int]:
        """Ranks that join the rendezvous and wait, ascending."""
        sides = [layout.ranks for layout in self.sides.values()]
        return [rank for rank in range(self.world) if not any(rank in side for side in sides)]

    def node_of(self, rank: int) -> int:
        """The number of a global rank's node, from 0."""
        return rank // self.ranks_per_node

    def neighbours(self, rank: int) -> range:
        """The ranks of a rank's node, idle ones too."""
        first = self.node_of(rank) * self.ranks_per_node
        return range(first, first + self.ranks_per_node)

    def header(self) -> list[str]:
        """Lines for a person: how many ranks there are, and which belong to which side.

        Of several destinations each is named by its place in the list, from 0.
        """
        lines = [
            f"World size: {self.world} (using {self.used} GPUs)",
            f"Source ranks: {span(self.source.ranks)} ({self.source.describe()})",
        ]
        for number, layout in enumerate(self.destinations):
            which = f" {number}" if len(self.destinations) > 1 else ""
            lines.append(f"Destination{which} ranks: {span(layout.ranks)} ({layout.describe()})")
        if self.idle:
            lines.append(f"Idle ranks: {span(self.idle)} (not participating)")
        return lines
