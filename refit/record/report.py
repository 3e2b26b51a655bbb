"""What one rank measured, as it hands it to its agent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from refit.record.moved import Moved
from refit.record.parts import Logits
from refit.record.typed import typed

WHOLE_CHECKS = 3
"""Refits whose every element is looked at: the cold one, a timed one, one of changed weights."""


@dataclass(frozen=True)
class FirstWrong:
    """The first tensor that a rank found wrong.

    Attributes:
        after: the refit that left it so, in words.
        refit: the number of that refit, from 0.
    """

    tensor: str
    after: str
    refit: int = 0


@dataclass(frozen=True)
class Span:
    """Start and end on one node's monotonic clock, in seconds.

    Attributes:
        device: seconds between events before and after it on the rank's GPU; None on a CPU.
    """

    start: float
    end: float
    device: float | None = None


@dataclass(frozen=True)
class Copied:
    """Plain copies of this share of the bytes each, timed as refits are."""

    spans: list[Span]
    share: float = 1.0


@dataclass(frozen=True)
class Limits:
    """What was timed beside the refits.

    Attributes:
        memory: within the destination's own memory.
        peers: between the plan's peers; None where `no_peers` says why not.
    """

    memory: Copied
    peers: Copied | None = None
    no_peers: str = ""


@dataclass(frozen=True)
class RankReport:
    """What one rank measured. Idle ranks pass the same barriers; their spans are not counted.

    Attributes:
        active: it holds weights of either side.
        cold_phases, phases: seconds; of the timed iterations the median.
        warm_phases: seconds of each timed iteration; empty in reports of before it was kept.
        elements, mismatches: looked at after the `WHOLE_CHECKS` refits that are looked at whole,
            and wrong there.
        stamps, stamp_mismatches: looked at after the others, and wrong there.
        first: the first wrong one of either.
        source_mismatches: elements of the source that the refits changed, and the first.
        proof_s: seconds that filling, stamping and looking took.
        host_peak_bytes: resident in the process, since it began.
        held_bytes: after each timed refit, of the process and on its device.
        device_peak_bytes: of torch's allocator, from before the cold refit to the last timed one.
        refit_peak_bytes: private memory above what was held before the cold refit.
        dispatcher: of tokens, by the class that this rank's model has; None without experts in it.
        transport: its own words: heap, messages.
        variables: of the environment, those of cluster.env and those that the rank sets itself.
        plans_itself: the transport; then `moved` is what it moved in one refit, if it counts.
    """

    rank: int
    node: int
    active: bool
    cold: Span
    warm: list[Span]
    limits: Limits
    cold_phases: dict[str, float] = field(default_factory=dict)
    phases: dict[str, float] = field(default_factory=dict)
    warm_phases: dict[str, list[float]] = field(default_factory=dict)
    elements: int = 0
    mismatches: int = 0
    stamps: int = 0
    stamp_mismatches: int = 0
    first: FirstWrong | None = None
    source_mismatches: int = 0
    first_of_source: FirstWrong | None = None
    proof_s: float = 0.0
    logits: Logits | None = None
    host_peak_bytes: int = 0
    held_bytes: list[int] = field(default_factory=list)
    device_peak_bytes: int = 0
    refit_peak_bytes: int | None = None
    staging_bytes: int | None = None
    transport: dict[str, int | str] = field(default_factory=dict)
    plans_itself: bool = False
    moved: Moved | None = None
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""
    dispatcher: str | None = None
    variables: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(values: dict[str, Any]) -> RankReport:
        """A report as JSON has it: `asdict` undone."""
        report: RankReport = typed(RankReport, values)
        return report
