"""How a build names its weights and differs from production. Pure: needs no torch."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass

from refit.job import Job, UserError
from refit.model.architecture import LOCAL_SPEC, PRODUCTION, Convention

# Transformer Engine fuses a norm into the linear layer that it feeds.
_FUSED_NORM = {
    "self_attention.linear_qkv": "input_layernorm",
    "self_attention.linear_q_proj": "input_layernorm",
    "self_attention.linear_q_up_proj": "self_attention.q_layernorm",
    "self_attention.linear_kv_up_proj": "self_attention.kv_layernorm",
    "mlp.linear_fc1": "pre_mlp_layernorm",
}


def has_transformer_engine() -> bool:
    """Whether megatron-core will find Transformer Engine; looks, does not import."""
    return importlib.util.find_spec("transformer_engine") is not None


@dataclass(frozen=True)
class Build:
    """How a job's weights are made, as the record has it.

    Attributes:
        megatron_core: its version; null where no model is built.
        transformer_engine: whether megatron-core finds it; null where no model is built.
        differs: what production does otherwise, as far as it concerns the job.
    """

    build: str
    differs: list[str]
    megatron_core: str | None = None
    transformer_engine: bool | None = None

    @property
    def convention(self) -> Convention:
        """Which tensors it has; production's where no model is built."""
        return LOCAL_SPEC if self.transformer_engine is False else PRODUCTION


def build_of(job: Job) -> Build:
    """Which convention the job's build follows, and what the record says of it.

    Raises:
        UserError: an unknown build, or megatron-core is not installed.
    """
    if job.build == "shards" or job.mode == "plan":  # nothing is built here: production's tensors
        return Build(job.build, differs=[])
    if job.build != "megatron":
        raise UserError(f"build '{job.build}' is not megatron or shards")
    try:
        version = importlib.metadata.version("megatron-core")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            "build=megatron needs megatron-core; install it, or use build=shards: the same tensors,"
            " plainly allocated"
        ) from None
    engine = has_transformer_engine()
    return Build("megatron", _differences(job, engine), version, engine)


def _differences(job: Job, engine: bool) -> list[str]:
    model, found = job.model, []
    if not engine:
        found.append("norms are float32, production's are bfloat16")
        if model.multi_latent_attention:
            found.append("MLA's down-projections are cut over TP, production replicates them")
        if model.is_moe and model.moe_grouped_gemm:
            found.append(
                "moe_grouped_gemm was asked, experts are built as SequentialMLP; same tensors"
            )
    if model.is_moe and model.moe_token_dispatcher_type != "allgather":
        found.append(
            f"without CUDA the {model.moe_token_dispatcher_type} token dispatcher is built as"
            " allgather; it has no weights"
        )
    if max(job.parallel.source.cp, job.parallel.destination.cp) > 1:
        found.append("context-parallel ranks are built as replicas; same tensors")
    return found


def logical_name(name: str, first_layer: int = 0, first_expert: int = 0, tied: bool = False) -> str:
    """The name in `refit.layout.tensors` of a parameter or buffer of a GPTModel on one rank.

    Args:
        name: as in `named_parameters()`, with local layer and expert numbers.
        first_layer: global number of the rank's first layer.
        first_expert: global number of the rank's first expert.
        tied: input and output embeddings are one tensor, of which the last stage keeps a copy.
    """
    if tied and name == "output_layer.weight":
        return "embedding.word_embeddings.weight"
    found = re.fullmatch(r"decoder\.layers\.(\d+)\.(.+)", name)
    if not found:
        return name
    rest = found[2]
    if expert := re.fullmatch(
        r"mlp\.experts\.local_experts\.(\d+)\.(linear_fc[12]\.(?:weight|bias))", rest
    ):
        rest = f"mlp.experts.{expert[2]}{first_expert + int(expert[1])}"  # SequentialMLP
    elif expert := re.fullmatch(r"(mlp\.experts\.linear_fc[12]\.(?:weight|bias))(\d+)", rest):
        rest = f"{expert[1]}{first_expert + int(expert[2])}"  # TEGroupedMLP
    elif (norm := re.fullmatch(r"(.+)\.layer_norm_(weight|bias)", rest)) and norm[1] in _FUSED_NORM:
        rest = f"{_FUSED_NORM[norm[1]]}.{norm[2]}"
    return f"decoder.layers.{first_layer + int(found[1])}.{rest}"
