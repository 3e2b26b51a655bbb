"""What one rank needs to know of a plan: its own copies, and what it asks of all others'. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np

from refit.layout.layout import IntArray
from refit.plan.copies import Copies, Rows
from refit.plan.peers import Pair, pairs
from refit.plan.plan import Plan


@dataclass(frozen=True)
class Part:
    """One rank's part of a plan.

    Attributes:
        hops: as of the plan, of each the copies that the rank gives or receives, in plan order.
        cross_node_bytes: of the whole plan.
        pairs: of the whole plan; of one that crosses nodes none, as nobody asks for them.
    """

    hops: tuple[Copies, ...]
    cross_node_bytes: int
    pairs: tuple[Pair, ...]


def parts(plan: Plan, ranks: Iterable[int]) -> Iterator[Part]:
    """The part of each of these ranks."""
    cross_node_bytes = plan.cross_node_bytes
    between = () if cross_node_bytes else tuple(pairs(plan))
    of_hops = [
        (hop, _by_rank(hop.source, hop), _by_rank(hop.destination, hop)) for hop in plan.hops
    ]
    for rank in ranks:
        own = (
            _chosen(hop, np.union1d(given[rank], received[rank]))
            for hop, given, received in of_hops
        )
        yield Part(tuple(own), cross_node_bytes, between)


def _by_rank(ends: IntArray, rows: Rows) -> list[IntArray]:
    """Of each rank of the world the rows that end there, in any order."""
    order = np.argsort(ends)
    starts = np.searchsorted(ends[order], np.arange(1, rows.placement.world))
    return np.split(order, starts)


def _chosen(copies: Copies, rows: IntArray) -> Copies:
    """The same of some rows alone."""
    columns = {
        field.name: getattr(copies, field.name)[rows]
        for field in fields(copies)
        if isinstance(getattr(copies, field.name), np.ndarray)
    }
    return replace(copies, **columns)
