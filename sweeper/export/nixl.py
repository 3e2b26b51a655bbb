"""A plan's bytes, rank by rank, as NIXL's `ct-perftest` takes them: what the wire can do for it.

Its README (benchmark/kvbench): a matrix of bytes, cell i, j what rank i writes to rank j, and a
YAML file that names it. What a rank copies within itself is on no wire, and 0 there; but a rank
that sends or receives nothing writes itself one byte, as ct-perftest fails on a buffer of none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refit.errors import UserError
from refit.job import Job
from refit.layout.place import place
from refit.model.architecture import tensors_of
from refit.plan.peers import pairs
from refit.plan.plan import Plan
from refit.record.point import write_atomic
from refit.record.record import Record
from refit.rules.methods import plans_itself
from refit.rules.setup import Setup

ITERATIONS = 50
WARM_UP = 10


def write(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write the matrix of each point's plan, and what ct-perftest is to be told of it.

    A plan of several hops has a matrix for each, as they go one after another.

    Returns:
        The YAML files, each of which is `ct-perftest`'s argument.

    Raises:
        UserError: no record has a plan of ours.
        OSError: as from the file system.
    """
    written = []
    planned = [record for record in records if record.plan and not _has_its_own(record)]
    if not planned:
        raise UserError("no point has a plan of ours: none was planned, or its method plans itself")
    for record in planned:
        (folder / record.name).mkdir(parents=True, exist_ok=True)
        for number, matrix in enumerate(matrices(record)):
            file = folder.resolve() / record.name / f"hop{number}.txt"
            write_atomic(file, matrix_text(without_empty(matrix)))
            settings = file.with_suffix(".yaml")
            write_atomic(settings, _settings(record, file, matrix))
            written.append(settings)
    return written


def matrices(record: Record) -> list[NDArray[np.int64]]:
    """Of each hop [world, world]: bytes that a rank sends another.

    Raises:
        UserError: this version plans another refit than the record says.
    """
    found = []
    for hop in _plan(record).hops:
        matrix = np.zeros((hop.placement.world, hop.placement.world), dtype=np.int64)
        for pair in pairs(hop):
            if pair.sender != pair.receiver:
                matrix[pair.sender, pair.receiver] = pair.nbytes
        found.append(matrix)
    return found


def without_empty(matrix: NDArray[np.int64]) -> NDArray[np.int64]:
    """With a byte from each rank to itself that would send or receive nothing."""
    is_empty = (matrix.sum(axis=0) == 0) | (matrix.sum(axis=1) == 0)
    return matrix + np.diag(is_empty).astype(np.int64)


def matrix_text(matrix: NDArray[np.int64]) -> str:
    """A line for each sender: whole bytes with a blank between."""
    return "".join(" ".join(map(str, row)) + "\n" for row in matrix.tolist())


def _has_its_own(record: Record) -> bool:
    return record.method is None or plans_itself(record.method)


def _plan(record: Record) -> Plan:
    """As it was planned; nothing of this machine is asked."""
    assert record.plan is not None and record.method and record.model_build
    job = Job.from_dict(record.config)
    placement, build = place(job), record.model_build
    tensors = tensors_of(job, placement, build.convention)
    plan = Setup(job, placement, tensors, build, record.method, "").plan()
    if (plan.total_bytes, plan.local_bytes) != (record.plan.bytes, record.plan.local_bytes):
        raise UserError(
            f"{record.name}: this version plans {plan.total_bytes} bytes, {plan.local_bytes} of"
            f" them local, and the record says {record.plan.bytes} and {record.plan.local_bytes};"
            " plan it anew with mode=plan"
        )
    return plan


def _settings(record: Record, matrix_file: Path, matrix: NDArray[np.int64]) -> str:
    on_cpu = record.config["cluster"]["device"] == "cpu" or (
        record.environment.get("device", "") == "cpu"
    )
    return (
        f"# {record.name}\n"
        f"# {int(matrix.sum())} bytes between {len(matrix)} ranks. On each of them:\n"
        f"#   python main.py ct-perftest {matrix_file.with_suffix('.yaml').name}\n"
        "# of NIXL's benchmark/kvbench; CUDA_VISIBLE_DEVICES says which GPU is whose. What it\n"
        "# prints is a limit of the record by\n"
        "#   python -m sweeper.import_metrics LOG --limit-of POINT\n"
        f"iters: {ITERATIONS}\n"
        f"warmup_iters: {WARM_UP}\n"
        "traffic_pattern:\n"
        f'  matrix_file: "{matrix_file}"\n'
        "  shards: 1\n"
        f'  mem_type: "{"cpu" if on_cpu else "cuda"}"\n'
        '  xfer_op: "WRITE"\n'
    )
