"""What the points of one sweep must agree on: the sweep's settings, and one job per identity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from refit.errors import UserError
from refit.job import Job
from refit.record.point import Point


@dataclass(frozen=True)
class Settings:
    """The settings below `sweep` that are of the whole sweep; `refit.job.Sweep` says what each is.

    The others (exclude, repeat, repetition) say which points there are.
    """

    mode: str
    dry_run: bool
    interleave: bool
    wait: bool
    here: bool
    pack: int
    max_attempts: int
    snapshot: bool

    @staticmethod
    def of(jobs: Sequence[Job]) -> Settings:
        """The settings of a sweep, read once.

        Raises:
            UserError: two points disagree; the text names the setting.
        """
        values: dict[str, Any] = {}
        for field in fields(Settings):
            requested = list(dict.fromkeys(getattr(job.sweep, field.name) for job in jobs))
            if len(requested) > 1:
                words = " and ".join(_word(value) for value in requested)
                raise UserError(
                    f"sweep.{field.name} is of the whole sweep, and its points say {words}; give it"
                    " one value, or make it a sweep for each"
                )
            (values[field.name],) = requested
        return Settings(**values)


# Names and texts make no other job: a point of two names is run once, by the first of them.
NAMES = frozenset(
    ("model.name", "parallel.name", "parallel.use_case", "parallel.model", "refit.name")
)


def differing(one: Job, other: Job) -> list[str]:
    """The fields in which two jobs differ, `cluster.slurm.partition` say; names are none.

    Nor is ETP without experts, which says nothing there.
    """
    a, b = (dict(_flat(_meant(job).to_dict())) for job in (one, other))
    return [n for n in dict.fromkeys([*a, *b]) if n not in NAMES and a.get(n) != b.get(n)]


def _meant(job: Job) -> Job:
    """The job without what has no meaning for its model."""
    if job.model.is_moe:
        return job
    pair = job.parallel
    sides = {name: replace(getattr(pair, name), etp=None) for name in ("source", "destination")}
    listed = pair.destinations and [replace(side, etp=None) for side in pair.destinations]
    return replace(job, parallel=replace(pair, **sides, destinations=listed))


def check_one_job(first: Point, second: Point) -> None:
    """Check that two points of one identity are one job.

    Raises:
        UserError: they are not; one of them would be dropped, and the record of the other would
            stand for it. The text names what differs.
    """
    names = differing(first.job, second.job)
    if not names:
        return
    one, other = (dict(_flat(point.job.to_dict())) for point in (first, second))
    pairs = ", ".join(f"{n} ({_word(one.get(n))} and {_word(other.get(n))})" for n in names)
    raise UserError(
        f"two points of this sweep differ in {pairs}, which is no part of a point's identity: both"
        f" would be {first.name}, with one record; give it one value, or make it a sweep for each,"
        " with a hydra.sweep.dir of its own"
    )


def _flat(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every field by its dotted name, `cluster.slurm.partition` say, and its value."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _word(value: Any) -> str:
    """A value as the command line has it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
