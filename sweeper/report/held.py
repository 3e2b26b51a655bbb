"""Which rank holds which part of which kind of tensor, as boxes to draw. Pure, no torch.

A tensor's kind is a map one wide and one high: across lie its experts and, within each, the indices
of the axis that is cut; down lie the layers. A rank's part of it is one box or several.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from refit.layout.cut import Run
from refit.layout.layout import Layout, Placement
from refit.layout.tensors import ITEMSIZE, Catalogue, Family

Span = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, right, top and bottom, each from 0 to 1."""

_Part = tuple[str, tuple[Box, ...]]
Held = tuple[tuple[int, str, tuple[Box, ...]], ...]
"""A rank, its part in words and as boxes."""


def drawn(catalogue: Catalogue, placement: Placement) -> dict[str, Any]:
    """Of each side the boxes of every rank; kinds that all sides hold alike are one.

    Returns:
        `sides`, each with its `name`, `words` and `ranks`; `kinds`, each with `names`, `bytes` of
        the whole model and `held`: by side, `[rank, words, boxes]` for each rank with a part.
    """
    alike: dict[tuple[Held, ...], list[Family]] = {}
    for family in catalogue.families:
        key = tuple(_held(family, side, catalogue.num_layers) for side in placement.sides.values())
        alike.setdefault(key, []).append(family)
    kinds = [
        {
            "names": [short(family) for family in families],
            "bytes": sum(f.count * f.elements * ITEMSIZE[f.dtype] for f in families),
            "held": held,
        }
        for held, families in alike.items()
    ]
    sides = [
        {"name": name, "words": side.describe(), "ranks": [side.ranks.start, side.ranks.stop]}
        for name, side in placement.sides.items()
    ]
    per_node, world = placement.ranks_per_node, placement.world
    return {"sides": sides, "kinds": kinds, "per_node": per_node, "world": world}


def short(family: Family) -> str:
    """Its name without what all names have: `self_attention.linear_qkv`."""
    name = family.name.removeprefix("decoder.").removeprefix("layers.{layer}.")
    return name.replace("{expert}", "").replace("{layer}", "*").removesuffix(".weight")


def _held(family: Family, side: Layout, num_layers: int) -> Held:
    cut = family.cut(side)
    stages = [_layers(family, mine) for mine in side.stage_layers(num_layers)]
    per_rank = max(1, family.num_experts) // side.ep if family.num_experts else 1
    made: dict[tuple[int, int, int], _Part] = {}
    found = []
    for rank, stage, tp, ep, etp in _coordinates(side):
        layers = stages[stage] if family.layers else None
        if not layers and (family.layers or stage not in family.ends_on(side)):
            continue
        shard = 0 if cut.shards == 1 else (etp if family.grid == "expert" else tp)
        key = (stage, ep if family.num_experts else 0, shard)
        if key not in made:
            experts = range(key[1] * per_rank, (key[1] + 1) * per_rank)
            indices = _merged(cut.runs[shard])
            made[key] = _part(family, layers, experts, indices, cut.length)
        found.append((rank, *made[key]))
    return tuple(found)


def _coordinates(side: Layout) -> list[tuple[int, int, int, int, int]]:
    """Of each rank: itself, and its pipeline stage, TP, EP and ETP."""
    dense = {int(side.dense[tuple(at)]): at for at in np.argwhere(side.dense >= 0)}
    expert = {int(side.expert[tuple(at)]): at for at in np.argwhere(side.expert >= 0)}
    found = []
    for rank in sorted(dense):
        (stage, _, _, tp), (_, _, ep, etp) = dense[rank].tolist(), expert[rank].tolist()
        found.append((rank, stage, tp, ep, etp))
    return found


def _layers(family: Family, mine: Sequence[int]) -> list[tuple[int, int]]:
    """Which of a family's layers a stage has: ranges of their places among them."""
    places = [place for place, layer in enumerate(family.layers) if layer in set(mine)]
    return _ranges(places)


def _ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Consecutive numbers as ranges from the first to one past the last."""
    found = []
    for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        found.append((run[0], run[-1] + 1))
    return found


def _merged(runs: Sequence[Run]) -> list[tuple[int, int]]:
    """The whole indices that a shard has, as ascending ranges."""
    found: list[tuple[int, int]] = []
    plain = [
        (whole + step * i, whole + step * i + 1 if step != 1 else whole + count)
        for whole, _, count, step in runs
        for i in range(count if step != 1 else 1)
        if count
    ]
    for start, stop in sorted(plain):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return found


def _part(
    family: Family,
    layers: list[tuple[int, int]] | None,
    experts: range,
    indices: list[tuple[int, int]],
    length: int,
) -> _Part:
    """A rank's part, in words and as boxes."""
    count = max(1, family.num_experts)
    whole = indices == [(0, length)]
    across: list[Span] = [(start / length, stop / length) for start, stop in indices]
    if whole:
        across = [(experts.start / count, experts.stop / count)]
    elif family.num_experts:
        across = [((e + a) / count, (e + b) / count) for e in experts for a, b in across]
    high = len(family.layers)
    down = [(0.0, 1.0)] if layers is None else [(a / high, b / high) for a, b in layers]
    words = []
    if layers is not None:
        ends = [(family.layers[a], family.layers[b - 1]) for a, b in layers]
        words.append(f"layers {_said(ends)}")
    if family.num_experts:
        words.append(f"experts {experts.start}-{experts.stop - 1} of {count}")
    shares = [(f"{start / length:.4g}", f"{stop / length:.4g}") for start, stop in indices]
    words.append("whole" if whole else f"of the axis that is cut {_said(shares)}")
    boxes = tuple((*_short(x), *_short(y)) for x in across for y in down)
    return ", ".join(words), boxes


def _said(ranges: Sequence[tuple[object, object]]) -> str:
    """`0-7, 16-23`; of many the first three."""
    words = [f"{start}-{stop}" for start, stop in ranges]
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if words[3:] else "")


def _short(span: Span) -> Span:
    return round(span[0], 5), round(span[1], 5)
