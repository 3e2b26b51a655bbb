"""A user's own option files go before ours: Hydra by itself would let the shipped one win."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin


class UserFilesFirst(SearchPathPlugin):
    """Puts `--config-dir` and `hydra.searchpath` of the command line before conf/.

    Hydra adds them once more behind it, where they do no harm, and says what is wrong with them.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        from refit import cli

        for path in reversed(_asked(cli.COMMAND_LINE)):
            if "://" not in path:
                if not Path(path).is_dir():
                    continue
                path = f"file://{Path(path).absolute()}"
            search_path.prepend("user", path, SearchPathQuery(provider="main"))


def _asked(arguments: Sequence[str]) -> list[str]:
    """Folders, as the user wrote them; those that are none too."""
    known, _ = get_args_parser().parse_known_args(list(arguments))
    paths = [known.config_dir] if known.config_dir else []
    try:
        overrides = OverridesParser.create().parse_overrides(known.overrides)
    except HydraException:  # Hydra says it in its own time
        return paths
    for override in overrides:
        value = override.value() if override.get_key_element() == "hydra.searchpath" else None
        if isinstance(value, list):
            paths += [path.removeprefix("file://") for path in value if isinstance(path, str)]
    return paths
