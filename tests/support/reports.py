"""What ranks report and the record that becomes of it, without ranks: for what reads records."""

from __future__ import annotations

from functools import cache

from refit.job import Job
from refit.record import environment
from refit.record.measured import measured
from refit.record.point import Point
from refit.record.record import Record, begin, placed, write
from refit.record.report import WHOLE_CHECKS, Copied, Limits, RankReport, Span
from refit.rules.setup import Setup
from tests.support import oracle


def reports(what: Job, seconds: float = 0.5) -> list[RankReport]:
    """Of ranks whose weights are all right, whose refits each take so long, and the cold one twice.

    Copies of as many bytes take half as long.
    """
    placement = Setup.of(what).placement
    tensors = oracle.specs(what.model, placement.source.tp)
    active = {*placement.source.ranks, *placement.destination.ranks}
    times = what.bench.iterations
    return [
        RankReport(
            rank=rank,
            node=placement.node_of(rank),
            active=rank in active,
            cold=Span(0.0, 2 * seconds),
            warm=[Span(0.0, seconds)] * times,
            limits=Limits(Copied([Span(0.0, seconds / 2)] * times)),
            cold_phases={"plan": 0.0, "prepare": seconds, "transfer": seconds},
            elements=WHOLE_CHECKS
            * oracle.elements(what.model, tensors, placement.destination, rank),
            stamps=24,
            proof_s=0.25,
            host_peak_bytes=1000 + rank,
            versions={"torch": "1", "numpy": "2", "megatron_core": "3"},
            device="cpu",
        )
        for rank in range(placement.world)
    ]


_here = cache(environment.describe)  # two runs of git


def write_measured(point: Point, seconds: float = 0.5) -> Record:
    """Write the record of a point whose ranks reported that."""
    setup = Setup.of(point.job)
    plan, build = setup.plan(), setup.build
    begun = begin(point, _here())
    begun = placed(begun, setup.job.model, setup.placement, plan, setup.method, setup.why, build)
    elements = plan.elements_to.tolist()
    found = reports(point.job, seconds)
    record = measured(begun, found, point.job.cluster.hardware, elements)
    point.freeze()
    write(point.timing, record)
    return record
