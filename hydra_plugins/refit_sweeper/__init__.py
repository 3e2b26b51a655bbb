"""Hydra's door to `sweeper`: thin subclasses, as Hydra refuses plugins from any other package."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

STORE = ConfigStore.instance()
STORE.store(
    group="hydra/sweeper",
    name="refit",
    node={"_target_": f"{__name__}.RefitSweeper", "max_batch_size": None, "params": None},
    provider="refit",
)
STORE.store(
    group="hydra/launcher",
    name="refit",
    node={"_target_": f"{__name__}.RefitLauncher"},
    provider="refit",
)


class RefitSweeper(BasicSweeper):
    """Expands like Hydra's own sweeper, as one batch.

    Takes comma lists, glob, range and hydra.sweeper.params. The process exits 0 only if every
    point is ok or skipped.
    """

    def sweep(self, arguments: list[str]) -> Any:
        from refit.job import UserError

        assert self.hydra_context is not None and self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        asked = [*self._parse_config(), *arguments]
        overrides = parser.parse_overrides(asked)
        batch = [
            point for part in self.split_arguments(overrides, self.max_batch_size) for point in part
        ]
        if not batch:
            raise UserError(f"the sweep has no point: nothing matches {' '.join(asked)}")
        results = self.launcher.launch(batch, initial_job_idx=0)
        if any(r.status is JobStatus.FAILED for r in results):
            sys.exit(1)
        return results


class RefitLauncher(Launcher):
    """Composes each point once and hands all to `sweeper`, which reads each one's own cluster."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.config = config
        self.hydra_context = hydra_context

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from refit.cli import job_of
        from refit.display import Display
        from sweeper import sweep

        loader = self.hydra_context.config_loader
        outcomes = sweep.run_sweep(
            job_overrides,
            lambda overrides: job_of(loader.load_sweep_config(self.config, list(overrides))),
            Path(self.config.hydra.sweep.dir),
            Display(),
        )
        return [
            JobReturn(
                overrides=list(outcome.point.overrides),
                status=JobStatus.COMPLETED if outcome.is_good else JobStatus.FAILED,
                _return_value=outcome,
            )
            for outcome in outcomes
        ]
