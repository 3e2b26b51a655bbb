"""Two-sided messages over gloo: works on any CPU, and across nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

from refit.job import Refit
from refit.transport import collect
from refit.transport.collect import Decided, Item
from refit.transport.twosided import Parts, TwoSided


class GlooWire:
    """The default process group, which is gloo's."""

    in_place_bytes = 1 << 18  # over loopback
    at_once = 1

    def open(self, device: torch.device) -> None:
        assert device.type == "cpu", (
            "gloo moves host memory; refit.rules.methods refuses it on CUDA"
        )

    def agree(self, item: Item, decide: Callable[[list[Item]], Decided]) -> Decided:
        return collect.agree(item, decide)

    def post(self, sends: Parts, receives: Parts) -> Sequence[dist.Work]:
        works = [dist.irecv(part, peer) for peer, part in receives]
        works += [dist.isend(part, peer) for peer, part in sends]
        assert None not in works  # that is for ranks outside the group
        return [work for work in works if work]


class GlooTransport(TwoSided):
    """See `refit.transport.twosided.TwoSided`."""

    def __init__(self, refit: Refit) -> None:
        super().__init__(refit, GlooWire())
