"""Times that another program wrote down, as a part of a record: seen by nobody here, not proven."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Imported:
    """What a log says of the refits of a training run.

    Attributes:
        source: the metric's name, as its program has it.
        file: that it was read from.
        seconds: of each refit, in the file's order; where ranks report, of the slowest.
        median: of `seconds`.
        cold: of the refit that its program calls cold; null where none is.
        stages: seconds by the program's own names, medians; null where it has no stages.
        bytes: that its program says all ranks received in a refit, the median; null where it says
            nothing.
    """

    source: str
    file: str
    seconds: list[float]
    median: float
    cold: float | None = None
    stages: dict[str, float] | None = None
    bytes: int | None = None
