"""What differs between megatron-core's versions, and which of them are known. Needs no torch.

No other file compares versions. Whoever uses an answer imports megatron itself; tests ask here too.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

SUPPORTED = ">=0.16.1,<0.20"
"""As pyproject.toml has it; tried were 0.16.1, 0.17.1, 0.18.2 and 0.19.2."""
_FIRST, _BEYOND = (0, 16, 1), (0, 20, 0)


def numbers(text: str) -> tuple[int, int, int]:
    """The three numbers of a version: (0, 19, 2) of 0.19.2, of its candidates and builds too."""
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    assert match is not None, text  # megatron-core never named one otherwise
    return int(match[1]), int(match[2]), int(match[3] or 0)


def installed() -> str | None:
    """The version of the megatron-core that would be imported, or None."""
    return _version_of("megatron-core")


def _version_of(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


VERSION = installed() or "none"
RELEASE = (0, 19) if VERSION == "none" else numbers(VERSION)[:2]
"""Where there is none, rules go by the newest that is known."""


@cache
def unusable() -> str | None:
    """Why no model can be built with the megatron-core that is here, or None."""
    here = installed()
    if here is None:
        return (
            "build=megatron needs megatron-core; install it, or use build=shards: the same tensors,"
            " plainly allocated"
        )
    if not _FIRST <= numbers(here) < _BEYOND:
        return (
            f"megatron-core {here} is installed, and this works with {SUPPORTED};"
            f" pip install 'megatron-core{SUPPORTED}', or use build=shards"
        )
    missing = [name for name in _imports(numbers(here)[:2]) if not _findable(name)]
    if missing:
        return (
            f"megatron-core {here} imports {' and '.join(missing)}, which it does not declare and"
            f" which {'is' if len(missing) == 1 else 'are'} not installed;"
            f" pip install {' '.join(missing)}, or use build=shards"
        )
    return None


def _imports(release: tuple[int, int]) -> list[str]:
    """What megatron-core imports besides what it requires; torch's CUDA builds bring triton."""
    return ["einops", *(["triton"] if release >= (0, 18) else [])]


def _findable(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _holds(package: str, *path: str) -> bool:
    """Whether a package has a file or folder; nothing is imported, not the package either."""
    spec = importlib.util.find_spec(package)
    folders = (spec and spec.submodule_search_locations) or ()
    return any(Path(folder, *path).exists() for folder in folders)


# -- its config and its models

OVERLAP_DISPATCHERS = ("alltoall", "flex") if RELEASE >= (0, 18) else ("alltoall",)
"""The token dispatchers that compute the shared expert while tokens travel."""

NORMS_DIRECT_QUERIES = RELEASE >= (0, 19)
"""MLA without q_lora_rank has a norm of its queries, fused into linear_q_proj by the engine.

Without the engine there is nothing to fuse it into, and the model is refused.
"""

MISTAKES_ITS_ENGINE = RELEASE < (0, 19)
"""Names that exist only with Transformer Engine are asked for without it."""

HAS_TRAINING = RELEASE >= (0, 17)
"""The wheel holds `megatron.training`, Megatron's own arguments with it."""


# -- its refit: entry points, what travels, caches, and what production's experts say of themselves

PLANS_EVERYWHERE = RELEASE >= (0, 19)
"""Every rank plans for itself from one gather; before, rank 0 plans for all and tells them."""

PLANS_WITHOUT_RANKS = RELEASE >= (0, 19)
"""`planner.build_plan_from_rosters` makes any rank's plan of what all ranks say of their models."""

PLANNER = "build_local_reshard_plan" if PLANS_EVERYWHERE else "build_centralized_reshard_plan"
"""What in `resharding.planner` makes a rank's plan."""

PLANNER_OF_TP = "_plan_tp" if RELEASE >= (0, 18) else "_plan_multi_dim_lcm"
"""What there plans one tensor that is cut over TP."""

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

KERNELS = "megatron/core/resharding/nvshmem_copy_service/kernels/chunked_kernel.cu"
"""What its nvshmem service compiles when it starts; no wheel of a version that is tried has it."""

NEEDS_OLD_CUDA_CORE = RELEASE < (0, 17)
"""Its nvshmem service imports cuda.core.experimental, which cuda-core 1.0 has dropped."""

GUARDS_NVSHMEM = RELEASE >= (0, 18)
"""Its nvshmem service takes NVSHMEM_MAX_CTAS=2 alone, and no nvidia-nvshmem-cu12 before 3.6.5."""
_FIRST_NVSHMEM = (3, 6, 5)

LOCAL_COPIES_RACE = True
"""Its NCCL service copies what stays on a rank on a stream that does not wait for the current one.

There its executor has just made contiguous what is to be sent, and the caller may have written.
"""

FIRST_REPLICA_SENDS_ALL = RELEASE >= (0, 17)
"""The first of equal replicas sends everything; before, only what TP cuts."""


def expert_attributes(layer: str, leaf: str, tp: int, ep: int, etp: int) -> dict[str, Any]:
    """What TEGroupedLinear's weight<N> and bias<N> say of themselves; Megatron's refit plans by it.

    From `megatron.core.extensions.transformer_engine` of each version, with Transformer Engine up
    to 2.12, which marks every weight as parallel. The stride is 1 also of a gated fc1, whose gate
    and up are cut each on its own: Megatron's planner therefore mixes up its rows where ETP
    changes.

    Args:
        layer: `linear_fc1`, cut along its output, or `linear_fc2`, along its input.
        leaf: `weight` or `bias`.
        tp, ep, etp: degrees of the side.
    """
    column = layer == "linear_fc1"
    # experts whose communication is Megatron's own are not parallel to the engine, which then cuts
    # along dimension 0; from 0.17 Megatron repairs that, from 0.19 it marks all by itself
    hidden = ep > 1 or etp > 1
    cut = leaf == "weight" or (column and (RELEASE >= (0, 19) or not hidden))
    marks: dict[str, Any] = {"allreduce": not (ep > 1 or (RELEASE >= (0, 19) and etp != tp))}
    if cut:
        along = 0 if column or (RELEASE < (0, 17) and hidden) else 1
        marks |= {"tensor_model_parallel": True, "partition_dim": along, "partition_stride": 1}
    return marks


def no_backend(backend: str) -> str | None:
    """Why megatron-core has no copy service of that name, or None."""
    if backend in REFIT_BACKENDS:
        return None
    return (
        f"megatron-core {VERSION} has no {backend}; it has {', '.join(REFIT_BACKENDS)}; use one of"
        " these, or megatron-core 0.19, which pip gives to Python 3.12 and later"
    )


def has_kernels() -> bool:
    """Whether the megatron-core that is here has its nvshmem service's kernels."""
    return _holds(*Path(KERNELS).parts)


def nvshmem_lacks(variables: Mapping[str, object]) -> list[str]:
    """What megatron-core's nvshmem service lacks to start on GPUs here, each with what to do.

    Args:
        variables: the environment of the ranks.
    """
    lacks = []
    if not has_kernels():
        lacks.append(
            f"its wheel lacks the kernels' source, {KERNELS}: put Megatron-LM's of that release"
            " there"
        )
    for module, packages in (
        ("nvshmem", "nvshmem4py-cu13 or -cu12"), ("cupy", "cupy-cuda13x or -cuda12x"),
    ):  # fmt: skip
        if not _findable(module):
            lacks.append(f"{module} is not installed: pip install {packages}")
    if NEEDS_OLD_CUDA_CORE and not _holds("cuda", "core", "experimental"):
        lacks.append(
            "it imports cuda.core.experimental, which cuda-core 1.0 has dropped: install"
            " megatron-core 0.17 or later"
        )
    if GUARDS_NVSHMEM and str(variables.get("NVSHMEM_MAX_CTAS")) != "2":
        lacks.append("it starts with NVSHMEM_MAX_CTAS=2 alone: cluster.env={NVSHMEM_MAX_CTAS: 2}")
    library = _version_of("nvidia-nvshmem-cu12")
    may_be_old = str(variables.get("MEGATRON_NVSHMEM_ALLOW_UNSUPPORTED_VERSION")) == "1"
    if GUARDS_NVSHMEM and library and numbers(library) < _FIRST_NVSHMEM and not may_be_old:
        lacks.append(
            f"nvidia-nvshmem-cu12 {library} is older than it takes: pip install"
            " 'nvidia-nvshmem-cu12>=3.6.5'"
        )
    return lacks


def clear_refit_caches(refit: ModuleType) -> None:
    """Forget services and plans: no key of the plan cache names a model.

    Args:
        refit: `megatron.core.resharding.refit`.
    """
    getattr(refit, "clear_all_caches", refit.clear_service_cache)()
