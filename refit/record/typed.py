"""JSON -> frozen dataclasses, by their annotations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from refit.fields import hints


def typed(hint: Any, value: Any, where: str = "") -> Any:
    """A value as its annotation says, `asdict` undone.

    Args:
        hint: a dataclass, a list or dict of hints, a union, a Literal, Any, or a plain type.
        where: names the value in errors.

    Raises:
        TypeError: it is of another type; a field is unknown or missing.
    """
    origin, args = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return _dataclass(hint, value, where)
    if origin in (Union, UnionType):
        if value is None and NoneType in args:
            return None
        (first, *others) = (arg for arg in args if arg is not NoneType)
        if others and type(value) in others:
            return value
        return typed(first, value, where)
    if origin is list and isinstance(value, list):
        return [typed(args[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is dict and isinstance(value, Mapping):
        # JSON has text for every key
        return {args[0](key): typed(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is Literal and value in args:
        return value
    if hint is float and type(value) is int:
        return float(value)
    if hint is int and type(value) is int and not -(2**63) <= value < 2**64:
        raise TypeError(f"{where or 'it'} is {str(value)[:40]}, which is no int of 64 bits")
    if hint is Any or type(value) is hint:
        return value
    name = getattr(hint, "__name__", str(hint))
    raise TypeError(f"{where or 'it'} is {str(value)[:40]!r}, which is no {name}")


def _dataclass(cls: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise TypeError(f"{where or 'it'} is {str(value)[:40]!r}, which is no {cls.__name__}")
    annotations = hints(cls)
    if unknown := sorted(set(value) - {field.name for field in fields(cls)}):
        raise TypeError(f"{where or cls.__name__} has no {', '.join(unknown)}")
    arguments = {}
    for field in fields(cls):
        path = f"{where}.{field.name}" if where else field.name
        if field.name in value:
            arguments[field.name] = typed(annotations[field.name], value[field.name], path)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise TypeError(f"{path} is missing")
    return cls(**arguments)
