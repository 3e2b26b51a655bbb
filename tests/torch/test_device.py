"""What a rank asks of its device: on a CPU nothing; of a GPU its own time, and its own peak."""

from __future__ import annotations

import time

import pytest
import torch

from refit.ranks import device

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
