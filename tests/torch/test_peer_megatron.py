"""What megatron-core's copy services are said to need and to do, against their sources here."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
import torch.distributed as dist

import refit.weights.megatron_build as build

# isort: split
from megatron.core.resharding import refit as core
from megatron.core.resharding.copy_services.nccl_copy_service import NCCLCopyService

from refit.model import megatron_versions as versions
from refit.record.moved import KNOWN_FAULT, Moved
from refit.transport import megatron
from tests.support.jobs import job

CORE = Path(core.__file__).parents[1]
SERVICE = CORE / "resharding" / "nvshmem_copy_service"


def test_backends() -> None:
    assert set(versions.REFIT_BACKENDS) == set(get_args(core.RefitBackendName))
    assert all(versions.no_backend(name) is None for name in versions.REFIT_BACKENDS)
    assert "has no carrier; it has nccl, gloo, nvshmem" in str(versions.no_backend("carrier"))


def test_the_nvshmem_service_needs_what_is_said() -> None:
    sources = {path.name: path.read_text() for path in SERVICE.rglob("*.py")}
    together = "\n".join(sources.values())
    assert "import cupy as cp" in together and "import nvshmem.core" in together
    assert '"kernels", "chunked_kernel.cu"' in sources["kernel_launcher.py"]
    manager = sources["gpu_resource_manager.py"]
    old = "from cuda.core.experimental import Device" in manager
    assert old is versions.NEEDS_OLD_CUDA_CORE
    assert ("NVSHMEM_MAX_CTAS" in manager) is versions.GUARDS_NVSHMEM
    assert ("min_nvshmem_version = (3, 6, 5)" in manager) is versions.GUARDS_NVSHMEM


def test_no_wheel_has_its_kernels() -> None:
    listed = {str(path) for path in files("megatron-core") or ()}
    assert len(listed) > 100 and versions.KERNELS not in listed
    assert not versions.has_kernels()
    lacks = versions.nvshmem_lacks({})
    assert lacks[0].startswith("its wheel lacks the kernels' source, megatron/core/resharding/")


def test_its_kernels_are_found_where_they_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def find(name: str) -> Any:
        return SimpleNamespace(submodule_search_locations=[str(tmp_path / name)])

    monkeypatch.setattr(importlib.util, "find_spec", find)
    monkeypatch.setattr(versions, "_version_of", lambda name: None)
    (tmp_path / "cuda/core/experimental").mkdir(parents=True)
    asked = {"NVSHMEM_MAX_CTAS": 2}
    assert len(versions.nvshmem_lacks(asked)) == 1
    kernels = tmp_path / versions.KERNELS
    kernels.parent.mkdir(parents=True)
    kernels.touch()
    assert versions.nvshmem_lacks(asked) == []
    assert len(versions.nvshmem_lacks({})) == int(versions.GUARDS_NVSHMEM)
    monkeypatch.setattr(versions, "_version_of", lambda name: "3.4.5")
    assert len(versions.nvshmem_lacks(asked)) == int(versions.GUARDS_NVSHMEM)


class Stream:
    """Notes which stream it waits for."""

    def __init__(self) -> None:
        self.waits_for: list[Any] = []

    def wait_stream(self, other: Any) -> None:
        self.waits_for.append(other)


def test_its_nccl_service_copies_on_a_stream_that_waits_for_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    current, made, used = Stream(), [], []

    def stream() -> Stream:
        made.append(Stream())
        return made[-1]

    @contextmanager
    def on(one: Stream) -> Iterator[None]:
        used.append((one, list(one.waits_for)))
        yield

    for name, value in (
        ("Stream", stream), ("stream", on), ("current_stream", lambda: current),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        service: Any = NCCLCopyService()
        source, destination = torch.arange(4), torch.zeros(4, dtype=torch.int64)
        if hasattr(service, "submit_send_with_id"):
            service.submit_send_with_id(7, source, 0)
            service.submit_recv_with_id(7, destination, 0)
        else:
            service.submit_send(source, 0, task_id=7)
            service.submit_recv(destination, 0, task_id=7)
        service.run()
    finally:
        dist.destroy_process_group()
    assert torch.equal(source, destination) and current.waits_for == made
    assert used == [(made[0], [])] and versions.LOCAL_COPIES_RACE


def test_the_race_is_said_where_there_can_be_one() -> None:
    what = job(method="megatron", build="megatron", refit={"backend": "nccl"})
    peer = megatron.MegatronTransport(what.refit)
    peer._rank, peer._moved = 1, Moved()
    peer._moved.add(False, 0, 64)
    peer._races = True
    assert KNOWN_FAULT not in peer.details
    peer._moved.add(False, 1, 64)
    assert "does not wait for the current one" in str(peer.details[KNOWN_FAULT])
    peer._races = False
    assert KNOWN_FAULT not in peer.details


NAME = "_initialize_affine_weight_cpu"


def test_no_module_initialises_weights_by_itself() -> None:
    """Wherever it has been imported by name, and also with Transformer Engine."""
    text = re.compile(rf"^\s+{NAME},$|^def {NAME}\(|import .*\b{NAME}\b", re.MULTILINE)
    users = [path for path in CORE.rglob("*.py") if text.search(path.read_text())]
    names = [".".join(path.relative_to(CORE.parents[1]).with_suffix("").parts) for path in users]
    assert "megatron.core.extensions.transformer_engine" in names
    modules = [importlib.import_module(name) for name in names]
    real = [getattr(module, NAME) for module in modules]
    groups: Any = SimpleNamespace(tp=None, pp=None, dp=None)
    with build.megatron_runs(groups):
        assert {getattr(module, NAME) for module in modules} == {build._set_attributes}
    assert [getattr(module, NAME) for module in modules] == real


def test_attributes_are_left_to_who_has_set_them() -> None:
    for skips in (False, True):
        weight = torch.nn.Parameter(torch.empty(4, 2))
        build._set_attributes(
            weight, 8, 2, 4, 0, None, stride=2, skip_set_tensor_parallel_attributes=skips
        )
        assert hasattr(weight, "partition_stride") is not skips
