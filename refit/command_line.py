"""The command line as Hydra's parser wants it: options first, then all overrides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException

from refit.hydra_side import get_args_parser
from refit.job import Job

VERBOSE = "--verbose"
"""The one option that is ours: every point of a sweep is told of in full."""


def ordered(words: Sequence[str]) -> list[str]:
    """The same command line with its options before its overrides.

    Hydra's parser takes overrides from one place only, so that no option may stand between two of
    them. Its own definitions are used here: whatever it offers is found, and what is wrong is said
    by Hydra, with exit code 2.
    """
    parser = get_args_parser()
    parser.add_argument("-v", VERBOSE, action="store_true")
    options = vars(parser.parse_intermixed_args(list(words)))
    overrides = options.pop("overrides")
    before = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            before.append(option)
        elif value:
            before.append(f"{option}={value}")
    return [*before, *overrides]


def deletes(words: Sequence[str]) -> str | None:
    """Why what an override with ~ deletes is needed, or None."""
    needed = {field.name for field in fields(Job)}
    for word in words:
        key = word[1:].partition("=")[0].partition("@")[0]
        if word.startswith("~") and key.partition(".")[0] in needed:
            return (
                f"{word} deletes what every point needs; leave it out for the shipped value, or set"
                f" another: {key}=..."
            )
    return None


NEEDED = ("model", "parallel", "refit", "cluster")
OPTIONAL = {
    "hardware": "--help lists them",
    "workload": "python -m refit.workloads lists them",
    "experiment": "--help lists them",
}
"""Config groups of which a point may have no option; where the options are listed."""


def chooses_nothing(words: Sequence[str]) -> str | None:
    """Why a group's option cannot be null, alone or among others of a sweep, or None."""
    for word in words:
        override = _read(word) if "null" in word else None
        key = override.key_or_group if override else ""
        if override is None or override.is_delete() or key not in (*NEEDED, *OPTIONAL):
            continue
        named = override.value()
        if override.is_choice_sweep() and override.value_type is not ValueType.GLOB_CHOICE_SWEEP:
            named = list(override.sweep_iterator())
        if named is not None and not (isinstance(named, list) and {None, "null"} & set(named)):
            continue
        where = OPTIONAL.get(key, "--help lists them")
        without = "for none" if key in OPTIONAL else "for the shipped one"
        apart = ", in a command of its own" if override.is_sweep_override() else ""
        return (
            f"{word}: null is no option of {key}; allowed are the names of its options ({where});"
            f" leave {key}= out {without}{apart}"
        )
    return None


def for_each_point(words: Sequence[str]) -> list[str]:
    """The same command line, what is set below a swept group being each point's to set.

    `cluster=h100,h200 cluster.slurm.partition=gpu` would fail before there is any point: Hydra
    first composes a config with the cluster that is shipped, which has no partition. It leaves a
    sweep out there, and so a sweep over one value.
    """
    if "--multirun" not in words and not any(word.startswith(_MAY_SWEEP) for word in words):
        return list(words)
    groups = [
        o.package or o.key_or_group.replace("/", ".")
        for o in map(_read, (word for word in words if "." not in word.partition("=")[0]))
        if o and o.is_sweep_override()
    ]
    return [_for_each_point(word) if _is_below(word, groups) else word for word in words]


def _is_below(word: str, groups: Sequence[str]) -> bool:
    return any(word.lstrip("+").startswith(f"{group}.") for group in groups)


def _for_each_point(word: str) -> str:
    override = _read(word)
    if override is None or override.is_sweep_override():
        return word
    key, value = override.get_key_element(), override.get_value_element_as_str()
    if override.value() is None:  # no choice of Hydra's, but a mapping may hold it
        key, _, name = key.rpartition(".")
        value = f"{{{name}:null}}"
    return f"{key}=choice({value})"


_MAY_SWEEP = ("experiment=", "+experiment=", "hydra.mode=")


def _read(word: str) -> Override | None:
    """An override; None where it is an option, or Hydra is to say what is wrong with it."""
    try:
        return None if word.startswith("-") else OverridesParser.create().parse_override(word)
    except HydraException:
        return None
