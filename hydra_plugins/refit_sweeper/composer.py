"""Overrides of a point -> its job, as a single run of them composes it, and what Hydra adds."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from itertools import count
from typing import Any

from hydra.conf import HydraConf
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from refit import naming, settings
from refit.cli import job_of
from refit.errors import UserError
from refit.job import Job
from sweeper.shared import Alone, Shared

WHOLE = ("sweeper", "launcher", "sweep", "callbacks", "hydra_logging")
"""Below `hydra`: what a sweep has once, for all of its points."""

WITH_A_POINT = {field.name for field in fields(HydraConf)} - {"defaults", "help", "hydra_help"}
"""Below `hydra`: what goes where the point runs."""


@contextmanager
def hydra_config(config: DictConfig) -> Iterator[None]:
    """Within it `${hydra:...}` is of this config."""
    instance = HydraConfig.instance()
    before = instance.cfg
    instance.set_config(config)
    try:
        yield
    finally:
        instance.cfg = before


class Composer:
    """Called once for each point of a sweep, in their order, by which Hydra numbers them."""

    def __init__(self, loader: ConfigLoader, whole: DictConfig, first: int) -> None:
        """
        Args:
            loader: Hydra's.
            whole: the config of the sweep.
            first: the number of the first point.
        """
        self._loader, self._whole = loader, whole
        self._numbers = count(first)
        self._ours = {name: _plain(whole.hydra, name) for name in WHOLE}
        self._row = cache(self._job)
        self._shared = Shared(loader, self._checked)
        self.hydra: list[dict[str, Any] | None] = []
        """Of each point so far: its `hydra` node, where it needs any where it runs."""

    def __call__(self, overrides: Sequence[str]) -> Job:
        """A point's job.

        Raises:
            UserError: a value is wrong; or an option brings a setting that is the sweep's.
        """
        own, number = tuple(overrides), next(self._numbers)
        try:
            job = naming.composed(self._quickly, own)
        except Alone:
            return self._whole_job(own, number)
        self.hydra.append(None)
        return job

    def _quickly(self, overrides: tuple[str, ...]) -> Job:
        return Job.from_dict(self._shared.values(overrides))

    def _whole_job(self, own: tuple[str, ...], number: int) -> Job:
        config = self._load(own, number)
        self._check(config, own)
        with hydra_config(config):
            is_plain = settings.is_plain(config.hydra)
            self.hydra.append(None if is_plain else _frozen(config.hydra))
            return naming.composed(
                lambda asked: job_of(config) if asked == own else self._row(asked), own
            )

    def _checked(self, overrides: Sequence[str]) -> DictConfig:
        config = self._load(overrides, 0)
        self._check(config, overrides)
        return config

    def _load(self, overrides: Sequence[str], number: int) -> DictConfig:
        config = self._loader.load_sweep_config(self._whole, list(overrides))
        hydra = config.hydra
        hydra.job.num, hydra.job.id = number, str(number)
        hydra.runtime.output_dir = os.path.abspath(self._whole.hydra.sweep.dir)
        return config

    def _job(self, overrides: Sequence[str]) -> Job:
        config = self._load(overrides, 0)
        with hydra_config(config):
            return job_of(config)

    def _check(self, config: DictConfig, overrides: Sequence[str]) -> None:
        """Check that no option of this point brings what the sweep has not heard of."""
        words = " ".join(overrides)
        for name, ours in self._ours.items():
            if _plain(config.hydra, name) != ours:
                raise UserError(
                    f"{words} brings hydra.{name} of its own, and a sweep has one for all its"
                    " points, which it began with; make it a sweep for each, with the same"
                    " hydra.sweep.dir if you like, or, where it is an experiment's, merge them:"
                    " experiment=[a,b]"
                )
        if reason := settings.refused(config.hydra, is_sweep=True):
            raise UserError(f"{words}: {reason}")


def _plain(hydra: Any, name: str) -> Any:
    node = hydra._get_node(name)
    return OmegaConf.to_container(node) if OmegaConf.is_config(node) else node


def _frozen(hydra: Any) -> dict[str, Any]:
    """The node as plain containers; what is asked of the environment is asked here."""
    env_set = OmegaConf.to_container(hydra.job.env_set, resolve=True)
    names = [str(name) for name in hydra if name in WITH_A_POINT]
    masked = OmegaConf.masked_copy(hydra, names)
    values = OmegaConf.to_container(masked, enum_to_str=True)
    assert isinstance(values, dict)
    values["job"]["env_set"] = env_set
    return {str(name): value for name, value in values.items()}
