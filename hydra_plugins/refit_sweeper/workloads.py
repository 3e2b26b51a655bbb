"""Hydra's door to `refit.model.workload_grid`: workloads as options, without 127 files in conf/.

A config source, and not entries of Hydra's ConfigStore: that is copied whole for every point.
"""

from __future__ import annotations

import os

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from refit.model import workload_grid


class WorkloadSearchPath(SearchPathPlugin):
    """Puts the workloads behind conf/."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the workloads, so that a file of the same name wins."""
        search_path.append(provider="refit", path=f"{WorkloadSource.scheme()}://")


class WorkloadSource(ConfigSource):
    """`workload=<name>`: the model, and the pair of layouts; `model=gpt_13b_16e` and its like."""

    @staticmethod
    def scheme() -> str:
        """The beginning of its path in a search path."""
        return "workloads"

    def load_config(self, config_path: str) -> ConfigResult:
        """The fields of an option.

        Raises:
            ConfigLoadError: there is no such one.
        """
        group, name = _split(config_path)
        if not self.is_config(config_path):
            raise ConfigLoadError(f"no {group} named {name}")
        return ConfigResult(
            provider=self.provider,
            path=self.full_path(),
            config=OmegaConf.create(workload_grid.options()[group][name]),
            header={"package": "_global_" if group == "workload" else None},
        )

    def available(self) -> bool:
        """Always: it is code, and no folder."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Its groups are `model` and `workload`, at the top."""
        return config_path.strip("/") in ("", *workload_grid.options())

    def is_config(self, config_path: str) -> bool:
        """Whether there is such an option, with or without `.yaml`."""
        group, name = _split(config_path)
        return name in workload_grid.options().get(group, {})

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Options of a group, or the groups where the path is empty; sorted."""
        group, options = config_path.strip("/"), workload_grid.options()
        if group == "" and "COMP_LINE" not in os.environ:
            return []  # a list of all groups and their options is --help's: 123 on one line
        names = sorted(options.get(group, options if group == "" else {}))
        kind = ObjectType.GROUP if group == "" else ObjectType.CONFIG
        return names if results_filter in (None, kind) else []


def _split(config_path: str) -> tuple[str, str]:
    group, _, name = config_path.strip("/").removesuffix(".yaml").rpartition("/")
    return group, name
