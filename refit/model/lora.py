"""The adapters of LoRA alone, as a model of its own: what a trainer of adapters sends. No torch.

Of a linear layer W [out, in] there are A [rank, in] and B [out, rank], and what is added to the
output is B A x (arXiv:2106.09685, section 4.1). They are cut as Megatron cuts W: B like W's rows
where these are cut, A like W's columns where those are; the other one every rank has whole. Names
are Megatron Bridge's: `<linear>.adapter.linear_in.weight` is A, `linear_out` is B.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from refit.layout.tensors import Family

_LINEAR = re.compile(r"(?P<path>.*\.(?P<linear>linear_\w+))\.weight(?P<expert>\{expert\})?")
TARGETS = ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2")


def adapters(families: Iterable[Family], lora: dict[str, Any]) -> Iterator[Family]:
    """A and B of every linear layer that is a target, those of experts too; nothing else.

    Args:
        lora: `rank`, and `targets`, some of `TARGETS`.
    """
    rank = int(lora["rank"])
    for family in families:
        linear = _LINEAR.fullmatch(family.name)
        if linear is None or linear["linear"] not in lora["targets"]:
            continue
        rows, columns = family.shape
        name = f"{linear['path']}.adapter.linear_{{}}.weight{linear['expert'] or ''}"
        in_name, out_name = (name.replace("{}", side) for side in ("in", "out"))
        cut_in, cut_out = family.axis == 1, family.axis == 0
        yield replace(
            family,
            name=in_name,
            shape=(rank, columns),
            axis=1 if cut_in else None,
            parts=(),
            fused=(),
        )
        yield replace(
            family,
            name=out_name,
            shape=(rows, rank),
            axis=0 if cut_out else None,
            parts=family.parts if cut_out else (),
        )
