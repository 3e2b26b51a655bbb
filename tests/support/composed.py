"""Jobs as the command line composes them, for tests about the shipped config files."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from refit import compose
from refit.job import Job
from refit.model_config import Model
from refit.schema import CONF

# The counts that the models' makers publish, without multi-token prediction heads and expert_bias:
# total; active; active without the input embedding; parameters of one expert; MoE layers
PUBLISHED = {
    "kimi_k2": (1_026_408_209_408, 32_861_477_888, 31_687_072_768, 44_040_192, 60),
    "deepseek_v3": (671_026_404_352, 37_552_282_624, 36_625_603_584, 44_040_192, 58),
    "qwen3_30b_a3b": (30_532_122_624, 3_353_032_704, 3_041_867_776, 4_718_592, 48),
    "qwen3_235b_a22b": (235_093_634_560, 22_190_763_520, 21_568_433_664, 18_874_368, 94),
    "mixtral_8x7b": (46_702_792_704, 12_879_925_248, 12_748_853_248, 176_160_768, 32),
    "mixtral_8x22b": (140_620_634_112, 39_152_031_744, 38_955_423_744, 301_989_888, 56),
    "gpt_oss_20b": (20_914_757_184, 4_187_440_704, 3_608_307_264, 24_891_840, 24),
    "gpt_oss_120b": (116_829_156_672, 5_711_982_912, 5_132_849_472, 24_891_840, 36),
    "glm45_355b": (352_797_814_784, 33_632_251_904, 32_856_305_664, 23_592_960, 89),
    "glm45_air_106b": (106_852_245_504, 13_424_123_904, 12_803_366_912, 17_301_504, 45),
    "llama31_8b": (8_030_261_248, 8_030_261_248, 7_504_924_672, 0, 0),
    "llama31_70b": (70_553_706_496, 70_553_706_496, 69_503_033_344, 0, 0),
}
PUBLIC = tuple(PUBLISHED)
"""The models whose parameter counts are published, and which bring pairs of layouts."""

# layers, hidden, feed-forward, heads, groups, head size, vocabulary, tied, total, as published
SMALL_DENSE = {
    "qwen25_05b": (24, 896, 4864, 14, 2, 64, 151936, True, 494_032_768),
    "qwen25_15b": (28, 1536, 8960, 12, 2, 128, 151936, True, 1_543_714_304),
    "qwen25_3b": (36, 2048, 11008, 16, 2, 128, 151936, True, 3_085_938_688),
    "qwen25_7b": (28, 3584, 18944, 28, 4, 128, 152064, False, 7_615_616_512),
    "qwen3_06b": (28, 1024, 3072, 16, 8, 128, 151936, True, 596_049_920),
    "qwen3_17b": (28, 2048, 6144, 16, 8, 128, 151936, True, 1_720_574_976),
    "qwen3_4b": (36, 2560, 9728, 32, 8, 128, 151936, True, 4_022_468_096),
    "qwen3_8b": (36, 4096, 12288, 32, 8, 128, 151936, False, 8_190_735_360),
    "llama32_1b": (16, 2048, 8192, 32, 8, 64, 128256, True, 1_235_814_400),
    "llama32_3b": (28, 3072, 8192, 24, 8, 128, 128256, True, 3_212_749_824),
}
"""Small models that people try first, without pairs of their own."""


@cache
def composed(*overrides: str) -> Job:
    """The job of some command-line overrides."""
    with compose.configs():
        return compose.job(overrides)


def family_layouts(model: str) -> list[str]:
    """The options of `parallel` that are this model's own: `<model>_<gpus>_...`."""
    return sorted(p.stem for p in (CONF / "parallel" / "public").glob(f"{model}_[0-9]*.yaml"))


def miniature(name: str) -> Model:
    """A public model's kinds of weight with few and narrow layers."""
    model = composed(f"model={name}").model
    layers = [0, 1, 1] if model.moe_layer_freq != 1 and model.is_moe else 1
    return replace(
        model,
        published_parameters=None,
        num_layers=3,
        moe_layer_freq=layers,
        hidden_size=8,
        ffn_hidden_size=8,
        num_attention_heads=8,
        num_query_groups=8 if model.multi_latent_attention else 4,
        kv_channels=4,
        q_lora_rank=4,
        kv_lora_rank=4,
        qk_head_dim=2,
        qk_pos_emb_head_dim=4,
        v_head_dim=2,
        vocab_size=37,
        make_vocab_size_divisible_by=4,
        num_moe_experts=8 if model.is_moe else None,
        moe_ffn_hidden_size=4 if model.moe_ffn_hidden_size else None,
        moe_shared_expert_intermediate_size=(
            4 if model.moe_shared_expert_intermediate_size else None
        ),
    )
