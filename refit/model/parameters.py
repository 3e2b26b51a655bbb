"""How many parameters a model has, as its publishers count them."""

from __future__ import annotations

from refit.job import Model
from refit.layout.tensors import Catalogue


def active_parameters(model: Model, catalogue: Catalogue, input_embedding: bool = True) -> int:
    """Parameters that one token meets: of the routed experts, topk in each layer.

    Args:
        catalogue: the model's; the vocabulary's own rows for the published count.
        input_embedding: False leaves the table out of which a token reads one row; a table that is
            also the output layer stays.
    """
    active = catalogue.num_parameters
    if model.num_moe_experts:
        routed = sum(f.count * f.elements for f in catalogue.families if f.grid == "expert")
        # all experts of a layer are alike
        active -= routed // model.num_moe_experts * (model.num_moe_experts - model.moe_router_topk)
    if not input_embedding:
        active -= sum(
            f.elements
            for f in catalogue.families
            if f.name == "embedding.word_embeddings.weight" and f.stage == "first"
        )
    return active
