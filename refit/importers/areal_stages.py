"""Layers per stage as AReaL deals them out: so that the heaviest stage is as light as can be.

Its areal/engine/megatron_utils/pipeline_parallel.py weighs each layer, the embedding and the output
layer in parameters, experts by the share that EP leaves on a rank, and hands Megatron a layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from refit.importers import options
from refit.importers.pair import Side, shipped
from refit.model.moe_layers import moe_layers
from refit.model.sizes import expert_ffn_size, ffn_size, head_size, query_groups
from refit.model_config import Model


def chosen(path: str | None, sizes: Mapping[str, int], left_out: list[str]) -> Side:
    """What it says of the stages of the side that trains, where the model is a shipped one.

    Args:
        path: of the model.
        sizes: `pp` and `ep`.
        left_out: where it is said that the model is not known.
    """
    if sizes["pp"] == 1:
        return {}
    option = shipped(path) if path else None
    if option is None:
        left_out.append(
            "AReaL deals layers out to stages by their parameters, and this model is none of ours;"
            " without pipeline_model_parallel_layout each has as many"
        )
        return {}
    model = options.models()[option]
    table = model.vocab_size * model.hidden_size
    counts = balanced(weights(model, sizes["ep"]), table, table, sizes["pp"])
    return {} if len(set(counts)) == 1 else {"pipeline_model_parallel_layout": counts}


def weights(model: Model, ep: int) -> list[int]:
    """[layers]: parameters as AReaL estimates them; its output projection is h by h."""
    hidden, size = model.hidden_size, head_size(model)
    gates = 3 if model.gated_linear_unit else 2
    attention = hidden * size * (model.num_attention_heads + 2 * query_groups(model))
    attention += hidden * hidden + 2 * hidden
    dense = attention + gates * hidden * ffn_size(model)
    if model.num_moe_experts is None:
        return [dense] * model.num_layers
    experts = -(-model.num_moe_experts // ep) * gates * hidden * expert_ffn_size(model)
    shared = gates * hidden * (model.moe_shared_expert_intermediate_size or 0)
    router = hidden * model.num_moe_experts
    if model.moe_router_enable_expert_bias:
        router += model.num_moe_experts
    routed = attention + router + experts + shared
    return [routed if is_moe else dense for is_moe in moe_layers(model)]


def balanced(layers: Sequence[int], first: int, last: int, stages: int) -> list[int]:
    """[stages]: how many layers each has, the heaviest being as light as can be.

    Of several such it is AReaL's: from the last stage back, each begins as early as it may.

    Args:
        layers: the weight of each.
        first, last: what the first and the last stage have beside layers.
    """
    count = len(layers)
    sums = [0]
    for weight in layers:
        sums.append(sums[-1] + weight)
    lightest: list[float] = [0.0] + [float("inf")] * count  # of the stages so far, by layers
    starts: list[list[int]] = []
    for stage in range(stages):
        beside = first if stage == 0 else last if stage == stages - 1 else 0
        inner = 0 < stage < stages - 1
        now: list[float] = []
        begun: list[int] = []
        for end in range(count + 1):
            loads = [
                max(lightest[start], beside + sums[end] - sums[start])
                if not (inner and start == end) else float("inf")
                for start in range(end + 1)
            ]  # fmt: skip
            now.append(min(loads))
            begun.append(loads.index(min(loads)))
        lightest = now
        starts.append(begun)
    counts, end = [], count
    for begun in reversed(starts):
        counts.append(end - begun[end])
        end = begun[end]
    return counts[::-1]
