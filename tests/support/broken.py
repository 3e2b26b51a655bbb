"""More transports that do one thing wrong: in bits, places, staleness, time, coverage, the source.

Named as those of `tests.support.faults` are: `refit.method=tests.support.faults:gloo_SkipsTimed`.
"""

from __future__ import annotations

import threading
import time
from typing import ClassVar

import torch
import torch.distributed as dist

from refit.weights.weights import Weights
from tests.support.faults import Fault

COLD, FIRST_TIMED, LAST_TIMED, CHANGED = 1, 2, 3, 4
"""Which refit of a job of two iterations is which, as `Fault.calls` counts them."""


def bits(destination: Weights, name: str, which: int = 0) -> torch.Tensor:
    """A tensor whose name has this in it, as integers: the first, or a later one."""
    found = [s for s in destination.shards if name in s.name]
    return destination.tensors[found[which].tensor].view(torch.int16)


def matrix(destination: Weights) -> torch.Tensor:
    """[rows, columns] of the first expert's fc1."""
    return bits(destination, "experts.linear_fc1")


def exchange(one: torch.Tensor, other: torch.Tensor) -> None:
    """Each in the other's place."""
    kept = one.clone()
    one.copy_(other)
    other.copy_(kept)


# ---- bits


class FlipsLowestBit(Fault):
    def spoil(self, destination: Weights) -> None:
        matrix(destination)[5, 7] ^= 1


class FlipsSign(Fault):
    def spoil(self, destination: Weights) -> None:
        matrix(destination)[-1, -1] ^= -0x8000


class FlipsOneByteOfNorm(Fault):
    def spoil(self, destination: Weights) -> None:
        bits(destination, "final_layernorm").view(torch.uint8)[3] ^= 0x10


class ZeroesElement(Fault):
    def spoil(self, destination: Weights) -> None:
        matrix(destination)[3, 3] = 0


class RoundsMantissa(Fault):
    """As a copy by way of FP8 would."""

    def spoil(self, destination: Weights) -> None:
        matrix(destination).bitwise_and_(-8)


class CanonicalNaNs(Fault):
    """As arithmetic on them would leave them."""

    def spoil(self, destination: Weights) -> None:
        found = matrix(destination)
        found[(found & 0x7FFF) > 0x7F80] = 0x7FC0


class SwapsBytes(Fault):
    """Big-endian."""

    def spoil(self, destination: Weights) -> None:
        data = matrix(destination).contiguous().view(torch.uint8).view(-1, 2)
        data.copy_(data.flip(1))


class NegativeZeroes(Fault):
    """Whatever is zero but for its sign."""

    def spoil(self, destination: Weights) -> None:
        found = bits(destination, "word_embeddings")
        found[(found & 0x7F00) == 0] &= 0x7FFF


# ---- places


class SwapsNeighbours(Fault):
    def spoil(self, destination: Weights) -> None:
        row = matrix(destination)[0]
        exchange(row[0:1], row[1:2])


class SwapsLayers(Fault):
    def spoil(self, destination: Weights) -> None:
        norms = [bits(destination, "input_layernorm", which) for which in (0, 1)]
        exchange(*norms)


class SwapsQueriesAndKeys(Fault):
    def spoil(self, destination: Weights) -> None:
        qkv = bits(destination, "linear_qkv.weight")
        exchange(qkv[0:16], qkv[16:32])


class RollsRows(Fault):
    def spoil(self, destination: Weights) -> None:
        found = matrix(destination)
        found.copy_(found.roll(1, 0))


class RollsColumns(Fault):
    def spoil(self, destination: Weights) -> None:
        found = matrix(destination)
        found.copy_(found.roll(1, 1))


class ReversesRows(Fault):
    def spoil(self, destination: Weights) -> None:
        found = matrix(destination)
        found.copy_(found.flip(0))


class Transposes(Fault):
    def spoil(self, destination: Weights) -> None:
        square = bits(destination, "linear_proj.weight")
        part = square[:16, :16]
        part.copy_(part.T.clone())


class OneElementLate(Fault):
    """Everything of a tensor one element further on."""

    def spoil(self, destination: Weights) -> None:
        flat = matrix(destination).flatten()
        flat.copy_(flat.roll(1))


class SwapsHalvesOfVocabulary(Fault):
    def spoil(self, destination: Weights) -> None:
        exchange(*bits(destination, "word_embeddings").chunk(2))


class FillsWithNeighbour(Fault):
    """One tensor delivered twice, in the place of another one too."""

    def spoil(self, destination: Weights) -> None:
        one, other = (bits(destination, "experts.linear_fc2", which) for which in (0, 1))
        other.copy_(one)


# ---- what is not written


class Leaves(Fault):
    """Leaves a part as it was before the refit."""

    def execute(self) -> dict[str, float]:
        part = None if self.destination is None else self._part(self.destination)
        before = None if part is None else part.clone()
        phases = super().execute()
        if part is not None and self._strikes():
            assert before is not None
            part.copy_(before)
        return phases

    def _strikes(self) -> bool:
        return True

    def _part(self, destination: Weights) -> torch.Tensor:
        return matrix(destination)

    def spoil(self, destination: Weights) -> None:
        pass


class LeavesTensorWhenWarm(Leaves):
    def _strikes(self) -> bool:
        return self.calls > COLD


class LeavesTensorInTimed(Leaves):
    def _strikes(self) -> bool:
        return self.calls in (FIRST_TIMED, LAST_TIMED)


class LeavesFirstRow(Leaves):
    def _part(self, destination: Weights) -> torch.Tensor:
        return matrix(destination)[:1]


class LeavesLastByte(Leaves):
    def _part(self, destination: Weights) -> torch.Tensor:
        return bits(destination, "output_layer").view(torch.uint8)[-1:, -1:]


class LeavesInnerElement(Leaves):
    """One that is no block's edge."""

    def _part(self, destination: Weights) -> torch.Tensor:
        return matrix(destination)[2:3, 2:3]


class LeavesNorms(Leaves):
    def _part(self, destination: Weights) -> torch.Tensor:
        return bits(destination, "pre_mlp_layernorm")


class LeavesBuffer(Leaves):
    def _part(self, destination: Weights) -> torch.Tensor:
        shard = next(s for s in destination.shards if "expert_bias" in s.name)
        return destination.tensors[shard.tensor]


class LeavesAll(Leaves):
    def _part(self, destination: Weights) -> torch.Tensor:
        return destination.arena


# ---- staleness, and time


class SkipsTimed(Fault):
    """Only the cold and the last refit move anything."""

    skipped: ClassVar[tuple[int, ...]] = (FIRST_TIMED, LAST_TIMED)
    nothing: dict[str, float]

    def execute(self) -> dict[str, float]:
        if self.calls + 1 in self.skipped:
            self.calls += 1
            return self.nothing
        phases = super().execute()
        self.nothing = dict.fromkeys(phases, 0.0)
        return phases

    def spoil(self, destination: Weights) -> None:
        pass


class SkipsLastTimed(SkipsTimed):
    skipped = (LAST_TIMED,)


class SkipsChanged(SkipsTimed):
    """Moves nothing when all weights are others."""

    skipped = (CHANGED,)


class MovesOnlyChanges(Fault):
    """Warm refits write none of the bytes that are the last refit's: all but the stamps, mostly."""

    delivered: torch.Tensor | None = None

    def execute(self) -> dict[str, float]:
        self.before = None if self.destination is None else self.destination.arena.clone()
        return super().execute()

    def spoil(self, destination: Weights) -> None:
        assert self.before is not None
        now = destination.arena.clone()
        if self.delivered is not None:
            same = now == self.delivered
            destination.arena[same] = self.before[same]
        self.delivered = now


class DeliversBefore(Fault):
    """What the source held one refit before."""

    def spoil(self, destination: Weights) -> None:
        arrived = destination.arena.clone()
        destination.arena.copy_(getattr(self, "before", arrived))
        self.before = arrived


class OnlyColdWrong(Fault):
    def spoil(self, destination: Weights) -> None:
        if self.calls == COLD:
            destination.arena.zero_()


class OnlyFirstTimedWrong(Fault):
    def spoil(self, destination: Weights) -> None:
        if self.calls == FIRST_TIMED:
            destination.arena.zero_()


class OnlyLastTimedWrong(Fault):
    def spoil(self, destination: Weights) -> None:
        if self.calls == LAST_TIMED:
            destination.arena.zero_()


class LateTail(Fault):
    """Returns before the last tensor is written; a thread writes it 1 ms later."""

    def execute(self) -> dict[str, float]:
        if self.destination is None:
            return super().execute()
        last = bits(self.destination, "output_layer")
        before = last.clone()
        phases = super().execute()
        arrived = last.clone()
        last.copy_(before)

        def late() -> None:
            time.sleep(0.001)
            last.copy_(arrived)

        threading.Thread(target=late).start()
        return phases

    def spoil(self, destination: Weights) -> None:
        pass


# ---- what is looked at


class NothingToCheck(Fault):
    """What is looked at is what it leaves in the list of shards: nothing."""

    def spoil(self, destination: Weights) -> None:
        object.__setattr__(destination, "shards", ())


class HidesTensor(Fault):
    """One tensor less in the list, and zero."""

    def spoil(self, destination: Weights) -> None:
        for shard in destination.shards:
            if "linear_proj" in shard.name:
                destination.tensors[shard.tensor].zero_()
        left = tuple(s for s in destination.shards if "linear_proj" not in s.name)
        object.__setattr__(destination, "shards", left)


class OneRankUnchecked(Fault):
    """Its last rank is neither written nor looked at."""

    def spoil(self, destination: Weights) -> None:
        if self.rank == max(rank for side in self.copies.receiving for rank in side.ranks):
            destination.arena.zero_()
            object.__setattr__(destination, "shards", ())


# ---- the source


class ChangesSource(Fault):
    """Changes the trainer's weights, once everybody has read them, after every refit."""

    def execute(self) -> dict[str, float]:
        phases = super().execute()
        dist.barrier()
        if self.source is not None and self.rank == 0 and self._strikes():
            self._strike(self.source.arena)
        return phases

    def spoil(self, destination: Weights) -> None:
        pass

    def _strikes(self) -> bool:
        return True

    def _strike(self, arena: torch.Tensor) -> None:
        arena[1] ^= 1


class ScribblesInTimed(ChangesSource):
    """What it changes is what the next refit writes over, were it not seen before."""

    def _strikes(self) -> bool:
        return self.calls == LAST_TIMED


class ScribblesInCold(ChangesSource):
    def _strikes(self) -> bool:
        return self.calls == COLD


class ZeroesSourceAfterTimed(ChangesSource):
    """After the last timed refit, before other weights are filled in."""

    def _strikes(self) -> bool:
        return self.calls == LAST_TIMED

    def _strike(self, arena: torch.Tensor) -> None:
        arena.zero_()


BITS = (
    FlipsLowestBit, FlipsSign, FlipsOneByteOfNorm, ZeroesElement, RoundsMantissa, CanonicalNaNs,
    SwapsBytes, NegativeZeroes,
)  # fmt: skip
PLACES = (
    SwapsNeighbours, SwapsLayers, SwapsQueriesAndKeys, RollsRows, RollsColumns, ReversesRows,
    Transposes, OneElementLate, SwapsHalvesOfVocabulary, FillsWithNeighbour,
)  # fmt: skip
NOT_WRITTEN = (
    Leaves, LeavesTensorWhenWarm, LeavesTensorInTimed, LeavesFirstRow, LeavesLastByte,
    LeavesInnerElement, LeavesNorms, LeavesBuffer, LeavesAll,
)  # fmt: skip
TIME = (
    SkipsTimed, SkipsLastTimed, SkipsChanged, MovesOnlyChanges, DeliversBefore, OnlyColdWrong,
    OnlyFirstTimedWrong, OnlyLastTimedWrong, LateTail, OneRankUnchecked,
)  # fmt: skip
COVERAGE = (NothingToCheck, HidesTensor)
SOURCE = (ChangesSource, ScribblesInCold, ScribblesInTimed, ZeroesSourceAfterTimed)
