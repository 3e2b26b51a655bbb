"""What differs between megatron-core's versions."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

VERSION = version("megatron-core")
RELEASE = tuple(int(x) for x in VERSION.split(".")[:2])


# -- its refit: entry points, what travels, caches, and what production's experts say of themselves

REFIT_TAKES_NONE = RELEASE >= (0, 17)
"""`swap_model_weights` takes None for an absent model and plans ahead; its services a group."""

REFITS_BUFFERS = RELEASE >= (0, 18)
"""Persistent buffers travel with the parameters; before, expert_bias stays behind."""

EXPERT_NAMES_SUFFICE = RELEASE >= (0, 17)
"""Its planner knows experts by `weight<N>` alone; 0.16 only those with `allreduce` False."""


REFIT_CACHES_PLANS = RELEASE >= (0, 17)
"""Plans are kept in the module, by ranks, degrees and number of experts: not by model."""

ROW_PARALLEL_EXPERTS_SAY_SO = RELEASE >= (0, 17)
"""TEGroupedLinear of linear_fc2 says that it is cut along dimension 1."""

REFIT_BACKENDS = ("nccl", "gloo", "nvshmem") + (("nixl",) if RELEASE >= (0, 19) else ())
"""Its copy services."""

FIRST_REPLICA_SENDS_ALL = RELEASE >= (0, 17)


def expert_attributes(layer: str, kind: str, tp: int, ep: int, etp: int) -> dict[str, Any]:
    """What TEGroupedLinear's weight<N> and bias<N> say of themselves; Megatron's refit plans by it.

    From `megatron.core.extensions.transformer_engine` of each version, with Transformer Engine up
    to 2.12, which marks every weight as parallel. The stride is 1 also of a gated fc1, whose gate
    and up are cut each on its own: Megatron's planner therefore mixes up its rows where ETP
    changes.

    Args:
        layer: `linear_fc1`, cut along its output, or `linear_fc2`, along its input.
        kind: `weight` or `bias`.
        tp, ep, etp: degrees of the side.
    """
    column = layer == "linear_fc1"
    # experts whose communication is Megatron's own are not parallel to the engine, which then cuts
    # along dimension 0; from 0.17 Megatron repairs that, from 0.19 it marks all by itself
    hidden = ep > 1 or etp > 1
    cut = kind == "weight" or (column and (RELEASE >= (0, 19) or not hidden))
    marks: dict[str, Any] = {"allreduce": not (ep > 1 or (RELEASE >= (0, 19) and etp != tp))}
    if cut:
        along = 0 if column or (RELEASE < (0, 17) and hidden) else 1
        marks |= {"tensor_model_parallel": True, "partition_dim": along, "partition_stride": 1}
    return marks


def clear_refit_caches() -> None:
    """Forget services and plans: no key of the plan cache names a model."""
    from megatron.core.resharding import refit

    getattr(refit, "clear_all_caches", refit.clear_service_cache)()
