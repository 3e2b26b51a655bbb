"""One-sided reads between registered buffers, by NIXL over UCX: within a node and across nodes.

What has run on a GPU is in docs/gpu.md.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import nixl
import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from refit.job import Refit
from refit.layout.layout import IntArray
from refit.plan.copies import Copies
from refit.plan.runs import received
from refit.transport import Transport, blocks, share
from refit.transport.lanes import Clock
from refit.transport.reads import Read, reads
from refit.weights import memory
from refit.weights.weights import Weights, device_of

GAP_BYTES = {"DRAM": 1 << 14, "VRAM": 1 << 20}
"""What lies between two rows is read along where it is shorter.

In host memory one descriptor costs what reading some 16 KB more does (5 us; UCX over CMA, on two
cores). On a GPU it is a copy engine's, 2.3 us on an H100 (meta-pytorch/torchcomms #2195), in which
NVLink moves 0.9 MB.
"""

POLL_S = 5e-5


class NixlTransport(Transport):
    """Reads of registered memory.

    A destination rank reads straight into its arena what lands there as it is; see `Read` for the
    rest. Reads are batched per peer, at most `bucket_mb` each and `in_flight` at a time, so staging
    is at most in_flight * bucket. Only destinations wait, and for nobody's action: no deadlock.
    """

    def __init__(self, refit: Refit) -> None:
        self._bucket_bytes = int(refit.bucket_mb * 1e6)
        self._refit, self._in_flight = refit, refit.in_flight
        self._local: blocks.Start = blocks.nothing
        self._reads: list[Read] = []
        self._handles: list[Any] = []
        self._unpack: list[blocks.Start] = []
        self._staging = torch.empty(0, dtype=torch.uint8)
        self._registered: list[Any] = []
        self._agent: Any = None
        self._on_cuda = False

    def prepare(
        self, copies: Copies, rank: int, source: Weights | None, destination: Weights | None
    ) -> None:
        table, world = received(copies, rank), copies.placement.world
        self._local = blocks.local(table, rank, source, destination)
        device = device_of(source, destination)
        self._on_cuda = share.any_cuda(device)
        gap = GAP_BYTES[self._memory]
        self._reads = reads(table.where(table.peer != rank), rank, world, self._bucket_bytes, gap)
        slots = min(self._in_flight, len(self._reads))
        sizes = [max(read.staged for read in self._reads[n::slots]) for n in range(slots)]
        starts = [0, *np.cumsum(sizes).tolist()]
        if device.type == "cpu":
            memory.require_staging(starts[-1], self._refit)
        self._staging = torch.empty(starts[-1], dtype=torch.uint8, device=device)
        peers = sorted({read.peer for read in self._reads})
        lends = source is not None and bool(copies.remote[copies.from_rank(rank)].any())
        if peers or lends:
            self._agent = nixl.nixl_agent(f"rank{rank}", nixl.nixl_agent_config())
            arenas = [w.arena for w in (source, destination) if w is not None]
            for held in (*arenas, self._staging):
                if held.numel():
                    self._registered.append(self._agent.register_memory(held))
        lent: list[_Lent | None] = [None] * world
        dist.all_gather_object(lent, self._lend(source.arena) if source and lends else None)
        names = {}
        for peer in peers:
            theirs = lent[peer]
            assert theirs is not None
            names[peer] = self._agent.add_remote_agent(theirs.metadata)
        for number, read in enumerate(self._reads):
            theirs = lent[read.peer]
            assert destination is not None and theirs is not None
            start = starts[number % slots]
            slot = self._staging[start : start + read.staged]
            ends = np.where(read.is_staged, slot.data_ptr(), destination.arena.data_ptr())
            here = _described(ends + read.ours, read.nbytes, _device_index(destination.arena))
            there = _described(theirs.base + read.theirs, read.nbytes, theirs.device)
            self._handles.append(self._read(here, there, names[read.peer]))
            self._unpack.append(blocks.mover(read.runs, destination.arena, {0: slot})[1])

    @property
    def _memory(self) -> str:
        """As NIXL names it."""
        return "VRAM" if self._on_cuda else "DRAM"

    def _lend(self, arena: torch.Tensor) -> _Lent:
        """What peers are to know to read this rank's source."""
        metadata = self._agent.get_agent_metadata()
        return _Lent(metadata, arena.data_ptr(), _device_index(arena))

    def _read(self, ours: NDArray[np.uint64], theirs: NDArray[np.uint64], agent_name: str) -> Any:
        """NIXL's handle of one read, of as many descriptors here as at the peer."""
        here, there = (self._agent.get_xfer_descs(d, self._memory) for d in (ours, theirs))
        return self._agent.initialize_xfer("READ", here, there, agent_name)

    def execute(self) -> dict[str, float]:
        clock = Clock({"local": 0.0, "wire": 0.0, "unpack": 0.0})
        if self._on_cuda:
            share.meet()
            clock.lap("wire")
        under_way: deque[int] = deque()
        for number, handle in enumerate(self._handles):
            if len(under_way) == self._in_flight:
                self._finish(under_way.popleft(), clock)
            _check(self._agent.transfer(handle))
            under_way.append(number)
            clock.lap("wire")
        self._local()
        clock.lap("local")
        while under_way:
            self._finish(under_way.popleft(), clock)
        if self._on_cuda:
            torch.cuda.current_stream().synchronize()
            clock.lap("local")
        return clock.seconds

    def _finish(self, number: int, clock: Clock) -> None:
        while _check(self._agent.check_xfer_state(self._handles[number])) == "PROC":
            if not self._on_cuda:  # a GPU's refit is shorter than a sleep
                time.sleep(POLL_S)
        clock.lap("wire")
        self._unpack[number]()
        if self._on_cuda and self._reads[number].staged:
            torch.cuda.current_stream().synchronize()  # the next read into this slot is not ordered
        clock.lap("unpack")

    @property
    def staging_bytes(self) -> int:
        return self._staging.numel()

    @property
    def details(self) -> dict[str, int | str]:
        """For the record: how the rank's runs became reads."""
        return {
            "reads": len(self._reads),
            "descriptors": sum(len(read.nbytes) for read in self._reads),
            "read_bytes": sum(int(read.nbytes.sum()) for read in self._reads),
        }

    def close(self) -> None:
        for handle in self._handles:
            handle.release()
        dist.barrier()  # nobody reads any more
        for registered in self._registered:
            self._agent.deregister_memory(registered)
        self._handles, self._reads, self._registered, self._agent = [], [], [], None
        self._local, self._unpack = blocks.nothing, []
        self._staging = torch.empty(0, dtype=torch.uint8)


@dataclass(frozen=True)
class _Lent:
    """What a rank tells its readers: its agent's metadata, its source's address and device."""

    metadata: bytes
    base: int
    device: int


def _described(address: IntArray, nbytes: IntArray, device: int) -> NDArray[np.uint64]:
    """[descriptors, 3]: address, bytes, device."""
    columns = [address, nbytes, np.full_like(nbytes, device)]
    return np.stack(columns, axis=1).astype(np.uint64)


def _device_index(tensor: torch.Tensor) -> int:
    """As NIXL counts: 0 for host memory too."""
    return max(tensor.get_device(), 0)


def _check(state: str) -> str:
    """The state of a transfer.

    Raises:
        RuntimeError: it failed.
    """
    if state == "ERR":
        raise RuntimeError("a NIXL read failed; UCX_LOG_LEVEL=info says more")
    return state
