"""Real megatron-core GPTModels for one side on one rank, with its groups; also without CUDA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import fields
from typing import Any

import torch
from torch.nn.functional import gelu, silu

from refit.errors import UserError
from refit.job import Job
from refit.layout.layout import Layout, Placement
from refit.model import megatron_versions
from refit.model.convention import has_transformer_engine
from refit.model.moe_layers import moe_layers
from refit.weights.groups import make_groups
from refit.weights.megatron_import import quiet, uncompiled
from refit.weights.weights import TORCH_DTYPE

with quiet(), uncompiled():
    from megatron.core import parallel_state
    from megatron.core.activations import quick_gelu, squared_relu
    from megatron.core.extensions import transformer_engine
    from megatron.core.extensions.transformer_engine import HAVE_TE
    from megatron.core.fusions import fused_softmax
    from megatron.core.models.gpt.gpt_layer_specs import (
        get_gpt_decoder_block_spec,
        get_gpt_mtp_block_spec,
    )
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.tensor_parallel import layers
    from megatron.core.tensor_parallel.random import CudaRNGStatesTracker
    from megatron.core.transformer import multi_latent_attention
    from megatron.core.transformer.dot_product_attention import DotProductAttention
    from megatron.core.transformer.moe import experts, moe_utils
    from megatron.core.transformer.multi_latent_attention import MLASelfAttention
    from megatron.core.transformer.transformer_config import MLATransformerConfig, TransformerConfig
    from megatron.core.utils import GlobalMemoryBuffer


ACTIVATIONS = {
    "gelu": gelu,
    "silu": silu,
    "quick_gelu": quick_gelu,
    "squared_relu": squared_relu,
}


class LatentDotProductAttention(DotProductAttention):
    """The plain attention, for MLA, whose value heads have another size than query heads."""

    def __init__(
        self, *args: Any, k_channels: int | None = None, v_channels: int | None = None, **kw: Any
    ) -> None:
        super().__init__(*args, **kw)
        # not from v_channels: Megatron makes a first one without it, and then another over that
        heads = self.num_attention_heads_per_partition
        self.hidden_size_per_partition = self.config.v_head_dim * heads


def _outside_window(queries: int, keys: int, window: tuple[int, int]) -> torch.Tensor:
    """[queries, keys], true where a key is hidden: outside [left, right] of its query."""
    seen = torch.ones(queries, keys, dtype=torch.bool)
    return ~seen.triu(keys - queries - window[0]).tril(keys - queries + window[1])


def _as_the_spec_says(_: MLASelfAttention, submodules: Any) -> dict[str, Any]:
    """The norms and projections that MLA's layer spec names: before 0.19 nothing chose others."""
    names = (
        "linear_q_proj",
        "linear_q_up_proj",
        "linear_kv_up_proj",
        "q_layernorm",
        "kv_layernorm",
    )
    return {name: getattr(submodules, name) for name in names}


@contextmanager
def megatron_runs(groups: ProcessGroupCollection, virtual: int | None = None) -> Iterator[None]:
    """Inside, a GPTModel of these groups builds and runs, CUDA and Transformer Engine or not.

    Args:
        virtual: stages of each pipeline rank; None: no virtual stages.
    """
    with ExitStack() as stack:

        def replace(owner: Any, name: str, value: Any) -> None:
            if hasattr(owner, name):
                stack.callback(setattr, owner, name, getattr(owner, name))
            else:
                stack.callback(delattr, owner, name)
            setattr(owner, name, value)

        stack.enter_context(quiet())
        # MLA's linear_q_proj and its gather after the down-projections ask for the global TP group,
        # whatever pg_collection says, and a pipeline_model_parallel_layout for the rank in the
        # global PP group and for the virtual stages; with DP's parallel_state is "initialized"
        replace(parallel_state, "_TENSOR_MODEL_PARALLEL_GROUP", groups.tp)
        replace(parallel_state, "_PIPELINE_MODEL_PARALLEL_GROUP", groups.pp)
        replace(parallel_state, "_DATA_PARALLEL_GROUP", groups.dp)
        replace(parallel_state, "_VIRTUAL_PIPELINE_MODEL_PARALLEL_WORLD_SIZE", virtual)
        # the layers of multi-token prediction ask for all groups, and are given no pg_collection
        replace(ProcessGroupCollection, "use_mpu_process_groups", lambda *_, **__: groups)
        # attention and the expert gather take their scratch memory from here
        replace(parallel_state, "_GLOBAL_MEMORY_BUFFER", GlobalMemoryBuffer())
        # attention dropout forks a random state that only training seeds; in eval it drops nothing
        replace(CudaRNGStatesTracker, "fork", lambda *_, **__: nullcontext())
        if not has_transformer_engine():
            if megatron_versions.MISTAKES_ITS_ENGINE:
                # the router asks whether this is None, and without the engine it is not even that
                replace(moe_utils, "te_general_gemm", None)
                # true even without it, and then isinstance(..., TELinear) fails: that is no class
                replace(multi_latent_attention, "HAVE_TE", False)
            if megatron_versions.NORMS_DIRECT_QUERIES:
                replace(MLASelfAttention, "_resolve_qk_norm_config", _as_the_spec_says)
        if not torch.cuda.is_available():
            # the device of every buffer that Megatron makes
            replace(torch.cuda, "current_device", lambda: "cpu")
            # Megatron's own names the device cuda outright
            replace(fused_softmax, "get_sliding_window_causal_mask", _outside_window)
        # sets the attributes that Megatron's refit plans by, and then a whole weight's values; two
        # other modules have imported it by name, of which one no longer does from 0.17 on
        for user in (layers, transformer_engine, experts):
            if hasattr(user, "_initialize_affine_weight_cpu"):
                replace(user, "_initialize_affine_weight_cpu", _set_attributes)
        yield


def gpt_models(
    job: Job,
    placement: Placement,
    side: str,
    rank: int,
    dtype: torch.dtype | None = None,
) -> tuple[GPTModel, ...]:
    """One side's models on one of its ranks, one per virtual stage; weights are not initialised.

    Args:
        side: its name in `placement.sides`.
        dtype: of the weights but for norms; None: the side's; float64 for a pass that hardly
            depends on the layout.

    Raises:
        UserError: megatron-core refuses the configuration.
    """
    if has_transformer_engine() and not HAVE_TE:
        raise UserError(
            "transformer_engine is installed, but megatron-core cannot import it here; repair or"
            " remove it (python -c 'import transformer_engine.pytorch' says why)"
        )
    layout = placement.sides[side]
    if dtype is None:
        dtype = TORCH_DTYPE[layout.dtype or "bfloat16"]
    groups = process_groups(layout, rank)
    try:
        with megatron_runs(groups, virtual_stages(layout)):
            config = _config(job, layout, dtype)
            chunks = tuple(
                _chunk(job, layout, config, groups, chunk) for chunk in range(layout.virtual_stages)
            )
    except (AssertionError, ValueError) as error:
        raise UserError(f"megatron-core refuses the {side} model: {error}") from error
    for gpt in chunks:
        _cast_position_embeddings(gpt, dtype)
    return chunks


def virtual_stages(layout: Layout) -> int | None:
    """Of each pipeline rank, as Megatron says it: None where there is one."""
    return layout.virtual_stages if layout.virtual_stages > 1 else None


def _chunk(
    job: Job,
    layout: Layout,
    config: TransformerConfig,
    groups: ProcessGroupCollection,
    chunk: int,
) -> GPTModel:
    """The model of one virtual stage: embeddings are in the first of all, output in the last."""
    model, stage = job.model, groups.pp.rank()
    virtual = config.virtual_pipeline_model_parallel_size
    number = None if virtual is None else chunk
    spec = _layer_spec(job, config, stage, number)
    return GPTModel(
        config,
        spec,
        mtp_block_spec=get_gpt_mtp_block_spec(
            config, spec, has_transformer_engine(), vp_stage=number, pp_rank=stage
        )
        if model.mtp_num_layers
        else None,
        vocab_size=layout.vocab_rows or model.vocab_size,
        max_sequence_length=model.max_position_embeddings,
        pre_process=stage == 0 and chunk == 0,
        post_process=stage == groups.pp.size() - 1 and chunk == (virtual or 1) - 1,
        share_embeddings_and_output_weights=model.share_embeddings_and_output_weights
        and layout.tied,
        position_embedding_type=model.position_embedding_type,
        rotary_percent=model.rotary_percent,
        rotary_base=model.rotary_base,
        rope_scaling=model.rope_scaling,
        rope_scaling_factor=model.rope_scaling_factor,
        pg_collection=groups,
        vp_stage=number,
    )


def _layer_spec(job: Job, config: TransformerConfig, stage: int, chunk: int | None) -> Any:
    """The modules of a stage's layers: Transformer Engine's where it is installed."""
    engine, normalization = has_transformer_engine(), job.model.normalization
    spec = get_gpt_decoder_block_spec(
        config, engine, normalization=normalization, vp_stage=chunk, pp_rank=stage
    )
    if job.model.multi_latent_attention and not engine:
        for layer in spec.layer_specs:
            attention = layer.submodules.self_attention.submodules
            attention.core_attention = LatentDotProductAttention
    return spec


def _cast_position_embeddings(gpt: GPTModel, dtype: torch.dtype) -> None:
    """Megatron's are float32, a plain nn.Embedding, until training's Float16Module casts them."""
    positions = getattr(getattr(gpt, "embedding", None), "position_embeddings", None)
    if positions is not None:
        positions.weight.data = torch.empty_like(positions.weight, dtype=dtype)


def dispatcher(job: Job) -> str:
    """The token dispatcher that is built: the asked one, or allgather where it cannot run.

    alltoall wants CUDA streams, flex wants DeepEP or HybridEP. It has no weights.
    """
    wanted = job.model.moe_token_dispatcher_type
    return wanted if torch.cuda.is_available() and wanted == "alltoall" else "allgather"


def _config(job: Job, layout: Layout, dtype: torch.dtype) -> TransformerConfig:
    """Megatron's config: the model's fields that it has by the same name, and the layout's."""
    model = job.model
    config_class = MLATransformerConfig if model.multi_latent_attention else TransformerConfig
    config = config_class(
        **_model_values(job, {f.name for f in fields(config_class)}),
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        expert_model_parallel_size=layout.ep,
        expert_tensor_parallel_size=layout.etp,
        # the torch norm, which stands in for Transformer Engine's, refuses it
        sequence_parallel=layout.sequence_parallel and has_transformer_engine(),
        num_layers_in_first_pipeline_stage=layout.first_stage_layers,
        num_layers_in_last_pipeline_stage=layout.last_stage_layers,
        account_for_embedding_in_pipeline_split=layout.counts_embedding,
        account_for_loss_in_pipeline_split=layout.counts_loss,
        pipeline_model_parallel_layout=_stages(layout),
        virtual_pipeline_model_parallel_size=virtual_stages(layout),
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        use_cpu_initialization=True,
        # Transformer Engine sets its weights' attributes whether they are initialised or not
        perform_initialization=not has_transformer_engine(),
        init_method=_leave_alone,
        output_layer_init_method=_leave_alone,
        embedding_init_method=_leave_alone,
    )
    if model.position_embedding_type == "yarn" and not model.multi_latent_attention:
        # GPTModel looks for these on the config, which has no fields for them; without the two
        # mscales the attention's temperature follows from the scaling factor, as in GPT-OSS
        config.yarn_rotary_scaling_factor = model.rotary_scaling_factor
        config.yarn_original_max_position_embeddings = model.original_max_position_embeddings
        config.yarn_beta_fast, config.yarn_beta_slow = model.beta_fast, model.beta_slow
        config.yarn_mscale = config.yarn_mscale_all_dim = None
        config.yarn_correction_range_round_to_int = False
    return config


def _stages(layout: Layout) -> list[list[str]] | None:
    """The listed layers of each stage as Megatron's config takes them; None where none are."""
    if layout.listed_layers is None:
        return None
    stages = [["decoder"] * count for count in layout.listed_layers]
    stages[0].insert(0, "embedding")
    stages[-1].append("loss")
    return stages


def _model_values(job: Job, names: set[str]) -> dict[str, Any]:
    """What the job's model says of the fields with these names, as Megatron's config takes it."""
    model = job.model
    values = {f.name: getattr(model, f.name) for f in fields(model) if f.name in names}
    values["activation_func"] = ACTIVATIONS[model.activation_func]
    values["window_size"] = tuple(model.window_size) if model.window_size else None
    values["moe_layer_freq"] = [int(x) for x in moe_layers(model)]
    values["moe_token_dispatcher_type"] = dispatcher(job)
    # the overlap is the alltoall dispatcher's, and goes where that goes
    overlap = model.moe_shared_expert_overlap and dispatcher(job) == "alltoall"
    values["moe_shared_expert_overlap"] = overlap
    # without Transformer Engine it would be the legacy GroupedMLP: one tensor for all experts
    values["moe_grouped_gemm"] = model.moe_grouped_gemm and has_transformer_engine()
    return values


def _set_attributes(
    weight: torch.Tensor,
    output_size: int,
    input_size: int,
    per_partition_size: int,
    partition_dim: int,
    init_method: Any,
    stride: int = 1,
    skip_set_tensor_parallel_attributes: bool = False,
    **_: Any,
) -> None:
    """What Megatron's `_initialize_affine_weight_cpu` does, but for the values.

    Transformer Engine's layers have set the attributes themselves.
    """
    if not skip_set_tensor_parallel_attributes:
        layers.set_tensor_model_parallel_attributes(weight, True, partition_dim, stride)


def _leave_alone(weight: torch.Tensor) -> torch.Tensor:
    """Initialise nothing: the values are this program's own."""
    return weight


def process_groups(layout: Layout, rank: int) -> ProcessGroupCollection:
    """The groups of one of the layout's ranks; see `refit.weights.groups` for who must call.

    `embd` stays empty: tied embeddings are refitted, not all-reduced.
    """
    groups = ProcessGroupCollection(**make_groups(layout, rank), embd=None, pos_embd=None)
    groups.tp_cp, groups.dp_cp = groups.tp, groups.dp
    return groups
