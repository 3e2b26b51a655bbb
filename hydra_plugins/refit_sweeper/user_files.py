"""A user's own option files go before ours: Hydra by itself would let the shipped one win."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf.errors import GrammarParseError

from hydra_plugins.refit_sweeper import yaml_file
from refit.errors import UserError
from refit.hydra_side import SourcesRegistry, get_args_parser


class UserFilesFirst(SearchPathPlugin):
    """Puts the options of `--config-dir` and `hydra.searchpath` (command line) before conf/.

    Hydra adds both once more behind it, where they do no harm, and says what is wrong with them.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Put a `UserOptions` for each folder before `main`; what is no folder is left to Hydra."""
        from refit import cli

        for path in reversed(_folders(cli.COMMAND_LINE)):
            if "://" not in path:
                if not Path(path).is_dir():
                    continue
                path = f"file://{Path(path).absolute()}"
            search_path.prepend(
                "user", f"{UserOptions.scheme()}://{path}", SearchPathQuery(provider="main")
            )


class UserOptions(ConfigSource):
    """What groups in another source offer; not its top level, where a config.yaml may be.

    That one is of the user's own program: it would take the place of ours.
    """

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)
        scheme = self.path.partition("://")[0]
        self.behind = SourcesRegistry.instance().resolve(scheme)(provider, self.path)

    @staticmethod
    def scheme() -> str:
        """The beginning of its path in a search path."""
        return "user-options"

    def load_config(self, config_path: str) -> ConfigResult:
        """As the source behind; a file is looked at first.

        Raises:
            UserError: see `yaml_file.check`.
        """
        folder = self.path.removeprefix("file://")
        file = Path(folder) / (
            config_path if config_path.endswith((".yaml", ".yml")) else f"{config_path}.yaml"
        )
        if "://" in folder or not file.is_file():
            return self.behind.load_config(config_path)
        yaml_file.check(file)
        try:
            return self.behind.load_config(config_path)
        except (yaml.YAMLError, GrammarParseError) as error:
            raise UserError(f"{file}: {error}") from None

    def available(self) -> bool:
        """As the source behind."""
        return self.behind.available()

    def is_group(self, config_path: str) -> bool:
        """As the source behind."""
        return self.behind.is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        """As the source behind, but for its top level."""
        return "/" in config_path.strip("/") and self.behind.is_config(config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """As the source behind."""
        return self.behind.list(config_path, results_filter)


def _folders(arguments: Sequence[str]) -> list[str]:
    """Folders, as the user wrote them; those that are none too."""
    options, _ = get_args_parser().parse_known_args(list(arguments))
    paths = [options.config_dir] if options.config_dir else []
    try:
        overrides = OverridesParser.create().parse_overrides(options.overrides)
    except HydraException:  # Hydra says it in its own time
        return paths
    for override in overrides:
        value = override.value() if override.get_key_element() == "hydra.searchpath" else None
        if isinstance(value, list):
            paths += [path.removeprefix("file://") for path in value if isinstance(path, str)]
    return paths
