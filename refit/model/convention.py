"""How a build names its weights and differs from production. Pure: needs no torch."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass, replace
from functools import cache

from refit.errors import UserError
from refit.job import Job
from refit.model import megatron_versions
from refit.model.architecture import LOCAL_SPEC, PRODUCTION, Convention

# Transformer Engine fuses a norm into the linear layer that it feeds.
_FUSED_NORM = {
    "self_attention.linear_qkv": "input_layernorm",
    "self_attention.linear_q_up_proj": "self_attention.q_layernorm",
    "self_attention.linear_kv_up_proj": "self_attention.kv_layernorm",
    "mlp.linear_fc1": "pre_mlp_layernorm",
}


@cache  # every weight of a rank's model asks, and looking through sys.path takes 0.3 ms
def has_transformer_engine() -> bool:
    """Whether megatron-core will find Transformer Engine; looks, does not import."""
    return importlib.util.find_spec("transformer_engine") is not None


@dataclass(frozen=True)
class Build:
    """How a job's weights are made, as the record has it.

    Attributes:
        megatron_core: its version; null where no model is built.
        transformer_engine: whether megatron-core finds it; null where no model is built.
        dispatcher: of tokens, by the class that a rank's model has; null without such a model.
        differs: what production does otherwise, as far as it concerns the job.
    """

    build: str
    differs: list[str]
    megatron_core: str | None = None
    transformer_engine: bool | None = None
    dispatcher: str | None = None

    @property
    def convention(self) -> Convention:
        """Which tensors it has; production's where no model is built."""
        if self.transformer_engine is False:
            return LOCAL_SPEC
        return replace(PRODUCTION, direct_query_norm=megatron_versions.NORMS_DIRECT_QUERIES)


def build_of(job: Job) -> Build:
    """Which convention the job's build follows, and what the record says of it.

    Raises:
        UserError: an unknown build, or a megatron-core that cannot be used: none, say.
    """
    if job.build == "shards" or job.mode == "plan":  # nothing is built here: production's tensors
        return Build(job.build, differs=[])
    if job.build != "megatron":
        raise UserError(f"build '{job.build}' is not megatron or shards")
    if reason := megatron_versions.unusable():
        raise UserError(reason)
    engine = has_transformer_engine()
    return Build("megatron", _differences(job, engine), megatron_versions.VERSION, engine)


def is_sequential(job: Job, engine: bool) -> bool:
    """Whether experts are built as SequentialMLP, one module each, and not as TEGroupedMLP."""
    return job.model.is_moe and not (engine and job.model.moe_grouped_gemm)


def _differences(job: Job, engine: bool) -> list[str]:
    """What production does otherwise, in words, as far as it concerns the job."""
    model, differences = job.model, []
    if not engine:
        differences.append("norms are float32, production's are bfloat16")
        if model.multi_latent_attention:
            differences.append("MLA's down-projections are cut over TP, production replicates them")
            direct = model.q_lora_rank is None and model.qk_layernorm
            if direct and megatron_versions.NORMS_DIRECT_QUERIES:
                differences.append(
                    "queries without q_lora_rank have no norm, production's have"
                    " linear_q_proj.layer_norm_weight from megatron-core 0.19"
                )
        if model.is_moe and model.moe_grouped_gemm:
            differences.append(
                "moe_grouped_gemm was asked, experts are built as SequentialMLP; same tensors"
            )
    if job.refit.method == "megatron" and is_sequential(job, engine):
        differences.append(
            "megatron-core's refit is given experts under production's names and attributes"
            " (linear_fc1.weight<N>, as TEGroupedMLP has them); same storage"
            if job.refit.peer_names == "production"
            else "megatron-core's refit is given experts as SequentialMLP names them, production's"
            " are TEGroupedMLP's linear_fc1.weight<N>"
        )
    for name, side in job.parallel.sides.items():
        if side.sequence_parallel and not engine:
            differences.append(
                f"the {name}'s sequence parallelism is left out, which the torch norm refuses; it"
                " cuts activations, no weights"
            )
        if side.kind in ("fsdp", "engine"):
            differences.append(f"the {name}'s parameters are plain shards, without a model")
    if any(side.cp > 1 for side in job.parallel.sides.values()):
        differences.append("context-parallel ranks are built as replicas; same tensors")
    return differences


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
    in_layer = re.fullmatch(
        r"(decoder\.layers|mtp\.layers)\.(\d+)\.(transformer_layer\.|mtp_model_layer\.)?(.+)", name
    )
    if not in_layer:
        return name
    where, number, inner, rest = in_layer.groups()
    if expert := re.fullmatch(
        r"mlp\.experts\.local_experts\.(\d+)\.(linear_fc[12]\.(?:weight|bias))", rest
    ):
        rest = f"mlp.experts.{expert[2]}{first_expert + int(expert[1])}"  # SequentialMLP
    elif expert := re.fullmatch(r"(mlp\.experts\.linear_fc[12]\.(?:weight|bias))(\d+)", rest):
        rest = f"{expert[1]}{first_expert + int(expert[2])}"  # TEGroupedMLP
    elif (norm := re.fullmatch(r"(.+)\.layer_norm_(weight|bias)", rest)) and norm[1] in _FUSED_NORM:
        rest = f"{_FUSED_NORM[norm[1]]}.{norm[2]}"
    if where == "decoder.layers":
        return f"{where}.{first_layer + int(number)}.{rest}"
    return f"{where}.{number}.{'transformer_layer.' if inner else ''}{rest}"
