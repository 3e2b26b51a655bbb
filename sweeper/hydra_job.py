"""A point as a job of Hydra's, wherever it runs: its env_set, its callbacks, its logging."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, cast

from hydra.conf import HydraConf
from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import env_override, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from refit.cli import PointFailed
from refit.hydra_side import Callbacks
from refit.record.point import Point
from refit.record.record import Record

Run = Callable[[], Record]
AsJob = Callable[[Point, Run], Record]
"""Runs a point; what it returns is the point's record."""


def here(callbacks: Callbacks, task_function: TaskFunction) -> AsJob:
    """Where the process is the controller's: with the objects that have seen the sweep start."""
    return lambda point, run: _as_job(point, run, callbacks, task_function)


def in_job(node: int) -> AsJob:
    """Within a job of Slurm's: objects made anew, on its first node alone; env_set on all."""

    def as_job(point: Point, run: Run) -> Record:
        if node > 0:
            with env_override(point.variables):
                return run()
        from refit.run import run as program

        setup_globals()
        return _as_job(point, run, Callbacks(_config(point)), cast(Any, program).__wrapped__)

    return as_job


def _as_job(point: Point, run: Run, callbacks: Callbacks, task_function: TaskFunction) -> Record:
    """Run a point as Hydra runs a job; callbacks see one that is not ok as failed."""
    if point.hydra is None:
        return run()
    made: list[Record] = []

    @wraps(task_function)
    def task(_: DictConfig) -> float | None:
        record = run()
        made.append(record)
        if record.status != "ok":
            raise PointFailed(f"{point.name}: {record.status}: {record.reason}")
        return record.objective_s

    # a launcher's context has a loader of configs, and `run_job` does not use it
    context = HydraContext(config_loader=cast(ConfigLoader, None), callbacks=callbacks)
    ended = run_job(task, _config(point), "hydra.sweep.dir", "hydra.sweep.subdir", context)
    if not made:
        raise ended._return_value
    return made[0]


def _config(point: Point) -> DictConfig:
    """The point's whole config, as callbacks get it; its folder is its job's output."""
    config = OmegaConf.create(point.job.to_dict())
    where = {"sweep": {"dir": str(point.directory.parent), "subdir": point.directory.name}}
    config.hydra = OmegaConf.merge(OmegaConf.structured(HydraConf), point.hydra, where)
    return config
