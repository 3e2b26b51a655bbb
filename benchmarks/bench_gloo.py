"""Our gloo refit against gloo itself: plain messages of as many bytes between the same ranks.

The plain ones need no packing and copy nothing within a rank: each rank sends each other what the
plan has it send, from one buffer into one buffer, in pieces that are all posted at once. Of both
the median of five, of the slowest rank, in turns. 1 means that a refit costs what its wire costs.
Run: python -m benchmarks.bench_gloo
"""

from __future__ import annotations

import os
import socket
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from benchmarks.bench_peer import TP4_TO_TP2
from benchmarks.common import job, run
from refit.rules.setup import Setup

REPEATS = 5
ITERATIONS = 5
PIECE_BYTES = 1 << 24

Bytes = list[list[int]]  # [world][world], from rank to rank


def main() -> None:
    """Each in turn, several times; print the ratios."""
    what = job(*TP4_TO_TP2, "refit=gloo")
    copies = Setup.of(what).plan().hops[0]
    world = copies.placement.world
    sent = np.zeros((world, world), dtype=np.int64)
    remote = copies.remote
    np.add.at(sent, (copies.source[remote], copies.destination[remote]), copies.nbytes[remote])
    print(f"gloo, dense, collocated TP4 -> TP2, {world} ranks, {sent.sum() / 1e9:.2f} GB travel")
    ratios = []
    for _ in range(REPEATS):
        wire_s = _wire_s(sent.tolist())
        (record,) = run([what])
        assert record.seconds is not None
        ratios.append(wire_s / record.seconds.median)
        print(f"  plain messages {wire_s:.3f} s, refit {record.seconds.median:.3f} s")
    print(
        f"  plain / refit: median ratio {statistics.median(ratios):.2f}"
        f" ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def _wire_s(sent: Bytes) -> float:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        spawn(_exchange, args=(sent, port, folder), nprocs=len(sent))
        took = [[float(s) for s in path.read_text().split()] for path in Path(folder).iterdir()]
    return statistics.median(map(max, zip(*took, strict=True)))


def _exchange(rank: int, sent: Bytes, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=len(sent))
    others = [peer for peer in range(len(sent)) if peer != rank]
    gives = [(p, torch.ones(sent[rank][p], dtype=torch.uint8)) for p in others if sent[rank][p]]
    takes = [(p, torch.zeros(sent[p][rank], dtype=torch.uint8)) for p in others if sent[p][rank]]
    took = []
    for _ in range(1 + ITERATIONS):
        dist.barrier()
        start = time.perf_counter()
        works = [dist.irecv(part, p) for p, into in takes for part in into.split(PIECE_BYTES)]
        works += [dist.isend(part, p) for p, out_of in gives for part in out_of.split(PIECE_BYTES)]
        for work in works:
            assert work is not None
            work.wait()
        took.append(time.perf_counter() - start)
    assert all(into.all() for _, into in takes)
    Path(folder, str(rank)).write_text(" ".join(map(str, took[1:])))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
