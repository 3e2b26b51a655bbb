"""Which tensors travel: patterns over their names. Pure numpy."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from refit.job import Refit
from refit.layout.tensors import Catalogue


def selected(catalogue: Catalogue, refit: Refit) -> NDArray[np.bool_] | None:
    """The tensors that `refit.include` meets (all, where it is null) and `refit.exclude` does not.

    Returns:
        [tensors] of bool, by tensor id; None where all travel.
    """
    if refit.include is None and refit.exclude is None:
        return None
    names = names_of(catalogue)
    travels = np.ones(len(names), dtype=bool)
    if refit.include is not None:
        travels = meets(names, refit.include)
    return travels & ~meets(names, refit.exclude or ())


def names_of(catalogue: Catalogue) -> list[str]:
    """Every tensor's full name, by tensor id."""
    return [catalogue.name_of(tensor) for tensor in range(catalogue.num_tensors)]


def meets(names: Sequence[str], patterns: Sequence[str]) -> NDArray[np.bool_]:
    """[names] of bool: some pattern meets the name, as a shell's would."""
    met = [any(fnmatchcase(name, pattern) for pattern in patterns) for name in names]
    return np.array(met, dtype=bool)
