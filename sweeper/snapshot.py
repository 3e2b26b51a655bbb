"""The code of a sweep: the packages as they are when it is submitted, which its jobs then run.

An edit, or another checkout, while points wait in the queue is none of theirs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from refit.errors import UserError
from refit.record import code

FOLDER = ".code"  # below the sweep's folder: a folder for each code that was submitted from there

SUFFIXES = (".py", ".yaml", ".json", ".typed")


@dataclass(frozen=True)
class Snapshot:
    """Of some code, for the sweep below some folder.

    Attributes:
        folder: whose packages the jobs run; all that are submitted with this code share it.
    """

    folder: Path
    _files: Mapping[str, bytes]

    @staticmethod
    def of(root: Path, source: Path = code.ROOT) -> Snapshot:
        """What the code is now; nothing is written.

        Args:
            root: the sweep's folder.
            source: the folder of the packages.
        """
        files = {str(path.relative_to(source)): path.read_bytes() for path in _files(source)}
        described = json.dumps(code.describe(source), indent=2) + "\n"
        files[code.SNAPSHOT] = described.encode()
        digest = hashlib.sha256()
        for name, content in sorted(files.items()):
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        return Snapshot(root.resolve() / FOLDER / digest.hexdigest()[:10], files)

    def write(self) -> Path:
        """Its folder, once it is there: whole, or not at all.

        Raises:
            UserError: it cannot be written.
        """
        half = self.folder.with_name(f".{self.folder.name}.{os.getpid()}.tmp")
        try:
            if not self.folder.is_dir():
                for name, content in self._files.items():
                    path = half / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
                half.rename(self.folder)
        except OSError as error:
            root = self.folder.parents[1]
            raise UserError(f"cannot write results to {root}: {error.strerror}") from None
        finally:
            shutil.rmtree(half, ignore_errors=True)
        return self.folder


def exports(folder: Path) -> list[str]:
    """Lines of a shell that have Python import from a folder first, and from the current one last.

    By itself `python -m` begins with the current folder, and that may be a checkout.
    """
    path = f'{shlex.quote(str(folder))}"${{PYTHONPATH:+:$PYTHONPATH}}:$PWD"'
    return ["export PYTHONSAFEPATH=1", f"export PYTHONPATH={path}"]


def _files(source: Path) -> Iterator[Path]:
    for name in code.FOLDERS:
        for path in sorted((source / name).rglob("*")):
            if path.suffix in SUFFIXES and path.is_file():
                yield path
