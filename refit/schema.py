"""Hydra's view of the config: where its files are, its schema, and our plugins.

The schema is the typed config, so that a typo in a field or a wrong type is an error at once.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf

from refit.job import Job

NAME = "job_schema"

_HERE = Path(__file__).parent
CONF = next(conf for conf in (_HERE / "conf", _HERE.parent / "conf") if conf.is_dir())
"""The folder of option files: inside the package in a wheel, beside it in a checkout."""


def register() -> None:
    """Store `Job` under the name that `conf/config.yaml` starts from, our plugins and resolver.

    May be called again.
    """
    OmegaConf.register_new_resolver("in_pairs_of", in_pairs_of, replace=True)
    ConfigStore.instance().store(name=NAME, node=_schema(), provider="refit")
    # Hydra scans the folders of hydra_plugins, and executes again what it finds there: our plugins
    # are named after that. It finds none of them in an editable install.
    plugins = Plugins.instance()
    from hydra_plugins import refit_sweeper

    for plugin in refit_sweeper.PLUGINS:
        plugins.register(plugin)


def in_pairs_of(model: str, there: Any, elsewhere: Any, *, _root_: DictConfig) -> Any:
    """`${in_pairs_of:kimi_k2,61,4}`: 61 in the pairs that are Kimi K2's own, 4 in all others."""
    owner = OmegaConf.select(_root_, "parallel.model", default=None)
    return there if owner == model else elsewhere


@cache
def _schema() -> DictConfig:
    """`Job` as Hydra fills it in."""
    schema = OmegaConf.structured(Job)
    _unfreeze(schema)
    # null where parallel.destinations is a list; `Job` has the default there, never None
    destination = schema.parallel._get_node("destination")
    assert isinstance(destination, DictConfig)
    destination._metadata.optional = True
    return schema


def _unfreeze(node: DictConfig) -> None:
    # OmegaConf makes a frozen dataclass a read-only node: no YAML file could fill it in
    OmegaConf.set_readonly(node, None)
    for key in node:
        if not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
            _unfreeze(node[key])
