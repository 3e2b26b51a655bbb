"""Tensors x layouts -> every block copy of a refit. Pure numpy columns, no communication."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from refit.layout.layout import IntArray, Placement
from refit.layout.tensors import Catalogue, Family
from refit.plan.fanout import fetchers
from refit.plan.holders import Holders
from refit.plan.plan import Plan, block_number


def build_plan(
    catalogue: Catalogue,
    placement: Placement,
    fanout: str = "direct",
    travels: NDArray[np.bool_] | None = None,
) -> Plan:
    """Every block copy, each with exactly one source.

    Rows are ordered by family, layer, expert, piece, replica. The source of a block is its
    destination itself if it has it, else a replica on its node, else any replica. Among several,
    sets of holders are filled one after another, experts first, each to a level in bytes: the least
    loaded replica gets the next blocks, in runs of neighbouring destinations, so that each rank
    talks to few peers. The level is met within one block per replica; equal loads go to the lower
    rank.

    With `fanout="hierarchical"`, where several ranks of a node want a block that no rank of the
    node holds, one of them fetches it and is the source of the others (`refit.plan.fanout`), so
    that each block crosses the network once per destination node.

    Args:
        travels: [tensors] of bool, by tensor id: which are moved; None: all.

    Raises:
        UserError: a tensor does not divide over a layout (`refit.rules.layout` finds that first).
    """
    holders = Holders(placement)
    tables = [
        _copies(family, catalogue.num_layers, placement, holders) for family in catalogue.families
    ]
    columns = [np.concatenate(column) for column in zip(*tables, strict=True)]
    if travels is not None:
        rows = np.flatnonzero(travels[columns[0]])
        columns = [column[rows] for column in columns]
    tensor, destination, source_start, destination_start, length, nbytes, holder_set = columns
    source = destination.copy()
    if fanout == "hierarchical":
        node = destination // placement.ranks_per_node
        away = np.flatnonzero(~holders.on_node[holder_set, node])
        block = block_number(tensor[away], holder_set[away], source_start[away])
        source[away] = fetchers(block, node[away], destination[away], nbytes[away])
    relayed = source != destination
    direct = ~relayed  # from a holder
    source[direct] = holders.choose(holder_set[direct], destination[direct], nbytes[direct])
    return Plan(
        catalogue=catalogue,
        placement=placement,
        tensor=tensor,
        source=source,
        destination=destination,
        source_start=source_start,
        destination_start=destination_start,
        length=length,
        nbytes=nbytes,
        holders=holders,
        holder_set=holder_set,
        relayed=relayed,
    )


def _copies(
    family: Family, num_layers: int, placement: Placement, holders: Holders
) -> list[IntArray]:
    """The family's rows without their sources: layers x experts x pieces x replicas."""
    source, destination = placement.source, placement.destination
    index, source_stage, destination_stage = _slots(family, num_layers, placement)
    expert = np.arange(max(1, family.num_experts))
    source_ep = expert // max(1, family.num_experts // source.ep)
    destination_ep = expert // max(1, family.num_experts // destination.ep)
    source_shard, destination_shard, source_start, destination_start, length = _pieces(
        family, family.shards(source), family.shards(destination)
    )
    # every array below is [slots, experts, pieces, replicas], or broadcasts to it
    stage = destination_stage[:, None, None]
    if family.grid == "expert" and family.axis is not None:
        ranks = destination.expert[
            stage, :, destination_ep[None, :, None], destination_shard[None, None, :]
        ]
    elif family.grid == "expert":
        ranks = destination.expert[stage, :, destination_ep[None, :, None], :]
    elif family.axis is not None:
        ranks = destination.dense[stage, :, :, destination_shard[None, None, :]]
    else:
        ranks = destination.dense[stage]
    ranks = ranks.reshape(len(index), len(expert), len(length), -1)
    tensor = family.base + index[:, None] * len(expert) + expert
    sets = holders.set_id(
        family, source_stage[:, None, None], source_ep[None, :, None], source_shard[None, None, :]
    )
    columns = [
        tensor[:, :, None, None],
        ranks,
        source_start[:, None],
        destination_start[:, None],
        length[:, None],
        (length * family.bytes_per_index)[:, None],
        sets[..., None],
    ]
    return [np.broadcast_to(c, ranks.shape).ravel() for c in columns]


def _slots(
    family: Family, num_layers: int, placement: Placement
) -> tuple[IntArray, IntArray, IntArray]:
    """Where the family's tensors live.

    Returns:
        index in the family, source stage, destination stage, each [slots].
    """
    source, destination = placement.source, placement.destination
    if family.layers:
        layers = np.array(family.layers)
        stages = [side.rank_of_layers(num_layers)[layers] for side in (source, destination)]
        return np.arange(len(layers)), stages[0], stages[1]
    ends = {"first": [0], "last": [destination.pp - 1], "both": sorted({0, destination.pp - 1})}[
        family.stage
    ]
    from_stage = source.pp - 1 if family.stage == "last" else 0
    return np.zeros(len(ends), np.int64), np.full(len(ends), from_stage), np.array(ends)


def _pieces(family: Family, source_shards: int, destination_shards: int) -> tuple[IntArray, ...]:
    """Cut an axis at every boundary of both sides.

    Returns:
        source shard, destination shard, start in each, length; each [pieces].
    """
    sources, destinations = (
        [(shard, *segment) for shard in range(count) for segment in family.segments(count, shard)]
        for count in (source_shards, destination_shards)
    )
    rows = []
    for (d, d_whole, d_local, d_length), (s, s_whole, s_local, s_length) in product(
        destinations, sources
    ):
        start, stop = max(d_whole, s_whole), min(d_whole + d_length, s_whole + s_length)
        if start < stop:
            starts = s_local + start - s_whole, d_local + start - d_whole
            rows.append((s, d, *starts, stop - start))
    return tuple(np.array(rows, dtype=np.int64).T)
