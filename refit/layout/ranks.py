"""The ranks that sides stand on: where each begins, which they share, how they are written."""

from __future__ import annotations

from collections.abc import Iterable

from refit.errors import UserError
from refit.job import Degrees


def span(ranks: Iterable[int]) -> str:
    """`0-3`, `4` for a single rank, `0-3, 8-15` where there are holes.

    Args:
        ranks: ascending.
    """
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and runs[-1][-1] == rank - 1:
            runs[-1][1:] = [rank]
        else:
            runs.append([rank])
    return ", ".join("-".join(map(str, run)) for run in runs)


def shared(source: range, destination: range) -> range:
    """The ranks of both sides."""
    start = max(source.start, destination.start)
    return range(start, max(start, min(source.stop, destination.stop)))


def first_rank(degrees: Degrees, default: int, per_node: int) -> int:
    """Where a side starts that would start at `default`.

    Raises:
        UserError: it says a negative rank, or two that contradict each other.
    """
    start = default if degrees.offset is None else degrees.offset
    if start < 0:
        raise UserError(f"offset={start}: the first rank must be 0 or more")
    aligned = -(-start // per_node) * per_node
    if not degrees.node_aligned:
        return start
    if degrees.offset is not None and aligned != start:
        raise UserError(
            f"offset={start} is not a node's first rank, which node_aligned=true asks for; nodes"
            f" have {per_node} ranks: use offset={aligned}, or leave out one of the two"
        )
    return aligned


def misplaced(source: range, destination: range, collocated: bool, called: str) -> str:
    """Why two sides cannot stand where they do, and what to do.

    Args:
        called: the destination, in the config.
    """
    where = f"source {span(source)}, destination {span(destination)}"
    if collocated:
        return (
            f"collocated sides share ranks, and these share none ({where}); use"
            f" parallel.{called}.offset={source.start}, or refit.mode=non-collocated"
        )
    both = span(shared(source, destination))
    name, start = called, source.stop
    if destination.start < source.start:
        name, start = "source", destination.stop
    return (
        f"non-collocated sides share no rank, and these share {both} ({where}); use"
        f" parallel.{name}.offset={start}, or refit.mode=collocated"
    )


def overlapping(name: str, ranks: range, other: str, taken: range, free: int) -> str:
    """Why a destination cannot stand on ranks of another side, and what to do.

    Args:
        free: an offset that works.
    """
    return (
        f"parallel.{name} stands on ranks {span(ranks)} and parallel.{other} on {span(taken)}: a"
        f" rank is of one destination at most, and of the source too only where they are"
        f" collocated; use parallel.{name}.offset={free}"
    )


def apart(source: range, destinations: list[range]) -> str:
    """Why several destinations are not collocated with their source, and what to do."""
    where = ", ".join(span(ranks) for ranks in destinations)
    return (
        f"collocated sides share ranks, and of the destinations ({where}) none shares any with the"
        f" source ({span(source)}); use parallel.destinations[0].offset={source.start}, or"
        " refit.mode=non-collocated"
    )
