"""A callback of Hydra's that writes what it was told, and what its process has, to a file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

VARIABLE = "REFIT_SHARE"


class Tells(Callback):
    """Named on the command line as `+hydra.callbacks.t._target_=tests.support.callbacks.Tells`.

    Args:
        path: of the file; a line for each call.
        who: what it says of itself.
    """

    def __init__(self, path: str, who: str = "") -> None:
        self.path, self.who = Path(path), who

    def _tell(self, event: str, config: DictConfig, **more: Any) -> None:
        said = {"event": event, "seed": config.seed, "variable": os.environ.get(VARIABLE), **more}
        said["who"] = self.who
        with self.path.open("a") as file:
            file.write(json.dumps(said) + "\n")

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._tell("on_run_start", config)

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        self._tell("on_run_end", config, status=kwargs["job_return"].status.name)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._tell("on_multirun_start", config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        self._tell("on_multirun_end", config)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        where = f"{kwargs['task_function'].__module__}.{kwargs['task_function'].__name__}"
        folder = Path(config.hydra.runtime.output_dir)
        self._tell("on_job_start", config, task=where, folder=str(folder))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        ended = job_return
        what = str(ended._return_value) if ended.status.name == "FAILED" else ended.return_value
        self._tell("on_job_end", config, status=ended.status.name, what=what)


def told(path: Path) -> list[dict[str, Any]]:
    """What one has written, in order."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def asked(path: Path, value: str) -> tuple[str, ...]:
    """The overrides that ask for one, and for its variable in the points' processes."""
    return (
        "+hydra.callbacks.t._target_=tests.support.callbacks.Tells",
        f"+hydra.callbacks.t.path={path}",
        f"+hydra.job.env_set.{VARIABLE}={value}",
    )
