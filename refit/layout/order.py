"""Megatron's rank order, such as `tp-cp-ep-dp-pp`: which degree varies fastest over ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from refit.errors import UserError

NAMES = ("tp", "cp", "ep", "dp", "pp")
DEFAULT = "-".join(NAMES)


def parsed(order: str) -> tuple[str, ...]:
    """The names of an order, fastest first, in small letters.

    Raises:
        UserError: a name is unknown, or there twice.
    """
    names = tuple(order.lower().split("-"))
    if len(set(names)) < len(names) or not set(names) <= set(NAMES):
        raise UserError(
            f"order={order} is not made of {', '.join(NAMES)}, each once with - between them;"
            f" Megatron's default is {DEFAULT}, its --use-tp-pp-dp-mapping tp-cp-ep-pp-dp"
        )
    return names


def grid(
    order: Sequence[str], sizes: Mapping[str, int], axes: tuple[str, ...]
) -> NDArray[np.int64]:
    """Ranks from 0 as an array with these axes, as Megatron's RankGenerator numbers them.

    Args:
        order: fastest first; what is not in `sizes` is passed over.
        sizes: of the axes; what `order` lacks has size 1.
    """
    slowest_first = [name for name in sizes if name not in order]
    slowest_first += [name for name in reversed(order) if name in sizes]
    ranks = np.arange(np.prod([sizes[name] for name in slowest_first], dtype=np.int64))
    ranks = ranks.reshape([sizes[name] for name in slowest_first])
    return ranks.transpose([slowest_first.index(axis) for axis in axes])


def check(order: str, sizes: Mapping[str, int]) -> None:
    """That an order orders these degrees.

    Args:
        sizes: of attention's `tp`, `cp`, `dp` and `pp`, or of experts' `tp`, `ep`, `dp` and `pp`.

    Raises:
        UserError: `parsed`'s; or a degree above 1 is not in it.
    """
    names = parsed(order)
    for name, size in sizes.items():
        if size > 1 and name not in names:
            raise UserError(
                f"order={order} lacks {name}, whose size is {size} here; add it:"
                f" Megatron's default is {DEFAULT}"
            )


def check_pipelines(order: str, dense: Mapping[str, int], expert: Mapping[str, int]) -> None:
    """That attention and experts have the same pipelines, as `initialize_model_parallel` asks.

    Args:
        dense, expert: sizes as of `check`.

    Raises:
        UserError: `check`'s of experts; or they have not.
    """
    check(order, expert)
    names = parsed(order)
    if dense["pp"] == 1 or names[-1] == "pp":
        return
    if dense["dp"] != expert["dp"]:
        raise UserError(
            f"order={order} does not end with pp, and then Megatron wants as many replicas of"
            f" experts as of attention: here {expert['dp']} and {dense['dp']}; use an order that"
            " ends with pp, or degrees with etp*ep = tp*cp"
        )
    # each row the ranks of one pipeline
    pipelines = [
        grid(names, sizes, ("pp", *(name for name in sizes if name != "pp")))
        .reshape(sizes["pp"], -1)
        .T.tolist()
        for sizes in (dense, expert)
    ]
    if sorted(pipelines[0]) != sorted(pipelines[1]):
        raise UserError(
            f"order={order} gives attention the pipeline of ranks {min(pipelines[0])} and experts"
            f" {min(pipelines[1])}, which Megatron wants to be the same; use an order that ends"
            " with pp, or has tp, cp and ep before pp"
        )
