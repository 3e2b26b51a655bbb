"""Hydra's own settings: what becomes of each, and the one place where some are refused.

docs/hydra.md prints `table`. What a setting of Hydra does not do is refused, never dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from refit.hydra_side import BASIC_LAUNCHER
from refit.rules.values import OF_RANKS

LAUNCHERS = ("hydra_plugins.refit_sweeper.RefitLauncher", BASIC_LAUNCHER)
"""What can run points, by hydra.launcher._target_."""

LAUNCHER = "use hydra/launcher=refit: points run here one after another, or as jobs (cluster=slurm)"

ENDING = "refit"
"""The name below hydra.callbacks of `refit.cli.Ending`, which is no callback of a user's."""


@dataclass(frozen=True)
class Refused:
    """A setting without effect; `way_out` is what to do instead."""

    way_out: str

    def __str__(self) -> str:
        return f"refused: {self.way_out}"


@dataclass(frozen=True)
class Setting:
    """What becomes of a setting, and of all below it.

    Attributes:
        name: below `hydra`, with dots.
        run, sweep, slurm: in a single run, in a sweep here, and for points that are Slurm's.
        shipped: the values that ask for nothing. Where there are none, it is refused where the
            command line says it, as files may say it for both kinds of run.
        also: the setting that has the effect; where both are said, this one may be.
        of: hydra.sweeper._target_ of the one sweeper that it is refused of.
    """

    name: str
    run: str | Refused
    sweep: str | Refused
    slurm: str | Refused = "as in a sweep"
    shipped: tuple[Any, ...] = ()
    also: str = ""
    of: str = ""


_NO_CHDIR = Refused("a point's files do not depend on the working directory; leave it out")
_NAMED = Refused("a point's folder is named after what it is; hydra.sweep.dir=... moves them all")
_ONE_BATCH = Refused(
    "all points are one batch; cluster.slurm.array_parallelism=... says how many jobs run at once,"
    " sweep.pack=... how many points share one"
)
_FILLED_IN = Refused("Hydra fills it in itself; leave it out")
_ADD_M = Refused("a single run has no sweep; add -m, or leave it out")

SETTINGS = (
    Setting("mode", "`RUN`", "`MULTIRUN`, which is `-m`"),
    Setting("searchpath", "its options, before the shipped ones", "the same, also for `glob`"),
    Setting(
        "run.dir",
        "has the point's folder",
        Refused("a sweep's points go to hydra.sweep.dir=..."),
        also="sweep.dir",
    ),
    Setting(
        "sweep.dir",
        Refused("a single run's point goes to hydra.run.dir=...; or add -m"),
        "has the points' folders",
        "the same; a file system that all nodes share",
        also="run.dir",
    ),
    Setting("sweep.subdir", _NAMED, _NAMED, shipped=(".",)),
    Setting(
        "output_subdir",
        "below `hydra.run.dir`; null, as shipped: `point.json` says as much",
        "below each point's folder",
    ),
    Setting("job.chdir", _NO_CHDIR, _NO_CHDIR, shipped=(False, None)),
    Setting(
        "job.env_set",
        "in this process and in the ranks, before they import anything. No part of a point's"
        " identity; a record has a digest of each value, and a sweep does not keep one that ran"
        " with others. What is to be swept belongs to `cluster.env`",
        "around each point that runs, as its own config has it; its ranks are started anew."
        " `point.json` has the values, those of `hydra.job.env_copy` too",
        "the same on every node of the job, as it was when the point was submitted",
    ),
    Setting("job.env_copy", "as `hydra.job.env_set`", "as `hydra.job.env_set`"),
    *[
        Setting(
            f"job.{name}",
            f"`${{hydra:job.{name}}}`",
            Refused("a sweep numbers its points; ${hydra:job.num} is the number"),
        )
        for name in ("num", "id")
    ],
    Setting("job.name", "`${hydra:job.name}`, and of a log of Hydra's", "the same"),
    Setting("job.config", "how `${hydra:job.override_dirname}` is written", "the same"),
    *[
        Setting(name, _FILLED_IN, _FILLED_IN)
        for name in ("job.override_dirname", "job.config_name", "overrides", "runtime")
    ],
    Setting(
        "callbacks",
        "`on_run_*` and `on_job_*`; of a point that fails too, with `JobStatus.FAILED` and why",
        "`on_multirun_*` once; `on_job_*` around each point that runs: its config, with"
        " `hydra.runtime.output_dir` its folder. One that is kept or skipped is no job",
        "`on_job_*` in the job on its first node, in an object made there: it sees the config as"
        " it was submitted, and nothing that `on_multirun_start` left",
    ),
    Setting("job_logging", "from the start of the job", "the same, of points that run"),
    Setting("hydra_logging", "from the start", "the same", "the same, here"),
    Setting("verbose", "from the start", "the same", "the same, here"),
    Setting(
        "launcher",
        _ADD_M,
        "`refit` decides by each point's own `cluster`; `basic` runs all here, as jobs of Hydra's",
        "`refit` alone",
    ),
    Setting(
        "sweeper.max_batch_size",
        _ONE_BATCH,
        _ONE_BATCH,
        shipped=(None,),
        of="hydra_plugins.refit_sweeper.RefitSweeper",
    ),
    Setting(
        "sweeper.params",
        _ADD_M,
        "what is swept, of the types that YAML gives it; the command line wins",
        shipped=(None,),
    ),
    Setting("sweeper", _ADD_M, "`refit`, `basic`, or one that goes by results (`optuna`)"),
    Setting("help", "`--help`", "the same", "-"),
    Setting("hydra_help", "`--hydra-help`", "the same", "-"),
    Setting("env", "may bring settings: `hydra/env=...`", "the same"),
)
"""Every setting below `hydra`; where two fit, the first."""


def refused(hydra: Any, is_sweep: bool) -> str | None:
    """Why a setting that this run has no use for is refused, or None.

    Args:
        hydra: the `hydra` node of a composed config.
    """
    words = said(hydra, "hydra")
    for setting in SETTINGS:
        fate = setting.sweep if is_sweep else setting.run
        if isinstance(fate, Refused) and _asks(setting, hydra, words):
            kind = "a sweep" if is_sweep else "a single run"
            word = next(iter(_said(setting.name, words)), "")
            what = word or f"hydra.{setting.name}={_value(hydra, setting.name)}"
            return f"{what} has no effect in {kind}: {fate.way_out}"
    if ours := sorted(OF_RANKS.keys() & hydra.job.env_set.keys()):
        return f"hydra.job.env_set.{ours[0]}: a rank sets that itself ({OF_RANKS[ours[0]]})"
    return _launcher(hydra) if is_sweep else None


def said(hydra: Any, which: str) -> list[str]:
    """The overrides as they were typed: where an interpolation is read, it is resolved.

    Args:
        which: `hydra`, or `task` for all others.
    """
    words = OmegaConf.to_container(hydra.overrides[which])
    return [str(word) for word in words] if isinstance(words, list) else []


def _asks(setting: Setting, hydra: Any, words: Sequence[str]) -> bool:
    """Whether a setting is asked for, other than shipped."""
    if setting.of and setting.of != _value(hydra, "sweeper._target_"):
        return False
    if setting.shipped:
        return _value(hydra, setting.name) not in setting.shipped
    if setting.also and any(_said(setting.also, words)):
        return False
    return any(_said(setting.name, words))


def _value(hydra: Any, name: str) -> Any:
    """As it is written: an interpolation may be of what a run that has begun knows."""
    above, _, key = name.rpartition(".")
    values = OmegaConf.to_container(hydra[above])
    return values.get(key) if isinstance(values, dict) else None


def _said(name: str, words: Iterable[str]) -> list[str]:
    """The words of the command line that say a setting, or one below it; a group's too."""
    keys = {word: word.lstrip("+~").partition("=")[0].replace("/", ".") for word in words}
    return [word for word, key in keys.items() if f"{key}.".startswith(f"hydra.{name}.")]


def _launcher(hydra: Any) -> str | None:
    """Points are measured one after another, and only ours knows Slurm."""
    if _value(hydra, "launcher._target_") in LAUNCHERS:
        return None
    name = hydra.runtime.choices.get("hydra/launcher")
    return f"hydra/launcher={name} would run points beside each other; {LAUNCHER}"


def is_plain(hydra: Any) -> bool:
    """Whether a point needs nothing of Hydra where it runs, so that it may run without."""
    logs = hydra.runtime.choices.get("hydra/job_logging") == "stdout" and not hydra.verbose
    asked = hydra.job.env_set or hydra.callbacks.keys() - {ENDING} or hydra.output_subdir
    return logs and not asked and not _said("job_logging", said(hydra, "hydra"))


def table() -> str:
    """The table of docs/hydra.md."""
    lines = [
        "| setting | in a single run | in a sweep (`-m`) | on Slurm |",
        "|---|---|---|---|",
    ]
    for s in SETTINGS:
        lines.append(f"| `hydra.{s.name}` | {s.run} | {s.sweep} | {s.slurm} |")
    return "\n".join(lines)
