"""Tensors x layouts -> every block copy of a refit. Pure numpy columns, no communication."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from refit.layout.layout import IntArray, Layout, Placement, Side
from refit.layout.tensors import ITEMSIZE, Catalogue
from refit.plan.arena import Arenas
from refit.plan.fanout import fetchers
from refit.plan.givers import choose
from refit.plan.holders import Holders
from refit.plan.pieces import Pieces, pieces
from refit.plan.plan import Plan, block_numbers
from refit.plan.wants import Wants, Ways


def build_plan(
    catalogue: Catalogue,
    placement: Placement,
    fanout: str = "direct",
    travels: NDArray[np.bool_] | None = None,
    cast_at: Sequence[Side] = (),
) -> Plan:
    """Every block copy, each with exactly one source.

    Rows are ordered by destination, family, layer, expert, piece, replica. The source of a block is
    the rank itself that wants it if it has it, else a replica on its node, else any replica. Among
    several, sets of holders are filled one after another, experts first, each to a level in bytes:
    the least loaded replica gets the next blocks, receiver after receiver and each one's in the
    order in which they lie (`refit.plan.arena`), so that each rank talks to few peers, in few runs.
    The level is met within one block per replica; equal loads go to the lower rank. Several
    destinations are planned together: a rank's load is what it sends to all.

    With `fanout="hierarchical"`, where several ranks of a node want a block that no rank of the
    node holds, one of them fetches it and is the source of the others (`refit.plan.fanout`), so
    that each block crosses the network once per destination node; once for each destination that
    has ranks there, whose cut may be another.

    Args:
        travels: [tensors] of bool, by tensor id: which are moved; None: all.
        cast_at: by destination, the side that casts where its dtype differs from the source's; the
            other's dtype travels. Empty: each destination.

    Raises:
        UserError: a tensor does not divide over a layout (`refit.rules.layout` finds that first).
    """
    holders = Holders(placement)
    source_side, destinations = placement.source, placement.destinations
    cast_at = cast_at or ["destination"] * len(destinations)
    wire = tuple(
        layout if at == "source" else source_side
        for layout, at in zip(destinations, cast_at, strict=True)
    )
    boxes: list[Pieces] = []
    tables: list[Wants] = []
    first_piece = first_group = 0
    for destination_side, in_dtype in zip(destinations, wire, strict=True):
        ways = Ways(
            catalogue.num_layers, source_side, destination_side, holders, in_dtype, travels,
            first_group,
        )  # fmt: skip
        first_group += ways.groups
        for family in catalogue.families:
            boxes.append(pieces(family.cut(source_side), family.cut(destination_side)))
            tables.append(ways.wants(family, boxes[-1], first_piece))
            first_piece += len(boxes[-1])
    wants, geometry = Wants.joined(tables), Pieces.joined(boxes)
    del tables
    destination = wants.destination
    tensor, piece, nbytes, holder_set = map(
        wants.of_rows, (wants.tensor, wants.piece, wants.nbytes, wants.holder_set)
    )
    relayed, wire_bytes = np.zeros(len(tensor), dtype=bool), nbytes
    if fanout == "hierarchical":
        rows, fetcher = _fetched(wants, geometry, placement, holders)
        relayed[rows] = fetcher != destination[rows]
    place = Arenas(catalogue, placement).position[wants.tensor]
    source = choose(placement, holders, wants, place, relayed if relayed.any() else None)
    if relayed.any():
        source[rows] = np.where(relayed[rows], fetcher, source[rows])
        if placement.source.casts:  # what is passed on has been cast
            numbers = placement.destination_numbers[destination]
            stored = _stored_bytes(catalogue, placement, tensor, numbers, nbytes, wire)
            nbytes = np.where(relayed, stored, nbytes)
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
        wire_bytes=wire_bytes,
        holders=holders,
        holder_set=holder_set,
        relayed=relayed,
        wire=wire,
    )


def _fetched(
    wants: Wants, geometry: Pieces, placement: Placement, holders: Holders
) -> tuple[IntArray, IntArray]:
    """The rows that another rank of the node may pass on, and the rank that fetches each.

    They are those of blocks that no rank of a node holds and several want there.
    """
    if not len(wants):
        return wants.first, wants.first
    number = block_numbers(geometry, wants.tensor, wants.holder_set, wants.piece)
    # who passes it on has it in the same shard of the same destination's cut
    shards = geometry.destination_shard[wants.piece]
    number = number * (1 + shards.max(initial=0)) + shards
    numbers = placement.destination_numbers[wants.destination[wants.first]]
    number = number * len(placement.destinations) + numbers
    rows, block = _shared(wants, number, placement.ranks_per_node)
    node = wants.destination[rows] // placement.ranks_per_node
    away = ~holders.on_node[wants.holder_set[block], node]
    rows, block, node = rows[away], block[away], node[away]
    rank = wants.destination[rows]
    return rows, fetchers(number[block], node, rank, wants.nbytes[block])


def _shared(wants: Wants, number: IntArray, ranks_per_node: int) -> tuple[IntArray, IntArray]:
    """Rows of blocks that several ranks of a node may want, in order; and the block of each.

    Args:
        number: [blocks], equal for what is one block to who passes it on.
    """
    _, which, times = np.unique(number, return_inverse=True, return_counts=True)
    again = times[which.reshape(-1)] > 1  # more ranks may want it than those of its group
    order = np.argsort(wants.group, kind="stable")
    first = np.flatnonzero(np.diff(wants.group[order], prepend=-1))
    found = []
    for blocks in np.split(order, first[1:]):
        node = wants.receivers(blocks[0]) // ranks_per_node
        on_node = np.bincount(node)[node]
        for these, within in (
            (blocks[~again[blocks]], np.flatnonzero(on_node > 1)),
            (blocks[again[blocks]], np.arange(len(node))),
        ):
            rows = wants.first[these][:, None] + within
            found.append(np.stack([rows, np.broadcast_to(these[:, None], rows.shape)]))
    both = np.concatenate([each.reshape(2, -1) for each in found], axis=1)
    return tuple(both[:, np.argsort(both[0])])


def _stored_bytes(
    catalogue: Catalogue,
    placement: Placement,
    tensor: IntArray,
    numbers: IntArray,
    nbytes: IntArray,
    wire: tuple[Layout, ...],
) -> IntArray:
    """[copies]: bytes of blocks as their destination stores them, of those as they travel.

    Args:
        numbers: [copies], of the destinations.
    """
    stored, sent = (
        np.array([[ITEMSIZE[f.dtype_on(side.dtype)] for f in catalogue.families] for side in sides])
        for sides in (placement.destinations, wire)
    )
    family = np.searchsorted(catalogue.bases, tensor, side="right") - 1
    return nbytes // sent[numbers, family] * stored[numbers, family]
