"""Two-sided messages over NCCL, from device to device.

One rank per device, as NCCL has it; from 2.30 on several under MPS, where its variable
NCCL_MULTI_RANK_GPU_ENABLE is 1. What has run on a GPU is in docs/gpu.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

from refit.job import Refit
from refit.transport import collect
from refit.transport.collect import Decided, Item
from refit.transport.twosided import Parts, TwoSided


def warm_group() -> dist.ProcessGroup:
    """NCCL's group of all ranks, which all make together.

    torch: a batch of messages between some of the ranks must not be a group's first call, or it
    hangs.
    """
    group = dist.new_group(backend="nccl")
    dist.all_reduce(torch.zeros(1, device="cuda"), group=group)
    return group


class NcclWire:
    """A process group of its own beside the default one, which stays gloo's.

    An operation of a group costs some microseconds, in which a GPU packs and unpacks a megabyte.
    Groups are for several peers, so that NVLink and the NIC work at once. Neither number has been
    tried on more than one GPU.
    """

    in_place_bytes = 1 << 20
    at_once = 4

    def __init__(self) -> None:
        self._group: dist.ProcessGroup | None = None

    def open(self, device: torch.device) -> None:
        self._group = warm_group()

    def agree(self, item: Item, decide: Callable[[list[Item]], Decided]) -> Decided:
        return collect.agree(item, decide)

    def post(self, sends: Parts, receives: Parts) -> Sequence[dist.Work]:
        operations = [dist.P2POp(dist.irecv, part, peer, self._group) for peer, part in receives]
        operations += [dist.P2POp(dist.isend, part, peer, self._group) for peer, part in sends]
        return dist.batch_isend_irecv(operations)

    def close(self) -> None:
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = None


class NcclTransport(TwoSided):
    """See `refit.transport.twosided.TwoSided`.

    Each group is one `batch_isend_irecv`, launched as a whole. A whole model in one deadlocks NCCL
    at about 24 000 operations per rank and passes at 8 000 (Megatron-LM issue #7189);
    `max_ops_per_group` keeps far below.
    """

    def __init__(self, refit: Refit) -> None:
        self._nccl = NcclWire()
        super().__init__(refit, self._nccl)

    def close(self) -> None:
        super().close()
        self._nccl.close()
