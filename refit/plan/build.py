"""Tensors x layouts -> every block copy of a refit. Pure numpy columns, no communication."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refit.layout.layout import IntArray, Layout, Placement, Side
from refit.layout.tensors import ITEMSIZE, Catalogue, Family
from refit.plan.fanout import fetchers
from refit.plan.holders import Holders
from refit.plan.pieces import Pieces, pieces
from refit.plan.plan import Plan, block_numbers


def build_plan(
    catalogue: Catalogue,
    placement: Placement,
    fanout: str = "direct",
    travels: NDArray[np.bool_] | None = None,
    cast_at: Side = "destination",
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
        cast_at: the side that casts where the sides' dtypes differ; the other's dtype travels.

    Raises:
        UserError: a tensor does not divide over a layout (`refit.rules.layout` finds that first).
    """
    holders = Holders(placement)
    wire = placement.destination if cast_at == "source" else placement.source
    boxes = [
        pieces(family.cut(placement.source), family.cut(placement.destination))
        for family in catalogue.families
    ]
    first_piece = np.cumsum([0, *(len(of_family) for of_family in boxes)])
    tables = [
        _copies(family, of_family, first, catalogue.num_layers, placement, holders, wire)
        for family, of_family, first in zip(catalogue.families, boxes, first_piece, strict=False)
    ]
    columns = [np.concatenate(column) for column in zip(*tables, strict=True)]
    if travels is not None:
        rows = np.flatnonzero(travels[columns[0]])
        columns = [column[rows] for column in columns]
    tensor, destination, piece, nbytes, holder_set = columns
    geometry = Pieces.joined(boxes)
    source = destination.copy()
    if fanout == "hierarchical":
        node = destination // placement.ranks_per_node
        away = np.flatnonzero(~holders.on_node[holder_set, node])
        block = block_numbers(geometry, tensor[away], holder_set[away], piece[away])
        # who passes it on has it in the same shard of the destination's cut
        shards = geometry.destination_shard[piece[away]]
        block = block * (1 + shards.max(initial=0)) + shards
        source[away] = fetchers(block, node[away], destination[away], nbytes[away])
    relayed = source != destination
    direct = ~relayed  # from a holder
    if relayed.any() and placement.source.casts:  # what is passed on has been cast
        stored = _stored_bytes(catalogue, placement, tensor, nbytes, wire)
        nbytes = np.where(relayed, stored, nbytes)
    source[direct] = holders.choose(holder_set[direct], destination[direct], nbytes[direct])
    if (geometry.box != np.arange(len(geometry))).any():
        giver = np.where(relayed, -1, holders.shard_of(catalogue, tensor, source))
        piece = geometry.given_by(piece, giver)
    return Plan(
        catalogue=catalogue,
        placement=placement,
        pieces=geometry,
        tensor=tensor,
        source=source,
        destination=destination,
        piece=piece,
        nbytes=nbytes,
        holders=holders,
        holder_set=holder_set,
        relayed=relayed,
        wire=wire,
    )


def _stored_bytes(
    catalogue: Catalogue, placement: Placement, tensor: IntArray, nbytes: IntArray, wire: Layout
) -> IntArray:
    """[copies]: bytes of blocks as the destination stores them, of those as they travel."""
    stored, sent = (
        np.array([ITEMSIZE[family.dtype_on(side.dtype)] for family in catalogue.families])
        for side in (placement.destination, wire)
    )
    family = np.searchsorted(catalogue.bases, tensor, side="right") - 1
    return nbytes // sent[family] * stored[family]


def _copies(
    family: Family,
    boxes: Pieces,
    first_piece: int,
    num_layers: int,
    placement: Placement,
    holders: Holders,
    wire: Layout,
) -> list[IntArray]:
    """The family's rows without their sources: layers x experts x boxes x replicas.

    Returns:
        tensor, destination, piece, nbytes, holder set.
    """
    source, destination = placement.source, placement.destination
    index, source_stage, destination_stage = _slots(family, num_layers, placement)
    expert = np.arange(max(1, family.num_experts))
    source_ep = expert // max(1, family.num_experts // source.ep)
    destination_ep = expert // max(1, family.num_experts // destination.ep)
    piece = np.unique(boxes.box)  # the first of each box
    shard = boxes.destination_shard[piece]
    length, whole = boxes.length[piece], np.array([*family.shape, 1])
    # every array below is [slots, experts, boxes, replicas], or broadcasts to it
    stage, ep, shard = np.broadcast_arrays(
        destination_stage[:, None, None], destination_ep[None, :, None], shard[None, None, :]
    )
    is_cut = family.is_cut(destination)
    if family.grid == "expert":
        ranks = destination.expert[stage, :, ep, shard if is_cut else slice(None)]
    else:
        ranks = destination.dense[stage, :, :, shard if is_cut else slice(None)]
    ranks = ranks.reshape(*stage.shape, ranks.size // max(1, stage.size))
    tensor = family.base + index[:, None] * len(expert) + expert
    sets = holders.set_ids(
        family, source_stage[:, None, None], source_ep[None, :, None], boxes.givers
    )
    elements = family.elements // whole[boxes.axis[piece]].prod(1) * length.prod(1)
    columns = [
        tensor[:, :, None, None],
        ranks,
        (first_piece + piece)[:, None],
        (elements * ITEMSIZE[family.dtype_on(wire.dtype)])[:, None],
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
    ends = family.ends_on(destination)
    from_stage = family.ends_on(source)[0]
    return np.zeros(len(ends), np.int64), np.full(len(ends), from_stage), np.array(ends)
