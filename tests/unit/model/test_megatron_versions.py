"""Which versions of megatron-core are known, and that one module alone tells them apart."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from refit.model import megatron_versions as versions
from refit.rules.impossible import impossible
from tests.support.jobs import make_job

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

Installs = Callable[[str], Path]


@pytest.fixture
def installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installs]:
    """Makes a megatron-core of some version the first that Python finds; metadata is all it has."""

    def install(version: str) -> Path:
        about = tmp_path / version / f"megatron_core-{version}.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Name: megatron-core\nVersion: {version}\n")
        monkeypatch.syspath_prepend(about.parent)
        versions.unusable.cache_clear()
        return about.parent

    yield install
    versions.unusable.cache_clear()


@pytest.mark.parametrize("version", ["0.15.3", "0.16.0", "0.20.0", "0.20.0rc1", "0.100.0", "1.0"])
def test_a_version_outside_the_range_is_refused(version: str, installs: Installs) -> None:
    installs(version)
    reason = impossible(make_job())
    assert reason is not None
    assert reason.startswith(f"megatron-core {version} is installed, and this works with >=0.16.1,")
    assert "<0.20" in reason and "build=shards" in reason
    # neither what is never built nor what only plans needs any
    assert impossible(make_job(build="shards")) is None
    assert impossible(make_job(mode="plan")) is None


@pytest.mark.parametrize("version", ["0.16.1", "0.17.1", "0.18.2", "0.19.2", "0.19.3+gpu", "0.19"])
@pytest.mark.parametrize("missing", ["einops", "triton"])
def test_what_it_imports_and_does_not_declare(
    version: str, missing: str, installs: Installs, monkeypatch: pytest.MonkeyPatch
) -> None:
    installs(version)
    found = {"einops", "triton"} - {missing}
    monkeypatch.setattr(versions, "_findable", found.__contains__)
    reason = impossible(make_job())
    if missing == "triton" and version < "0.18":  # as text: all have two digits here
        assert reason is None
    else:
        assert f"pip install {missing}," in str(reason)
    assert impossible(make_job(build="shards")) is None


def test_a_missing_import_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert versions._findable("einops") and not versions._findable("no_such_module")


def test_refused_on_the_command_line_before_ranks_start(installs: Installs, tmp_path: Path) -> None:
    path = f"{installs('0.20.1')}{os.pathsep}{ROOT}"
    done = subprocess.run(
        [sys.executable, "-m", "refit.run", f"hydra.run.dir={tmp_path}/out"],
        env={**os.environ, "PYTHONPATH": path}, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: megatron-core 0.20.1 is installed, and this works with")
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("out/**/attempts"))


def test_the_project_asks_for_the_same_range() -> None:
    assert f"megatron-core{versions.SUPPORTED}" in PROJECT["dependencies"]
    assert PROJECT["requires-python"] == ">=3.11,<3.14"


COMPARES = re.compile(
    r"""\bRELEASE\b|(?<!range)\(0,\s*1[5-9]\)|["']0\.(1[5-9]|2\d)\b"""
    r"""|version\(["']megatron|megatron\.core\.__version__|package_info|is_mcore_min_version"""
)


def test_no_other_file_compares_versions() -> None:
    own = {ROOT / "refit/model/megatron_versions.py", Path(__file__)}
    rooms = ("refit", "sweeper", "hydra_plugins", "benchmarks", "tests")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py") if path not in own]
    assert len(files) > 100
    found = {str(p.relative_to(ROOT)): COMPARES.findall(p.read_text()) for p in files}
    assert {name: words for name, words in found.items() if words} == {}
    assert len(COMPARES.findall((ROOT / "refit/model/megatron_versions.py").read_text())) > 10
