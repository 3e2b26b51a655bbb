"""One point from the command line: config in, exit code out; mistakes without tracebacks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from refit.job import Job, UserError
from refit.program import EXIT_INTERRUPTED, EXIT_USER_ERROR

if TYPE_CHECKING:
    from refit.display import Display
    from refit.record.point import Point

EXIT_FAILED = 1


def job_of(config: DictConfig) -> Job:
    """The typed job of a composed config.

    Raises:
        UserError: a value is missing or of the wrong type.
    """
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return Job.from_dict({str(k): v for k, v in plain.items() if k != "hydra"})


def run_one(config: DictConfig) -> None:
    """Run one point and exit: 0 verified, 1 not, 2 impossible."""
    from refit.display import Display
    from refit.ranks.agent import Agent
    from refit.record.point import Point
    from refit.rules.impossible import impossible

    hydra = HydraConfig.get()
    display = Display()
    try:
        job = job_of(config)
        if reason := impossible(job):
            raise UserError(reason)
        if job.sweep.dry_run or job.sweep.repeat > 1 or job.sweep.exclude:
            raise UserError("sweep.dry_run, repeat and exclude are of a sweep; add -m")
        if job.cluster.launcher != "local" and job.mode != "plan":
            raise UserError(
                f"cluster={job.cluster.name} starts jobs in a sweep; add -m, or use cluster=local"
            )
        point = Point.of(job, Path(hydra.run.dir), tuple(hydra.overrides.task))
        display.begin(job)
        if job.mode == "plan":
            _predict(point, display)
            return
        with Agent([job]) as agent, display.progress() as progress:
            record = agent.run(point, progress)
    except UserError as error:
        _give_up(str(error))  # here, before Hydra adds that a job failed
    display.result(record)
    display.line(f"  record: {point.timing}")
    if record.status != "ok":
        sys.exit(EXIT_FAILED)


def _predict(point: Point, display: Display) -> None:
    """One point of mode=plan: no ranks, nothing of torch."""
    from refit.forecast import predict

    record = predict.predict_point(point)
    display.predicted(record)
    display.line(f"  record: {point.timing}")
    if record.status != "ok":
        sys.exit(EXIT_FAILED)


def guarded(main: Callable[[], Any]) -> NoReturn:
    """Run Hydra's main and exit. What a user got wrong is one message on stderr and exit code 2.

    With HYDRA_FULL_ERROR=1 in the environment every error keeps its traceback, as Hydra promises.
    """
    # Hydra's parser takes overrides from one place only, so -m may not stand between two of them
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        main()
        sys.exit(0)
    # Hydra itself prints a traceback for malformed YAML and exits 1; this makes it hand errors
    # over.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        main()
    except CompactHydraException as error:
        cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
        _give_up("\n".join(str(e) for e in (error, cause, _nearest(error)) if e))
    except OmegaConfBaseException as error:
        _give_up(str(error))
    except yaml.YAMLError as error:
        _give_up(f"malformed YAML: {error}")
    except UserError as error:
        _give_up(str(error))
    except ValueError as error:
        if not _of_hydra(error):
            raise
        _give_up(str(error))  # options that exclude each other
    except OSError as error:
        if error.filename is None:
            raise
        _give_up(f"{error.strerror}: {error.filename}")
    except KeyboardInterrupt:
        print(
            "interrupted; no rank is left running here. Jobs in Slurm's queue go on: the same"
            " command takes them up again",
            file=sys.stderr,
        )
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(0)


def _nearest(error: CompactHydraException) -> str | None:
    """For an unknown field of a config file, the one that was probably meant."""
    inner = error.__cause__ or error.__context__
    if not isinstance(inner, OmegaConfBaseException):
        return None
    if is_dataclass(inner.object_type):
        known = [f.name for f in fields(inner.object_type)]
    elif isinstance(inner.parent_node, DictConfig):  # a plain mapping, such as cluster.slurm
        known = [str(key) for key in inner.parent_node]
    else:
        return None
    close = [] if inner.key in known else get_close_matches(str(inner.key), known, 1)
    return f"did you mean {close[0]}?" if close else None


def _of_hydra(error: Exception) -> bool:
    """Whether Hydra itself raised it, as it does for `-m --cfg job`."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and str(frame.tb_frame.f_globals["__name__"]).startswith("hydra.")


def _give_up(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(EXIT_USER_ERROR)
