"""A GPTModel's experts under production's names: what Megatron's refit is given, same storage.

Its planner finds expert numbers in `linear_fc1.weight<N>`, as TEGroupedMLP names them. A model that
is built without Transformer Engine has SequentialMLP's `local_experts.<N>.linear_fc1.weight`.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from refit.model import megatron_versions as versions
from refit.weights.models import places

_EXPERT = re.compile(r"(.*\.mlp\.experts)\.local_experts\.(\d+)\.(linear_fc[12])\.(weight|bias)")


def production_name(name: str) -> str:
    """TEGroupedMLP's name of what SequentialMLP names so; other names stay."""
    return _EXPERT.sub(r"\1.\3.\4\2", name)


def under_production_names(model: Any) -> Any:
    """A module of the model's parameters and persistent buffers, experts under production's names.

    What it holds is the model's own memory, and but for experts its very parameters. It has what
    Megatron's refit asks of a model besides: `config`, `pg_collection` and its layers' numbers.

    Args:
        model: a GPTModel; returned as it is where it has no SequentialMLP.
    """
    if not any(_EXPERT.fullmatch(name) for name, _ in model.named_parameters()):
        return model
    whole: Any = torch.nn.Module()
    whole.config, whole.pg_collection = model.config, model.pg_collection
    for module, path, leaf, is_buffer in places(model):
        held = getattr(module, leaf)
        name = f"{path}.{leaf}" if path else leaf
        where, _, last = production_name(name).rpartition(".")
        holder = _module(whole, where)
        if is_buffer:
            holder.register_buffer(last, held)
        else:
            holder.register_parameter(last, _marked(held, name, model))
    for number, layer in enumerate(model.decoder.layers):
        _module(whole, f"decoder.layers.{number}").layer_number = layer.layer_number
    return whole


def _marked(held: torch.nn.Parameter, name: str, model: Any) -> torch.nn.Parameter:
    """The parameter itself; of an expert another of the same storage, with production's marks."""
    expert = _EXPERT.fullmatch(name)
    if expert is None:
        return held
    groups = model.pg_collection
    same = torch.nn.Parameter(held.data, requires_grad=held.requires_grad)
    marks = versions.expert_attributes(
        expert[3], expert[4], groups.tp.size(), groups.ep.size(), groups.expt_tp.size()
    )
    for attribute, value in marks.items():
        setattr(same, attribute, value)
    return same


def _module(whole: torch.nn.Module, path: str) -> Any:
    """The module at a path, made where it is not there."""
    for part in path.split(".") if path else []:
        if part not in whole._modules:
            whole.add_module(part, torch.nn.Module())
        whole = whole._modules[part]  # type: ignore[assignment]
    return whole
