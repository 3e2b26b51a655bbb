"""CONTRIBUTING's recipes, carried out: the files that it lists are enough, and none is to spare.

Each is done in a copy of the tree. The files that differ afterwards must be those that the recipe
lists; the copy's own tests of what is new, and of what is counted or chosen with it, then pass, and
its program does the new thing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TREE = ("refit", "sweeper", "hydra_plugins", "conf", "docs", "tests", "pyproject.toml", "README.md")
SMALL = ("model=moe_8e", "build=shards", "bench.iterations=1")


class Copy:
    """A copy of the tree, and what is typed there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in TREE:
            if (ROOT / name).is_dir():
                # with what is compiled, but for what is only half written
                half = shutil.ignore_patterns("*.pyc.*")
                shutil.copytree(ROOT / name, root / name, ignore=half)
            else:
                shutil.copy(ROOT / name, root)

    def write(self, path: str, text: str) -> None:
        assert not (self.root / path).exists()
        (self.root / path).write_text(text)

    def insert(self, path: str, after: str, text: str) -> None:
        """Put text behind a line that is there once."""
        before, line, rest = (self.root / path).read_text().partition(f"{after}\n")
        assert line and f"\n{after}\n" not in rest, f"{path} has not one line {after}"
        (self.root / path).write_text(before + line + text + rest)

    def touched(self) -> list[str]:
        """The files that are new or changed."""
        names = [p.relative_to(self.root) for p in self.root.rglob("*") if p.is_file()]
        return sorted(
            str(name)
            for name in names
            if "__pycache__" not in name.parts
            and (
                not (ROOT / name).exists()
                or (ROOT / name).read_bytes() != (self.root / name).read_bytes()
            )
        )

    def run(self, *words: str, code: int = 0) -> str:
        """Run `python -m` of some words; what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def passes(self, *tests: str, only: str = "") -> None:
        """The copy's own tests, of which there must be some in each file."""
        chosen = ["-k", only] if only else []
        said = self.run(
            "pytest", "--thorough", "-q", "-rp", "-p", "no:cacheprovider", *tests, *chosen
        )
        for test in tests:
            assert f"PASSED {test}::" in said, said


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path / "tree")


def listed(recipe: str) -> list[str]:
    """The files in a recipe's list, as regular expressions; one of several places is the first."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text.partition(f"\n## {recipe}\n")[2].partition("\n## ")[0]
    paths = re.findall(r"^\* `([^`]+)`", section, re.MULTILINE)
    return [re.sub(r"<\w+>", r"\\w+", re.escape(path)) for path in paths]


def check_files(copy: Copy, recipe: str, count: int) -> None:
    """What was written is what the recipe lists, file by file."""
    touched, paths = copy.touched(), listed(recipe)
    assert len(touched) == len(paths) == count
    for path in paths:
        assert sum(bool(re.fullmatch(path, name)) for name in touched) == 1, (path, touched)


def test_a_pair_of_layouts(copy: Copy) -> None:
    name = "collocated_5_tp8ep1_to_tp2ep2"
    copy.write(
        f"conf/parallel/{name}.yaml",
        f"# A fifth collocated pair: eight GPUs train, four of them serve. Run it with\n"
        f"#   python -m refit.run parallel={name}\n"
        f"name: {name}\nuse_case: Serve on half\nmode: collocated\n"
        "source: {tp: 8, ep: 1, etp: 1}\ndestination: {tp: 2, ep: 2, etp: 1}\n",
    )
    check_files(copy, "Add a pair of layouts", 1)
    # the pair itself, and all that counts pairs: sweeps of a file and of all but some are dry runs
    counted = f"{name} or groups or glob or (dry_run and (file or but))"
    copy.passes(
        "tests/conf/test_options.py", "tests/ranks/test_cli.py", only=f"{name} or {counted}"
    )
    assert "predicted" in copy.run("refit.run", "mode=plan", f"parallel={name}")


def test_a_public_model(copy: Copy) -> None:
    model, pair = "llama31_405b", "llama31_405b_64_tp8pp8_to_tp8pp2"
    copy.write(
        f"conf/model/{model}.yaml",
        "# Llama 3.1 405B (meta-llama/Llama-3.1-405B): 405.9 B parameters, no experts; Llama\n"
        "# 3.1 8B deeper and wider. Source: its config.json. Run it with\n"
        f"#   python -m refit.run model={model}\n"
        f"defaults:\n  - llama31_8b\n  - _self_\nname: {model}\nnum_layers: 126\n"
        "published_parameters: 405853388800\n"
        "hidden_size: 16384\nffn_hidden_size: 53248\nnum_attention_heads: 128\n",
    )
    copy.write(
        f"conf/parallel/public/{pair}.yaml",
        "# Llama 3.1 405B on 64 GPUs, which serve as four engines of two nodes. Run it with\n"
        f"#   python -m refit.run parallel={pair} cluster=slurm -m\n"
        f"defaults:\n  - override /model@_global_.model: {model}\n"
        f"name: {pair}\nmodel: {model}\nuse_case: ours\nmode: collocated\n"
        "source: {tp: 8, pp: 8, gpus: 64, num_layers_in_last_pipeline_stage: 14}\n"
        "destination: {tp: 8, pp: 2, gpus: 64}\n",
    )
    # as its safetensors say; the input embedding is 128256 * 16384 of them
    total = 405_853_388_800
    copy.insert(
        "tests/support/composed.py",
        "PUBLISHED = {",
        f'    "{model}": ({total}, {total}, {total - 128256 * 16384}, 0, 0),\n',
    )
    check_files(copy, "Add a public model", 3)
    copy.passes(
        "tests/conf/test_options.py", "tests/unit/model/test_tensors.py",
        "tests/conf/test_public.py", only=f"{model} or every",
    )  # fmt: skip
    planned = copy.run("refit.run", "mode=plan", f"parallel={pair}", "cluster=h100")
    assert "predicted" in planned and pair in planned


def test_a_rule(copy: Copy) -> None:
    rules = "refit/rules/model.py"
    copy.insert(rules, "MODEL: tuple[JobRule, ...] = (", "    hidden_size_even,\n")
    text = (copy.root / rules).read_text()
    function = (
        "def hidden_size_even(job: Job) -> str | None:\n"
        '    """Kernels of two-byte elements read them in pairs; Megatron leaves it to them."""\n'
        "    size = job.model.hidden_size\n"
        '    return f"model.hidden_size={size} is odd; use {size + 1}" if size % 2 else None\n\n\n'
    )
    (copy.root / rules).write_text(text.replace("MODEL: tuple", f"{function}MODEL: tuple"))
    cases = "tests/unit/rules/cases.py"
    copy.insert(
        cases,
        "from __future__ import annotations",
        "from refit.rules.model import hidden_size_even\n",
    )
    copy.insert(
        cases,
        "BAD: dict[Any, list[Case]] = {",
        "    hidden_size_even: [\n"
        '        ({"model__hidden_size": 63, "model__kv_channels": 16}, "=63 is odd; use 64"),\n'
        "    ],\n",
    )
    copy.insert("tests/torch/test_rules_megatron.py", "STRICTER = {", '    "hidden_size_even",\n')
    check_files(copy, "Add a rule", 3)
    copy.passes("tests/unit/rules/test_rules.py", "tests/torch/test_rules_megatron.py")
    odd = ("mode=plan", "model.hidden_size=63", "model.kv_channels=16")
    assert "=63 is odd; use 64" in copy.run("refit.run", *odd, code=2)


TRANSPORT = '''
"""Reads of the peers' source shards, a block at a time."""

from __future__ import annotations

import time

import numpy as np
import torch

from refit.job import Refit
from refit.plan.copies import Copies
from refit.plan.runs import received
from refit.transport import Transport, blocks, share
from refit.weights.weights import Weights


class LoopTransport(Transport):
    """Each run is copied by a call of its own; no staging."""

    def __init__(self, refit: Refit) -> None:
        self._pairs: list[tuple[torch.Tensor, torch.Tensor]] = []

    def prepare(
        self, copies: Copies, rank: int, source: Weights | None, destination: Weights | None
    ) -> None:
        table = received(copies, rank)
        peers = np.unique(table.peer[table.peer != rank]).tolist()
        arenas = share.exchange(None if source is None else source.arena, rank, peers)
        if source is not None:
            arenas[rank] = source.arena
        if destination is not None:
            into, out_of = blocks.views(table, destination.arena, arenas)
            self._pairs = list(zip(into, out_of, strict=True))

    def execute(self) -> dict[str, float]:
        start = time.perf_counter()
        for into, out_of in self._pairs:
            into.copy_(out_of)
        return {"copy": time.perf_counter() - start}

    @property
    def staging_bytes(self) -> int:
        return 0

    def close(self) -> None:
        self._pairs = []
'''


def test_a_transport(copy: Copy) -> None:
    how = "each destination rank reads its peers' source shards, block by block"
    copy.write("refit/transport/loop.py", TRANSPORT.lstrip())
    copy.insert(
        "refit/rules/methods.py",
        "METHODS = {",
        f'    "loop": Method("LoopTransport", "{how}",\n'
        '        devices=("cpu",), one_node=True, one_sided=True, slots=0),\n',
    )
    copy.write(
        "conf/refit/loop.yaml",
        "# Destination ranks read the source's shards block by block. CPU, one node. Run it with\n"
        "#   python -m refit.run refit=loop\nname: loop\nmethod: loop\nmode: auto\n",
    )
    head = "| method | how | runs on |\n|---|---|---|"
    copy.insert("README.md", head, f"| `loop` | {how} | CPU, one node |\n")
    check_files(copy, "Add a transport", 4)
    copy.passes("tests/unit/rules/test_methods.py", "tests/unit/forecast/test_cost.py")
    # every pair, faults that must be seen, and the bound on memory
    copy.passes(
        "tests/conf/test_options.py", "tests/unit/test_house.py",
        "tests/ranks/test_point.py", "tests/ranks/test_memory.py",
        only="loop or every_room or every_module",
    )  # fmt: skip
    said = copy.run("refit.run", "refit=loop", *SMALL, "hydra.run.dir=loop")
    assert "by loop in" in said and "verified bit for bit" in said


def test_a_cluster(copy: Copy) -> None:
    copy.write(
        "conf/cluster/ours.yaml",
        "# Our four nodes of four GPUs, in the queue that is always free. Run it with\n"
        "#   python -m refit.run cluster=ours -m\n"
        "defaults:\n  - slurm\n  - _self_\nname: ours\nnodes: 4\nranks_per_node: 4\n"
        "slurm: {partition: idle, gpus_per_node: 4}\n",
    )
    check_files(copy, "Add a cluster", 1)
    copy.passes("tests/conf/test_options.py", only="cluster or ours")
    config = copy.run("refit.run", "cluster=ours", "--cfg", "job")
    assert "name: ours" in config and "partition: idle" in config
    dry = ("-m", "cluster=ours", "parallel=twonode_tp4ep4_to_tp8ep2", "sweep.dry_run=true")
    assert re.search(r"--nodes=4\n.*--partition=idle", copy.run("refit.run", *dry), re.DOTALL)
