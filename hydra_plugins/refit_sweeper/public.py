"""The pairs in conf/parallel/public/: chosen by their bare names, met by no `glob(*)`.

As with a shell's hidden files, what is in a subfolder of a group is met by a pattern that says how
its name begins: `glob(kimi_k2_*)` or `glob(public/*)`, and not `glob(*)`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from fnmatch import fnmatch

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Glob
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin

from refit.hydra_side import SourcesRegistry

GROUP, FOLDER = "parallel", "public"

Listed = Callable[[str, ObjectType], list[str]]


class PublicPairsSearchPath(SearchPathPlugin):
    """Puts the bare names behind the folder that the program's own config is in."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append a `PublicPairs` of the folder of the provider `main`."""
        for element in search_path.get_path():
            if element.provider == "main":
                path = f"{PublicPairs.scheme()}://{element.path}"
                search_path.append(provider="refit", path=path)
                return


class PublicPairs(ConfigSource):
    """`parallel=<name>` for `parallel=public/<name>`; all else is as it is in the folder behind."""

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)
        scheme = self.path.partition("://")[0] if "://" in self.path else "file"
        self.behind = SourcesRegistry.instance().resolve(scheme)(provider, self.path)

    @staticmethod
    def scheme() -> str:
        """The beginning of its path in a search path."""
        return "public-pairs"

    def load_config(self, config_path: str) -> ConfigResult:
        """The file of a bare name, or of a path as it is."""
        return self.behind.load_config(_longer(config_path) or config_path)

    def available(self) -> bool:
        """Whether the folder behind is there."""
        return self.behind.available()

    def is_group(self, config_path: str) -> bool:
        """Only `parallel`, the one group it adds to."""
        return config_path.strip("/") in ("", GROUP)

    def is_config(self, config_path: str) -> bool:
        """Whether it is the bare name of a public pair."""
        longer = _longer(config_path)
        return longer is not None and self.behind.is_config(longer)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """The bare names, but only for completion in a shell."""
        # a shell that completes a word wants the names; a glob must not meet them
        if "COMP_LINE" not in os.environ or config_path.strip("/") != GROUP:
            return []
        return self.behind.list(f"{GROUP}/{FOLDER}", results_filter)


def met(glob: Glob, group: str, listed: Listed) -> list[str]:
    """The options of a group that a glob meets, those in its subfolders with their folder's name.

    Args:
        glob: what to include and exclude; both may say a name with its folder or without.
        group: a config group, such as `parallel`.
        listed: a group -> its options, or its subfolders.
    """
    options = glob.filter(listed(group, ObjectType.CONFIG))
    begins = [pattern for pattern in glob.include if pattern[:1] not in ("*", "?", "[")]
    in_group = set(listed(group, ObjectType.CONFIG))
    for option in _below(group, "", listed):
        names = (option, option.rpartition("/")[2])
        if names[1] in in_group:  # an option of the group itself goes before its namesake
            continue
        if _any(names, begins) and not _any(names, glob.exclude):
            options.append(option)
    return options


def _below(group: str, folder: str, listed: Listed) -> Iterator[str]:
    for inner in listed(f"{group}/{folder}".strip("/"), ObjectType.GROUP):
        there = f"{folder}{inner}/"
        for name in listed(f"{group}/{there}".strip("/"), ObjectType.CONFIG):
            yield f"{there}{name}"
        yield from _below(group, there, listed)


def _any(names: tuple[str, ...], patterns: list[str]) -> bool:
    return any(fnmatch(name, pattern) for name in names for pattern in patterns)


def _longer(config_path: str) -> str | None:
    """`parallel/public/x` for `parallel/x`."""
    group, _, name = config_path.strip("/").rpartition("/")
    return f"{GROUP}/{FOLDER}/{name}" if group == GROUP else None
