"""The two files that name versions agree: what pip is held to, and what uv installs."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKED = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
PINNED = [
    Requirement(line)
    for line in (ROOT / "constraints-cpu.txt").read_text().splitlines()
    if not line.startswith("#")
]


def test_the_lock_has_the_versions_that_are_tested() -> None:
    for name in {pin.name for pin in PINNED}:
        pinned = {str(pin.specifier).removeprefix("==") for pin in PINNED if pin.name == name}
        key = canonicalize_name(name)
        assert {p["version"] for p in LOCKED if p["name"] == key} == pinned, name


def test_the_lock_is_of_this_pyproject() -> None:
    (own,) = (package for package in LOCKED if package["name"] == PROJECT["name"])
    extras = PROJECT["optional-dependencies"].values()
    asked = [Requirement(text) for part in (PROJECT["dependencies"], *extras) for text in part]
    locked = own["metadata"]["requires-dist"]
    assert sorted((canonicalize_name(one.name), str(one.specifier)) for one in asked) == sorted(
        (one["name"], str(SpecifierSet(one.get("specifier", "")))) for one in locked
    )
