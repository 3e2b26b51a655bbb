"""Any JSON in the place of a config's value is a job that is possible, or a reason."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from refit.errors import UserError
from refit.job import Job
from refit.rules.impossible import impossible
from tests.support.anything import ANYTHING, changed, paths
from tests.support.jobs import make_job

WHOLE = json.loads(json.dumps(make_job().to_dict()))
PLACES = sorted(paths(WHOLE), key=str)
LIKELY: st.SearchStrategy[Any] = st.sampled_from(
    [
        0,
        -1,
        1,
        2,
        3,
        10**7,
        10**20,
        0.5,
        float("nan"),
        float("inf"),
        True,
        None,
        "",
        "x",
        [],
        {},
        [0],
    ]
)


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(PLACES), LIKELY | ANYTHING | st.just(...)), max_size=3))
def test_any_config_is_a_job_or_a_reason(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    config: Any = WHOLE
    for place, value in changes:
        try:
            config = changed(config, place, value)
        except (LookupError, TypeError):  # what was there is gone by now
            continue
    if not isinstance(config, dict):
        return
    try:
        job = Job.from_dict(config)
    except UserError:
        return
    reason = impossible(job)
    assert reason is None or reason
