"""An agent of this node for all tests, which share it as the points of a sweep do."""

from collections.abc import Iterator

import pytest

from refit.ranks.agent import Agent
from refit.rules import devices
from tests.support.jobs import job


@pytest.fixture(scope="session")
def agent() -> Iterator[Agent]:
    """Ready for every kind of job: what its ranks import is forked to them.

    A process has one fork server, which preloads what its first agent said, so it is the first.
    """
    jobs = [job(build="megatron")]
    if devices.no_cuda():  # see `refit.ranks.agent`
        jobs.append(job(method="nixl"))
    with Agent(jobs) as started:
        yield started
