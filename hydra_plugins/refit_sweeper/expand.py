"""Overrides of a sweep -> those of each point, which say what a single run of them would."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    OverrideType,
    Quote,
    QuotedString,
    ValueType,
)
from omegaconf import OmegaConf

from hydra_plugins.refit_sweeper import public
from refit import settings
from refit.errors import UserError
from refit.rules.bounds import POINTS


def batch(
    loader: ConfigLoader, hydra: Any, params: Mapping[str, Any], arguments: Sequence[str]
) -> list[list[str]]:
    """The overrides of each point.

    Args:
        loader: Hydra's.
        hydra: the `hydra` node of the sweep's config.
        params: hydra.sweeper.params.
        arguments: the overrides of the command line.

    Raises:
        UserError: an override has no values to take one after another.
    """
    parser = OverridesParser.create(config_loader=loader)
    every = effective(parser.parse_overrides(words(params)), parser.parse_overrides([*arguments]))
    return points(_expanded(override, loader, hydra) for override in every)


def _expanded(override: Override, loader: ConfigLoader, hydra: Any) -> Override:
    """Each glob as the choices that it meets; hydra.searchpath counts, as it does in Hydra."""
    value: Any = override.value()
    values = value.list if isinstance(value, ChoiceSweep) else [value]
    if not any(isinstance(choice, Glob) for choice in values):
        return override
    hydra_overrides = settings.said(hydra, "hydra")

    def listed(group: str, kind: ObjectType) -> list[str]:
        return loader.get_group_options(group, kind, hydra.job.config_name, hydra_overrides)

    names: list[Any] = []  # `glob(a*),b` is a choice of both
    for choice in values:
        if isinstance(choice, Glob):
            names += public.met(choice, override.key_or_group, listed)
        else:
            names.append(choice.text if isinstance(choice, QuotedString) else choice)
    chosen = ChoiceSweep(list=[_choice(name) for name in dict.fromkeys(names)])
    return replace(override, value_type=ValueType.CHOICE_SWEEP, _value=chosen)


def _choice(name: Any) -> Any:
    """An option as an override says it: quoted where it is no word of Hydra's grammar."""
    is_word = not isinstance(name, str) or re.fullmatch(r"[\w/.@%+-]+", name, re.ASCII)
    return name if is_word else QuotedString(name, Quote.single)


def words(params: Mapping[str, Any]) -> list[str]:
    """hydra.sweeper.params as overrides, their values of the types that YAML gave them.

    A text is an override's own: `ipc,gloo` and `glob(*)` are sweeps, `"00123"` stays a text.
    """
    parser = OverridesParser.create()
    if not OmegaConf.is_dict(params) and not isinstance(params, Mapping):
        raise UserError(
            f"hydra.sweeper.params={params} is no mapping of what is swept; write"
            " 'hydra.sweeper.params={refit:\"ipc,gloo\"}'"
        )
    said = []
    for key, value in params.items():
        is_text = isinstance(value, str)
        read = parser.parse_override(f"{key}={value}").value() if is_text else value
        is_other = read is None or isinstance(read, int | float)  # or it would become a number, say
        said.append(f"{key}={value if is_text and not is_other else _value(value)}")
    return said


def _value(value: Any) -> str:
    """A value as an override says it; texts within it are quoted."""
    plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    whole = Override(OverrideType.CHANGE, "", ValueType.ELEMENT, _quoted(plain))
    return whole.get_value_element_as_str()


def _quoted(value: Any) -> Any:
    if isinstance(value, str):
        return QuotedString(value, Quote.single)
    if isinstance(value, dict):
        return {key: _quoted(inner) for key, inner in value.items()}
    return [_quoted(inner) for inner in value] if isinstance(value, list) else value


def effective(params: Sequence[Override], arguments: Sequence[Override]) -> list[Override]:
    """What counts of hydra.sweeper.params and of the command line, in this order.

    The command line takes the place of a parameter of the same name, and a later override that of
    an earlier sweep; a mapping does not, as it is merged into what is there. All else is kept as
    a single run would have it.
    """
    every = [*params, *arguments]
    kept = []
    for number, override in enumerate(every):
        is_replaceable = number < len(params) or override.is_sweep_override()
        later = every[max(number + 1, len(params)) :]
        if not (is_replaceable and any(_replaces(other, override) for other in later)):
            kept.append(override)
    return kept


def _replaces(later: Override, earlier: Override) -> bool:
    same = (later.key_or_group, later.package) == (earlier.key_or_group, earlier.package)
    value: Any = later.value()
    values = value.list if isinstance(value, ChoiceSweep) else [value]
    return same and not any(isinstance(value, dict) for value in values)


def points(overrides: Iterable[Override]) -> list[list[str]]:
    """Every combination, the last override varying fastest.

    Raises:
        UserError: a sweep has no values that could be counted, or too many.
    """
    lists: list[list[str]] = []
    for override in overrides:
        if isinstance(override.value(), IntervalSweep):
            raise UserError(
                f"{override.input_line}: an interval has no values to take one after another;"
                " write range(...) or choice(...), or use a hydra/sweeper that searches (optuna)"
            )
        if override.is_sweep_override():
            key = override.get_key_element()
            choices = itertools.islice(override.sweep_string_iterator(), POINTS + 1)
            lists.append([f"{key}={choice}" for choice in choices])
        else:  # word for word: what is written anew may mean something else
            lists.append([str(override.input_line)])
    if math.prod(map(len, lists)) > POINTS:
        raise UserError(
            f"the sweep has more than {POINTS} points, the most that one has; make it several"
        )
    return [list(point) for point in itertools.product(*lists)]
