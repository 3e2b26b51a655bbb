"""How many parameters a model has, as its publishers count them."""

from __future__ import annotations

from refit.job import Model
from refit.layout.tensors import Catalogue


def active_parameters(model: Model, tensors: Catalogue, input_embedding: bool = True) -> int:
    """Parameters that one token meets: of the routed experts, topk in each layer.

    Args:
        tensors: the model's catalogue; `padded=False` for the published count.
        input_embedding: False leaves the table out of which a token reads one row; a table that is
            also the output layer stays.
    """
    routed = sum(f.count * f.elements for f in tensors.families if f.grid == "expert")
    idle = (
        routed // model.num_moe_experts * (model.num_moe_experts - model.moe_router_topk)
        if (model.num_moe_experts)
        else 0
    )
    left_out = sum(
        f.elements
        for f in tensors.families
        if f.name == "embedding.word_embeddings.weight" and f.stage == "first"
    )
    return tensors.num_parameters - idle - (0 if input_embedding else left_out)
