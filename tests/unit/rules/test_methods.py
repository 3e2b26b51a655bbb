"""Which method a machine gets, with the machine's GPUs and libraries given by the test."""

from __future__ import annotations

import ast
import os
from dataclasses import replace
from pathlib import Path

import pytest

from refit.job import Job
from refit.layout.layout import place
from refit.rules import devices, methods
from refit.rules.impossible import impossible
from refit.rules.methods import METHODS
from tests.composed import composed
from tests.jobs import job

ROOT = Path(__file__).parents[3]
KINDS = {"cpu": "CPU", "cuda": "GPU"}


def on(device: str, mode: str = "non-collocated", method: str = "auto", nodes: int = 1) -> Job:
    what = job(mode=mode, method=method, ranks_per_node=4 if nodes == 1 else 2)
    return replace(what, cluster=replace(what.cluster, device=device, nodes=nodes))


def machine(monkeypatch: pytest.MonkeyPatch, gpus: int, *libraries: str) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: gpus)
    monkeypatch.setattr(devices, "no_cuda", lambda: None if gpus else "this node has no NVIDIA GPU")
    monkeypatch.setattr(methods, "_installed", lambda module: module in libraries)


@pytest.mark.parametrize(
    ("mode", "gpus", "libraries", "method", "words"),
    [
        # the eight-GPU table: NVSHMEM for non-collocated, NCCL for collocated
        ("non-collocated", 8, ["nvshmem"], "nvshmem", "non-collocated on GPUs"),
        ("collocated", 8, ["nvshmem"], "nccl", "collocated on GPUs"),
        ("non-collocated", 8, [], "ipc", "not nvshmem: nvshmem is not installed"),
        ("collocated", 1, [], "ipc", "not nccl: nccl needs a GPU for each rank; this node has 1"),
        ("collocated", 0, [], "ipc", "all ranks are on one node"),
    ],
)
def test_auto(
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    gpus: int,
    libraries: list[str],
    method: str,
    words: str,
) -> None:
    machine(monkeypatch, gpus, *libraries)
    what = on("auto", mode)
    chosen, why = methods.choose(what, place(what))
    assert chosen == method
    assert words in why
    assert methods.unsupported(chosen, what, place(what)) is None


@pytest.mark.parametrize(
    ("method", "gpus", "device", "nodes", "words"),
    [
        ("gloo", 4, "auto", 1, "gloo moves host memory"),
        ("symmetric", 4, "auto", 1, "use refit=ipc, nccl, nvshmem or nixl, or cluster.device=cpu"),
        ("symmetric", 0, "auto", 2, "use refit=gloo or nixl"),
        ("ipc", 4, "cuda", 2, "use refit=nccl, nvshmem or nixl"),
        ("nccl", 2, "auto", 1, "has 2 for 4 ranks"),
        ("nccl", 4, "cpu", 1, "cluster.device=cpu"),
        ("nvshmem", 0, "auto", 1, "pip install 'refit-sweep[nvshmem]'"),
        ("nvshmem", 4, "auto", 1, "pip install 'refit-sweep[nvshmem]'"),
        ("nixl", 0, "auto", 1, "pip install 'refit-sweep[nixl]'"),
        ("ipc", 0, "cuda", 1, "cluster.device=cuda: this node has no NVIDIA GPU"),
    ],
)
def test_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, method: str, gpus: int, device: str, nodes: int, words: str
) -> None:
    machine(monkeypatch, gpus)
    what = on(device, method=method, nodes=nodes)
    reason = methods.unsupported(method, what, place(what))
    assert reason is not None and words in reason


def test_logits_are_not_compared_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 4)
    what = replace(on("auto", method="ipc"), verify="logits")
    assert "verify=bits" in (methods.unsupported("ipc", what, place(what)) or "")


def test_the_documented_table_is_the_entries() -> None:
    """Wherever a page has the table of methods; it is in one of them."""
    wanted = [
        f"| `{name}` | {method.how} | {' or '.join(KINDS[d] for d in method.devices)},"
        f" {'one node' if method.one_node else 'any number of nodes'} |"
        for name, method in METHODS.items()
    ]
    header = "| method | how | runs on |\n|---|---|---|\n"
    pages = [page.read_text() for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))]
    tables = [page.partition(header)[2].partition("\n\n")[0] for page in pages if header in page]
    assert [table.splitlines() for table in tables] == [wanted]


@pytest.mark.parametrize("name", METHODS)
def test_an_entry_is_of_what_is_there(name: str) -> None:
    """Its transport, without importing it; and an option of its name chooses it."""
    tree = ast.parse((ROOT / "refit" / "transport" / f"{name}.py").read_text())
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    assert METHODS[name].transport in classes
    assert composed(f"refit={name}").refit.method == name


@pytest.mark.parametrize(
    ("visible", "seen"),
    [
        (None, 3),
        ("", 0),
        ("-1", 0),
        ("0", 1),
        ("2,0", 2),
        ("0,-1,1", 1),
        ("7", 0),
        ("1,3,2", 1),
        ("0,first", 1),
        ("GPU-8932f937,GPU-1", 2),
    ],
)
def test_gpus_are_counted_as_cuda_does(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, seen: int
) -> None:
    files = ["nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm", "null"]
    monkeypatch.setattr(os, "listdir", lambda _: files)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.gpus() == seen


@pytest.mark.parametrize(
    ("knob", "value"), [("max_ops_per_group", 1), ("streams", 0), ("in_flight", 0)]
)
def test_knobs_out_of_range(knob: str, value: int) -> None:
    what = job(refit={knob: value})
    assert f"refit.{knob}={value}: must be" in (impossible(what) or "")
