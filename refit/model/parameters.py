"""How many parameters a model has, as its publishers count them; and whether that is so."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from refit.errors import UserError
from refit.layout.tensors import Catalogue
from refit.model.architecture import catalogue
from refit.model_config import Model


@dataclass(frozen=True)
class Parameters:
    """Of a whole model, with the vocabulary's own rows; production's tensors.

    Attributes:
        total: every parameter once.
        active: those that one token meets.
        fp32_buffers: elements of persistent buffers, which are no parameters.
    """

    total: int
    active: int
    fp32_buffers: int

    def __str__(self) -> str:
        active = "all active" if self.active == self.total else f"{self.active:,} active"
        buffers = f", {self.fp32_buffers:,} in fp32 buffers" if self.fp32_buffers else ""
        return f"{self.total:,} parameters, {active}{buffers}"


def count(model: Model) -> Parameters:
    """The parameters of a model; of one with `lora` those of its adapters.

    Raises:
        UserError: the model is impossible.
    """
    tensors = catalogue(model, vocab_rows=model.vocab_size)
    buffers = sum(f.count * f.elements for f in tensors.families if f.is_buffer)
    return Parameters(tensors.num_parameters, active_parameters(model, tensors), buffers)


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


def mismatch(model: Model) -> str | None:
    """Why a model is not the published one, or None; nothing is said of adapters alone."""
    published = model.published_parameters
    if published is None or model.lora is not None:
        return None
    try:
        tensors = catalogue(model, vocab_rows=model.vocab_size)
    except UserError:
        return None  # which another rule says
    difference = tensors.num_parameters - published
    if difference == 0:
        return None
    sizes = Counter[str]()
    for family in tensors.families:
        if not family.is_buffer:
            sizes[family.name.replace("decoder.layers.{layer}.", "")] += (
                family.count * family.elements
            )
    alike = [name for name, size in sizes.items() if size == abs(difference)]
    as_many = f", as many as {' or '.join(alike)} has" if alike else ""
    largest = ", ".join(f"{name} {size:,}" for name, size in sizes.most_common(6))
    return (
        f"model '{model.name}' has {tensors.num_parameters:,} parameters and is published with"
        f" {published:,}: {abs(difference):,} too {'many' if difference > 0 else 'few'}{as_many}."
        f" Most are {largest}; python -m refit.model prints all. Correct the fields, or set"
        " model.published_parameters=null where it is another model"
    )
