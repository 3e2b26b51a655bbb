"""Hydra's door to `sweeper`: thin subclasses, as Hydra refuses plugins from any other package."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, ValueType
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.refit_sweeper import public
from hydra_plugins.refit_sweeper.public import PublicPairs, PublicPairsSearchPath
from hydra_plugins.refit_sweeper.user_files import UserFilesFirst, UserOptions
from hydra_plugins.refit_sweeper.workloads import WorkloadSearchPath, WorkloadSource
from refit.hydra_side import BasicSweeper

if TYPE_CHECKING:
    from sweeper.decisions import Outcome

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


OBJECTIVE_FREE = (
    f"{__name__}.RefitSweeper",
    f"{BasicSweeper.__module__}.{BasicSweeper.__name__}",
)
"""Sweepers that do without a number from every point."""


class RefitSweeper(BasicSweeper):
    """Expands like Hydra's own sweeper, as one batch; a glob also meets what subfolders hold.

    Takes comma lists, glob, range and hydra.sweeper.params. The process exits 0 only if every
    point is ok or skipped.
    """

    def sweep(self, arguments: list[str]) -> Any:
        """Launch every point of these overrides and those of hydra.sweeper.params, as one batch.

        Exits 1 where a point is not ok.

        Raises:
            UserError: there is no point; or from `sweeper.sweep.run_sweep`.
        """
        from refit.job import UserError

        assert self.hydra_context is not None and self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        requested = [*self._parse_config(), *arguments]
        overrides = [self._expanded(override) for override in parser.parse_overrides(requested)]
        batch = [
            point for part in self.split_arguments(overrides, self.max_batch_size) for point in part
        ]
        if not batch:
            raise UserError(f"the sweep has no point: nothing matches {' '.join(requested)}")
        results = self.launcher.launch(batch, initial_job_idx=0)
        if any(r.status is JobStatus.FAILED for r in results):
            sys.exit(1)
        return results

    def _expanded(self, override: Override) -> Override:
        """A glob as the choice of what it meets; hydra.searchpath counts, as it does in Hydra."""
        glob = override.value()
        if not isinstance(glob, Glob):
            return override
        assert self.hydra_context is not None and self.config is not None
        hydra, loader = self.config.hydra, self.hydra_context.config_loader
        hydra_overrides = list(hydra.overrides.hydra)

        def listed(group: str, kind: ObjectType) -> list[str]:
            return loader.get_group_options(group, kind, hydra.job.config_name, hydra_overrides)

        names: Any = public.met(glob, override.key_or_group, listed)
        chosen = ChoiceSweep(list=names)
        return replace(override, value_type=ValueType.CHOICE_SWEEP, _value=chosen)


class RefitLauncher(Launcher):
    """Composes each point once and hands all to `sweeper`, which reads each one's own cluster."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra gives; not the task function, as `sweeper` runs the points."""
        self.config = config
        self.hydra_context = hydra_context

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """How each point ended; one that is not ok is a failed job.

        Raises:
            UserError: a dry run of a sweeper that goes by results; or from `run_sweep`.
        """
        from refit import naming
        from refit.cli import job_of
        from refit.display import Display
        from refit.job import Job, UserError
        from sweeper import sweep

        loader = self.hydra_context.config_loader

        @cache
        def compose(overrides: tuple[str, ...]) -> Job:
            return job_of(loader.load_sweep_config(self.config, list(overrides)))

        needs_numbers = self.config.hydra.sweeper._target_ not in OBJECTIVE_FREE
        if needs_numbers and self.config.sweep.dry_run:
            raise UserError(
                "sweep.dry_run=true runs nothing, and this hydra/sweeper goes by results; leave"
                " either out"
            )
        outcomes = sweep.run_sweep(
            job_overrides,
            lambda overrides: naming.composed(compose, overrides),
            Path(self.config.hydra.sweep.dir),
            Display(),
        )
        return [
            JobReturn(
                overrides=list(outcome.point.overrides),
                status=status,
                _return_value=value,
            )
            for outcome in outcomes
            for status, value in [_returned(outcome, needs_numbers)]
        ]


def _returned(outcome: Outcome, needs_number: bool) -> tuple[JobStatus, float | Exception | None]:
    """How a point's job ended: with what a sweeper minimizes, or what Hydra then raises."""
    from refit.cli import PointFailed

    objective = outcome.record.objective_s if outcome.record else None
    if outcome.is_good and not (needs_number and objective is None):
        return JobStatus.COMPLETED, objective
    return JobStatus.FAILED, PointFailed(
        f"{outcome.point.name} has no time to minimize: {outcome.state}: {outcome.reason}"
        if outcome.is_good
        else f"{outcome.point.name}: {outcome.state}: {outcome.reason}"
    )


PLUGINS = (
    RefitSweeper,
    RefitLauncher,
    WorkloadSearchPath,
    WorkloadSource,
    PublicPairsSearchPath,
    PublicPairs,
    UserFilesFirst,
    UserOptions,
)
"""For where Hydra does not find them itself: see `refit.schema.register`."""
