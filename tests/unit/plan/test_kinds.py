"""Plans of public models' kinds of weights against the element-by-element oracle."""

from __future__ import annotations

import pytest

from refit.job import Degrees
from tests.support.kinds import KINDS, small
from tests.support.plans import case, check_elements


@pytest.mark.parametrize("kind", KINDS)
def test_plan_of_a_kind_is_the_oracles(kind: str) -> None:
    model = small(kind)
    swap = (Degrees(tp=4, etp=1), Degrees(tp=2, gpus=4, etp=1))
    stages = (Degrees(tp=2, pp=2, etp=1), Degrees(tp=1, etp=1))
    if model.is_moe:
        swap = (Degrees(tp=4, ep=2, etp=1, gpus=4), Degrees(tp=2, ep=4, etp=1, gpus=4))
        stages = (Degrees(tp=2, pp=2, etp=1), Degrees(tp=2, ep=2, etp=1))
    check_elements(case(model, *swap, "collocated", per_node=2))
    check_elements(case(model, *stages, per_node=2))
    check_elements(case(model, *stages[::-1], per_node=2))
