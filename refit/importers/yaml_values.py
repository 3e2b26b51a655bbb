"""YAML configs of other programs -> their values by dotted key, interpolations put in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from refit.errors import UserError
from refit.importers.said import Said

WAY_OUT = "put KEY=VALUE behind the file, such as cluster.num_nodes=2"

Tree = dict[str, Any]


def said(path: Path, variables: Mapping[str, str], starts: str | None = None) -> Said:
    """A file's values, by keys such as `policy.model_name`.

    Args:
        variables: values of keys, which win.
        starts: the key whose files this one starts from, whose values it has where it says none;
            None: there is no such key.

    Raises:
        UserError: a file cannot be read.
    """
    tree = loaded(path, starts)
    for key, value in variables.items():
        *outer, last = key.split(".")
        try:
            inside: Tree = {last: yaml.safe_load(value)}
        except yaml.YAMLError:
            raise UserError(f"{key}={value}: the value is not YAML's") from None
        for name in reversed(outer):
            inside = {name: inside}
        tree = _over(tree, inside)
    values: Tree = {}
    _flatten(tree, "", values)
    return Said({key: _put_in(value, tree) for key, value in values.items()}, WAY_OUT)


def loaded(path: Path, starts: str | None = None, before: tuple[Path, ...] = ()) -> Tree:
    """A file's mapping as it is written, on top of those that it starts from.

    Args:
        before: the files that start from this one.

    Raises:
        UserError: it cannot be read, is no mapping, or starts from itself.
    """
    path = path.resolve()
    if path in before:
        raise UserError(f"{path} starts from itself")
    try:
        tree = yaml.load(path.read_text(), _LOADER)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
        whose = f", which {before[-1].name} starts from," if before else ""
        raise UserError(f"{path}{whose} cannot be read: {why}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} is no mapping of keys")
    own: Tree = {str(key): value for key, value in tree.items()}
    parents = own.pop(starts, []) if starts else []
    merged: Tree = {}
    listed = [parents] if isinstance(parents, str) else parents
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise UserError(f"{path}: {starts}={parents} is no file, or list of files")
    for parent in listed:
        merged = _over(merged, loaded(path.parent / parent, starts, (*before, path)))
    return _over(merged, own)


def _over(below: Tree, above: Tree) -> Tree:
    """Both, the second one's values winning; of `_override_: true` nothing of the first is left."""
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, dict):
            inner = {name: v for name, v in value.items() if name != "_override_"}
            base = merged.get(key)
            keep = isinstance(base, dict) and not value.get("_override_")
            value = _over(base if keep else {}, inner)  # type: ignore[arg-type]
        merged[key] = value
    return merged


def _flatten(tree: Tree, path: str, values: Tree) -> None:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            _flatten(value, f"{path}{key}.", values)
        else:
            values[f"{path}{key}"] = value


def _put_in(value: Any, tree: Tree, depth: int = 0) -> Any:
    """What `${a.b}` stands for; of anything else in such braces it stays as it is written."""
    found = _STANDS_FOR.fullmatch(value) if isinstance(value, str) else None
    if found is None or depth > 9:
        return value
    try:
        inner = reduce(lambda node, key: node[key], found[1].split("."), tree)
    except (KeyError, TypeError):
        return value
    return _put_in(inner, tree, depth + 1)


_STANDS_FOR = re.compile(r"\$\{(\w+(?:\.\w+)*)\}")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
