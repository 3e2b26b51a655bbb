"""The typed config of a model: Megatron's names, and what of Megatron's is not modelled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from refit.fields import MISSING

# `Optional[...]` and not `... | None` below: OmegaConf 2.3 reads these hints as the schema.


@dataclass(frozen=True)
class Model:
    """A model, in the names of Megatron's TransformerConfig and GPTModel, with Megatron's defaults.

    Where Megatron derives a missing value (`kv_channels`, `num_query_groups`, `ffn_hidden_size`,
    `moe_ffn_hidden_size`), `None` means the same here; `refit.model.architecture` derives it.
    """

    name: str = MISSING
    # how many parameters the model's makers count; another count is refused; null: nobody said
    published_parameters: Optional[int] = None
    # the public model that this one is in small: its pairs are this one's too; null: none
    pairs_of: Optional[str] = None
    # shape
    num_layers: int = MISSING
    hidden_size: int = MISSING
    num_attention_heads: int = MISSING
    ffn_hidden_size: Optional[int] = None
    num_query_groups: Optional[int] = None
    kv_channels: Optional[int] = None
    # gelu | silu | quick_gelu | squared_relu: the name of Megatron's callable
    activation_func: str = "gelu"
    gated_linear_unit: bool = False
    glu_linear_offset: float = 0.0
    activation_func_clamp_value: Optional[float] = None
    add_bias_linear: bool = True
    add_qkv_bias: bool = False
    qk_layernorm: bool = False
    softmax_type: str = "vanilla"  # vanilla | off-by-one | learnable: one learnt sink per head
    window_size: Any = (
        None  # [left, right] of sliding windows, -1 without end; null: full attention
    )
    window_attn_skip_freq: Any = None  # N: every Nth layer sees all; a list says 1 for windowed
    normalization: str = "LayerNorm"
    layernorm_epsilon: float = 1e-5
    # what public models have and Megatron has no field for
    add_norm_bias: bool = True  # of LayerNorm; false: its weights alone
    add_proj_bias: bool = False  # a bias of linear_proj where add_bias_linear gives none
    add_output_bias: bool = False  # a bias of the output layer
    post_layernorm: bool = False  # norms of what attention and the MLP give, before it is added
    qk_layernorm_over_heads: bool = False  # q/k norms of all heads together, not of each
    mtp_num_layers: Optional[int] = None  # of multi-token prediction; null: none
    # gated_delta_net | dsa: Megatron's, with the fields below
    experimental_attention_variant: Optional[str] = None
    attention_output_gate: bool = False  # linear_qkv has a gate for each query
    linear_attention_freq: Any = None  # N: every Nth layer has full attention; a list: 1 is linear
    linear_conv_kernel_dim: int = 4
    linear_key_head_dim: int = 128
    linear_value_head_dim: int = 128
    linear_num_key_heads: int = 16
    linear_num_value_heads: int = 32
    dsa_indexer_n_heads: Optional[int] = None
    dsa_indexer_head_dim: Optional[int] = None
    dsa_indexer_topk: Optional[int] = None
    # a letter for each layer: M Mamba-2, * attention, - MLP, E experts; null: attention and one of
    # the others in each
    hybrid_override_pattern: Optional[str] = None
    mamba_state_dim: int = 128
    mamba_head_dim: int = 64
    mamba_num_groups: int = 8
    mamba_num_heads: Optional[int] = None
    # latent attention (MLA)
    multi_latent_attention: bool = False
    q_lora_rank: Optional[int] = None
    kv_lora_rank: int = 512
    qk_head_dim: int = 128
    qk_pos_emb_head_dim: int = 64
    v_head_dim: int = 128
    # embeddings
    vocab_size: int = MISSING
    make_vocab_size_divisible_by: int = 128
    share_embeddings_and_output_weights: bool = True
    seq_length: int = 4096
    max_position_embeddings: int = 4096
    position_embedding_type: str = "learned_absolute"
    rotary_base: int = 10000
    rotary_percent: float = 1.0
    rope_scaling: bool = False  # Llama 3.1's, for position_embedding_type=rope
    rope_scaling_factor: float = 8.0
    # YaRN: of MLA where rope_type=yarn, of other attention where position_embedding_type=yarn
    rope_type: str = "yarn"  # yarn | rope; MLA's alone
    rotary_scaling_factor: float = 40.0
    original_max_position_embeddings: int = 4096
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 0.0
    # {rank: 32, targets: [linear_qkv, linear_proj, linear_fc1, linear_fc2]}: the model is these
    # adapters alone; not Megatron's field, which has no adapters
    lora: Any = None
    # experts
    num_moe_experts: Optional[int] = None
    moe_layer_freq: Any = 1  # an int, a list of 0 and 1, or Megatron's string form "([0]*1+[1]*60)"
    moe_ffn_hidden_size: Optional[int] = None
    moe_latent_size: Optional[int] = None  # routed experts work on so many, behind a projection
    moe_shared_expert_intermediate_size: Optional[int] = None
    moe_shared_expert_gate: bool = False
    moe_shared_expert_overlap: bool = False
    moe_grouped_gemm: bool = False
    moe_router_topk: int = 2
    moe_router_load_balancing_type: Any = "aux_loss"  # one name, or a list of names
    moe_aux_loss_coeff: Any = 0.0  # one number, or a list as long as the list of names
    moe_z_loss_coeff: Optional[float] = None
    moe_input_jitter_eps: Optional[float] = None
    moe_token_dropping: bool = False  # Megatron 0.16 accepts and ignores it
    moe_expert_capacity_factor: Optional[float] = None
    moe_pad_expert_input_to_capacity: bool = False
    moe_token_drop_policy: str = "probs"
    moe_token_dispatcher_type: str = "allgather"
    moe_flex_dispatcher_backend: str = "deepep"
    moe_permute_fusion: bool = False
    moe_router_score_function: str = "softmax"
    moe_router_pre_softmax: bool = False
    moe_router_num_groups: Optional[int] = None
    moe_router_group_topk: Optional[int] = None
    moe_router_topk_scaling_factor: Optional[float] = None
    moe_router_enable_expert_bias: bool = False
    moe_router_bias_update_rate: float = 1e-3
    moe_router_dtype: Optional[str] = None
    moe_router_force_load_balancing: bool = False

    @property
    def is_moe(self) -> bool:
        """True where the model has routed experts."""
        return self.num_moe_experts is not None


NOT_MODELLED = {
    "mtp_hybrid_override_pattern": "the weights of multi-token prediction",
    "is_hybrid_model": "the weights of Mamba's layers",
    "hybrid_layer_pattern": "the weights of Mamba's layers",
    "hybrid_attention_ratio": "the weights of Mamba's layers",
    "hybrid_mlp_ratio": "the weights of Mamba's layers",
    "heterogeneous_block_specs": "what each layer has of its own",
    "heterogeneous_layers_config_path": "what each layer has of its own",
    "heterogeneous_layers_config_encoded_json": "what each layer has of its own",
    "fp8_param": "the scales of FP8 weights, whose bytes are half as many,",
    "fp4_param": "the scales of FP4 weights, whose bytes are a quarter as many,",
}
"""Megatron's fields and arguments that change which weights there are, and which `Model` lacks."""
