"""What pyproject.toml cannot say: a wheel, and an archive of sources, know their commit."""

import re
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from refit.record import code  # noqa: E402


def stamp(folder: Path) -> None:
    """Write the commit of this checkout, where it is one, into a copy of the package."""
    found = code.describe(HERE)
    if found["commit"] is None:
        return
    path = folder / "refit" / "built_from.py"
    text = re.sub(r'"\$Format:.*"', f'"{found["commit"]}"', path.read_text())
    dirty = bool(found["dirty"] or found.get("untracked")) if found["dirty"] is not None else None
    path.unlink()  # it may be a link to the checkout's own
    path.write_text(re.sub(r"(DIRTY: bool \| None) = None", rf"\1 = {dirty}", text))


class BuildPy(build_py):
    """An editable install has no copy: it asks git, as a checkout does."""

    def run(self) -> None:
        """Build, and stamp what was built."""
        super().run()
        if not self.editable_mode:
            stamp(Path(self.build_lib))


class Sdist(sdist):
    """An archive from which a wheel may be made later, where there is no repository."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Make it, and stamp it."""
        super().make_release_tree(base_dir, files)
        stamp(Path(base_dir))


setup(cmdclass={"build_py": BuildPy, "sdist": Sdist})
