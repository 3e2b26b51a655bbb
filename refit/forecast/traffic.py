"""Bytes per message of training and serving a model on a layout. Pure arithmetic, no torch.

Every function takes the model, the layout and, where tokens travel, the micro batch and the
sequence length; it returns what one rank holds of one message of one layer, in bytes. Activations
and weights have 2 bytes (bfloat16), gradients are reduced in 4. With
`c = 2 * micro_batch * sequence * hidden_size` a layer's messages are:

    tensor parallel all-gather, reduce-scatter           c
    expert parallel all-to-all, dispatch and combine     c * topk / tp
    expert tensor parallel all-gather, reduce-scatter    c * topk * etp / tp
    routing metadata all-gather                          2 * experts * ep * etp
    expert data parallel all-gather of weights           2 * P
    expert data parallel reduce-scatter of gradients     4 * P
    pipeline stage to stage                              c / tp

where P is the expert parameters of a rank. Each of tp ranks has its part of the tokens (sequence
parallel), so what it sends to experts is of c/tp. A message among one rank does not exist and has
0 bytes.

Source: the workload files of Megatron MoE training that `refit.workloads` tabulates, whose 123 sets
of sizes these formulas reproduce to the byte; they have etp = tp.
"""

from __future__ import annotations

from refit.layout.layout import Layout
from refit.model.moe_layers import moe_layers
from refit.model.sizes import expert_ffn_size
from refit.model_config import Model

ACTIVATION_BYTES = WEIGHT_BYTES = 2
GRADIENT_BYTES = 4


def hidden_bytes(model: Model, micro_batch: int, sequence: int) -> int:
    """c: the hidden states of all tokens of a micro batch."""
    return ACTIVATION_BYTES * micro_batch * sequence * model.hidden_size


def tensor_parallel_bytes(model: Model, layout: Layout, micro_batch: int, sequence: int) -> int:
    """All-gather before, and reduce-scatter after, attention and a dense MLP, over TP."""
    return hidden_bytes(model, micro_batch, sequence) if layout.tp > 1 else 0


def dispatch_bytes(model: Model, layout: Layout, micro_batch: int, sequence: int) -> int:
    """All-to-all over EP that brings tokens to their experts; combine brings back as much."""
    if not model.is_moe or layout.ep == 1:
        return 0
    return hidden_bytes(model, micro_batch, sequence) * model.moe_router_topk // layout.tp


def expert_tensor_parallel_bytes(
    model: Model, layout: Layout, micro_batch: int, sequence: int
) -> int:
    """All-gather before, and reduce-scatter after, experts that are cut over ETP."""
    if not model.is_moe or layout.etp == 1:
        return 0
    routed = hidden_bytes(model, micro_batch, sequence) * model.moe_router_topk
    return routed * layout.etp // layout.tp


def metadata_bytes(model: Model, layout: Layout) -> int:
    """All-gather over EP and ETP of how many tokens each expert gets, 2 bytes per expert."""
    group = layout.ep * layout.etp
    return 2 * (model.num_moe_experts or 0) * group if group > 1 else 0


def expert_parameters(model: Model, layout: Layout) -> int:
    """P: expert weights of one rank, on a stage with its even share of layers, rounded down."""
    matrices = 3 if model.gated_linear_unit else 2
    expert = matrices * model.hidden_size * expert_ffn_size(model)
    layers = sum(moe_layers(model)) // layout.pp
    return layers * (model.num_moe_experts or 0) * expert // (layout.etp * layout.ep)


def expert_gather_bytes(model: Model, layout: Layout) -> int:
    """All-gather of updated expert weights over the expert data parallel ranks, per step."""
    return WEIGHT_BYTES * expert_parameters(model, layout) if layout.edp > 1 else 0


def expert_reduce_bytes(model: Model, layout: Layout) -> int:
    """Reduce-scatter of expert gradients over the expert data parallel ranks, per step."""
    return GRADIENT_BYTES * expert_parameters(model, layout) if layout.edp > 1 else 0


def pipeline_bytes(model: Model, layout: Layout, micro_batch: int, sequence: int) -> int:
    """What one stage hands to the next."""
    if layout.pp == 1:
        return 0
    return hidden_bytes(model, micro_batch, sequence) // layout.tp
