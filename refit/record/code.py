"""Which code this is: the commit it was checked out at or built from, or why none is known."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from refit import built_from

if TYPE_CHECKING:  # setup.py imports this module where nothing is installed
    from refit.record.point import Point

ROOT = Path(__file__).parents[2]
"""Of a checkout; elsewhere the folder that packages are installed in."""

FOLDERS = ("refit", "sweeper", "hydra_plugins/refit_sweeper", "conf")
SNAPSHOT = "code.json"  # beside packages that a sweep has put aside: what `describe` said of them
OURS = "refit/record/code.py"  # a repository that does not track it is somebody else's

# Somebody else's checkout may be read here, whose code is being run anyway; what its config would
# have git run is not.
_GIT = (
    *("git", "--no-optional-locks", "-c", "safe.directory=*"),
    *("-c", "core.fsmonitor=false", "-c", "core.quotePath=false"),
)


def describe(root: Path = ROOT) -> dict[str, Any]:
    """The fields `commit` and `dirty` of a record's environment, and those that explain them.

    `commit_missing` says why there is no commit. `untracked` are files of ours that are in no
    commit: the code among them is used, of the options those that `used_by` says.

    Args:
        root: the folder that holds `FOLDERS`.
    """
    if (known := _of_snapshot(root)) is not None:
        return known
    try:
        if not _git(root, "ls-files", "--", OURS):
            return _built("no repository tracks this code")
        commit, changed = _git(root, "rev-parse", "HEAD"), _changed(root)
        untracked = list(_untracked(root))
    except FileNotFoundError:
        return _built("git is not installed")
    except OSError as error:
        return _built(f"git cannot be run: {error.strerror}")
    except subprocess.CalledProcessError as error:
        said = next((line for line in error.stderr.splitlines() if line), str(error))
        if "not a git repository" in said:
            return _built("no repository tracks this code")
        return _built(f"git says: {said}")
    found = {"commit": commit, "dirty": changed}
    return {**found, "untracked": untracked} if untracked else found


def _of_snapshot(root: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((root / SNAPSHOT).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def used_by(described: dict[str, Any], point: Point) -> dict[str, Any]:
    """What `describe` says, of one point: `untracked` are the files that it used; any is dirt.

    Options that others begin from (`defaults:`) are not seen; those others are then untracked too,
    or changed.
    """
    if "untracked" not in described:
        return described
    job = point.job
    chosen = {
        ("model", job.model.name),
        ("parallel", job.parallel.name),
        ("refit", job.refit.name),
        ("cluster", job.cluster.name),
    }
    for override in point.overrides:
        key, _, value = override.lstrip("+").partition("=")
        chosen.add((key.partition("@")[0], value.rpartition("/")[2]))
    used = [name for name in described["untracked"] if _option(name) in (None, *chosen)]
    without = {key: value for key, value in described.items() if key != "untracked"}
    return {**without, "dirty": True, "untracked": used} if used else without


def _option(name: str) -> tuple[str, str] | None:
    """Group and name of an option's file below the root; None of any other file."""
    parts = PurePosixPath(name).with_suffix("").parts
    return (parts[1], parts[-1]) if parts[0] == "conf" and len(parts) > 2 else None


def _built(why: str) -> dict[str, Any]:
    """What was known when an archive or a wheel was made; if nothing, why not."""
    if built_from.COMMIT.startswith("$"):
        return {"commit": None, "dirty": None, "commit_missing": why}
    return {"commit": built_from.COMMIT, "dirty": built_from.DIRTY}


def _changed(root: Path) -> bool:
    """Whether tracked files below the root differ from the commit."""
    return bool(_git(root, "status", "--porcelain", "--untracked-files=no", "--", "."))


def _untracked(root: Path) -> Iterator[str]:
    """Code and options that are not tracked, ignored ones too, by their paths below the root."""
    folders = [folder for folder in FOLDERS if (root / folder).is_dir()]
    for name in _git(root, "ls-files", "--others", "-z", "--", *folders).split("\0"):
        if name.endswith((".py", ".yaml")):
            yield name


def _git(root: Path, *words: str) -> str:
    """What git prints in a folder, by its own repository and nobody's GIT_DIR.

    Raises:
        OSError: it cannot be run.
        CalledProcessError: it says no.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    done = subprocess.run(
        [*_GIT, "-C", str(root), *words],
        env={**environment, "LC_ALL": "C"},
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=True,
    )
    return done.stdout.strip()
