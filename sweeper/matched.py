"""Which points of two results belong together: by identity, less what was varied. Pure."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from refit.errors import UserError
from refit.job import Job
from refit.record.point import affecting
from refit.record.record import Record

Fields = Mapping[str, str]
"""What affects a result: each field by its dotted name, and its value as JSON."""

BY = {
    "method": ("refit", "refit.method"),
    "refit": ("refit", "refit.name"),
    "model": ("model", "model.name"),
    "parallel": ("parallel", "parallel.name"),
    "cluster": ("cluster", "cluster.name"),
}
"""What may be said in place of a field: the group that it varies, and the field that names it."""


TELLING = ("refit.method", "imported", "mode")
"""Of the fields that differ, the one that says most."""


@dataclass(frozen=True)
class Group:
    """The repetitions of one point.

    Attributes:
        fields: what they have in common; without the repetition.
    """

    fields: Fields
    records: tuple[Record, ...]


@dataclass(frozen=True)
class Pair:
    """One point before and after.

    Attributes:
        change: what was varied, `gloo -> ipc` say; empty where nothing was.
    """

    before: Group
    after: Group
    change: str = ""

    @property
    def differing(self) -> list[str]:
        """The fields that are not alike."""
        one, other = self.before.fields, self.after.fields
        return sorted(n for n in {*one, *other} if one.get(n) != other.get(n))


@dataclass(frozen=True)
class Matches:
    """What was found.

    Attributes:
        new, gone: on one side alone.
        unclear: why points that are alike were not paired.
    """

    pairs: list[Pair]
    new: list[Group]
    gone: list[Group]
    unclear: list[str]


def described(record: Record) -> Fields:
    """What affects a record's result; of a config that is no job the record's id alone.

    So it is of imported times, of which nobody said the model.
    """
    try:
        values = affecting(Job.from_dict(record.config))
    except (UserError, TypeError, KeyError, AttributeError):
        return {"id": record.id}
    values.pop("repetition", None)
    fields = dict(_flat(values))
    if record.imported is not None:
        fields["imported"] = record.imported.source
    return fields


def _flat(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", json.dumps(value, sort_keys=True)


def groups(records: Sequence[Record]) -> list[Group]:
    """Each point once, with all of its repetitions."""
    alike: dict[tuple[tuple[str, str], ...], list[Record]] = defaultdict(list)
    for record in records:
        alike[tuple(sorted(described(record).items()))].append(record)
    return [Group(dict(fields), tuple(found)) for fields, found in alike.items()]


def two(before: Sequence[Group], after: Sequence[Group], by: str | None = None) -> Matches:
    """Pair the points of two results.

    Args:
        by: a field, or a key of `BY`, in which pairs may differ; None: the fields of which the
            two have no value in common.

    Raises:
        UserError: there is no such field.
    """
    varied = _between(before, after) if by is None else _by(by, [*before, *after])[1]
    sides = [_by_rest(side, varied) for side in (before, after)]
    whole = Matches([], [], [], [])
    for key in dict.fromkeys([*sides[0], *sides[1]]):
        ours, theirs = (side.get(key, []) for side in sides)
        if not ours or not theirs:
            (whole.new if theirs else whole.gone).extend(theirs or ours)
        elif len(ours) > 1 or len(theirs) > 1:
            whole.unclear.append(_unclear(ours, theirs, varied))
        else:
            pair = Pair(ours[0], theirs[0])
            whole.pairs.append(replace(pair, change=_change(pair)))
    return whole


def one(found: Sequence[Group], by: str) -> Matches:
    """Pair the points of one result: those of one value of a field with those of each other.

    Args:
        by: a field, or a key of `BY`; with `=VALUE` the value that is before, else it is the first
            of all by name.

    Raises:
        UserError: there is no such field, or no such value, or only one.
    """
    name, _, wanted = by.partition("=")
    values, _ = _by(name, found)
    known = sorted(set(values))
    if len(known) < 2:
        raise UserError(f"--by {name}: all points have {known[0]}; nothing to compare")
    if wanted and wanted not in known:
        raise UserError(f"--by {by}: no point has it; {name} is one of {', '.join(known)}")
    base = wanted or known[0]
    first = [group for group, value in zip(found, values, strict=True) if value == base]
    whole = Matches([], [], [], [])
    for value in known:
        if value == base:
            continue
        others = [group for group, has in zip(found, values, strict=True) if has == value]
        each = two(first, others, name)
        whole.pairs.extend(
            Pair(pair.before, pair.after, f"{base} -> {value}") for pair in each.pairs
        )
        whole.new.extend(each.new)
        whole.gone.extend(each.gone)
        whole.unclear.extend(each.unclear)
    return whole


def _between(before: Sequence[Group], after: Sequence[Group]) -> set[str]:
    """The fields of which two results have no value in common."""
    if not before or not after:
        return set()
    names = {name for group in (*before, *after) for name in group.fields}
    values = [
        {name: {group.fields.get(name) for group in side} for name in names}
        for side in (before, after)
    ]
    return {name for name in names if not values[0][name] & values[1][name]}


def _by(name: str, found: Sequence[Group]) -> tuple[list[str], set[str]]:
    """Each group's value of a field, and the fields of its part that this value decides.

    `refit=gloo` brings buckets of its own: they go with the method, but not where both methods
    have several.
    """
    part, field = BY.get(name, (name.partition(".")[0], name))
    values = [_value(group.records[0], name, field) for group in found]
    decided = set()
    for other in {n for group in found for n in group.fields if n.partition(".")[0] == part}:
        seen = defaultdict(set)
        for group, value in zip(found, values, strict=True):
            seen[value].add(group.fields.get(other))
        if all(len(each) == 1 for each in seen.values()):
            decided.add(other)
    return values, decided | {field}


def _value(record: Record, name: str, field: str) -> str:
    if name == "method":
        return record.method or str(record.config["refit"]["method"])
    value: Any = record.config
    for key in field.split("."):
        if not isinstance(value, Mapping) or key not in value:
            names = [*BY, *dict(_flat(record.config))]
            close = get_close_matches(name, names, 1)
            hint = f"; did you mean {close[0]}?" if close else "."
            raise UserError(
                f"--by {name}: no such field{hint} It is one of {', '.join(BY)}, or a field such as"
                " refit.bucket_mb"
            )
        value = value[key]
    return value if isinstance(value, str) else json.dumps(value)


def _by_rest(
    side: Sequence[Group], varied: set[str]
) -> dict[tuple[tuple[str, str], ...], list[Group]]:
    found: dict[tuple[tuple[str, str], ...], list[Group]] = defaultdict(list)
    for group in side:
        rest = {name: value for name, value in group.fields.items() if name not in varied}
        found[tuple(sorted(rest.items()))].append(group)
    return found


def _change(pair: Pair) -> str:
    """What differs, in a few words: the first of the fields, and how many more."""
    names = pair.differing
    if not names:
        return ""
    first = next((name for name in TELLING if name in names), names[0])
    values = (_plain(group.fields.get(first)) for group in (pair.before, pair.after))
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{first} {' -> '.join(values)}{more}"


def _unclear(ours: Sequence[Group], theirs: Sequence[Group], varied: set[str]) -> str:
    every = [*ours, *theirs]
    names = sorted(n for n in varied if len({group.fields.get(n) for group in every}) > 1)
    return (
        f"{len(ours)} points before and {len(theirs)} after differ in {_few(names)} alone,"
        f" such as {every[0].records[0].name}; --where or --by says which belong together"
    )


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more fields" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _plain(value: str | None) -> str:
    """A value of `Fields` for a person."""
    return "none" if value is None or value == "null" else value.strip('"')
