"""The typed config as Hydra's schema: a typo in a field or a wrong type is an error at once."""

from __future__ import annotations

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from refit.job import Job

NAME = "job_schema"


def register() -> None:
    """Store `Job` under the name that `conf/config.yaml` starts from. May be called again."""
    schema = OmegaConf.structured(Job)
    _unfreeze(schema)
    ConfigStore.instance().store(name=NAME, node=schema, provider="refit")


def _unfreeze(node: DictConfig) -> None:
    # OmegaConf makes a frozen dataclass a read-only node: no YAML file could fill it in
    OmegaConf.set_readonly(node, None)
    for key in node:
        if not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
            _unfreeze(node[key])
