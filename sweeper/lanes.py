"""How many of a sweep's jobs run at once: Slurm's own limit is of each array, ours of all. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT = 256  # where cluster.slurm.array_parallelism says nothing, as submitit has it


@dataclass(frozen=True)
class Lane:
    """Arrays that run one after another.

    Attributes:
        at_once: the most jobs of it that run at once.
        shapes: numbers of the shapes whose arrays are in it.
    """

    at_once: int
    shapes: tuple[int, ...]


def lanes(jobs: Sequence[int], at_once: int) -> list[Lane]:
    """Lanes for so many jobs of each shape, which together run at most so many at once.

    A lane of each shape, with its share by the number of jobs, one at least; where there are more
    shapes than may run, they take turns.
    """
    numbers = range(len(jobs))
    taking_turns = [[n for n in numbers if n % at_once == lane] for lane in range(at_once)]
    members = [tuple(lane) for lane in taking_turns if lane]
    wanted = [max(jobs[n] for n in lane) for lane in members]
    return [
        Lane(share, lane) for share, lane in zip(_shares(wanted, at_once), members, strict=True)
    ]


def _shares(wanted: Sequence[int], at_once: int) -> list[int]:
    """One each, and what is left by how many more each wants, the largest remainders first."""
    left = at_once - len(wanted)
    more = [want - 1 for want in wanted]
    if sum(more) <= left:
        return list(wanted)
    exact = [left * want / sum(more) for want in more]
    whole = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda n: whole[n] - exact[n])
    for n in by_remainder[: left - sum(whole)]:
        whole[n] += 1
    return [1 + share for share in whole]
