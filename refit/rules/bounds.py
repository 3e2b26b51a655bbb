"""What numbers may be: of every field the least and the most. Asked before anything is allocated.

The upper bounds are no aims: they lie far above what there is, and below what would take minutes
or more memory than a machine has before a rule about it could speak.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from operator import attrgetter
from typing import Any

from refit.job import Degrees, Job
from refit.model_config import Model

RANKS = 262_144
"""Of a side, and so the most that any degree is."""

LAYERS, TENSORS = 10_000, 262_144
HEADS, SIZE, WIDTH, VOCABULARY = 65_536, 65_536, 4_194_304, 4_194_304
POSITIONS, WEIGHTS, NUMBER = 16_777_216, 2**56, 1e12

COUNTS: dict[str, tuple[int, int]] = {
    "seed": (-(2**63), 2**63 - 1),
    "bench.iterations": (1, 1_000_000),
    "bench.warmup": (0, 1_000_000),
    "cluster.nodes": (1, RANKS),
    "cluster.ranks_per_node": (1, 4096),
    "refit.in_flight": (1, 4096),
    "refit.max_ops_per_group": (2, 1_000_000),  # a send and the receive that goes with it
    "refit.streams": (1, 1024),
    "model.num_layers": (1, LAYERS),
    "model.hidden_size": (1, WIDTH),
    "model.num_attention_heads": (1, HEADS),
    "model.ffn_hidden_size": (1, WIDTH),
    "model.num_query_groups": (1, HEADS),
    "model.kv_channels": (1, SIZE),
    "model.q_lora_rank": (1, WIDTH),
    "model.kv_lora_rank": (1, WIDTH),
    "model.qk_head_dim": (1, SIZE),
    "model.qk_pos_emb_head_dim": (1, SIZE),
    "model.v_head_dim": (1, SIZE),
    "model.vocab_size": (1, VOCABULARY),
    "model.make_vocab_size_divisible_by": (1, VOCABULARY),
    "model.seq_length": (1, POSITIONS),
    "model.max_position_embeddings": (1, POSITIONS),
    "model.original_max_position_embeddings": (1, POSITIONS),
    "model.rotary_base": (1, 10**12),
    "model.num_moe_experts": (1, TENSORS),
    "model.moe_ffn_hidden_size": (1, WIDTH),
    "model.moe_shared_expert_intermediate_size": (1, WIDTH),
    "model.moe_router_topk": (1, TENSORS),
    "model.moe_router_num_groups": (1, TENSORS),
    "model.moe_router_group_topk": (1, TENSORS),
    "model.published_parameters": (1, WEIGHTS),
    "model.mtp_num_layers": (1, 100),
    "model.moe_latent_size": (1, WIDTH),
    "model.mamba_state_dim": (1, SIZE),
    "model.mamba_head_dim": (1, SIZE),
    "model.mamba_num_groups": (1, HEADS),
    "model.mamba_num_heads": (1, HEADS),
    "model.linear_conv_kernel_dim": (1, SIZE),
    "model.linear_key_head_dim": (1, SIZE),
    "model.linear_value_head_dim": (1, SIZE),
    "model.linear_num_key_heads": (1, HEADS),
    "model.linear_num_value_heads": (1, HEADS),
    "model.dsa_indexer_n_heads": (1, HEADS),
    "model.dsa_indexer_head_dim": (1, SIZE),
    "model.dsa_indexer_topk": (1, POSITIONS),
}
"""The least and the most; null means Megatron's default and is left alone."""

SWEEP_COUNTS: dict[str, tuple[int, int]] = {
    "sweep.pack": (1, 10_000),
    "sweep.repeat": (1, 10_000),
    "sweep.repetition": (1, 10_000),
    "sweep.max_attempts": (1, 1000),
}

POINTS = 100_000
"""Of one sweep."""

SIDE_COUNTS: dict[str, int] = {
    **dict.fromkeys(("tp", "cp", "pp", "ep", "etp", "gpus", "offset", "shard"), RANKS),
    "num_layers_in_first_pipeline_stage": LAYERS,
    "num_layers_in_last_pipeline_stage": LAYERS,
    "virtual_pipeline_model_parallel_size": LAYERS,
    "expert_slots": TENSORS,
    "make_vocab_size_divisible_by": VOCABULARY,
}
"""The most of what a side says; the least is the layout's to say, but for a degree's."""

DEGREES = ("tp", "cp", "pp", "ep", "etp")

AMOUNTS: dict[str, float] = {
    "bench.deadline_s": 1e6,  # eleven days; the system's own waits take 24 at most
    "refit.bucket_mb": 1e6,
    "model.rotary_percent": 1.0,
    "model.rope_scaling_factor": 1e6,
    "model.rotary_scaling_factor": 1e6,
    "model.activation_func_clamp_value": NUMBER,
}
"""The most of times, factors and sizes in fractions, which are above zero."""


def sweep_counts_large_enough(job: Job) -> str | None:
    """The sweep's own counts are within their bounds."""
    return _outside(job, SWEEP_COUNTS)


def counts_within(job: Job) -> str | None:
    """Sizes and counts are within their bounds."""
    return _outside(job, COUNTS)


def _outside(job: Job, bounds: Mapping[str, tuple[int, int]]) -> str | None:
    for name, (least, most) in bounds.items():
        value = attrgetter(name)(job)
        if value is not None and not least <= value <= most:
            allowed = f"{least} or more" if value < least else f"{most} or less"
            return f"{name}={value}: must be {allowed}"
    return None


def sides_within(job: Job) -> str | None:
    """Degrees and what else a side says are within their bounds, and so are its ranks."""
    nodes = job.parallel.nodes
    if nodes is not None and nodes > RANKS:
        return f"parallel.nodes={nodes}: must be {RANKS} or less"
    for name, side in job.parallel.sides.items():
        if reason := _side(f"parallel.{name}", side):
            return reason
    return None


def _side(where: str, side: Degrees) -> str | None:
    for field, most in SIDE_COUNTS.items():
        value = getattr(side, field)
        if value is not None and value > most:
            return f"{where}.{field}={value}: must be {most} or less"
        if field in DEGREES and value is not None and value < 1:
            return f"{where}: {field}={value}: a parallel degree must be 1 or more"
    ranks = side.tp * side.cp * side.pp * side.ep
    if ranks > RANKS:
        return (
            f"{where}: tp*cp*pp*ep = {side.tp}*{side.cp}*{side.pp}*{side.ep} = {ranks} ranks, and"
            f" a side has {RANKS} at most; use smaller degrees"
        )
    return None


def amounts_positive(job: Job) -> str | None:
    """Times, factors and sizes in fractions are above zero, and numbers at all."""
    for name, most in AMOUNTS.items():
        value = attrgetter(name)(job)
        if value is None or 0 < value <= most:
            continue
        rest = f"{most:g} or less" if value > most else "more than 0"  # also NaN
        return f"{name}={value}: must be {rest}"
    return None


def numbers_are_finite(job: Job) -> str | None:
    """What has no bounds of its own is a number as people write them: no NaN, nothing endless."""
    for name, value in _numbers(asdict(job), ""):
        if name not in COUNTS and not abs(value) <= NUMBER:  # also NaN
            return f"{name}={value}: must be a number from -{NUMBER:g} to {NUMBER:g}"
    return None


FREE = ("cluster.slurm", "cluster.env")
"""Mappings whose values are for others to read."""


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    """Every number of a config, with its name."""
    if isinstance(value, dict):
        for key, inner in value.items():
            path = f"{name}.{key}".lstrip(".")
            if path not in FREE:
                yield from _numbers(inner, path)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _numbers(inner, f"{name}[{number}]")
    elif isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
        yield name, value


def weights_countable(job: Job) -> str | None:
    """A model's tensors can be listed, and its weights counted, at all."""
    m = job.model
    depth = m.num_layers + (m.mtp_num_layers or 0)
    tensors = depth * (m.num_moe_experts or 1)
    if tensors > TENSORS:
        return (
            f"model.num_layers={m.num_layers} with model.num_moe_experts={m.num_moe_experts} are"
            f" {tensors} experts, and {TENSORS} at most can be planned; use fewer of either"
        )
    weights = tensors * m.hidden_size * _widest(m)
    if weights > WEIGHTS:
        return (
            f"the model has about {weights:.1e} weights (layers * experts * hidden size * the"
            f" widest layer), and {WEIGHTS:.1e} at most can be counted; use smaller sizes"
        )
    for side, degrees in job.parallel.sides.items():
        multiple = degrees.make_vocab_size_divisible_by or m.make_vocab_size_divisible_by
        if multiple * degrees.tp > 2 * VOCABULARY:
            return (
                f"parallel.{side}: make_vocab_size_divisible_by * tp = {multiple} * {degrees.tp}"
                f" pads the vocabulary to {multiple * degrees.tp} rows, and"
                f" {2 * VOCABULARY} is the most; use a smaller one"
            )
    return None


def _widest(m: Model) -> int:
    """Rows or columns of the widest layer, or somewhat more."""
    heads = (
        *(m.num_attention_heads, m.mamba_num_heads, m.mamba_num_groups, m.dsa_indexer_n_heads),
        *(m.linear_num_key_heads, m.linear_num_value_heads),
    )
    sizes = (
        *(m.kv_channels, m.qk_head_dim, m.qk_pos_emb_head_dim, m.v_head_dim, m.mamba_head_dim),
        *(m.mamba_state_dim, m.linear_key_head_dim, m.linear_value_head_dim),
        m.dsa_indexer_head_dim,
    )
    widths = (
        *(m.hidden_size, m.ffn_hidden_size, m.moe_ffn_hidden_size, m.q_lora_rank, m.kv_lora_rank),
        *(m.moe_shared_expert_intermediate_size, m.moe_latent_size),
    )
    return max(max(map(_or_0, heads)) * max(map(_or_0, sizes)), max(map(_or_0, widths)))


def _or_0(value: int | None) -> int:
    return value or 0


BOUNDS = (counts_within, sides_within, amounts_positive, numbers_are_finite, weights_countable)
"""What is asked of a job of which a model alone is looked at."""
