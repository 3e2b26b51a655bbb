"""What deserves a look though a point is ok, each with its remedy."""

from __future__ import annotations

import statistics

from refit.model.dispatchers import ALLGATHER_MAX_EP, suited
from refit.record.parts import Side
from refit.record.record import Record

GROWTH = 0.01
"""The share of a rank's memory by which it may grow over the timed refits without a remark."""


SKEW = 0.02
"""The share of a refit's time that the ranks of a node may begin apart without a remark."""


def remarks(record: Record) -> list[str]:
    """Of one record; empty where nothing deserves a look."""
    found = (
        _skew(record),
        _memory(record),
        _dispatcher(record),
        _sequence_parallel(record),
        _token_dropping(record),
    )
    return [text for text in found if text]


def _skew(record: Record) -> str:
    seconds = record.seconds
    if seconds is None or not seconds.skew:
        return ""
    share = statistics.median(seconds.skew) / seconds.median
    if share <= SKEW:
        return ""
    return (
        f"ranks began {share:.0%} of that time apart, by which it may be too long; a larger model,"
        " or a core for every rank, makes that less"
    )


def _memory(record: Record) -> str:
    memory = record.memory
    if memory is None or memory.growth is None or memory.growth <= 1 + GROWTH:
        return ""
    rank = max(memory.growth_per_rank, key=lambda rank: memory.growth_per_rank[rank])
    return (
        f"memory of rank {rank} grew by {memory.growth - 1:.1%} from the first tenth of"
        " the refits to the last"
    )


def _dispatcher(record: Record) -> str:
    """The reference documents: allgather for EP up to 4, alltoall above; flex is for any."""
    asked = record.config["model"].get("moe_token_dispatcher_type", "allgather")
    if record.config["model"]["num_moe_experts"] is None or asked == "flex":
        return ""
    for name, side in _sides(record).items():
        if suited(side.ep) not in ("", asked):
            return (
                f"the {asked} token dispatcher at parallel.{name}.ep={side.ep}: the rule is"
                f" allgather for EP up to {ALLGATHER_MAX_EP}, alltoall above; no weights depend on"
                f" it, model.moe_token_dispatcher_type={suited(side.ep)} keeps the rule there"
            )
    return ""


def _sequence_parallel(record: Record) -> str:
    """What Megatron warns of in training, where it is said to be off."""
    said = record.config["parallel"]["source"].get("sequence_parallel")
    if said is not False or record.config["model"]["num_moe_experts"] is None:
        return ""
    source = _sides(record).get("source")
    if source is None or source.tp == 1:
        return ""
    why = "its training forward pass refuses experts with TP without it"
    if source.ep > 1:
        why = (
            "when using expert parallelism and tensor parallelism for training, sequence"
            " parallelism must be used"
        )
    return (
        f"parallel.source.sequence_parallel=false with TP {source.tp} and EP {source.ep}, of which"
        f" Megatron says: {why}; no weights depend on it, parallel.source.sequence_parallel=true"
        " keeps the rule"
    )


def _token_dropping(record: Record) -> str:
    if not record.config["model"].get("moe_token_dropping"):
        return ""
    return (
        "model.moe_token_dropping=true is currently unsupported: Megatron takes it and drops"
        " nothing; model.moe_expert_capacity_factor is what drops tokens"
    )


def _sides(record: Record) -> dict[str, Side]:
    layout = record.layout
    if layout is None:
        return {}
    if layout.destination is not None:
        return {"source": layout.source, "destination": layout.destination}
    each = {f"destinations[{i}]": side for i, side in enumerate(layout.receiving)}
    return {"source": layout.source, **each}
