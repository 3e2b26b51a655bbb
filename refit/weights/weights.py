"""One rank's weights of one side in one arena: each shard a view, where the shard list puts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from refit.errors import UserError
from refit.layout.tensors import ITEMSIZE, Shard
from refit.plan.arena import ALIGNMENT
from refit.weights.slab import Slab, populate

TORCH_DTYPE = {name: getattr(torch, name) for name in ITEMSIZE}


@dataclass(frozen=True)
class Weights:
    """What one rank holds of one side.

    Attributes:
        arena: [bytes] of uint8; no shard lies outside it.
        shards: in arena order.
        tensors: tensor id -> view of the arena, in the shard's dtype and shape.
        chunks: megatron-core's GPTModels whose parameters and persistent buffers are these views,
            their `pg_collection` set: one, or of virtual stages one each; none for build=shards.
    """

    arena: torch.Tensor
    shards: tuple[Shard, ...]
    tensors: dict[int, torch.Tensor]
    chunks: tuple[Any, ...] = ()

    @staticmethod
    def allocate(
        shards: Sequence[Shard], slab: Slab | None = None, device: str | torch.device = "cpu"
    ) -> Weights:
        """An arena of the right size; its memory is not touched here.

        Args:
            shards: from `refit.plan.arena`, in their order there; may be empty.
            slab: CPU memory to take the arena from, which other processes may then map; None:
                private.
            device: of a private arena.
        """
        _, total, _ = offsets(shards)
        if slab is None or not total:
            return Weights.view(shards, torch.empty(total, dtype=torch.uint8, device=device))
        start = slab.take(total)
        return Weights.view(shards, attach(slab, start + total)[start:])

    @property
    def own_shards(self) -> list[Shard]:
        """Those that are not another one's storage under a second name."""
        return [shard for shard in self.shards if shard.same_as is None]

    @property
    def spare(self) -> list[torch.Tensor]:
        """The bytes of slots that no shard is in: padding."""
        return [self.arena[slot.start : slot.stop] for slot in offsets(self.shards)[2]]

    @property
    def padding_is_checked(self) -> bool:
        """Padding is zero and no refit may write there; else anything may be there."""
        return all(shard.padding_is_checked for shard in self.shards)

    def populate(self) -> None:
        """Map every page now, which is faster than by a fault each. Where it fails, they fault."""
        if self.arena.device.type == "cpu" and self.arena.numel():
            populate(self.arena.data_ptr(), self.arena.numel())

    @staticmethod
    def view(shards: Sequence[Shard], arena: torch.Tensor) -> Weights:
        """The same views over an arena that exists: the way a peer sees another rank's weights.

        Raises:
            UserError: the arena is not the one that these shards need.
        """
        starts, total, _ = offsets(shards)
        if arena.dtype != torch.uint8 or arena.numel() != total:
            raise UserError(
                f"an arena of {arena.numel()} x {arena.dtype} for shards that need {total} bytes"
            )
        tensors: dict[int, torch.Tensor] = {}
        for start, shard in zip(starts, shards, strict=True):
            bits = arena[start : start + shard.nbytes]
            tensors[shard.tensor] = (
                bits.view(TORCH_DTYPE[shard.dtype]).view(shard.shape)
                if shard.same_as is None
                else tensors[shard.same_as]
            )
        return Weights(arena, tuple(shards), tensors)


def device_of(*sides: Weights | None) -> torch.device:
    """The device that a rank's weights are on; the CPU where it holds none."""
    return next((w.arena.device for w in sides if w is not None), torch.device("cpu"))


def attach(slab: Slab, nbytes: int) -> torch.Tensor:
    """The first bytes of a slab, as a tensor of uint8 that other processes can map."""
    # torch keeps a duplicate of the descriptor; its type stubs do not know the method
    new = torch.UntypedStorage._new_shared_fd_cpu  # type: ignore[attr-defined]
    return torch.empty(0, dtype=torch.uint8).set_(new(slab.descriptor, nbytes))


def offsets(shards: Sequence[Shard]) -> tuple[list[int], int, list[range]]:
    """Where shards lie in the arena, in bytes; in list order, those of one storage together.

    Returns:
        Each shard's start, the arena's size, and the slots of no shard.
    """
    starts, end = [], 0
    storages: dict[str, tuple[int, Shard, set[int]]] = {}
    for shard in shards:
        start, nbytes = end, shard.nbytes
        if shard.slot is not None:
            start, _, taken = storages.setdefault(shard.slot.storage, (end, shard, set()))
            taken.add(shard.slot.number)
            start += shard.slot.number * nbytes
            nbytes = shard.slot.count * nbytes if len(taken) == 1 else 0
        starts.append(start)
        end += -(-nbytes // ALIGNMENT) * ALIGNMENT
    spare = [
        range(start + slot * shard.nbytes, start + (slot + 1) * shard.nbytes)
        for start, shard, taken in storages.values()
        for slot in range(shard.slot.count if shard.slot else 0)
        if slot not in taken
    ]
    return starts, end, spare
