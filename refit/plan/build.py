"""Tensors x layouts -> every block copy of a refit. Pure numpy columns, no communication."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refit.layout.layout import IntArray, Layout, Placement, Side
from refit.layout.tensors import ITEMSIZE, Catalogue, Family
from refit.plan.arena import Arenas
from refit.plan.fanout import fetchers
from refit.plan.holders import Holders
from refit.plan.pieces import Pieces, pieces
from refit.plan.plan import Plan, block_numbers


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
    tables: list[list[IntArray]] = []
    first_piece = 0
    for destination_side, in_dtype in zip(destinations, wire, strict=True):
        ways = _Ways(catalogue.num_layers, source_side, destination_side, holders, in_dtype)
        for family in catalogue.families:
            boxes.append(pieces(family.cut(source_side), family.cut(destination_side)))
            tables.append(ways.copies(family, boxes[-1], first_piece))
            first_piece += len(boxes[-1])
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
        # who passes it on has it in the same shard of the same destination's cut
        shards = geometry.destination_shard[piece[away]]
        block = block * (1 + shards.max(initial=0)) + shards
        numbers = placement.destination_numbers[destination[away]]
        block = block * len(destinations) + numbers
        source[away] = fetchers(block, node[away], destination[away], nbytes[away])
    relayed = source != destination
    direct, wire_bytes = ~relayed, nbytes  # direct: from a holder
    if placement.source.casts:  # what is passed on has been cast
        numbers = placement.destination_numbers[destination]
        stored = _stored_bytes(catalogue, placement, tensor, numbers, nbytes, wire)
        nbytes = np.where(relayed, stored, nbytes)
    place = Arenas(catalogue, placement).position[tensor]
    source[direct] = holders.choose(*(c[direct] for c in (holder_set, destination, nbytes, place)))
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


@dataclass(frozen=True)
class _Ways:
    """From the source to one destination."""

    num_layers: int
    source: Layout
    destination: Layout
    holders: Holders
    wire: Layout

    def copies(self, family: Family, boxes: Pieces, first_piece: int) -> list[IntArray]:
        """The family's rows without their sources: layers x experts x boxes x replicas.

        Returns:
            tensor, destination, piece, nbytes, holder set.
        """
        source, destination = self.source, self.destination
        index, source_stage, destination_stage = self._slots(family)
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
        sets = self.holders.set_ids(
            family, source_stage[:, None, None], source_ep[None, :, None], boxes.givers
        )
        elements = family.elements // whole[boxes.axis[piece]].prod(1) * length.prod(1)
        columns = [
            tensor[:, :, None, None],
            ranks,
            (first_piece + piece)[:, None],
            (elements * ITEMSIZE[family.dtype_on(self.wire.dtype)])[:, None],
            sets[..., None],
        ]
        return [np.broadcast_to(c, ranks.shape).ravel() for c in columns]

    def _slots(self, family: Family) -> tuple[IntArray, IntArray, IntArray]:
        """Where the family's tensors live.

        Returns:
            index in the family, source stage, destination stage, each [slots].
        """
        sides = self.source, self.destination
        if family.layers:
            layers = np.array(family.layers)
            stages = [side.rank_of_layers(self.num_layers)[layers] for side in sides]
            return np.arange(len(layers)), stages[0], stages[1]
        ends = np.array(family.ends_on(self.destination), dtype=np.int64)
        if family.copy_of and self.destination.tied:  # it has the original, in the same storage
            ends = ends[:0]
        return np.zeros_like(ends), np.full_like(ends, family.ends_on(self.source)[0]), ends
