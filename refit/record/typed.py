"""JSON -> frozen dataclasses, by their annotations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def typed(hint: Any, value: Any, where: str = "") -> Any:
    """A value as its annotation says, `asdict` undone.

    Args:
        hint: a dataclass, a list or dict of hints, a union, a Literal, Any, or a plain type.
        where: names the value in errors.

    Raises:
        TypeError: it is of another type; a field is unknown or missing.
    """
    kind, inner = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return _dataclass(hint, value, where)
    if kind in (Union, UnionType):
        if value is None and NoneType in inner:
            return None
        (first, *others) = (one for one in inner if one is not NoneType)
        if others and type(value) in others:
            return value
        return typed(first, value, where)
    if kind is list and isinstance(value, list):
        return [typed(inner[0], one, f"{where}[{i}]") for i, one in enumerate(value)]
    if kind is dict and isinstance(value, Mapping):
        # JSON has text for every key
        return {inner[0](key): typed(inner[1], one, f"{where}.{key}") for key, one in value.items()}
    if kind is Literal and value in inner:
        return value
    if hint is float and type(value) is int:
        return float(value)
    if hint is Any or type(value) is hint:
        return value
    name = getattr(hint, "__name__", str(hint))
    raise TypeError(f"{where or 'it'} is {str(value)[:40]!r}, which is no {name}")


def _dataclass(cls: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise TypeError(f"{where or 'it'} is {str(value)[:40]!r}, which is no {cls.__name__}")
    hints, known = get_type_hints(cls), {field.name: field for field in fields(cls)}
    if unknown := sorted(set(value) - set(known)):
        raise TypeError(f"{where or cls.__name__} has no {', '.join(unknown)}")
    built = {}
    for name, field in known.items():
        path = f"{where}.{name}" if where else name
        if name in value:
            built[name] = typed(hints[name], value[name], path)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise TypeError(f"{path} is missing")
    return cls(**built)
