"""Hydra's private names that are used here, all of them: what may break with a new Hydra.

* its parser of options, as no public one says which words are options and which overrides;
* its registry of config sources, by which ours read another one behind them;
* its basic sweeper, which ours is one of;
* its callbacks of a config, which a job of Slurm's makes anew;
* by name, its launcher, and the module that reads hydra.job.env_copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.sources_registry import SourcesRegistry
from hydra._internal.utils import get_args_parser

if TYPE_CHECKING:
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
CONFIG_LOADER = "hydra._internal.config_loader_impl"
DEFAULTS_LIST = "hydra._internal.defaults_list"

__all__ = [
    "BASIC_LAUNCHER",
    "CONFIG_LOADER",
    "DEFAULTS_LIST",
    "BasicSweeper",
    "Callbacks",
    "SourcesRegistry",
    "get_args_parser",
]


def __getattr__(name: str) -> Any:
    """The basic sweeper, when it is asked for: Hydra executes its plugins' modules at its start.

    A class from before that is not the one that its methods know then.

    Raises:
        AttributeError: there is no such name.
    """
    if name == "BasicSweeper":
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        return BasicSweeper
    raise AttributeError(name)
