"""Part of the weights: which tensors patterns meet, and plans of those alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from refit.job import Degrees, Refit
from refit.model.weight_bytes import per_rank_bytes
from refit.plan.build import build_plan
from refit.plan.selection import meets, names_of, selected
from refit.record.point import identity
from refit.record.record import numbers
from refit.rules.setup import Setup
from tests.support.jobs import TINY, job

EXPERTS = "*.mlp.experts.*"


def travels(include: list[str] | None = None, exclude: list[str] | None = None) -> list[str]:
    """The names that travel of the tiny model, whose second layer has four experts."""
    setup = Setup.of(job())
    which = selected(setup.catalogue, Refit(name="x", include=include, exclude=exclude))
    assert which is not None
    names = names_of(setup.catalogue)
    return [name for name, moves in zip(names, which, strict=True) if moves]


def test_patterns_by_hand() -> None:
    fc1 = [f"decoder.layers.1.mlp.experts.linear_fc1.weight{expert}" for expert in range(4)]
    fc2 = [f"decoder.layers.1.mlp.experts.linear_fc2.weight{expert}" for expert in range(4)]
    assert travels(include=[EXPERTS]) == fc1 + fc2
    assert travels(include=["*.experts.*weight[02]"], exclude=["*fc2*"]) == [fc1[0], fc1[2]]
    everything = names_of(Setup.of(job()).catalogue)
    assert travels(exclude=[EXPERTS]) == [name for name in everything if name not in fc1 + fc2]
    assert travels(include=["output_layer.weight"]) == ["output_layer.weight"]
    assert travels(include=["OUTPUT*"]) == travels(exclude=["*"]) == []  # case matters
    assert not meets(everything, []).any()


@pytest.mark.parametrize("fanout", ["direct", "hierarchical"])
def test_a_plan_of_some_tensors_moves_them_whole_and_no_other(fanout: str) -> None:
    sides = (Degrees(tp=2, ep=2, etp=1, gpus=4), Degrees(tp=1, ep=2, etp=1, gpus=4))
    what = job(*sides, ranks_per_node=2, refit={"exclude": [EXPERTS], "fanout": fanout})
    setup = Setup.of(what)
    plan, whole = setup.plan(), build_plan(setup.catalogue, setup.placement, fanout)
    moves = setup.travels
    assert moves is not None and moves[plan.tensor].all()

    def written(rows: object, which: np.ndarray) -> list[tuple[int, ...]]:
        columns = ("tensor", "destination", "destination_start", "source_start", "length")
        return sorted(zip(*(getattr(rows, c)[which].tolist() for c in columns), strict=True))

    # who gives is balanced anew, what arrives is the same
    assert written(plan, moves[plan.tensor]) == written(whole, moves[whole.tensor])
    record = numbers(plan, plan.hops, plan.bounds)
    held = per_rank_bytes(setup.catalogue, setup.placement.destination).sum()
    assert record.left_out_tensors == 8
    left_out = whole.nbytes[~moves[whole.tensor]].sum()
    assert record.left_out_bytes == held - plan.total_bytes == left_out
    assert plan.bounds.move < whole.bounds.move


def test_patterns_are_part_of_the_identity_and_their_absence_is_not() -> None:
    plain = job()
    some = replace(plain, refit=replace(plain.refit, exclude=[EXPERTS]))
    assert identity(some) != identity(plain)
    assert identity(replace(plain, refit=replace(plain.refit, include=None))) == identity(plain)
    assert TINY.num_moe_experts == 4
