"""Files of ours, whole or not at all; and those that a user names, whatever they are."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any


def write_atomic(path: Path, text: str, mode: int = 0o666) -> None:
    """Write by rename: a reader sees the old file or the new one, never half of either.

    Args:
        mode: of the file, less what the umask takes away.

    Raises:
        OSError: as from the file system; the old file is untouched and nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)  # of a process that had this number, and was killed
    try:
        # nobody else's file is written, nor what a link of that name leads to
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_output(path: Path, text: str) -> None:
    """Write a file that a user names: what a link leads to, and into a device or a pipe.

    Neither is replaced; a plain file is, as by `write_atomic`.

    Raises:
        OSError: as from the file system.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir() or not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if target.exists() and not target.is_file():
        with target.open("w") as file:
            file.write(text)
        return
    write_atomic(target, text)


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from disk, or None where there is no whole one."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
