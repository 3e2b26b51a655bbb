"""One-sided reads between registered buffers, by NIXL over UCX: within a node and across nodes.

What has run on a GPU is in docs/gpu.md.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import nixl
import numpy as np
import torch
import torch.distributed as dist

from refit.job import Refit
from refit.plan.copies import Copies
from refit.transport import Transport, blocks, share
from refit.transport.lanes import Clock
from refit.transport.schedule import aligned
from refit.weights import memory
from refit.weights.weights import TORCH_DTYPE, Weights, device_of

# One descriptor costs what reading some 16 KB more does (5 us; UCX over CMA, on two cores), so
# what lies between two runs of a strided block is read along where it is shorter.
GAP_BYTES = 1 << 14
POLL_S = 5e-5


class NixlTransport(Transport):
    """Reads of registered memory.

    A destination rank reads straight into its shards what is contiguous in both shards. The rest it
    reads into staging, a run of memory per descriptor, and copies from there. Reads are batched
    per peer, at most `bucket_mb` each and `in_flight` at a time, so staging is at most
    in_flight * bucket, where one row of a tensor is no larger. A block has at most one descriptor
    for each of its rows. Only destinations wait, and for nobody's action: no deadlock.
    """

    def __init__(self, refit: Refit) -> None:
        self._bucket_bytes = int(refit.bucket_mb * 1e6)
        self._refit, self._in_flight = refit, refit.in_flight
        self._into: list[torch.Tensor] = []
        self._out_of: list[torch.Tensor] = []
        self._batches: list[_Batch] = []
        self._handles: list[Any] = []
        self._staging = torch.empty(0, dtype=torch.uint8)
        self._registered: list[Any] = []
        self._agent: Any = None
        self._on_cuda = False

    def prepare(
        self, copies: Copies, rank: int, source: Weights | None, destination: Weights | None
    ) -> None:
        self._into, self._out_of = blocks.local_pairs(copies, rank, source, destination)
        device = device_of(source, destination)
        self._on_cuda = share.any_cuda(device)
        batches = _batches(copies, rank, self._bucket_bytes) if destination is not None else []
        size = aligned(max((b.staged for b in batches), default=0))
        count = min(self._in_flight, len(batches))
        if device.type == "cpu":
            memory.require_staging(count * size, self._refit)
        self._staging = torch.empty(count * size, dtype=torch.uint8, device=device)
        peers = sorted({b.peer for b in batches})
        lends = source is not None and bool(copies.remote[copies.from_rank(rank)].any())
        if peers or lends:
            self._agent = nixl.nixl_agent(f"rank{rank}", nixl.nixl_agent_config())
            arenas = [w.arena for w in (source, destination) if w is not None]
            for held in (*arenas, self._staging):
                if held.numel():
                    self._registered.append(self._agent.register_memory(held))
        lent: list[_Lent | None] = [None] * copies.placement.world
        dist.all_gather_object(lent, self._lend(source.arena) if source and lends else None)
        names = {}
        for peer in peers:
            theirs = lent[peer]
            assert theirs is not None
            names[peer] = self._agent.add_remote_agent(theirs.metadata)
        for number, batch in enumerate(batches):
            theirs = lent[batch.peer]
            assert destination is not None and theirs is not None
            start = number % self._in_flight * size
            batch.bind(copies, self._staging[start : start + size], destination.tensors)
            local = batch.local(_device_index(destination.arena))
            remote = batch.remote(theirs.base, theirs.device)
            self._handles.append(self._read(local, remote, names[batch.peer]))
        self._batches = batches

    def _lend(self, arena: torch.Tensor) -> _Lent:
        """What peers are to know to read this rank's source."""
        metadata = self._agent.get_agent_metadata()
        return _Lent(metadata, arena.data_ptr(), _device_index(arena))

    def _read(
        self, local: np.ndarray[Any, Any], remote: np.ndarray[Any, Any], agent_name: str
    ) -> Any:
        """NIXL's handle of one read, of as many descriptors here as at the peer."""
        memory_type = "VRAM" if self._on_cuda else "DRAM"
        here, there = (self._agent.get_xfer_descs(d, memory_type) for d in (local, remote))
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
        blocks.copy(self._into, self._out_of)
        clock.lap("local")
        while under_way:
            self._finish(under_way.popleft(), clock)
        if self._on_cuda:
            torch.cuda.current_stream().synchronize()
            clock.lap("local")
        return clock.seconds

    def _finish(self, number: int, clock: Clock) -> None:
        while _check(self._agent.check_xfer_state(self._handles[number])) == "PROC":
            time.sleep(POLL_S)
        clock.lap("wire")
        batch = self._batches[number]
        blocks.copy(batch.weights, batch.views)
        if self._on_cuda and batch.views:
            torch.cuda.current_stream().synchronize()  # the next read into this slot is not ordered
        clock.lap("unpack")

    @property
    def staging_bytes(self) -> int:
        return self._staging.numel()

    @property
    def details(self) -> dict[str, int | str]:
        """For the record: how the rank's blocks became reads."""
        return {
            "reads": len(self._batches),
            "descriptors": sum(len(b.runs) for b in self._batches),
            "read_bytes": sum(length for b in self._batches for _, _, length in b.runs),
        }

    def close(self) -> None:
        for handle in self._handles:
            handle.release()
        dist.barrier()  # nobody reads any more
        for registered in self._registered:
            self._agent.deregister_memory(registered)
        self._handles, self._batches, self._registered, self._agent = [], [], [], None
        self._staging = torch.empty(0, dtype=torch.uint8)


@dataclass(frozen=True)
class _Lent:
    """What a rank tells its readers: its agent's metadata, its source's address and device."""

    metadata: bytes
    base: int
    device: int


@dataclass(frozen=True)
class _Piece:
    """Consecutive rows of one block, as it is read: `count` runs, or one where they are joined.

    Attributes:
        row: of the copies.
        first, rows: which of the block's rows, its indices along dimension 0; a vector is one row.
        at: byte in the source's arena.
        run, count, stride: bytes of a run, how many, and from one to the next in the source.
        pitch: bytes from one row to the next in staging; 0: read in place, not staged.
        offset: in the batch's staging.
        strides: within a row, in elements.
    """

    row: int
    first: int
    rows: int
    at: int
    run: int
    count: int
    stride: int
    pitch: int
    strides: tuple[int, ...]
    offset: int = 0


class _Batch:
    """What is read from one peer by one request."""

    def __init__(self, peer: int) -> None:
        self.peer = peer
        self.pieces: list[_Piece] = []
        self.nbytes = 0
        self.staged = 0
        self.runs: list[tuple[int, int, int]] = []  # (local address, remote offset, bytes)
        self.weights: list[torch.Tensor] = []
        self.views: list[torch.Tensor] = []

    def bind(self, copies: Copies, slot: torch.Tensor, tensors: blocks.Tensors) -> None:
        """Find the addresses in this rank's shards and in the staging slot."""
        for p in self.pieces:
            into = blocks.part(copies, p.row, tensors, of_source=False)
            if into.dim() > 1:
                into = into[p.first : p.first + p.rows]
            if not p.pitch:
                self.runs.append((into.data_ptr(), p.at, p.run))
                continue
            base = slot.data_ptr() + p.offset
            self.runs += [(base + i * p.run, p.at + i * p.stride, p.run) for i in range(p.count)]
            dtype = TORCH_DTYPE[copies.dtype(p.row)]
            flat = slot[p.offset : p.offset + aligned(p.rows * p.pitch)]
            strides = (p.pitch // dtype.itemsize, *p.strides) if into.dim() > 1 else p.strides
            start = flat.storage_offset() // dtype.itemsize
            self.views.append(flat.view(dtype).as_strided(into.shape, strides, start))
            self.weights.append(into)
        self.weights, self.views = blocks.as_bits(self.weights, self.views)

    def local(self, device: int) -> np.ndarray[Any, Any]:
        """[runs, 3]: address, bytes, device."""
        return np.array([(a, n, device) for a, _, n in self.runs], dtype=np.uint64)

    def remote(self, base: int, device: int) -> np.ndarray[Any, Any]:
        """[runs, 3]: address at the peer, bytes, device."""
        return np.array([(base + at, n, device) for _, at, n in self.runs], dtype=np.uint64)


def _batches(copies: Copies, rank: int, limit: int) -> list[_Batch]:
    """A rank's reads, per peer, of at most `limit` bytes each but for a single longer row."""
    rows = copies.to_rank(rank)
    rows = rows[copies.remote[rows]]
    mine = _meta_shards(copies, rank, source=False)
    batches = []
    # nearest peers upwards first, so that not all readers begin at one
    world = copies.placement.world
    peers = sorted(set(copies.source[rows].tolist()), key=lambda peer: (peer - rank) % world)
    for peer in peers:
        theirs = _meta_shards(copies, peer, source=True)
        batch = _Batch(peer)
        for row in rows[copies.source[rows] == peer].tolist():
            for piece in _pieces(copies, row, mine, theirs, limit):
                nbytes = piece.rows * piece.pitch or piece.run
                if batch.pieces and aligned(batch.nbytes) + nbytes > limit:
                    batches.append(batch)
                    batch = _Batch(peer)
                batch.nbytes = aligned(batch.nbytes) + nbytes
                if piece.pitch:
                    piece = replace(piece, offset=aligned(batch.staged))
                    batch.staged = piece.offset + nbytes
                batch.pieces.append(piece)
        batches.append(batch)
    return batches


def _pieces(
    copies: Copies, row: int, mine: blocks.Tensors, theirs: blocks.Tensors, limit: int
) -> Iterator[_Piece]:
    """The pieces of one block, of at most `limit` bytes each but for a single longer row.

    Args:
        mine, theirs: shards at both ends, without memory.
    """
    into = blocks.part(copies, row, mine, of_source=False)
    out_of = blocks.part(copies, row, theirs, of_source=True)
    item = out_of.element_size()
    at = int(out_of.storage_offset()) * item
    in_place = into.is_contiguous() and out_of.is_contiguous() and into.dtype == out_of.dtype
    is_vector = out_of.dim() == 1
    num_rows = 1 if is_vector else out_of.shape[0]
    sizes, strides = (out_of.shape, out_of.stride()) if is_vector else _in_row(out_of)
    # from a row's first element to its last, what lies between them too
    run = (1 + sum((n - 1) * by for n, by in zip(sizes, strides, strict=True))) * item
    stride = run if is_vector else out_of.stride(0) * item
    joined = stride - run <= GAP_BYTES
    step = max(1, limit // (stride if joined else run))
    for first in range(0, num_rows, step):
        rows = min(step, num_rows - first)
        begin = at + first * stride
        if in_place:
            yield _Piece(row, first, rows, begin, rows * run, 1, 0, 0, strides)
        elif joined:
            # the last row ends with its run: what follows may be beyond the arena
            span = (rows - 1) * stride + run
            yield _Piece(row, first, rows, begin, span, 1, 0, stride, strides)
        else:
            yield _Piece(row, first, rows, begin, run, rows, stride, run, strides)


def _in_row(block: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes and strides of one row of a block, in elements."""
    return tuple(block.shape[1:]), tuple(block.stride()[1:])


def _meta_shards(copies: Copies, rank: int, source: bool) -> blocks.Tensors:
    """A rank's shards on the meta device: shapes, strides and offsets without memory."""
    return Weights.allocate(copies.shards(rank, of_source=source), device="meta").tensors


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
