"""What Megatron's flags, engines and the reference documents call a field, and what it is here."""

from __future__ import annotations

SIDES = {
    "tensor_model_parallel_size": "tp",
    "context_parallel_size": "cp",
    "pipeline_model_parallel_size": "pp",
    "expert_model_parallel_size": "ep",
    "expert_tensor_parallel_size": "etp",
    "expert_tensor_model_parallel_size": "etp",
    # vLLM's and SGLang's
    "tensor_parallel_size": "tp",
    "pipeline_parallel_size": "pp",
    "expert_parallel_size": "ep",
    "tp_size": "tp",
    "pp_size": "pp",
    "ep_size": "ep",
    "world_size": "gpus",
    "dp": "gpus",
    "dp_size": "gpus",
    "data_parallel_size": "gpus",
    "decoder_first_pipeline_num_layers": "num_layers_in_first_pipeline_stage",
    "decoder_last_pipeline_num_layers": "num_layers_in_last_pipeline_stage",
    "num_virtual_stages_per_pipeline_rank": "virtual_pipeline_model_parallel_size",
    "use_tp_pp_dp_mapping=true": "order=tp-cp-ep-pp-dp",
    "bf16=true": "dtype=bfloat16",
    "fp16=true": "dtype=float16",
}
"""Of a side: another name, and the field of `Degrees`, both with the value where it is one."""

DP = " (all ranks of the side, TP * PP * EP * DP: DP is what is left of them)"

GROUPS = {
    "num_experts": "model.num_moe_experts",
    "moe_num_experts": "model.num_moe_experts",
    "moe_router_top_k": "model.moe_router_topk",
    "token_dispatcher_type": "model.moe_token_dispatcher_type",
    "disable_bias_linear=true": "model.add_bias_linear=false",
    "disable_bias_linear=false": "model.add_bias_linear=true",
    "untie_embeddings_and_output_weights=true": "model.share_embeddings_and_output_weights=false",
    "untie_embeddings_and_output_weights=false": "model.share_embeddings_and_output_weights=true",
    "swiglu=true": "model.gated_linear_unit=true model.activation_func=silu",
    "quick_geglu=true": "model.gated_linear_unit=true model.activation_func=quick_gelu",
    "group_query_attention=true": "model.num_query_groups, the groups (null: one for each head)",
    "norm_epsilon": "model.layernorm_epsilon",
    "encoder_num_layers": "model.num_layers",
    "encoder_seq_length": "model.seq_length",
    "yarn_original_max_position_embeddings": "model.original_max_position_embeddings",
    "yarn_beta_fast": "model.beta_fast",
    "yarn_beta_slow": "model.beta_slow",
    "use_rope_scaling": "model.rope_scaling",
    "use_rotary_position_embeddings=true": "model.position_embedding_type=rope",
    "no_position_embedding=true": "model.position_embedding_type=none",
    "padded_vocab_size": "model.vocab_size, which is padded here",
    "refit_method": "refit.method (or refit=<method>)",
    "refit_mode": "refit.mode",
    "num_benchmark_iterations": "bench.iterations",
    "num_iterations": "bench.iterations",
    "num_warmup_iterations": "bench.warmup",
    "num_nodes": "cluster.nodes",
    "nnodes": "cluster.nodes",
    "nproc_per_node": "cluster.ranks_per_node",
    "gpus_per_node": "cluster.ranks_per_node",
}
"""Of anything else, with the path to it."""

NOT_HERE = dict.fromkeys(
    ("micro_batch_size", "global_batch_size", "train_iters", "lr", "use_distributed_optimizer"),
    "of training, and no batch is run here; leave it out",
)

WORDS = {
    ("model.moe_token_dispatcher_type", "fused"): "flex",
    ("model.moe_token_dispatcher_type", "fused_a2a"): "flex",
    ("model.activation_func", "swiglu"): "silu with model.gated_linear_unit=true",
}
"""Words of a field's value that others use, and ours."""

_INFERENCE = "rl_inference_"


def meant(key: str, prefix: str, of_side: bool) -> str | None:
    """What a name that is no field here is called here, as a clause; None where it is unknown.

    Args:
        key: the unknown name.
        prefix: the path before it, with a dot behind it, or empty.
        of_side: whether that path is one side of a pair.
    """
    plain = key.replace("-", "_")
    name = plain.removeprefix(_INFERENCE)
    if name in NOT_HERE:
        return f"{plain} is {NOT_HERE[name]}"
    sides = _said(SIDES, name)
    if not sides:
        return _clause(_said(GROUPS, name))
    also = ""
    if name != plain:
        prefix = "parallel.destination."
    elif not of_side:
        prefix, also = "parallel.source.", ", or of parallel.destination"
    dp = DP if name in ("dp", "dp_size", "data_parallel_size") else ""
    found = {said: f"{prefix}{field}" for said, field in sides.items()}
    shown = {said.replace(name, plain, 1): field for said, field in found.items()}
    return f"{_clause(shown)}{also}{dp}"


def _said(table: dict[str, str], name: str) -> dict[str, str]:
    return {said: field for said, field in table.items() if said.partition("=")[0] == name}


def _clause(found: dict[str, str]) -> str | None:
    parts = [f"{said} is {field}" for said, field in found.items()]
    return " and ".join(parts) + " here" if parts else None
