"""`refit-sweep`, or `python -m sweeper`: every program of the project as one command's subcommands.

It stands here because `sweeper` may use `refit`, and never the other way round.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import NoReturn

from refit import program, run
from refit.errors import UserError

HYDRAS: Mapping[str, tuple[str, ...]] = {"run": (), "plan": ("mode=plan",)}
"""Subcommands that are `refit.run`, by the overrides that they stand for."""

PROGRAMS: Mapping[str, tuple[str, str]] = {
    "run": ("refit.run", "measure one point, or with -m a sweep of them"),
    "plan": ("refit.run", "predict it: run with mode=plan"),
    "advise": ("refit.advise", "rank the layouts to serve from"),
    "model": ("refit.model_table", "a model's tensors, their shapes, cuts and parameters"),
    "import-model": ("refit.import_model", "a Hugging Face config.json as a model of ours"),
    "import-pair": ("refit.import_pair", "another framework's launch script as a pair of layouts"),
    "workloads": ("refit.workloads", "the MoE workloads that can be the source of a refit"),
    "published": ("refit.published", "published refits beside our floor and estimate"),
    "calibrate": ("refit.calibrate", "fit the estimate to measured records"),
    "megatron-args": (
        "refit.megatron_args",
        "Megatron-LM's flags as a job, and a job as its flags",
    ),
    "status": ("sweeper.status", "where each point of a sweep stands"),
    "cancel": ("sweeper.cancel", "end the Slurm jobs of a sweep, and no others"),
    "collect": ("sweeper.collect", "the records of a folder as a table, CSV or Parquet"),
    "compare": ("sweeper.compare", "two results, or two methods: faster, slower or the same"),
    "trace": ("sweeper.trace", "one point's refits, rank by rank, for ui.perfetto.dev"),
    "export": ("sweeper.export.__main__", "records for MLflow, GitHub, NIXL and other tools"),
    "import-metrics": ("sweeper.import_metrics", "a training run's own times, beside the plan"),
    "report": ("sweeper.report.__main__", "the records as a page with pictures, or as Markdown"),
}
"""Subcommand -> its module, which `python -m` runs as well, and what it is for."""


def usage() -> str:
    """What `refit-sweep --help` prints."""
    width = max(map(len, PROGRAMS))
    listed = "\n".join(f"  {name:{width}}  {text}" for name, (_, text) in PROGRAMS.items())
    return (
        f"usage: {program.COMMAND} [run] [options] [overrides]\n"
        f"       {program.COMMAND} SUBCOMMAND ...\n\n"
        "How fast, and how correctly, weights get from the trainer's layout to the sampler's.\n\n"
        f"{listed}\n\n"
        "Overrides without a subcommand are those of run. Each has its own --help."
    )


def main() -> NoReturn:
    """The console script."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        print(usage())
        sys.exit(0)
    if name == "--version":
        print(program.VERSION)
        sys.exit(0)
    if name not in PROGRAMS:
        if not _is_hydras(name):
            program.exit_with(_unknown)
        name, rest = "run", [name, *rest]
    if name in HYDRAS:
        _complete()
        if HYDRAS[name] and any(word.lstrip("+").startswith("mode=") for word in rest):
            program.exit_with(_another_mode)
        sys.argv[1:] = [*HYDRAS[name], *rest]
        run.main()
    sys.argv[:] = [f"{program.COMMAND} {name}", *rest]
    program.exit_with(import_module(PROGRAMS[name][0]).main)


def _is_hydras(word: str) -> bool:
    """Whether it is an option or an override, and no mistyped subcommand."""
    return word[:1] in ("-", "+", "~") or "=" in word


def _unknown(arguments: Sequence[str]) -> None:
    close = get_close_matches(arguments[0], PROGRAMS, 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise UserError(f"no subcommand '{arguments[0]}'{hint} They are: {', '.join(PROGRAMS)}")


def _another_mode(arguments: Sequence[str]) -> None:
    raise UserError("plan is run with mode=plan; leave mode= out, or use run")


def _complete() -> None:
    """Where a shell asks for completions: those of the subcommand, or the rest as Hydra's.

    Hydra would take `run` for an override.
    """
    words = os.environ.get("COMP_LINE", "").split(" ", 2)
    if len(words) == 2:
        print(" ".join(name for name in PROGRAMS if name.startswith(words[1])))
    elif len(words) == 3 and words[1] in HYDRAS:
        os.environ["COMP_LINE"] = f"{words[0]} {words[2]}"
        point = int(os.environ.get("COMP_POINT") or 0)
        os.environ["COMP_POINT"] = str(max(point - len(words[1]) - 1, 0))


if __name__ == "__main__":
    main()
