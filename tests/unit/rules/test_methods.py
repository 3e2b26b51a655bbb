"""Which method a machine gets, with the machine's GPUs and libraries given by the test."""

from __future__ import annotations

import ast
import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from refit.job import Degrees, Hardware, Job
from refit.layout.place import place
from refit.model import megatron_versions as versions
from refit.rules import devices, methods, needs
from refit.rules.impossible import impossible
from refit.rules.methods import METHODS
from tests.support.composed import composed
from tests.support.jobs import job

ROOT = Path(__file__).parents[3]
KINDS = {"cpu": "CPU", "cuda": "GPU"}


def on(device: str, mode: str = "non-collocated", method: str = "auto", nodes: int = 1) -> Job:
    what = job(mode=mode, method=method, ranks_per_node=4 if nodes == 1 else 2)
    return replace(what, cluster=replace(what.cluster, device=device, nodes=nodes))


def machine(monkeypatch: pytest.MonkeyPatch, gpus: int, *libraries: str) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: gpus)
    monkeypatch.setattr(devices, "no_cuda", lambda: None if gpus else "this node has no NVIDIA GPU")
    monkeypatch.setattr(needs, "installed", lambda module: module in libraries)


@pytest.mark.parametrize(
    ("mode", "gpus", "libraries", "method", "words"),
    [
        # the reference table: NVSHMEM for non-collocated, NCCL for collocated
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


def test_the_extra_is_that_of_torchs_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 4)
    monkeypatch.setattr(devices, "torch_cuda", lambda: 12)
    for method, extra in (("nvshmem", "nvshmem-cu12"), ("nixl", "nixl")):
        what = on("auto", method=method)
        said = methods.unsupported(method, what, place(what)) or ""
        assert f"pip install 'refit-sweep[{extra}]'" in said


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
        ("MIG-8932f937, 1", 2),
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


def test_a_device_is_what_is_asked_for_or_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpus, found in ((0, "cpu"), (2, "cuda")):
        machine(monkeypatch, gpus)
        assert devices.device(on("auto")) == found
        assert (devices.device(on("cpu")), devices.device(on("cuda"))) == ("cpu", "cuda")
    assert devices.missing(on("cuda")) is None
    assert devices.missing(replace(on("cpu"), verify="logits")) is None


def test_why_there_is_no_cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: 0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices.no_cuda() == "this node has no NVIDIA GPU"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert devices.no_cuda() == "this node has no NVIDIA GPU (CUDA_VISIBLE_DEVICES=7)"
    monkeypatch.setattr(devices, "gpus", lambda: 1)
    for torch in (None, SimpleNamespace(origin=None)):
        monkeypatch.setattr(importlib.util, "find_spec", lambda _, torch=torch: torch)
        assert devices.no_cuda() == "torch is not installed"
    torch = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: torch)
    assert "a build without CUDA" in (devices.no_cuda() or "")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libtorch_cuda.so").touch()
    assert devices.no_cuda() is None


def test_no_device_files_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "listdir", refuse)
    assert devices.gpus() == 0


def test_nccl_needs_a_gpu_for_each_rank_of_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    # three ranks on nodes of two: two of a node, and never more than there are
    for gpus, nodes, fits in ((2, 2, True), (1, 2, False), (4, 1, True), (3, 1, False)):
        machine(monkeypatch, gpus)
        what = on("cuda", method="nccl", nodes=nodes)
        reason = methods.unsupported("nccl", what, place(what))
        assert (reason is None) is fits, (gpus, nodes, reason)


@pytest.mark.parametrize(
    ("backend", "gpus", "changes", "words"),
    [
        ("auto", 0, {}, None),
        ("gloo", 0, {}, None),
        ("nixl", 0, {}, None if "nixl" in versions.REFIT_BACKENDS else "has no nixl; it has nccl,"),
        ("nccl", 0, {}, "refit.backend=nccl moves GPU memory; this node has no NVIDIA GPU;"),
        ("nvshmem", 0, {}, "refit.backend=nvshmem moves GPU memory"),
        ("auto", 4, {}, None),
        ("nvshmem", 4, {}, "cannot start its nvshmem service here: its wheel lacks the kernels'"),
        ("nvshmem", 4, {}, "or use refit.backend=nccl or gloo"),
        ("gloo", 1, {}, None),
        ("auto", 2, {}, "refit.backend=nccl: nccl needs a GPU for each rank; this node has 2 for"),
        ("nccl", 2, {}, "or refit.backend=gloo"),
        ("auto", 0, {"build": "shards"}, "takes GPTModels; build=shards has none"),
        ("auto", 0, {"refit": {"fanout": "hierarchical"}}, "use refit.fanout=direct"),
    ],
)
def test_what_the_peer_needs(
    monkeypatch: pytest.MonkeyPatch, backend: str, gpus: int, changes: dict[str, Any],
    words: str | None,
) -> None:  # fmt: skip
    machine(monkeypatch, gpus, "nixl")
    refit = {"backend": backend, **changes.get("refit", {})}
    what = job(method="megatron", build=changes.get("build", "megatron"), refit=refit)
    what = replace(what, cluster=replace(what.cluster, device="auto"))
    reason = methods.unsupported("megatron", what, place(what))
    assert reason is None if words is None else words in (reason or "")


def test_what_the_peers_services_need_besides(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 1)
    monkeypatch.setattr(versions, "REFIT_BACKENDS", ("nccl", "gloo", "nvshmem", "nixl"))
    monkeypatch.setattr(versions, "nvshmem_lacks", lambda variables: [])
    monkeypatch.setattr(needs, "installed", lambda module: False)
    for backend, words in (
        ("nvshmem", "nvshmem with 4 ranks on one GPU needs CUDA's Multi-Process Service"),
        ("nixl", "refit.backend=nixl: nixl is not installed; pip install 'refit-sweep[nixl]'"),
    ):
        what = job(method="megatron", build="megatron", refit={"backend": backend})
        what = replace(what, cluster=replace(what.cluster, device="cuda"))
        assert words in (methods.unsupported("megatron", what, place(what)) or "")


def test_the_peers_service_is_asked_of_the_ranks_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, 4)
    monkeypatch.setattr(versions, "GUARDS_NVSHMEM", True)
    what = job(method="megatron", build="megatron", refit={"backend": "nvshmem"})
    for env, said in ((None, True), ({"NVSHMEM_MAX_CTAS": 2}, False)):
        what = replace(what, cluster=replace(what.cluster, device="cuda", env=env))
        reason = methods.unsupported("megatron", what, place(what)) or ""
        assert ("cluster.env={NVSHMEM_MAX_CTAS: 2}" in reason) is said


def with_mps(monkeypatch: pytest.MonkeyPatch, folder: Path, runs: bool) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(folder))
    if runs:
        (folder / "control").touch()


@pytest.mark.parametrize(
    ("method", "gpus", "runs", "env", "words"),
    [
        # four ranks; what is shared is shared under MPS, and by NCCL only where it is asked to
        ("nvshmem", 4, False, {}, None),
        ("nvshmem", 3, False, {}, "nvshmem with 2 ranks on one GPU needs CUDA's Multi-Process"),
        ("nvshmem", 1, False, {}, "with 4 ranks on one GPU"),
        ("nvshmem", 1, True, {}, None),
        ("nccl", 1, True, {}, "nccl needs a GPU for each rank; this node has 1 for 4 ranks"),
        ("nccl", 1, True, {"NCCL_MULTI_RANK_GPU_ENABLE": 0}, "nccl needs a GPU for each rank"),
        ("nccl", 1, True, {"NCCL_MULTI_RANK_GPU_ENABLE": 1}, None),
        ("ipc", 1, False, {}, None),
        ("nixl", 1, False, {}, None),
    ],
)
def test_what_ranks_that_share_a_gpu_need(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str, gpus: int, runs: bool,
    env: dict[str, int], words: str | None,
) -> None:  # fmt: skip
    machine(monkeypatch, gpus, "nvshmem", "nixl")
    with_mps(monkeypatch, tmp_path, runs)
    monkeypatch.delenv("NCCL_MULTI_RANK_GPU_ENABLE", raising=False)
    what = job(Degrees(tp=4, etp=1), Degrees(tp=2, ep=2, etp=1), "collocated", method)
    what = replace(what, cluster=replace(what.cluster, device="cuda", env=env or None))
    reason = methods.unsupported(method, what, place(what))
    assert reason is None if words is None else words in (reason or "")


def test_auto_on_cpus_goes_by_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 8)
    for nodes, choice in (
        (1, ("ipc", "auto: all ranks are on one node")),
        (2, ("gloo", "auto: the ranks are on 2 nodes")),
    ):
        what = on("cpu", nodes=nodes)
        assert methods.choose(what, place(what)) == choice


def test_auto_of_a_plan_goes_by_the_cluster_and_not_by_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, 0)
    for device, mode, choice in (
        ("cuda", "collocated", ("nccl", "auto: collocated on GPUs")),
        ("cuda", "non-collocated", ("nvshmem", "auto: non-collocated on GPUs")),
        ("cpu", "collocated", ("ipc", "auto: all ranks are on one node")),
    ):
        what = replace(on("auto", mode), mode="plan")
        what = replace(what, cluster=replace(what.cluster, hardware=Hardware(device=device)))
        assert methods.choose(what, place(what)) == choice


def test_auto_where_nothing_can_run_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 1)
    what = on("auto", nodes=2)
    method, why = methods.choose(what, place(what))
    assert method == "nvshmem"
    for other in ("nccl", "ipc", "nvshmem", "nixl"):
        assert f"; not {other}: " in why


def test_what_is_known_of_a_method() -> None:
    assert methods.plans_itself("megatron") and not methods.plans_itself("ipc")
    assert methods.preload("nixl") == ("nixl",) and methods.preload("gloo") == ()
    assert METHODS["ipc"].one_sided and not METHODS["symmetric"].one_sided
    # of a class of a user's own nothing is known
    assert not methods.plans_itself("package.module:Class")
    assert methods.preload("package.module:Class") == ()
    assert methods.locate("gloo") == ("refit.transport.gloo", "GlooTransport")
    assert methods.locate("package.module:Class") == ("package.module", "Class")


def test_a_class_is_there_if_its_module_is() -> None:
    assert methods.not_there("refit.plan.build:Class") is None
    for method in ("refit.plan.build:", "refit.none:Class", "none.none:Class", "gloo2"):
        assert f"no refit method '{method}'" in (methods.not_there(method) or "")


def test_every_method_of_ours_is_a_class_of_its_file() -> None:
    for method in methods.METHODS:
        module, name = methods.locate(method)
        text = (ROOT / f"{module.replace('.', '/')}.py").read_text()
        assert f"\nclass {name}(" in text


@pytest.mark.parametrize(
    ("knob", "value"), [("max_ops_per_group", 1), ("streams", 0), ("in_flight", 0)]
)
def test_knobs_out_of_range(knob: str, value: int) -> None:
    what = job(refit={knob: value})
    assert f"refit.{knob}={value}: must be" in (impossible(what) or "")


def test_who_casts() -> None:
    narrow, wide = (
        job(Degrees(dtype=source), Degrees(dtype=destination), method=method)
        for source, destination, method in (
            ("float32", None, "gloo"), ("float16", "float32", "gloo"),
        )
    )  # fmt: skip
    read = replace(narrow, refit=replace(narrow.refit, method="ipc"))
    for what, side in ((narrow, "source"), (wide, "destination"), (read, "destination")):
        assert methods.cast_at(what.refit.method, what, place(what)) == [side]
    asked = [replace(x, refit=replace(x.refit, cast_at="source")) for x in (wide, read)]
    assert methods.cast_at("gloo", asked[0], place(asked[0])) == ["source"]
    assert methods.unsupported("gloo", asked[0], place(asked[0])) is None
    reason = methods.unsupported("ipc", asked[1], place(asked[1]))
    assert reason and "reads the source's own memory" in reason


@pytest.mark.parametrize(
    ("side", "text"),
    [
        (Degrees(kind="fsdp", shard=2), "parallel.source.kind=fsdp"),
        (Degrees(dtype="float32"), "parallel.source.dtype=float32"),
        (Degrees(make_vocab_size_divisible_by=1), "parallel.source.make_vocab_size_divisible_by=1"),
    ],
)
def test_the_peer_refuses_what_a_side_has_of_its_own(side: Degrees, text: str) -> None:
    what = job(side, method="megatron", build="megatron")
    reason = methods.unsupported("megatron", what, place(what))
    assert reason and text in reason and "use another method" in reason
