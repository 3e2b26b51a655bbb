"""An agent of this node for the tests of a file, which share it as the points of a sweep do."""

from collections.abc import Iterator

import pytest

from refit.ranks.agent import Agent
from tests.support.jobs import job

# A process has one fork server, and what the first agent has it import is what all ranks are forked
# with: what any file of tests needs, or each rank would import megatron-core by itself.
PRELOADED = [
    job(method="nixl"),
    *(job(method=name, build="megatron") for name in ("ipc", "megatron")),
]


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    """Ready for every job: what its ranks import is forked to them."""
    with Agent(PRELOADED) as started:
        yield started
