"""What a user got wrong, in words: the errors of Hydra, OmegaConf, YAML and ours as messages."""

from __future__ import annotations

import re
import shlex
import traceback
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from types import FrameType

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from refit import settings
from refit.errors import UserError
from refit.hydra_side import CONFIG_LOADER, DEFAULTS_LIST
from refit.job import LIST_OF_SIDES, unknown_field

NOT_AVAILABLE = r"provider=(.+), path=(.+) is not available\."
"""What Hydra warns of a folder of options that is not there."""


def message(error: Exception) -> str | None:
    """The message on what a user got wrong; None of any other error."""
    match error:
        case HydraException():
            return in_words(error)
        case OmegaConfBaseException() | UserError():
            return str(error)
        case UserWarning() if found := re.match(NOT_AVAILABLE, str(error)):
            return (
                f"{found[1]}: {found[2]} is not there; a search path is a list of folders, or of"
                " packages, pkg://..."
            )
        case yaml.YAMLError():
            return f"malformed YAML: {error}"
        case RecursionError() if cycle := _cycle(error):
            return f"options include each other in their defaults: {' -> '.join(cycle)}"
        case KeyError() if _modules(error)[-2:] == [CONFIG_LOADER, "os"]:
            return f"hydra.job.env_copy: {error} is not in this environment"
        case AssertionError() if _of_hydra(error):
            return f"Hydra holds: {traceback.extract_tb(error.__traceback__)[-1].line}"
        case OSError() if error.filename is not None:
            return f"{error.strerror}: {error.filename}"
        case ValueError() if _of_hydra(error):
            return str(error)  # options that exclude each other, or a search without a result
    return None


def in_words(error: HydraException) -> str:
    """Hydra's own words and their cause; of an unknown field of ours what `Job` says of it.

    Hydra advises to append it with +, which is refused as well.
    """
    if isinstance(error, OverrideParseException):
        return f"{error}{_with_quotes(error.override)}"
    inner = error.__cause__ or error.__context__
    if "'hydra/launcher/" in str(error):
        return f"{error}; {settings.LAUNCHER}"
    if not isinstance(inner, OmegaConfBaseException):
        return str(error)
    key, where = str(inner.key), str(inner.full_key)
    if is_dataclass(inner.object_type):
        if key not in {declared.name for declared in fields(inner.object_type)}:
            file = re.match(r"In '[^']+': ", str(error))  # where a file says it
            return f"{file[0] if file else ''}{unknown_field(inner.object_type, key, where)}"
    elif isinstance(inner.parent_node, DictConfig):  # a plain mapping, such as cluster.slurm
        names = [str(name) for name in inner.parent_node]
        if where.startswith("parallel.destinations"):  # a list, whose items have no path
            return f"'{where}' cannot be set alone; {LIST_OF_SIDES}"
        if key not in names:
            close = "".join(f"; did you mean {name}?" for name in get_close_matches(key, names, 1))
            return (
                f"unknown name '{where}'{close or '.'} What is not in the file is given with +:"
                f" +{where}=..."
            )
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    return "\n".join(str(e) for e in (error, cause) if e)


def _with_quotes(override: str) -> str:
    """How an override is typed whose value has characters of Hydra's grammar; empty without one."""
    key, _, value = override.partition("=")
    quoted = key + '="' + value.replace('"', '\\"') + '"'
    try:
        meant = OverridesParser.create().parse_override(quoted).value()
    except HydraException:
        return ""
    if not value or meant != value:
        return ""
    return (
        f"\nWith such characters a value is quoted, for Hydra and the shell: {shlex.quote(quoted)}"
    )


def _cycle(error: RecursionError) -> list[str]:
    """The options that Hydra was at again and again, in turn; empty of another recursion."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    nodes = [frame.f_locals.get("root") for frame in frames if _walks(frame)]
    paths = [node.node.get_config_path() for node in nodes if node is not None]
    turns = [number for number, path in enumerate(paths[:-1]) if path == paths[-1]]
    return paths[turns[-1] :] if turns else []


def _walks(frame: FrameType) -> bool:
    """Whether it is of Hydra's walk through the defaults."""
    of_hydra = frame.f_globals.get("__name__") == DEFAULTS_LIST
    return of_hydra and frame.f_code.co_name == "_create_defaults_tree_impl"


def _of_hydra(error: Exception) -> bool:
    """Whether Hydra itself raised it, as it does for `-m --cfg job`, or a sweeper that is not ours.

    Optuna's, say, where every trial has failed.
    """
    modules = _modules(error)
    plugins = {name for name in modules if name.startswith("hydra_plugins.")}
    others = any(not name.startswith("hydra_plugins.refit_sweeper") for name in plugins)
    ours = any(name.partition(".")[0] == "sweeper" for name in modules)
    return modules[-1].startswith("hydra.") or (others and not ours)


def _modules(error: Exception) -> list[str]:
    """Of the frames that it came through, the last being where it was raised."""
    frames = traceback.walk_tb(error.__traceback__)
    return [str(frame.f_globals["__name__"]) for frame, _ in frames]
