"""What flags say, as the overrides of `refit.run` that are closest to its shipped options."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from refit.errors import UserError
from refit.importers import flags
from refit.importers.read import Reading
from refit.job import Degrees, Job, Parallel
from refit.model.moe_layers import moe_layers
from refit.model.sizes import expert_ffn_size, ffn_size
from refit.model_config import Model
from refit.schema import CONF

OWN_MODEL = "moe_16e"
"""The model of `refit.run` where none is said."""

_SHAPE = ("num_layers", "hidden_size", "num_attention_heads", "num_moe_experts")
_PLAIN = re.compile(r"[A-Za-z_][\w-]*")


def overrides(reading: Reading) -> list[str]:
    """The job that was read.

    Raises:
        UserError: Megatron's list of layers with experts is wrong.
    """
    name, of_model = model_of(reading)
    return [
        *of_model,
        *_pair(reading, name),
        f"refit={reading.method}",
        *(f"bench.{key}={value}" for key, value in reading.bench.items()),
    ]


# -- the model


def model_of(reading: Reading) -> tuple[str, list[str]]:
    """The option that is closest, and the overrides that make it the model."""
    if not reading.whole:
        own = asdict(models()[OWN_MODEL])
        return OWN_MODEL, [
            _setting(f"model.{key}", value)
            for key, value in reading.model.items()
            if own[key] != value
        ]
    blank: dict[str, Any] = {"name": "", "vocab_size": 0}
    model = Model(**(blank | reading.model))
    wanted = comparable(model)
    if "vocab_size" not in reading.model:
        del wanted["vocab_size"]
    theirs = {name: comparable(option) for name, option in models().items()}
    differing = {
        name: [key for key, value in wanted.items() if own[key] != value]
        for name, own in theirs.items()
    }
    closest = min(differing, key=lambda name: (len(differing[name]), name))
    differs = differing[closest]
    said = [_setting(f"model.{key}", getattr(model, key)) for key in differs]
    if set(differs) & set(_SHAPE):  # it is another model than its neighbour, and called so
        experts = f"_{model.num_moe_experts}e" if model.is_moe else ""
        called = f"megatron_{model.num_layers}l_{model.hidden_size}h{experts}"
        said.insert(0, f"model.name={called}")
    if differs and models()[closest].published_parameters is not None:
        said.append("model.published_parameters=null")
    return closest, [f"model={closest}", *said]


def comparable(model: Model) -> dict[str, Any]:
    """A model's fields with what Megatron derives, and without what says nothing of its weights."""
    values = asdict(model)
    del values["name"], values["published_parameters"], values["pairs_of"]
    values["ffn_hidden_size"] = ffn_size(model)
    values["num_query_groups"] = model.num_query_groups or model.num_attention_heads
    head = model.hidden_size // model.num_attention_heads
    values["kv_channels"] = model.kv_channels or head
    if model.is_moe:
        values["moe_ffn_hidden_size"] = expert_ffn_size(model)
        values["moe_layer_freq"] = moe_layers(model)
    for one in flags.MODEL.values():
        latent = model.multi_latent_attention
        yarn = latent or model.position_embedding_type == "yarn"
        if (one.of == "latent" and not latent) or (one.of == "yarn" and not yarn):
            values[one.field] = None
    return values


# -- the pair


def _pair(reading: Reading, model: str) -> list[str]:
    """The pair that these sides are; or the closest row of the table, and what differs from it."""
    is_moe = bool(reading.model.get("num_moe_experts", models()[model].num_moe_experts))
    if reading.whole:
        is_moe = "num_moe_experts" in reading.model
    wanted = Parallel(
        name="wanted",
        mode=reading.mode,
        source=Degrees(**reading.source),
        destination=Degrees(**reading.destination),
    )
    free = {name: p for name, p in pairs().items() if p.model is None}
    for name, one in pairs().items():
        usable = name in free or (reading.whole and one.model == model)
        if usable and one.destinations is None and _same(one, wanted, is_moe):
            return [f"parallel={name}"]
    choices = {name: _differing(one, wanted) for name, one in free.items()}
    name = min(choices, key=lambda name: (len(choices[name]), name))
    said = [_setting(f"parallel.{key}", value) for key, value in choices[name].items()]
    if free[name].mode != reading.mode:
        said.append(f"refit.mode={reading.mode}")
    return [f"parallel={name}", *said]


def _differing(option: Parallel, wanted: Parallel) -> dict[str, Any]:
    """Fields of both sides in which the option is not what is wanted."""
    return {
        f"{side}.{one.name}": getattr(getattr(wanted, side), one.name)
        for side in ("source", "destination")
        for one in fields(Degrees)
        if getattr(getattr(option, side), one.name) != getattr(getattr(wanted, side), one.name)
    }


def _same(one: Parallel, other: Parallel, is_moe: bool) -> bool:
    return one.mode == other.mode and resolved(one, is_moe) == resolved(other, is_moe)


def resolved(pair: Parallel, is_moe: bool) -> list[dict[str, Any]]:
    """Both sides with the ETP and the GPUs that they have where nothing is said."""
    found = []
    for side in pair.sides.values():
        values = asdict(side)
        values["etp"] = pair.etp_of(side) if is_moe else 1
        values["gpus"] = side.gpus or side.tp * side.cp * side.pp * side.ep
        found.append(values)
    return found


# -- what is shipped


@cache
def models() -> Mapping[str, Model]:
    """The options of conf/model by name."""
    files = sorted(CONF.glob("model/*.yaml"))
    return {path.stem: _job(model=_merged(path)).model for path in files}


@cache
def pairs() -> Mapping[str, Parallel]:
    """The options of conf/parallel by name; those of public models last."""
    files = [*sorted(CONF.glob("parallel/*.yaml")), *sorted(CONF.glob("parallel/*/*.yaml"))]
    return {path.stem: _job(parallel=_merged(path)).parallel for path in files}


def _merged(path: Path) -> dict[str, Any]:
    """An option file with those of its group that it starts from."""
    values = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(values, dict)
    merged: dict[str, Any] = {}
    for start in values.pop("defaults", []):
        if isinstance(start, str) and start != "_self_":
            merged |= _merged(path.with_name(f"{start}.yaml"))
    return merged | {str(key): value for key, value in values.items()}


def _job(**parts: Any) -> Job:
    """A job of which only some parts matter."""
    model = {"name": "", "num_layers": 1, "hidden_size": 1, "num_attention_heads": 1}
    empty: dict[str, Any] = {
        "model": model | {"vocab_size": 1},
        "parallel": {"name": ""},
        "refit": {"name": ""},
        "cluster": {"name": ""},
    }
    return Job.from_dict(empty | parts)


# -- as text


def _setting(key: str, value: Any) -> str:
    """An override in Hydra's grammar."""
    return f"{key}={_in_grammar(value)}"


def _in_grammar(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list():
            return f"[{','.join(_in_grammar(one) for one in value)}]"
        case str() if not _PLAIN.fullmatch(value) or value in ("null", "true", "false"):
            if '"' in value or "\\" in value:
                raise UserError(f"{value!r} has a quote or a backslash in it, which no value has")
            return json.dumps(value)
    return str(value)
