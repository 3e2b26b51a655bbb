"""Does a point fit this node's memory? Asked before any rank starts. Torch-free."""

from __future__ import annotations

from pathlib import Path

from refit.layout import Layout, Placement
from refit.tensors import Catalogue


def weight_bytes(catalogue: Catalogue, layout: Layout, ranks: range) -> int:
    """Bytes of the weights that some ranks hold of one side."""
    return sum(s.nbytes for rank in ranks for s in catalogue.held_by(layout, rank))


def shortage(catalogue: Catalogue, placement: Placement, node: int) -> str | None:
    """Why the weights of one node's CPU ranks do not fit its memory, or None."""
    per_node = placement.ranks_per_node
    ranks = range(node * per_node, (node + 1) * per_node)
    source = weight_bytes(catalogue, placement.source, ranks)
    destination = weight_bytes(catalogue, placement.destination, ranks)
    free = available()
    if free is not None and source + destination > free:
        return (
            f"needs {(source + destination) / 1e9:.2f} GB of memory"
            f" (source {source / 1e9:.2f} + destination {destination / 1e9:.2f}),"
            f" {free / 1e9:.2f} GB is available;"
            " use a smaller model (model.num_layers=...) or a machine with more"
        )
    return None


def available() -> int | None:
    """Bytes of memory that new processes can have; None where the system does not say."""
    kilobytes = _field(Path("/proc/meminfo"), "MemAvailable:")
    return None if kilobytes is None else kilobytes * 1024


def oom_kills() -> int:
    """How many processes this kernel has killed for memory since boot; 0 where it does not say."""
    return _field(Path("/proc/vmstat"), "oom_kill") or 0


def _field(file: Path, name: str) -> int | None:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.split()[0] == name), None)
