"""Hydra's door to `sweeper`: thin subclasses, as Hydra refuses plugins from any other package."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.refit_sweeper import expand
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
        from refit import settings
        from refit.errors import UserError
        from refit.program import EXIT_FAILED, EXIT_USER_ERROR

        assert self.hydra_context is not None and self.config is not None
        assert self.launcher is not None
        if reason := settings.refused(self.config.hydra, is_sweep=True):
            raise UserError(reason)
        loader = self.hydra_context.config_loader
        batch = expand.batch(loader, self.config.hydra, self.params, arguments)
        if not batch:
            requested = " ".join([*expand.words(self.params), *arguments])
            raise UserError(f"the sweep has no point: nothing matches {requested}")
        results = self.launcher.launch(batch, initial_job_idx=0)
        failed = [r for r in results if r.status is JobStatus.FAILED]
        mistakes = [r for r in failed if isinstance(r._return_value, UserError)]
        for ended in mistakes:  # of a launcher that is not ours
            print(
                f"error: {' '.join(ended.overrides or ())}: {ended._return_value}", file=sys.stderr
            )
        if failed:  # Hydra would call it, were this not where the process ends
            name = self.config.hydra.job.config_name
            self.hydra_context.callbacks.on_multirun_end(config=self.config, config_name=name)
            sys.exit(EXIT_USER_ERROR if len(mistakes) == len(results) else EXIT_FAILED)
        return results


class RefitLauncher(Launcher):
    """Composes each point once and hands all to `sweeper`, which reads each one's own cluster."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra gives; the task function for callbacks, as `sweeper` runs the points."""
        self.config = config
        self.task_function = task_function
        self.hydra_context = hydra_context

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """How each point ended; one that is not ok is a failed job.

        Raises:
            UserError: a dry run of a sweeper that goes by results; or from `run_sweep`.
        """
        from hydra_plugins.refit_sweeper.composer import Composer, hydra_config
        from refit import settings
        from refit.cli import is_verbose
        from refit.errors import UserError
        from refit.show.display import Display
        from sweeper import hydra_job, sweep

        if reason := settings.refused(self.config.hydra, is_sweep=True):
            raise UserError(reason)
        needs_numbers = self.config.hydra.sweeper._target_ not in OBJECTIVE_FREE
        if needs_numbers and self.config.sweep.dry_run:
            raise UserError(
                "sweep.dry_run=true runs nothing, and this hydra/sweeper goes by results; leave"
                " either out"
            )
        compose = Composer(self.hydra_context.config_loader, self.config, initial_job_idx)
        with hydra_config(self.config):
            outcomes = sweep.run_sweep(
                job_overrides,
                compose,
                Path(self.config.hydra.sweep.dir),
                Display(is_verbose()),
                compose.hydra.__getitem__,
                hydra_job.here(self.hydra_context.callbacks, self.task_function),
            )
        return [
            JobReturn(list(outcome.point.overrides), status=status, _return_value=value)
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
