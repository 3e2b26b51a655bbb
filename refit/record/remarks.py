"""Every remark on a result, each with its remedy; and the one rate that no result may have."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from refit.model.dispatchers import ALLGATHER_MAX_EP, suited
from refit.record.parts import Limit, Side, Throughput
from refit.record.record import Record

GROWTH = 0.01
"""The share of a rank's memory by which it may grow over the timed refits without a remark."""

SKEW = 0.02
"""The share of a refit's time that the ranks of a node may begin apart without a remark."""

ENOUGH = 5
"""Timed refits below which nothing is said of how much they vary; a comparison decides nothing."""

UNSTEADY = 1.5
"""The slowest copy of a limit over the fastest, from which on the limit itself is in doubt."""

CACHED = 1.05
"""The share of a measured limit above which more than chance was faster than a copy."""

FORECAST = 0.1
"""The share of the forecast's rate below which something other than the plan decides."""


@dataclass(frozen=True)
class Remark:
    """What deserves a look though a point is ok.

    Attributes:
        kind: one word; remarks of one kind differ in numbers alone.
        text: what was seen, in numbers.
        remedy: what to do about it.
        is_of_point: its numbers are of one point.
    """

    kind: str
    text: str
    remedy: str
    is_of_point: bool = True

    def __str__(self) -> str:
        return f"{self.text}; {self.remedy}"


def remarks(record: Record) -> list[str]:
    """Of one record, in words; empty where nothing deserves a look."""
    return [str(remark) for remark in found(record)]


def found(record: Record) -> list[Remark]:
    """Of one record."""
    checks = (
        _iterations,
        _skew,
        _growth,
        _unsteady,
        _cached,
        _below_forecast,
        _dispatcher,
        _sequence_parallel,
        _token_dropping,
    )
    return [remark for check in checks if (remark := check(record))]


def impossible_rate(throughput: Throughput) -> str:
    """Why no refit can have had this rate, with the remedy; empty where one can.

    A measured limit may be exceeded, by what is read from a cache; a link's configured rate cannot.
    """
    exceeded = [
        limit
        for limit in throughput.limits
        if limit.source == "configured" and throughput.gbps > limit.gbps
    ]
    if not exceeded:
        return ""
    tightest = min(exceeded, key=lambda limit: limit.gbps)
    return (
        f"impossible rate: {throughput.gbps:.4g} GB/s is above {tightest.gbps:.4g} GB/s, the most"
        f" by {tightest.what}; correct that rate if these links are faster, else the time is wrong:"
        " report it with this record"
    )


def _iterations(record: Record) -> Remark | None:
    seconds = record.seconds
    if seconds is None or len(seconds.warm) >= ENOUGH:
        return None
    return Remark(
        "iterations",
        f"a median of {len(seconds.warm)} refits does not say how much they vary",
        f"bench.iterations={ENOUGH} or more does",
        is_of_point=False,
    )


def _skew(record: Record) -> Remark | None:
    seconds = record.seconds
    if seconds is None or not seconds.skew:
        return None
    share = statistics.median(seconds.skew) / seconds.median
    if share <= SKEW:
        return None
    return Remark(
        "skew",
        f"ranks began {share:.0%} of that time apart, by which it may be too long",
        "a larger model, or a core for every rank, makes that less",
    )


def _growth(record: Record) -> Remark | None:
    memory = record.memory
    if memory is None or memory.growth is None or memory.growth <= 1 + GROWTH:
        return None
    rank = max(memory.growth_per_rank, key=lambda rank: memory.growth_per_rank[rank])
    return Remark(
        "growth",
        f"memory of rank {rank} grew by {memory.growth - 1:.1%} from the first tenth of"
        " the refits to the last",
        "more of bench.iterations say whether it goes on; then the method keeps what it should"
        " free",
    )


def _limit(record: Record) -> Limit | None:
    """The tightest limit, if it was measured."""
    throughput = record.throughput
    if throughput is None or throughput.limit_source != "measured":
        return None
    tightest = (limit for limit in throughput.limits if limit.what == throughput.limit)
    return next(tightest, None)


def _unsteady(record: Record) -> Remark | None:
    limit = _limit(record)
    if limit is None or limit.spread is None or limit.spread < UNSTEADY:
        return None
    return Remark(
        "unsteady",
        f"the memory rate is unsteady: of the copies that are the limit the slowest took"
        f" {limit.spread:.1f} times as long as the fastest",
        "end what else runs here, and repeat (sweep.repeat=5)",
    )


def _cached(record: Record) -> Remark | None:
    limit, throughput = _limit(record), record.throughput
    if limit is None or throughput is None or throughput.fraction <= CACHED:
        return None
    return Remark(
        "cached",
        f"{throughput.fraction:.0%} of a plain copy's rate: replicas were read from a cache, or the"
        " memory was slower during the copy",
        "a larger model (model.num_layers) does not fit a cache; do not quote the fraction",
    )


def _below_forecast(record: Record) -> Remark | None:
    throughput = record.throughput
    if throughput is None or throughput.forecast_gbps is None:
        return None
    share = throughput.gbps / throughput.forecast_gbps
    if share >= FORECAST:
        return None
    return Remark(
        "forecast",
        f"{share:.1%} of the {throughput.forecast_gbps:.4g} GB/s that mode=plan forecasts here",
        "seconds.phases says which phase is slow; if it is right, python -m refit.calibrate fits"
        " the forecast to it",
    )


def _dispatcher(record: Record) -> Remark | None:
    """The reference documents: allgather for EP up to 4, alltoall above; flex is for any."""
    asked = record.config["model"].get("moe_token_dispatcher_type", "allgather")
    if record.config["model"]["num_moe_experts"] is None or asked == "flex":
        return None
    for name, side in _sides(record).items():
        if suited(side.ep) not in ("", asked):
            return Remark(
                "dispatcher",
                f"the {asked} token dispatcher at parallel.{name}.ep={side.ep}: the rule is"
                f" allgather for EP up to {ALLGATHER_MAX_EP}, alltoall above",
                "no weights depend on"
                f" it, model.moe_token_dispatcher_type={suited(side.ep)} keeps the rule there",
            )
    return None


def _sequence_parallel(record: Record) -> Remark | None:
    """What Megatron warns of in training, where it is said to be off."""
    said = record.config["parallel"]["source"].get("sequence_parallel")
    if said is not False or record.config["model"]["num_moe_experts"] is None:
        return None
    source = _sides(record).get("source")
    if source is None or source.tp == 1:
        return None
    why = "its training forward pass refuses experts with TP without it"
    if source.ep > 1:
        why = (
            "when using expert parallelism and tensor parallelism for training, sequence"
            " parallelism must be used"
        )
    return Remark(
        "sequence_parallel",
        f"parallel.source.sequence_parallel=false with TP {source.tp} and EP {source.ep}, of which"
        f" Megatron says: {why}",
        "no weights depend on it, parallel.source.sequence_parallel=true keeps the rule",
    )


def _token_dropping(record: Record) -> Remark | None:
    if not record.config["model"].get("moe_token_dropping"):
        return None
    return Remark(
        "token_dropping",
        "model.moe_token_dropping=true is currently unsupported: Megatron takes it and drops"
        " nothing",
        "model.moe_expert_capacity_factor is what drops tokens",
        is_of_point=False,
    )


def _sides(record: Record) -> dict[str, Side]:
    layout = record.layout
    if layout is None:
        return {}
    if layout.destination is not None:
        return {"source": layout.source, "destination": layout.destination}
    each = {f"destinations[{i}]": side for i, side in enumerate(layout.receiving)}
    return {"source": layout.source, **each}
