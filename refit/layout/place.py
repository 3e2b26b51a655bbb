"""What a job says of its two sides -> both layouts, and where they stand."""

from __future__ import annotations

from dataclasses import fields, replace
from math import lcm

from refit.errors import UserError
from refit.job import Degrees, Job
from refit.layout import order as rank_order
from refit.layout import stages
from refit.layout.layout import DTYPES, KINDS, PADDINGS, Layout, Placement
from refit.layout.ranks import apart, first_rank, misplaced, overlapping, shared


def resolve(degrees: Degrees, etp: int, offset: int = 0) -> Layout:
    """A side's degrees with every default filled in.

    Args:
        degrees: as written in the config.
        etp: what a `null` means here.
        offset: first global rank.

    Raises:
        UserError: from `Layout`; a count is below 1, or a list of layers per stage is none.
    """
    if degrees.kind == "fsdp":
        return _fsdp(degrees, offset)
    if degrees.shard is not None:
        raise UserError(
            f"shard={degrees.shard} is of kind=fsdp; set kind=fsdp beside it, or leave it out"
        )
    if degrees.gate_up_interleaved and degrees.kind != "engine":
        raise UserError(
            "gate_up_interleaved=true is of kind=engine; set kind=engine beside it, or leave it out"
        )
    if degrees.sequence_parallel is not None and degrees.kind == "engine":
        raise UserError(
            f"sequence_parallel={str(degrees.sequence_parallel).lower()} is Megatron's, and"
            " kind=engine has none; leave it out"
        )
    if degrees.sequence_parallel and degrees.tp == 1:
        raise UserError(
            "sequence_parallel=true and tp=1: Megatron's config cannot use sequence parallelism"
            " without tensor parallelism (its launcher turns it off); leave it out, or use tp=2 or"
            " more"
        )
    listed = degrees.pipeline_model_parallel_layout
    return Layout(
        tp=degrees.tp,
        cp=degrees.cp,
        pp=degrees.pp,
        ep=degrees.ep,
        etp=etp if degrees.etp is None else degrees.etp,
        gpus=_explicit("gpus", degrees.gpus),
        first_stage_layers=degrees.num_layers_in_first_pipeline_stage,
        last_stage_layers=degrees.num_layers_in_last_pipeline_stage,
        offset=offset,
        dtype=_dtype(degrees.dtype),
        kind=degrees.kind or "megatron",
        gate_up_interleaved=bool(degrees.gate_up_interleaved),
        expert_slots=_explicit("expert_slots", degrees.expert_slots) or None,
        sequence_parallel=bool(degrees.sequence_parallel),
        padding_is_checked=degrees.padding != "unchecked",
        order=rank_order.DEFAULT if degrees.order is None else degrees.order,
        listed_layers=None if listed is None else stages.listed(listed),
        virtual_stages=_explicit(stages.VIRTUAL, degrees.virtual_pipeline_model_parallel_size),
        counts_embedding=bool(degrees.account_for_embedding_in_pipeline_split),
        counts_loss=bool(degrees.account_for_loss_in_pipeline_split),
    )


def _fsdp(degrees: Degrees, offset: int) -> Layout:
    """A side of PyTorch's fully_shard; what only Megatron has must not be said of it."""
    others = replace(Degrees(), **{name: getattr(degrees, name) for name in _OF_FSDP})
    said = [f.name for f in fields(Degrees) if getattr(degrees, f.name) != getattr(others, f.name)]
    if said:
        name = said[0]
        raise UserError(
            f"{name}={getattr(degrees, name)} is Megatron's, and kind=fsdp has"
            f" {', '.join(_OF_FSDP)}; set {name}={getattr(others, name) or 'null'} here, or write"
            " the pair as a file of its own"
        )
    return Layout(
        kind="fsdp",
        shard=_explicit("shard", degrees.shard) or _explicit("gpus", degrees.gpus) or 1,
        gpus=_explicit("gpus", degrees.gpus),
        offset=offset,
        dtype=_dtype(degrees.dtype),
        padding_is_checked=degrees.padding != "unchecked",
    )


_OF_FSDP = (
    "kind", "shard", "gpus", "offset", "node_aligned", "dtype", "make_vocab_size_divisible_by",
    "share_embeddings_and_output_weights", "padding",
)  # fmt: skip


def _dtype(name: str | None) -> str | None:
    return None if name == "bfloat16" else name


def _check_word(name: str, word: str | None, allowed: tuple[str, ...]) -> None:
    if word is not None and word not in allowed:
        raise UserError(f"{name}={word} is not one of {', '.join(allowed)}")


def _explicit(name: str, count: int | None) -> int:
    """0 for what is not said."""
    if count is None:
        return 0
    if count < 1:
        raise UserError(f"{name}={count}: must be 1 or more")
    return count


def place(job: Job) -> Placement:
    """All layouts of a job in the world.

    Non-collocated: source ranks first, then the destination; needs source + destination GPUs.
    Collocated: both start at one rank, 0; needs max(source, destination). Several destinations
    stand one after another from there on. A side's own `offset` or `node_aligned` says otherwise;
    a destination shares no rank with another; where the sides are collocated, the source shares a
    rank with one of them at least, else with none.
    For ETP where it is null see `Parallel.etp_of`; a dense model's is 1.

    Raises:
        UserError: from `Layout`, with the side named; an unknown mode; or sides that stand where
            the mode does not allow it.
    """
    collocated = job.placement_mode == "collocated"
    if not collocated and job.placement_mode != "non-collocated":
        raise UserError(
            f"mode '{job.placement_mode}' is not collocated or non-collocated"
            " (auto in refit.mode: the pair's)"
        )
    per_node = job.cluster.ranks_per_node
    if per_node < 1:
        raise UserError(f"cluster.ranks_per_node={per_node} must be 1 or more")
    degrees = job.parallel.sides
    of_source = degrees.pop("source")
    source = _side(job, "source", of_source, job.parallel.etp_of(of_source), 0)
    start = source.ranks.start if collocated else source.ranks.stop
    sides = {"source": source}
    for name, of_side in degrees.items():
        sides[name] = _side(job, name, of_side, job.parallel.etp_of(of_side), start)
        start = sides[name].ranks.stop
    _check_ranks(job, {name: side.ranks for name, side in sides.items()}, collocated)
    source, *destinations = _told_of_each_other(job, list(sides.values()))
    listed = job.parallel.destinations is not None
    placement = Placement(source, tuple(destinations), per_node, 0, listed)
    return replace(placement, world=-(-placement.end // per_node) * per_node)


def _check_ranks(job: Job, ranks: dict[str, range], collocated: bool) -> None:
    """That sides share ranks where they may, or must.

    Args:
        ranks: by the sides' names, the source first.

    Raises:
        UserError: they do not.
    """
    source, *destinations = ranks.values()
    meet = any(shared(source, theirs) for theirs in destinations)
    if len(destinations) == 1 and meet != collocated:
        raise UserError(misplaced(source, destinations[0], collocated, list(ranks)[1]))
    if collocated and not meet:
        raise UserError(apart(source, destinations))
    apart_from = {} if collocated else {"source": source}
    for name, theirs in list(ranks.items())[1:]:
        for other, taken in apart_from.items():
            if shared(taken, theirs):
                behind_all = max(r.stop for n, r in ranks.items() if n != name)
                moved = replace(job.parallel.sides[name], offset=None)
                free = first_rank(moved, behind_all, job.cluster.ranks_per_node)
                raise UserError(overlapping(name, theirs, other, taken, free))
        apart_from[name] = theirs


def _told_of_each_other(job: Job, sides: list[Layout]) -> list[Layout]:
    """All sides with their vocabulary's rows, and with the dtype that the values come from.

    Megatron pads the vocabulary to a multiple of make_vocab_size_divisible_by * TP, FSDP not at
    all. A destination has as many rows as the source, but where it says its own multiple.
    """
    model, source = job.model, sides[0]
    casts = any(side.dtype != source.dtype for side in sides)
    told: list[Layout] = []
    for degrees, side in zip(job.parallel.sides.values(), sides, strict=True):
        multiple = degrees.make_vocab_size_divisible_by
        if multiple is None and side.kind == "engine":
            rows = padded(model.vocab_size, lcm(64, side.tp))  # as vLLM and SGLang do
        elif multiple is None and side is not source:
            rows = told[0].vocab_rows or model.vocab_size
        else:
            if multiple is None:
                multiple = 1 if side.kind == "fsdp" else model.make_vocab_size_divisible_by
            rows = padded(model.vocab_size, multiple * side.tp)
        tied = side is source or degrees.share_embeddings_and_output_weights is not False
        told.append(
            replace(side, vocab_rows=rows, trained_dtype=source.dtype, casts=casts, tied=tied)
        )
    return told


def padded(size: int, multiple: int) -> int:
    """The least multiple that is no smaller."""
    return -(-size // multiple) * multiple


def _side(job: Job, name: str, degrees: Degrees, etp: int, default_start: int) -> Layout:
    where = f"parallel.{name}"
    if not job.model.is_moe and degrees.kind != "fsdp":  # it has nothing to cut, as in Megatron
        etp = min(1, 1 if degrees.etp is None else degrees.etp)
        degrees = replace(degrees, etp=etp)
    try:
        _check_word("kind", degrees.kind, KINDS)
        _check_word("dtype", degrees.dtype, DTYPES)
        _check_word("padding", degrees.padding, PADDINGS)
        _explicit("make_vocab_size_divisible_by", degrees.make_vocab_size_divisible_by)
        start = first_rank(degrees, default_start, job.cluster.ranks_per_node)
        return resolve(degrees, etp, start)
    except UserError as error:
        because = ""
        if _works_with_etp_1(degrees):
            because = (
                f"etp is {_default_etp(job, name)}, {etp}, by default, as Megatron has it, and does"
                f" not fit; with {where}.etp=1, each expert whole, this works. "
            )
        raise UserError(f"{where}: {because}{error}") from None


def _default_etp(job: Job, name: str) -> str:
    """Whose degree a side's ETP is where nothing is said of it."""
    source = job.parallel.source
    if name == "source" or source.kind == "fsdp":
        return "tp"
    return "the source's" if source.etp is not None else "the source's, and that is its tp"


def _works_with_etp_1(degrees: Degrees) -> bool:
    """Whether a layout is impossible by its default ETP alone."""
    if degrees.etp is not None:
        return False
    try:
        resolve(degrees, 1)
    except UserError:
        return False
    return True
