"""Any JSON, and any change of some: what a file or a config may hold that nobody made for us."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
ANYTHING = st.recursive(
    SCALARS | st.sampled_from([10**400, -1, "ok", [], {}]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a JSON value, the whole too."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    for key, inner in (
        items
        if isinstance(value, dict)
        else enumerate(value[:2] if isinstance(value, list) else ())
    ):
        yield from paths(inner, (*path, key))


def changed(whole: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The same with another value at a place; without it where the value is `...`."""
    if not path:
        return None if value is ... else value
    whole = copy.deepcopy(whole)
    node = whole
    for key in path[:-1]:
        node = node[key]
    if value is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return whole
