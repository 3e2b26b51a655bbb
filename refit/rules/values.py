"""Values that no job can have: words outside a vocabulary, counts below one. Checked first."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from difflib import get_close_matches
from operator import attrgetter
from typing import Any

from refit.job import Job
from refit.model.lora import TARGETS
from refit.other_names import WORDS
from refit.rules import bounds, names
from refit.rules.methods import METHODS

JobRule = Callable[[Job], str | None]

CHOICES: dict[str, tuple[str | None, ...]] = {
    "mode": ("measure", "plan"),
    "build": ("megatron", "shards"),
    "verify": ("bits", "logits"),
    "cluster.launcher": ("local", "slurm"),
    "cluster.device": ("auto", "cpu", "cuda"),
    "sweep.mode": ("retry", "cached", "force", "read-only"),
    "cluster.hardware.device": ("cuda", "cpu"),
    "refit.mode": ("auto", "collocated", "non-collocated"),
    "refit.fanout": ("direct", "hierarchical"),
    "refit.cast_at": ("auto", "source", "destination"),
    # megatron-core's copy services; which of them it has depends on its version
    "refit.backend": ("auto", "gloo", "nccl", "nvshmem", "nixl"),
    "refit.peer_names": ("production", "installed"),
    "parallel.mode": ("collocated", "non-collocated"),
    "model.normalization": ("LayerNorm", "RMSNorm"),
    "model.activation_func": ("gelu", "silu", "quick_gelu", "squared_relu"),
    "model.experimental_attention_variant": (None, "gated_delta_net", "dsa"),
    "model.softmax_type": ("vanilla", "off-by-one", "learnable"),
    "model.position_embedding_type": ("learned_absolute", "rope", "yarn", "none"),
    "model.rope_type": ("yarn", "rope"),
    "model.moe_token_dispatcher_type": ("allgather", "alltoall", "flex"),
    "model.moe_flex_dispatcher_backend": ("deepep", "hybridep"),
    "model.moe_token_drop_policy": ("probs", "position"),
    "model.moe_router_score_function": ("softmax", "sigmoid"),
    "model.moe_router_dtype": (None, "fp32", "fp64"),
}
AUX_LOSSES = ("aux_loss", "seq_aux_loss", "global_aux_loss")
LOAD_BALANCING = (*AUX_LOSSES, "sinkhorn", "none")


def known_words(job: Job) -> str | None:
    """Every field with a vocabulary holds a word of it."""
    for name, allowed in CHOICES.items():
        value = attrgetter(name)(job)
        if value not in allowed:
            ours = WORDS.get((name, str(value)))
            hint = f"; {value} is {ours} here" if ours else _guess(value, allowed)
            return f"{name}={value} is not one of {_listed(allowed)}{hint}"
    return None


def method_known(job: Job) -> str | None:
    """The method is one of ours, or written as somebody's class, which is looked for later."""
    value = job.refit.method
    module, colon, name = value.partition(":")
    is_class = all(part.isidentifier() for part in module.split(".")) and name.isidentifier()
    if value == "auto" or value in METHODS or (colon and is_class):
        return None
    return (
        f"no refit method '{value}'; there are {_listed(('auto', *METHODS))}, and any importable"
        f" package.module:Class{_guess(value, ('auto', *METHODS))}"
    )


def mistake(job: Job) -> str | None:
    """The first reason that is of the command line and no property of a point, or None.

    A word or a number that no job can have, or a wrong setting of the sweep: nothing of the sweep
    is to run. A pair of layouts that does not fit, or a model that cannot be, is a point that is
    skipped.
    """
    return next((reason for rule in MISTAKES if (reason := rule(job))), None)


def rates_positive(job: Job) -> str | None:
    """What a cluster states of its hardware is a rate; no efficiency beats the link it is of."""
    hardware = job.cluster.hardware
    for name, value in asdict(hardware).items():
        where = f"cluster.hardware.{name}={value}"
        if name.endswith("_efficiency") and not 0 < value <= 1:
            return f"{where}: must be more than 0, and 1 at most"
        if name.endswith(("_gb", "_gbps")) and value is not None and not 0 < value < float("inf"):
            return f"{where}: must be more than 0, or null where it is unknown"
    if not 0 <= hardware.latency_us < float("inf"):
        return f"cluster.hardware.latency_us={hardware.latency_us}: must be 0 or more"
    return _wrong_fit(hardware.fitted)


FITTED = {"wire": 1.0, "latency_us": 0.0, "staging": 0.0, "fixed_us": 0.0}  # and their minima


def _wrong_fit(fitted: Any) -> str | None:
    where = "cluster.hardware.fitted"
    if fitted is None:
        return None
    if not isinstance(fitted, dict):
        return f"{where}={fitted!r} is not a mapping of methods"
    for method, terms in fitted.items():
        if not isinstance(terms, dict) or set(terms) - set(FITTED):
            return f"{where}.{method}={terms!r}: allowed: {', '.join(FITTED)}"
        for name, value in terms.items():
            if not isinstance(value, int | float) or not FITTED[name] <= value < float("inf"):
                return f"{where}.{method}.{name}={value}: must be {FITTED[name]:g} or more"
    return None


OF_RANKS = {
    "CUDA_VISIBLE_DEVICES": "empty on CPUs, and on GPUs cluster.device and its place choose",
    "OMP_NUM_THREADS": "a node's ranks share out its threads",
    "MKL_NUM_THREADS": "a node's ranks share out its threads",
    "GLIBC_TUNABLES": "read when a process begins, and ranks are forked: set it in the shell",
}
"""Environment variables that cluster.env cannot say: a rank sets them, or what they set."""


def env_is_a_mapping(job: Job) -> str | None:
    """Names and values, which are texts or numbers; none that a rank sets itself."""
    env = job.cluster.env
    if env is None:
        return None
    example = "write 'cluster.env={CUDA_DEVICE_MAX_CONNECTIONS: 1}'"
    if not isinstance(env, dict):
        return f"cluster.env={env!r} is not a mapping of environment variables; {example}"
    for name, value in env.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(name)):
            return f"cluster.env: {name!r} is no name of an environment variable; {example}"
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return (
                f"cluster.env.{name}={value!r} is not a text or a number; quote it, or leave it out"
            )
        if name in OF_RANKS:
            return (
                f"cluster.env.{name}={value}: a rank sets that itself ({OF_RANKS[name]}); leave"
                " it out"
            )
    return None


def exclude_is_a_list(job: Job) -> str | None:
    """Patterns stand in a list, also a single one."""
    value = job.sweep.exclude
    if value is None or (isinstance(value, list) and all(isinstance(v, str) for v in value)):
        return None
    return f"sweep.exclude={value} is not a list of patterns; write 'sweep.exclude=[*gloo*]'"


def patterns_are_lists(job: Job) -> str | None:
    """Patterns over tensors' names stand in a list, also a single one."""
    for name in ("include", "exclude"):
        value = getattr(job.refit, name)
        if value is None or (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            continue
        return (
            f"refit.{name}={value} is not a list of patterns; write"
            f" \"refit.{name}=['*.mlp.experts.*']\""
        )
    return None


def lora_valid(job: Job) -> str | None:
    """Adapters have a rank, and linear layers that they adapt; no GPTModel holds them."""
    lora = job.model.lora
    if lora is None:
        return None
    example = "model.lora={rank:32,targets:[linear_qkv,linear_proj]}"
    if not isinstance(lora, dict) or set(lora) != {"rank", "targets"}:
        return f"model.lora={lora} does not say rank and targets, as {example} does"
    rank, targets = lora["rank"], lora["targets"]
    if (
        not isinstance(rank, int)
        or isinstance(rank, bool)
        or not 1 <= rank <= job.model.hidden_size
    ):
        return (
            f"model.lora.rank={rank}: must be a whole number from 1 to model.hidden_size="
            f"{job.model.hidden_size}"
        )
    known = isinstance(targets, list) and targets and all(t in TARGETS for t in targets)
    if not known or len(set(targets)) < len(targets):
        return f"model.lora.targets={targets} is not a list of some of {', '.join(TARGETS)}"
    if job.model.multi_latent_attention and "linear_qkv" in targets:
        return "model.lora.targets: latent attention has no linear_qkv; leave it out"
    if job.build == "megatron" and job.mode == "measure":
        return (
            "build=megatron makes whole models, and model.lora is adapters alone; use build=shards"
        )
    return None


def windows_valid(job: Job) -> str | None:
    """A window is two sizes; what it skips is every Nth layer, or said layer by layer."""
    m = job.model
    size, skip = m.window_size, m.window_attn_skip_freq
    pair = isinstance(size, list) and len(size) == 2 and all(_whole(x, -1) for x in size)
    if size is not None and not pair:
        return (
            f"model.window_size={size} is not a list of two whole numbers of -1 (no end) or more,"
            " left and right; write [128,0], or null for full attention"
        )
    if skip is None:
        return None
    if size is None:
        return f"model.window_attn_skip_freq={skip} skips windows, and model.window_size is null"
    per_layer = isinstance(skip, list) and all(x in (0, 1) for x in skip)
    if per_layer and len(skip) != m.num_layers:
        return f"model.window_attn_skip_freq lists {len(skip)} layers, the model has {m.num_layers}"
    if not per_layer and not _whole(skip, 1):
        return (
            f"model.window_attn_skip_freq={skip} is not a positive whole number or a list of 0 and"
            " 1 (1: windowed)"
        )
    return None


def balancing_known(job: Job) -> str | None:
    """One name of the list, or a list of several auxiliary losses."""
    value = job.model.moe_router_load_balancing_type
    for name in value if isinstance(value, list) else [value]:
        if name not in LOAD_BALANCING:
            hint = _guess(str(name), LOAD_BALANCING)
            return (
                f"model.moe_router_load_balancing_type={name} is not one of"
                f" {_listed(LOAD_BALANCING)}{hint}"
            )
        if isinstance(value, list) and name == "sinkhorn":
            return (
                "model.moe_router_load_balancing_type: sinkhorn is no loss and cannot stand in a"
                f" list; a list combines {_listed(AUX_LOSSES)}"
            )
    return None


def coefficients_match(job: Job) -> str | None:
    """A list of load balancing types has as many coefficients; a single type has a single one."""
    types, coeffs = job.model.moe_router_load_balancing_type, job.model.moe_aux_loss_coeff
    for coeff in coeffs if isinstance(coeffs, list) else [coeffs]:
        if not isinstance(coeff, int | float):
            return f"model.moe_aux_loss_coeff={coeffs!r} is not a number or a list of numbers"
    if isinstance(types, list) and not (isinstance(coeffs, list) and len(coeffs) == len(types)):
        return (
            f"model.moe_aux_loss_coeff={coeffs} must be a list of {len(types)} numbers, one for"
            f" each of model.moe_router_load_balancing_type={types}"
        )
    if isinstance(coeffs, list) and not isinstance(types, list):
        return (
            f"model.moe_aux_loss_coeff={coeffs} is a list, so model.moe_router_load_balancing_type"
            f" must be a list of {len(coeffs)} names; it is {types}"
        )
    return None


MISTAKES: tuple[JobRule, ...] = (
    known_words,
    names.are_parts_of_a_path,
    method_known,
    bounds.sweep_counts_large_enough,
    exclude_is_a_list,
    patterns_are_lists,
    bounds.counts_within,
    bounds.sides_within,
    bounds.amounts_positive,
    rates_positive,
    bounds.numbers_are_finite,
    env_is_a_mapping,
    balancing_known,
)
"""Of one value, whatever the others are."""

VALUES: tuple[JobRule, ...] = (
    *MISTAKES,
    bounds.weights_countable,
    lora_valid,
    windows_valid,
    coefficients_match,
)


def _whole(value: object, minimum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def _listed(words: tuple[str | None, ...]) -> str:
    return ", ".join("null" if word is None else word for word in words)


def _guess(value: str, words: tuple[str | None, ...]) -> str:
    close = get_close_matches(str(value), [word for word in words if word])
    return f"; did you mean {close[0]}?" if close else ""
