"""The ten rows of the eight-GPU table as it was written down, for tests to hold the options to."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """Degrees of both sides as (TP, EP), GPUs used and left idle, and what the row is for."""

    source: tuple[int, int]
    destination: tuple[int, int]
    used: int
    idle: int
    use_case: str


NUMBERED = {
    "noncollocated_1": Row((2, 2), (2, 1), 6, 2, "Test EP refit"),
    "noncollocated_2": Row((2, 2), (2, 2), 8, 0, "Full utilization"),
    "noncollocated_3": Row((4, 1), (2, 1), 6, 2, "Test TP refit"),
    "noncollocated_4": Row((2, 1), (1, 1), 3, 5, "Minimal test"),
    "noncollocated_5": Row((4, 1), (4, 1), 8, 0, "TP-only, full use"),
    "noncollocated_6": Row((1, 4), (1, 2), 6, 2, "EP-only refit"),
    "collocated_1": Row((4, 2), (2, 4), 8, 0, "TP<->EP swap"),
    "collocated_2": Row((8, 1), (4, 2), 8, 0, "High TP -> balanced"),
    "collocated_3": Row((4, 2), (4, 1), 8, 0, "Scale down"),
    "collocated_4": Row((2, 2), (2, 1), 4, 4, "Small models"),
}
ROWS = {
    "{}_tp{}ep{}_to_tp{}ep{}".format(name, *row.source, *row.destination): row
    for name, row in NUMBERED.items()
}
"""By the option's name."""


def mode(name: str) -> str:
    """The placement that an option's name says."""
    return "non-collocated" if name.startswith("non") else "collocated"
