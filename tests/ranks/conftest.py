"""An agent of this node for the tests of a file, which share it as the points of a sweep do."""

from collections.abc import Iterator
from multiprocessing import forkserver

import pytest

from refit.ranks.agent import Agent
from tests.support.jobs import job


@pytest.fixture(scope="module")
def agent(request: pytest.FixtureRequest) -> Iterator[Agent]:
    """Ready for the file's AGENT_OF: jobs whose ranks have what they import forked to them.

    A process has one fork server, which preloads what the first agent said: the next file's agent
    is to have another, or each of its ranks imports megatron-core by itself.
    """
    jobs = getattr(request.module, "AGENT_OF", [job(), job(method="nixl")])
    with Agent(jobs) as started:
        yield started
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # "used by unit tests", it says
