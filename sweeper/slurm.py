"""Points by what they ask of sbatch: a group for each shape, and the executor that submits it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from refit.errors import UserError
from refit.record.point import Point
from sweeper import snapshot, submitit_side
from sweeper.lanes import DEFAULT
from sweeper.request import parameters


def groups(points: Iterable[Point]) -> dict[str, list[Point]]:
    """Points that ask sbatch for the same, by what they ask for."""
    alike: dict[str, list[Point]] = {}
    for point in points:
        alike.setdefault(json.dumps(parameters(point), sort_keys=True), []).append(point)
    return alike


def labelled(points: Iterable[Point]) -> dict[str, list[Point]]:
    """The groups by a name that a person can tell them by: nodes, and what else differs."""
    alike = list(groups(points).values())
    shapes = [parameters(group[0]) for group in alike]
    keys = [
        key for key in dict.fromkeys(key for shape in shapes for key in shape) if key != "nodes"
    ]
    differ = [key for key in keys if len({str(shape.get(key)) for shape in shapes}) > 1]
    names = [
        ", ".join([f"{shape['nodes']} node(s)", *(f"{key}={shape.get(key)}" for key in differ)])
        for shape in shapes
    ]
    return dict(zip(names, alike, strict=True))


def at_once(points: Iterable[Point]) -> int:
    """How many jobs of a sweep may run at once, by cluster.slurm.array_parallelism.

    Raises:
        UserError: its points do not agree.
    """
    asked = {parameters(point).get("array_parallelism", DEFAULT): None for point in points}
    if len(asked) > 1:
        raise UserError(
            "cluster.slurm.array_parallelism is of the whole sweep, and its points say"
            f" {' and '.join(map(str, asked))}; give it one value, or make it a sweep for each"
        )
    return next(iter(asked), DEFAULT)


def executor(
    point: Point,
    root: Path,
    code: Path | None = None,
    most: int | None = None,
    after: Sequence[str] = (),
) -> submitit_side.Executor:
    """submitit's executor for a point's shape.

    Args:
        root: the sweep's folder.
        code: whose packages the jobs run; None: those of this process.
        most: the jobs of an array that run at once; None: as asked for.
        after: ids of arrays that are to end first.

    Raises:
        UserError: a parameter that submitit does not know; its text lists those it does.
    """
    asked: dict[str, Any] = parameters(point)
    if code is not None:
        asked["setup"] = [*asked.get("setup", []), *snapshot.exports(code)]
    if most is not None:
        asked["array_parallelism"] = most
    if after:
        theirs = [asked["dependency"]] if asked.get("dependency") else []
        asked["dependency"] = ",".join([f"afterany:{':'.join(after)}", *theirs])
    return submitit_side.executor(root / submitit_side.FOLDER, asked)


def split(points: Sequence[Point], pack_size: int, largest: int) -> list[list[list[Point]]]:
    """Points -> arrays of packs: at most so many points in a pack, and packs in an array."""
    packs = [list(points[i : i + pack_size]) for i in range(0, len(points), pack_size)]
    return [packs[i : i + largest] for i in range(0, len(packs), largest)]
