"""Who sends whom how much, planned again from a record's job: the traffic matrix. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from refit.errors import UserError
from refit.job import Job
from refit.layout.layout import IntArray, Placement
from refit.layout.place import place
from refit.model.architecture import tensors_of
from refit.record.record import Record
from refit.rules import methods
from refit.rules.setup import Setup
from sweeper.report import held

MOST_PAIRS = 40_000
"""Pairs of ranks that a page draws; of more, pairs of nodes, as a browser must hold them all."""


def planned(record: Record) -> tuple[dict[str, Any] | None, str]:
    """A record's layouts and traffic as the page draws them.

    Returns:
        `layouts` and `traffic`, or None; and why either is missing, empty where none is.
    """
    if record.layout is None or record.plan is None or record.model_build is None:
        return None, "it was not planned, so there is no traffic and no layout to draw"
    try:
        setup = _setup(record)
        layouts = held.drawn(setup.catalogue, setup.placement)
        if methods.plans_itself(setup.method):
            why = f"{setup.method} carries out a plan of its own, and its reports do not say whose"
            return {"layouts": layouts, "traffic": None}, why
        plan = setup.plan()
    except (UserError, KeyError, TypeError) as error:
        return None, f"this version of refit-sweep cannot plan it again: {error}"
    if (plan.total_bytes, plan.local_bytes) != (record.plan.bytes, record.plan.local_bytes):
        why = (
            f"planned again it moves {plan.total_bytes} bytes, {plan.local_bytes} of them local,"
            f" and the record says {record.plan.bytes} and {record.plan.local_bytes}: another"
            " version planned it"
        )
        return {"layouts": layouts, "traffic": None}, why
    pairs = plan.source * plan.placement.world + plan.destination
    return {"layouts": layouts, "traffic": _traffic(pairs, plan.nbytes, plan.placement)}, ""


def reported(moved: Mapping[int, Mapping[str, int]], placement: Placement) -> dict[str, Any]:
    """The traffic that ranks counted.

    Args:
        moved: by receiving rank, bytes by sending rank.
    """
    counted = [
        (int(source) * placement.world + destination, nbytes)
        for destination, by_peer in moved.items()
        for source, nbytes in by_peer.items()
    ]
    columns = np.array(counted, dtype=np.int64).reshape(-1, 2)
    return _traffic(columns[:, 0], columns[:, 1], placement)


def placed(record: Record) -> Placement:
    """Where a record's job stands.

    Raises:
        UserError: from `place`.
    """
    return place(Job.from_dict(record.config))


def _setup(record: Record) -> Setup:
    """As the record was planned: nothing of this machine is asked."""
    job = Job.from_dict(record.config)
    assert record.model_build is not None and record.method is not None
    placement = place(job)
    tensors = tensors_of(job, placement, record.model_build.convention)
    return Setup(job, placement, tensors, record.model_build, record.method, "")


def _traffic(pairs: IntArray, nbytes: IntArray, placement: Placement) -> dict[str, Any]:
    """Bytes by pair, those that are not 0.

    Args:
        pairs: [copies], source * world + destination.
        nbytes: [copies].

    Returns:
        `of`, ranks or nodes; `count` of them; `per_node`; and the columns `source`, `destination`,
        `bytes`. Local blocks are on the diagonal.
    """
    world, per_node = placement.world, placement.ranks_per_node
    used, at = np.unique(pairs, return_inverse=True)
    of, count, step = "rank", world, 1
    if len(used) > MOST_PAIRS:
        nodes = (pairs // world // per_node) * placement.nodes + pairs % world // per_node
        used, at = np.unique(nodes, return_inverse=True)
        of, count, step = "node", placement.nodes, per_node
    # bincount weighs in float64, which counts bytes exactly up to 2**53
    total = np.bincount(at.reshape(-1), nbytes, len(used)).astype(np.int64)
    return {
        "of": of,
        "count": count,
        "per_node": per_node // step,
        "source": (used // count).tolist(),
        "destination": (used % count).tolist(),
        "bytes": total.tolist(),
    }
