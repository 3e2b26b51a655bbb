"""Why jobs wait, in Slurm's words, and which of these reasons no waiting ends. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

FOREVER: Mapping[str, str] = {
    r"PartitionTimeLimit": "cluster.slurm.time is more than its partition allows",
    r"PartitionNodeLimit|Max\w*NodePerJob\w*": "it needs more nodes than it may have",
    r"PartitionConfig|BadConstraints": "its partition takes no such job",
    r"DependencyNeverSatisfied": "what it depends on did not end so",
    r"JobHeld\w+|JobHoldMaxRequeue|.*requeued held": "it is held; scontrol release lets it go",
    r"\w*Max\w+PerJob\w*|QOSMin\w+": "it asks for more than its account or QOS may have",
    r"InvalidAccount|InvalidQOS|AccountNotAllowed|QOSNotAllowed": "it may not run in its partition",
    r"ReservationDeleted": "its reservation is gone",
    r"DeadLine": "its deadline has passed",
}
"""What squeue gives as the reason of a job that cannot start as it is, and what that means."""

NONE_YET = frozenset(("", "None"))  # Slurm has not looked at the job


def forever(reason: str) -> str | None:
    """What a reason means that no waiting ends; None for all others."""
    word = reason.strip("()").replace("_", " ")
    return next((why for pattern, why in FOREVER.items() if re.fullmatch(pattern, word)), None)


@dataclass(frozen=True)
class Waiting:
    """Jobs that wait for one reason."""

    reason: str
    slurm_ids: tuple[str, ...]

    @property
    def is_forever(self) -> bool:
        """Whether they cannot start as they are."""
        return forever(self.reason) is not None

    def __str__(self) -> str:
        first, *rest = self.slurm_ids
        who = f"job {first}" + (f" and {len(rest)} more" if rest else "")
        if why := forever(self.reason):
            cancel = " ".join(dict.fromkeys(i.split("_")[0] for i in self.slurm_ids))
            return (
                f"WARNING: {who} cannot start as asked for: {self.reason}: {why};"
                f" scancel {cancel} and ask for something else"
            )
        return f"{who} waits: {self.reason}"


def waiting(reasons: Iterable[tuple[str, str]]) -> list[Waiting]:
    """Jobs by why they wait; those that Slurm has not looked at are left out.

    Args:
        reasons: a pending job's id, and what Slurm says.
    """
    alike: dict[str, list[str]] = {}
    for slurm_id, reason in reasons:
        if reason not in NONE_YET:
            alike.setdefault(reason, []).append(slurm_id)
    return [Waiting(reason, tuple(ids)) for reason, ids in alike.items()]
