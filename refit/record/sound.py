"""Whether a file's values can be a record: what its readers look up is there, and of its type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEPTH = 40
"""Of lists and mappings within each other; a record has seven."""

CONFIG: Mapping[str, tuple[type, ...]] = {
    "model.name": (str,),
    "model.num_moe_experts": (int, type(None)),
    "parallel.name": (str,),
    "parallel.source": (dict,),
    "refit.name": (str,),
    "cluster.name": (str,),
    "build": (str,),
    "seed": (int,),
    "sweep.repetition": (int,),
}
"""What every record's config says. It says more, of which nothing is looked up by name."""

ENVIRONMENT: Mapping[str, tuple[type, ...]] = {
    "host": (str,),
    "nodes": (list,),
    "partition": (str,),
    "device": (str,),
    "commit": (str,),
    "dirty": (bool,),
    "slurm": (dict,),
    "env_set": (dict,),
}
"""What a record's environment may say, or leave out."""

OF_TEXTS = ("nodes", "slurm", "env_set")


def too_deep(value: Any) -> bool:
    """Whether lists and mappings are within each other deeper than anybody writes them."""
    level = [value]
    for _ in range(DEPTH):
        inner = [v.values() if isinstance(v, dict) else v for v in level]
        level = [each for v in inner for each in v if isinstance(each, dict | list)]
        if not level:
            return False
    return True


def fault(values: Mapping[str, Any]) -> str | None:
    """What of a record's fields, which are of their types, is not as readers need it, or None.

    Args:
        values: of the file; what has a default may be left out.
    """
    environment = values.get("environment") or {}
    return _config(values["config"]) or _environment(environment) or _numbers(values)


def from_version_1(values: dict[str, Any], version: int) -> dict[str, Any]:
    """What was called `mode` is `placement`; fields that came later get what held before them."""
    values = {**values, "schema_version": version, "placement": values["mode"]}
    del values["mode"]
    later: dict[str, dict[str, Any]] = {
        "throughput": {"limit_source": "measured", "limits": []},
        "seconds": {"drift": None},
        "memory": {"refit_peak_bytes": None},
        "verification": {"source_mismatches": 0, "logits": None},
    }
    for part, defaults in later.items():
        if values.get(part):
            values[part] = {**defaults, **values[part]}
    sweep = {"repetition": 1, **values["config"].get("sweep", {})}
    return {"prediction": None, **values, "config": {**values["config"], "sweep": sweep}}


def _config(config: Mapping[str, Any]) -> str | None:
    for name, kinds in CONFIG.items():
        value: Any = config
        for key in name.split("."):
            value = value.get(key, _NOTHING) if isinstance(value, dict) else _NOTHING
        if value is _NOTHING:
            return f"config.{name} is missing"
        if type(value) not in kinds:
            return _no(f"config.{name}", value, kinds)
    return None


def _environment(environment: Mapping[str, Any]) -> str | None:
    for name, kinds in ENVIRONMENT.items():
        value = environment.get(name)
        if value is None:
            continue
        if type(value) not in kinds:
            return _no(f"environment.{name}", value, kinds)
        if name in OF_TEXTS:
            items = value.values() if isinstance(value, dict) else value
            wrong = [item for item in items if not isinstance(item, str)]
            if wrong:
                return _no(f"environment.{name}'s {str(wrong[0])[:40]!r}", wrong[0], (str,))
    return None


def _numbers(values: Mapping[str, Any]) -> str | None:
    """Times that a median is of, and what maxima are of, are there."""
    seconds, prediction = values.get("seconds"), values.get("prediction")
    if seconds and not (seconds["warm"] and seconds["median"] > 0):
        return "seconds.warm is empty, or seconds.median no time"
    memory = values.get("memory")
    if memory and memory.get("growth") is not None and not memory.get("growth_per_rank"):
        return "memory.growth is of no rank"
    if prediction:
        for name in ("floor", "estimate"):
            if prediction.get(name) is not None and "seconds" not in prediction[name]:
                return f"prediction.{name}.seconds is missing"
        for name, held in prediction.get("per_rank", {}).items():
            if not held:
                return f"prediction.per_rank.{name} is empty"
    return None


def _no(name: str, value: Any, kinds: tuple[type, ...]) -> str:
    return f"{name} is {str(value)[:40]!r}, which is no {kinds[0].__name__}"


_NOTHING = object()
