"""What a rank asks of its device: on a CPU nothing; of a GPU its own time, and its own peak."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from refit.job import Degrees
from refit.layout.place import place
from refit.ranks import device
from refit.record import environment
from refit.rules import devices
from tests.support.jobs import job

MB = 1_000_000


def test_a_cpu_has_no_time_and_no_peak_of_its_own() -> None:
    assert not torch.cuda.is_initialized()
    watch = device.Watch()
    watch.start()
    watch.stop()
    device.forget_peak()
    assert (watch.seconds(), device.peak_bytes()) == (None, 0)
    assert not torch.cuda.is_initialized()


@pytest.mark.gpu
def test_a_watch_says_what_the_gpu_did_not_the_host() -> None:
    a = torch.ones(4096, 4096, device="cuda")
    (a @ a).sum().item()  # the library is loaded
    watch = device.Watch()
    device.synchronize()
    began = time.perf_counter()
    watch.start()
    for _ in range(20):
        a @ a
    watch.stop()
    launched = time.perf_counter() - began
    device.synchronize()
    whole = time.perf_counter() - began
    seconds = watch.seconds()
    assert seconds is not None and launched < seconds <= whole


@pytest.mark.gpu
def test_a_peak_is_of_what_came_after_it_was_forgotten() -> None:
    held = torch.ones(8 * MB, dtype=torch.uint8, device="cuda")
    before = torch.ones(64 * MB, dtype=torch.uint8, device="cuda")
    del before
    assert device.peak_bytes() >= 72 * MB
    device.forget_peak()
    assert held.numel() <= device.peak_bytes() < 64 * MB
    after = torch.ones(16 * MB, dtype=torch.uint8, device="cuda")
    assert 24 * MB <= device.peak_bytes() < 64 * MB
    del after


@pytest.mark.parametrize(
    ("env", "shell", "connections"),
    [
        (None, {}, "32"),
        (None, {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}, "32"),  # as Megatron's scripts have it
        ({"CUDA_DEVICE_MAX_CONNECTIONS": 8}, {"CUDA_DEVICE_MAX_CONNECTIONS": "8"}, "8"),
    ],
)
def test_what_cuda_reads_before_it_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, env: dict[str, int] | None,
    shell: dict[str, str], connections: str,
) -> None:  # fmt: skip
    what = job(Degrees(tp=2, etp=1), Degrees(tp=1, ep=2, etp=1), "collocated")
    what = replace(what, cluster=replace(what.cluster, device="cuda", env=env))
    monkeypatch.setattr(devices, "gpus", lambda: 1)
    others = {name: v for name, v in os.environ.items() if name not in device.VARIABLES}
    with environment.replaced({**others, **shell, "CUDA_MPS_PIPE_DIRECTORY": str(tmp_path)}):
        device.before_cuda(what, place(what))
        assert os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] == connections
        assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" not in os.environ
        (tmp_path / "control").touch()  # MPS runs: four ranks share one GPU, idle ones too
        device.before_cuda(what, place(what))
        assert os.environ["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "25"
