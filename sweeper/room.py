"""Which points of a sweep this machine's memory cannot hold: said once, before the first runs."""

from __future__ import annotations

from collections.abc import Sequence

from refit.job import Job
from refit.rules import devices
from refit.rules.setup import Setup
from refit.weights import memory

SMALLER = "moe_8e"  # the table's smaller model


def shortage(jobs: Sequence[Job]) -> str | None:
    """What is said of several measurements on this machine's CPUs; None where all of them fit.

    Args:
        jobs: possible ones (`refit.rules.impossible`) that will be run.
    """
    free = memory.available()
    needs = [_needed(job) for job in jobs if devices.device(job) == "cpu"]
    large = [need for need in needs if free is not None and need > free]
    if free is None or not large or len(jobs) < 2:  # of one point alone its own reason says it
        return None
    smaller = f"model={SMALLER}, " if all(job.model.name != SMALLER for job in jobs) else ""
    return (
        f"{len(large)} of {len(jobs)} points do not fit this machine's memory, where"
        f" {free / 1e9:.2f} GB is available: their weights take {min(large) / 1e9:.2f} to"
        f" {max(large) / 1e9:.2f} GB. They end as oom and the others run; what takes less:"
        f" {smaller}model.num_layers=..."
    )


def _needed(job: Job) -> int:
    """Bytes of the weights of all its ranks."""
    setup = Setup.of(job)
    ranks = range(setup.placement.world)
    return sum(map(sum, memory.needed(setup.catalogue, setup.placement, ranks)))
