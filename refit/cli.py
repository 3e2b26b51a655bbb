"""One point from the command line: config in, exit code out."""

from __future__ import annotations

import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from refit import command_line, mistakes, naming, program, settings, told
from refit.command_line import VERBOSE
from refit.errors import UserError
from refit.fields import MISSING
from refit.importers import flags
from refit.job import Job
from refit.program import COMMAND, EXIT_FAILED, EXIT_USER_ERROR, VERSION

COMMAND_LINE: list[str] = []
"""What `guarded` was called with, options before overrides; empty in other programs."""


def job_of(config: DictConfig) -> Job:
    """The typed job of a composed config.

    Raises:
        UserError: a value is missing or of the wrong type.
    """
    return Job.from_dict(values_of(config))


def values_of(config: DictConfig) -> dict[str, Any]:
    """What a composed config says of the job, as plain containers."""
    ours = _with_shell_text(config)
    return {str(name): _resolved(ours, name) for name in ours if name != "hydra"}


def _resolved(config: DictConfig, name: Any) -> Any:
    value = MISSING if OmegaConf.is_missing(config, name) else config[name]
    if not OmegaConf.is_config(value):
        return value
    found = OmegaConf.to_container(value, resolve=True)
    if name != "cluster" or not isinstance(found, dict):
        return found
    raw: Any = OmegaConf.to_container(value)
    return {**found, **{key: told.marked(found[key], raw[key]) for key in told.WITHIN}}


def _with_shell_text(config: DictConfig) -> DictConfig:
    """The config; a copy where a shell's text has ${...}, which is then no interpolation."""
    slurm = OmegaConf.select(config, "cluster.slurm", throw_on_resolution_failure=False)
    if not isinstance(slurm, DictConfig):
        return config
    plain = OmegaConf.to_container(slurm, resolve=False)
    assert isinstance(plain, dict)
    texts = {name: plain[name] for name in told.SHELL if "${" in str(plain.get(name))}
    if not texts:
        return config
    config = deepcopy(config)
    OmegaConf.set_readonly(config, False)
    for name, text in texts.items():
        config.cluster.slurm[name] = _escaped(text)
    return config


def _escaped(text: Any) -> Any:
    """Of a text or a list of them, so that OmegaConf gives back what was written.

    What is escaped already, by an odd number of backslashes, is left so.
    """
    if isinstance(text, list):
        return [_escaped(item) for item in text]
    if not isinstance(text, str):
        return text
    even = r"(?<!\\)((?:\\\\)*)\$\{"
    return re.sub(even, lambda found: f"{found[1] * 2}\\${{", text)


class PointFailed(Exception):
    """A point ended otherwise than verified; Hydra and its callbacks call that a failed job."""


QUIETLY = (UserError, PointFailed, OmegaConfBaseException)
"""What `guarded` has words for."""


class Ending(Callback):
    """Of every single run (conf/config.yaml): what went wrong is said in our words alone."""

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Have the job's exception raised without Hydra's own line about it."""
        if isinstance(kwargs["job_return"]._return_value, QUIETLY):
            kwargs["job_return"].__class__ = _Quiet


class _Quiet(JobReturn):
    """One that Hydra says nothing of; `guarded` does."""

    @property  # type: ignore[misc]
    def return_value(self) -> Any:
        raise self._return_value


def run_point(config: DictConfig) -> float | None:
    """Run one point: the objective of whoever sweeps.

    Returns:
        Seconds of the median refit, or of the estimate for mode=plan; None where there is none.

    Raises:
        UserError: what is asked for is impossible, or of a sweep.
        PointFailed: the point is not verified.
    """
    from refit.forecast import predict
    from refit.ranks.agent import Agent
    from refit.ranks.processes import NO_IMPORT
    from refit.record import environment, lock
    from refit.record.point import Point
    from refit.show.display import Display

    hydra = HydraConfig.get()
    alone = hydra.mode is not RunMode.MULTIRUN
    if reason := settings.refused(hydra, is_sweep=not alone):
        raise UserError(reason)
    display = Display(is_verbose())
    overrides = tuple(settings.said(hydra, "task"))
    job = naming.composed(lambda o: job_of(config if o == overrides else _again(o)), overrides)
    _check(job, alone)
    root = Path(hydra.run.dir if alone else hydra.sweep.dir)
    # of a launcher whose points share this process, and the server that their ranks come from
    variables = {} if alone else dict(hydra.job.env_set)
    own = {"job": {"env_set": variables}} if variables else None
    point = Point.of(job, root, overrides, own)
    if alone:
        lock.check_free(root)
    display.begin(job)
    if job.mode == "plan":
        record = predict.predict_point(point)
    else:
        around = environment.with_variables(hydra.job.env_set)  # Hydra has set them
        with Agent([job], around) as agent, display.progress() as progress:
            record = agent.measure_point(point, progress)
    display.result(record)
    display.line(f"  record: {point.timing}")
    if record.status != "ok":
        if alone and NO_IMPORT in record.reason:
            raise UserError(record.reason)
        raise PointFailed(f"{point.name}: {record.status}: {record.reason}")
    return record.objective_s


def _check(job: Job, alone: bool) -> None:
    """Check that a point is possible, and is one that runs by itself."""
    from refit.rules.impossible import impossible

    if reason := impossible(job):
        raise UserError(reason)
    measured = job.mode == "measure"
    if reason := of_a_sweep(job):
        words = ["cluster=slurm"] if measured and job.sweep.here and is_local(job) else []
        more = f"type {retyped('-m', *words)}" if alone else "use hydra/launcher=refit"
        raise UserError(f"{reason}; {more}")
    if not is_local(job) and measured:
        more = f"type {retyped('-m')}" if alone else "use hydra/launcher=refit"
        raise UserError(
            f"cluster={job.cluster.name} starts jobs in a sweep, of one point too; {more}, or"
            " cluster=local"
        )


def is_verbose() -> bool:
    """Whether the command line has -v: every point of a sweep is told of in full."""
    return VERBOSE in COMMAND_LINE


def of_a_sweep(job: Job) -> str | None:
    """Which of its settings one point alone does not have, or None."""
    sweep = job.sweep
    said = {
        "dry_run": sweep.dry_run,
        "repeat": sweep.repeat > 1,
        "interleave": sweep.interleave,
        "exclude": sweep.exclude,
        "here": sweep.here,
    }
    names = [f"sweep.{name}" for name, is_said in said.items() if is_said]
    return f"{' and '.join(names)}: of a sweep, and this is a single point" if names else None


def is_local(job: Job) -> bool:
    """Whether its ranks would be processes of this machine."""
    return job.cluster.launcher == "local"


def retyped(*words: str) -> str:
    """The command line again, with options and overrides in front; an override replaces its own."""
    groups = {word.partition("=")[0] for word in words if "=" in word}
    kept = [word for word in COMMAND_LINE if word.partition("=")[0] not in groups]
    program = sys.argv[0] if sys.argv[0].startswith(f"{COMMAND} ") else "python -m refit.run"
    return f"{program} {shlex.join([*words, *kept])}"


def _again(overrides: Sequence[str]) -> DictConfig:
    """Another config of this program, composed within it."""
    return compose(HydraConfig.get().job.config_name, list(overrides))


def guarded(main: Callable[[], Any]) -> NoReturn:
    """Run Hydra's main and exit. What a user got wrong is one message on stderr and exit code 2.

    With HYDRA_FULL_ERROR=1 in the environment every error keeps its traceback, as Hydra promises.
    """
    program.standard_streams()
    program.interruptible()
    try:
        _ordered()
        _run(main)
        sys.stdout.flush()
    except program.Interrupted as end:
        print(
            f"interrupted by {end}; no rank is left running here. Jobs in Slurm's queue go on: the"
            " same command takes them up again",
            file=sys.stderr,
        )
        sys.exit(end.exit_code)
    except OSError as error:  # of the flush
        sys.exit(program.lost_stdout(error))
    sys.exit(0)


def _ordered() -> None:
    """Make the command line one that Hydra's parser takes, or exit with what is wrong with it."""
    if "--version" in sys.argv[1:]:  # Hydra's own option says Hydra's version
        print(VERSION)
        sys.exit(0)
    if reason := flags.foreign(sys.argv[1:]):
        _give_up(reason)
    sys.argv[1:] = COMMAND_LINE[:] = command_line.ordered(sys.argv[1:])
    if reason := command_line.deletes(COMMAND_LINE) or command_line.chooses_nothing(COMMAND_LINE):
        _give_up(reason)
    ours = [word for word in COMMAND_LINE if word != VERBOSE]  # Hydra has no such option
    sys.argv[1:] = command_line.for_each_point(ours)


def _run(main: Callable[[], Any]) -> None:
    """Call it; what a user got wrong ends the program with a message."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        main()
        return
    # Hydra itself prints a traceback for malformed YAML and exits 1; this makes it hand errors
    # over.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    warnings.filterwarnings("error", message=mistakes.NOT_AVAILABLE)  # Hydra goes on without it
    try:
        main()
    except PointFailed as error:  # all of it stands above
        print(f"error: {program.printable(str(error).splitlines()[0])}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    except Exception as error:
        if (message := mistakes.message(error)) is not None:
            _give_up(message)
        if isinstance(error, OSError):
            sys.exit(program.lost_stdout(error))
        raise


def _give_up(message: str) -> NoReturn:
    print(f"error: {program.printable(message)}", file=sys.stderr)
    sys.exit(EXIT_USER_ERROR)
