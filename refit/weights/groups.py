"""The process groups of a layout: every rank of the world makes all of them, in one order."""

from __future__ import annotations

from functools import cache
from math import prod

import torch.distributed as dist

from refit.layout.layout import IntArray, Layout


def make_groups(layout: Layout, rank: int) -> dict[str, dist.ProcessGroup]:
    """The groups of one rank by their role, in the names of Megatron's ProcessGroupCollection.

    torch names a group by how many the caller has made before, and members with different names
    wait for each other for ever. So every rank of the world calls this, with the same layouts in
    the same order, those outside a layout too. Only members meet: to the others it is a count.

    Returns:
        Nothing for a rank outside the layout.
    """
    mine = {}
    for role, parts in members(layout).items():
        for ranks in parts:
            group = _new_group(dist.group.WORLD, ranks)
            if rank in ranks:
                mine[role] = group
    return mine


@cache
def members(layout: Layout) -> dict[str, list[tuple[int, ...]]]:
    """Of each role the groups that the layout's ranks divide into, as global ranks.

    CP does not shard weights and the plain attention has none, so context-parallel ranks are plain
    replicas here, part of `dp`.
    """
    replicas = layout.dense.reshape(layout.pp, -1, layout.tp)
    return {
        "tp": _along(replicas, 2),
        "pp": _along(replicas, 0),
        "dp": _along(replicas, 1),
        "cp": _along(replicas),
        "tp_dp_cp": _along(replicas, 1, 2),
        "mp": _along(replicas, 0, 2),
        "expt_tp": _along(layout.expert, 3),
        "ep": _along(layout.expert, 2),
        "expt_dp": _along(layout.expert, 1),
        "tp_ep": _along(layout.expert, 2, 3),
        "tp_ep_pp": _along(layout.expert, 0, 2, 3),
    }


def _along(grid: IntArray, *axes: int) -> list[tuple[int, ...]]:
    """The sets of ranks that differ only along some axes of a grid, each ascending."""
    others = [axis for axis in range(grid.ndim) if axis not in axes]
    rows = grid.transpose(*others, *axes).reshape(-1, prod(grid.shape[a] for a in axes))
    return [tuple(sorted(row)) for row in rows.tolist()]


@cache
def _new_group(world: dist.ProcessGroup, ranks: tuple[int, ...]) -> dist.ProcessGroup:
    """One group per set of ranks, however many roles and layouts it has.

    `world` is part of the key: groups die with the process group they were made in.
    """
    return world if len(ranks) == world.size() else dist.new_group(list(ranks))
