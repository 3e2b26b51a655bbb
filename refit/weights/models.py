"""A rank's tensors made real: plain shards, or megatron-core's GPTModels bound to them by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from refit.job import Job
from refit.layout.layout import Placement
from refit.layout.tensors import Catalogue, Shard
from refit.model.convention import has_transformer_engine, logical_name
from refit.plan.arena import Arenas
from refit.weights.groups import make_groups
from refit.weights.slab import Slab
from refit.weights.weights import Weights


def build(
    job: Job,
    placement: Placement,
    side: str,
    catalogue: Catalogue,
    rank: int,
    slab: Slab | None,
    device: str | torch.device = "cpu",
) -> Weights | None:
    """Make one side's weights on this rank.

    With build=megatron the side's process groups are made here: torch.distributed must be
    initialised, and every rank of the world must call, idle ones too, for every side in the order
    of `placement.sides`.

    Args:
        side: its name in `placement.sides`.
        catalogue: every tensor of the model, the same on all sides.
        slab: CPU memory for the arena, for peers to map; None, or another device: private memory
            of the device.

    Returns:
        None on a rank outside the side's layout.

    Raises:
        UserError: megatron-core refuses the model or layout.
        RuntimeError: its weights are not those that `refit.model.architecture` says.
    """
    layout = placement.sides[side]
    if job.build == "megatron" and layout.kind == "megatron":
        make_groups(layout, rank)  # a rank that leaves below counts them like those that stay
    if rank not in layout.ranks:
        return None
    if torch.device(device).type != "cpu":
        slab = None
    shards = Arenas(catalogue, placement).shards(layout, rank)
    if job.build == "shards" or layout.kind != "megatron":  # no model there
        return Weights.allocate(shards, slab, device)
    # four seconds of imports that build=shards does not need
    from refit.weights import megatron_build

    chunks = megatron_build.gpt_models(job, placement, side, rank)
    weights = Weights.allocate(shards, slab, device)
    tied = job.model.share_embeddings_and_output_weights and layout.tied
    bind(chunks, weights, tied)
    return replace(weights, chunks=chunks)


def bind(chunks: Sequence[Any], weights: Weights, tied: bool) -> None:
    """Move every parameter and persistent buffer of a rank's GPTModels into the arena, by name.

    What the model held before is dropped, not copied. Buffers that are not persistent (a training
    step's counters) stay where they are: a checkpoint does not have them either.

    Raises:
        RuntimeError: a weight without a tensor, or the reverse, or of another shape, dtype or cut.
    """
    unbound = {shard.name: shard for shard in weights.shards if shard.same_as is None}
    for chunk in chunks:
        _bind(chunk, weights, tied, unbound)
    if unbound:
        names = ", ".join(f"{s.name} {s.shape}" for s in list(unbound.values())[:5])
        raise RuntimeError(
            f"megatron-core's model lacks {len(unbound)} tensors, among them {names}"
        )


def _bind(model: Any, weights: Weights, tied: bool, unbound: dict[str, Shard]) -> None:
    """As `bind`, of one GPTModel; what it binds is no longer in `unbound`."""
    layers = model.decoder.layers
    first_layer = layers[0].layer_number - 1 if len(layers) else 0
    # the same in all of the rank's layers that have experts
    indices = (getattr(module, "local_expert_indices", None) for module in model.modules())
    experts = [found for found in indices if found]
    first_expert = experts[0][0] if experts else 0
    for module, path, leaf, is_buffer in places(model):
        held = getattr(module, leaf)
        name = f"{path}.{leaf}" if path else leaf
        logical = logical_name(name, first_layer, first_expert, tied)
        shard = unbound.pop(logical, None)
        if shard is None:
            raise RuntimeError(
                f"megatron-core's {name}, {_described(held, is_buffer)}, would be {logical}: not"
                " among the tensors that refit.model.architecture gives this rank, or bound twice"
            )
        view = weights.tensors[shard.tensor]
        ours, theirs = _described(view, shard.family.is_buffer), _described(held, is_buffer)
        if ours != theirs:
            raise RuntimeError(
                f"{logical}: {ours} by refit.model.architecture, {theirs} in megatron-core's {name}"
            )
        if is_buffer:
            module._buffers[leaf] = view
        else:
            _check_cut(shard, held, name)
            held.data = view


def _check_cut(shard: Shard, held: torch.nn.Parameter, name: str) -> None:
    """Whether Megatron cuts a parameter as the plan and every check of bits take it to.

    Wrong knowledge of a cut fills, plans and checks by the same mistake, and all bits agree. What
    Megatron does not say is not compared: nothing of learned sinks, of Transformer Engine's own
    layers no stride, and of its grouped experts what `expert_attributes` has found to be wrong.

    Raises:
        RuntimeError: it cuts another dimension, or other parts each on their own.
    """
    family = shard.family
    engine = has_transformer_engine()
    if name.endswith("softmax_offset") or (engine and family.grid == "expert"):
        return
    theirs: tuple[int | None, int] = (None, 1)
    if getattr(held, "tensor_model_parallel", False):
        theirs = (held.partition_dim, held.partition_stride)  # type: ignore[attr-defined]
    ours = (family.axis, max(1, len(family.parts)) if family.axis is not None else 1)
    if theirs[0] != ours[0] or (theirs[1] != ours[1] and not engine):
        raise RuntimeError(
            f"{shard.name}: cut along dimension {ours[0]} in {ours[1]} parts by"
            f" refit.model.architecture, along {theirs[0]} in {theirs[1]} in megatron-core's {name}"
        )


def places(model: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, str, str, bool]]:
    """(module, its path, attribute, whether a buffer) of every parameter and persistent buffer."""
    for path, module in model.named_modules():
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                yield module, path, leaf, False
        for leaf, buffer in module._buffers.items():
            if buffer is not None and leaf not in module._non_persistent_buffers_set:
                yield module, path, leaf, True


def dispatcher_of(weights: Weights | None) -> str | None:
    """`allgather`, `alltoall` or `flex`, by the class of a GPTModel's token dispatcher.

    None where there is no such model, or no experts in it.
    """
    for chunk in weights.chunks if weights else ():
        for layer in chunk.decoder.layers:
            built = getattr(layer.mlp, "token_dispatcher", None)
            if named := re.fullmatch(r"MoE(\w+)TokenDispatcher", type(built).__name__):
                return named[1].lower()
    return None


def _described(tensor: torch.Tensor, is_buffer: bool) -> str:
    """`parameter (64, 32) bfloat16`; equal for tensors that can stand for each other."""
    role = "buffer" if is_buffer else "parameter"
    return f"{role} {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
