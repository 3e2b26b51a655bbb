"""Plain containers -> frozen dataclasses of the config, with words for whoever wrote them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from refit.errors import UserError

MISSING: Any = "???"
"""What OmegaConf calls a mandatory value, said without importing it."""

Unknown = Callable[[Any, str, str], str]
"""(class, key, the key with its path) -> what to say of a key that the class does not have."""


@cache
def hints(cls: Any) -> dict[str, Any]:
    """Its annotations, evaluated once: of a thousand records they would be most of the time."""
    return get_type_hints(cls)


def build(cls: Any, values: Mapping[str, Any], unknown: Unknown, path: str = "") -> Any:
    """A dataclass of these values.

    A field whose metadata has `each`, a dataclass, takes a list of one or more of them; how that
    is written stands beside it as `example`.

    Args:
        path: where it stands, with a dot behind it, or empty.

    Raises:
        UserError: a field is unknown, missing or of the wrong type; the text names it.
    """
    names = [declared.name for declared in fields(cls)]
    for key in values:
        if key not in names:
            raise UserError(unknown(cls, str(key), f"{path}{key}"))
    annotations: dict[str, Any] = hints(cls)
    arguments: dict[str, Any] = {}
    for declared in fields(cls):
        where, hint = path + declared.name, annotations[declared.name]
        if is_dataclass(hint):
            inner = values.get(declared.name, {})
            if not isinstance(inner, Mapping):
                raise UserError(f"'{where}' is {inner!r}, which is not a mapping of fields")
            arguments[declared.name] = build(hint, inner, unknown, where + ".")
            continue
        value = values.get(declared.name, declared.default)
        if value == MISSING:
            raise UserError(f"'{where}' has no value; set it in its YAML file or as {where}=...")
        if "each" in declared.metadata and value is not None:
            arguments[declared.name] = _each(declared.metadata, value, unknown, where)
            continue
        arguments[declared.name] = _checked(hint, value, where)
    return cls(**arguments)


def _each(metadata: Mapping[str, Any], values: Any, unknown: Unknown, where: str) -> list[Any]:
    """A list of dataclasses, one or more."""
    if not isinstance(values, (list, tuple)) or not values:
        raise UserError(
            f"'{where}' is {values!r}, which is not a list of one or more mappings of fields;"
            f" {metadata['example']}"
        )
    made = []
    for number, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise UserError(f"'{where}[{number}]' is {value!r}, which is not a mapping of fields")
        made.append(build(metadata["each"], value, unknown, f"{where}[{number}]."))
    return made


def _checked(hint: Any, value: Any, where: str) -> Any:
    """The value, if it is of a type that the hint allows; an int will do for a float."""
    if hint is Any:
        return list(value) if isinstance(value, (list, tuple)) else value
    allowed = getattr(hint, "__args__", (hint,))
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not any(type(value) is t for t in allowed):
        names = " or ".join("null" if t is type(None) else t.__name__ for t in allowed)
        raise UserError(f"'{where}' is {value!r}, which is not {names}")
    return value
