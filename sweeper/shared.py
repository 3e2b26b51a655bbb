"""Points that differ in plain values alone share one composed config, and put their values into it.

Nearly all that a point of a large sweep costs is its composition. `seed=3` changes one field and no
choice of a file; what Hydra would make of it is asked once, of the config that is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from refit import settings
from refit.cli import values_of
from refit.errors import UserError

_KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_NUMBERED = re.compile(rf"({_KEY.pattern})=(0|-?[1-9]\d*)", re.ASCII)

Load = Callable[[Sequence[str]], DictConfig]


class Alone(Exception):
    """A point whose config is to be composed for itself."""


@dataclass
class _Base:
    """What overrides that are no plain values compose.

    Attributes:
        values: of the job, resolved.
        made: what Hydra makes of a plain override here, by the override.
    """

    config: DictConfig
    values: dict[str, Any]
    made: dict[str, Any] = field(default_factory=dict)


class Shared:
    """Composes each set of overrides that are no plain values once."""

    def __init__(self, loader: ConfigLoader, load: Load) -> None:
        """
        Args:
            loader: Hydra's.
            load: overrides -> composed config.
        """
        self._load = load
        self._parser = OverridesParser.create(config_loader=loader)
        self._groups = frozenset(loader.list_groups(""))
        self._parsed: dict[str, Override] = {}
        self._bases: dict[tuple[str, ...], _Base | None] = {}

    def values(self, overrides: Sequence[str]) -> dict[str, Any]:
        """What a config of these overrides says of the job, as plain containers.

        Raises:
            Alone: it cannot be told without composing it.
        """
        plain, others = self._divided([self._parse(word) for word in overrides])
        base = self._base(tuple(str(other.input_line) for other in others))
        values = base.values
        for override in plain:
            word = str(override.input_line)
            if word not in base.made:
                base.made[word] = _made(base.config, override)
            values = _put(values, override.key_or_group.split("."), base.made[word])
        return values

    def _parse(self, word: str) -> Override:
        if word not in self._parsed:
            if number := _NUMBERED.fullmatch(word):  # seed=range(...): Hydra's parser takes longer
                key, value = number[1], int(number[number.lastindex or 0])
                read = Override(OverrideType.CHANGE, key, ValueType.ELEMENT, value)
                self._parsed[word] = replace(read, input_line=word)
                return self._parsed[word]
            try:
                self._parsed[word] = self._parser.parse_override(word)
            except HydraException:
                raise Alone from None
        return self._parsed[word]

    def _divided(self, overrides: Sequence[Override]) -> tuple[list[Override], list[Override]]:
        """Those that give a field a plain value, and all others.

        One that gives a value to a mapping around the field, before or after it, has it composed.
        """
        others = [o for o in overrides if not self._is_plain(o)]
        around = [_key(o) for o in others if not self._is_choice(o)]
        plain = [o for o in overrides if self._is_plain(o)]
        if any(_related(_key(one), key) for one in plain for key in around):
            raise Alone
        return plain, others

    def _is_plain(self, override: Override) -> bool:
        key, value = override.key_or_group, override.value()
        is_field = override.type is OverrideType.CHANGE and override.package is None
        return (
            is_field
            and _KEY.fullmatch(key) is not None
            and key.partition(".")[0] != "hydra"
            and key not in self._groups
            and isinstance(value, str | int | float | None)
            and "${" not in str(value)
            and value != "???"
        )

    def _is_choice(self, override: Override) -> bool:
        return override.key_or_group in self._groups and not isinstance(override.value(), dict)

    def _base(self, words: tuple[str, ...]) -> _Base:
        if words not in self._bases:
            self._bases[words] = self._composed(words)
        base = self._bases[words]
        if base is None:
            raise Alone
        return base

    def _composed(self, words: tuple[str, ...]) -> _Base | None:
        """None where a value depends on another, or on where Hydra runs the point."""
        try:
            config = self._load(words)
            values = values_of(config)
        except (HydraException, OmegaConfBaseException, UserError):
            return None  # each point is to say it in its own words
        names = [str(name) for name in config if name != "hydra"]
        written = OmegaConf.to_container(OmegaConf.masked_copy(config, names))
        is_shareable = settings.is_plain(config.hydra) and written == values
        return _Base(config, values) if is_shareable else None


def _key(override: Override) -> str:
    return override.key_or_group.replace("/", ".")


def _related(one: str, other: str) -> bool:
    """Whether one field is the other, or below it."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _made(config: DictConfig, override: Override) -> Any:
    """The value that a field has after an override; the config is left as it was.

    Raises:
        Alone: it is no field that has a plain value; or Hydra has something to say.
    """
    above, _, name = override.key_or_group.rpartition(".")
    node = OmegaConf.select(config, above) if above else config
    if not isinstance(node, DictConfig) or name not in node or OmegaConf.is_config(node[name]):
        raise Alone
    before = node[name]
    try:
        OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        return node[name]
    except OmegaConfBaseException:
        raise Alone from None
    finally:
        OmegaConf.update(config, override.key_or_group, before, merge=True)


def _put(values: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """The same values with another at a path; what is beside it is shared."""
    name, *rest = path
    return {**values, name: _put(values[name], rest, value) if rest else value}
