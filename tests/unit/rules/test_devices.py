"""Which driver goes with which CUDA; what is read of this node."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from refit.layout.place import place
from refit.rules import devices, needs
from tests.support.jobs import job

# as the kernel modules of each kind write it
DRIVERS = {
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023": 535,
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.03  Release Build": 580,
    "nothing of the kind": None,
}
VERSIONS = {
    "cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n": 13,
    "debug = False\ncuda = '12.8'\n": 12,
    "cuda: Optional[str] = None\nhip: Optional[str] = '6.2'\n": None,
}


@pytest.mark.parametrize("text", DRIVERS)
def test_the_driver_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(devices, "DRIVER", tmp_path / "version")
    assert devices.driver() is None
    (tmp_path / "version").write_text(f"{text}\nGCC version:  gcc 12.2.0\n")
    assert devices.driver() == DRIVERS[text]


@pytest.mark.parametrize("text", VERSIONS)
def test_what_torch_is_built_for_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "version.py").write_text(text)
    origin = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: origin)
    assert devices.torch_cuda() == VERSIONS[text]


@pytest.mark.parametrize(
    ("cuda", "release", "helped", "fits"),
    [
        (13, 580, "", True),
        (13, 575, "", False),
        (13, 575, "/usr/local/cuda/compat:/lib", True),
        (12, 525, "", True),
        (12, 470, "", False),
        (11, 450, "", True),
        (14, 580, "", True),  # not known here, so CUDA is asked
        (None, 300, "", True),
        (13, None, "", True),
    ],
)
def test_which_driver_is_too_old(
    monkeypatch: pytest.MonkeyPatch, cuda: int | None, release: int | None, helped: str, fits: bool
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", helped)
    said = devices.too_old("it", cuda, release)
    assert (said is None) is fits
    if said is not None:
        least = {12: 525, 13: 580}[cuda or 0]
        words = f"it is built for CUDA {cuda}, which needs a driver of {least} or later"
        assert said == f"{words}, and this node has {release}"


def test_a_torch_that_the_driver_cannot_run_uses_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libtorch_cuda.so").touch()
    (tmp_path / "version.py").write_text("cuda: Optional[str] = '13.0'")
    (tmp_path / "driver").write_text("NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19\n")
    origin = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: origin)
    monkeypatch.setattr(devices, "gpus", lambda: 1)
    monkeypatch.setattr(devices, "DRIVER", tmp_path / "driver")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    assert devices.no_cuda() == (
        "the installed torch is built for CUDA 13, which needs a driver of 580 or later, and this"
        " node has 535; install a torch for an older CUDA, or a later driver"
    )
    (tmp_path / "driver").write_text("NVIDIA UNIX x86_64 Kernel Module  580.1  Sat Aug 19\n")
    assert devices.no_cuda() is None


def test_nvshmem4py_of_another_cuda_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tmp_path / "nvshmem4py_cu13-0.4.1.dist-info"
    found.mkdir()
    (found / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: nvshmem4py-cu13\nVersion: 0.4.1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(devices, "gpus", lambda: 8)
    monkeypatch.setattr(devices, "DRIVER", tmp_path / "driver")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    (tmp_path / "driver").write_text("NVIDIA UNIX x86_64 Kernel Module  570.1  Sat Aug 19\n")
    what = job()
    said = needs.nvshmem(what, place(what))
    assert said is not None and said.startswith(
        "nvshmem4py-cu13 is built for CUDA 13, which needs a driver of 580 or later, and this node"
        " has 570; install nvshmem4py for an older CUDA"
    )
    (tmp_path / "driver").write_text("NVIDIA UNIX x86_64 Kernel Module  580.1  Sat Aug 19\n")
    assert needs.nvshmem(what, place(what)) is None
