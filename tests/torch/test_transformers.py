"""Public models counted again by transformers on the meta device; skips where that is missing.

Its extra is `transformers`; tried with 5.24. No weights and no network are needed.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from refit import import_model
from refit.model.hf.classes import CLASSES
from refit.model.hf.read import imported
from refit.model.parameters import count
from tests.support.kinds import KINDS, small
from tests.support.public import EXACT, config, language

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

# the code of these is in their own repositories; kimi_k2 is DeepSeek-V3's under another name
ELSEWHERE = {"bailing_moe_v2"}
ALIASES = {"kimi_k2": "deepseek_v3"}
NOT_READ = {
    "pad_token_id",
    "model_type",
    "architectures",
    "quantization_config",
    "torch_dtype",
    "dtype",
}
# what its modules have without a key of its config
WITHOUT_KEY = {
    "moe_layer_freq", "scoring_func", "topk_method", "qk_norm_type", "use_qk_norm",
    "use_routing_bias", "shared_intermediate_size", "moe_layer_end_index",
    "full_attention_interval",  # which its config keeps as layer_types
}  # fmt: skip
HEADS, WIDTH = 24, 480


def by_transformers(values: dict[str, Any]) -> tuple[int, int]:
    """Parameters, and elements of the biases that are buffers."""
    kind = ALIASES.get(values["model_type"], values["model_type"])
    own = {key: value for key, value in values.items() if key not in NOT_READ}
    made = transformers.AutoConfig.for_model(kind, **own, pad_token_id=None)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(made)
    model.tie_weights()
    found = {id(p): p for p in model.parameters()}.values()
    trained = sum(p.numel() for p in found if p.requires_grad)
    frozen = sum(p.numel() for p in found if not p.requires_grad)  # ERNIE's correction bias
    buffers = sum(b.numel() for name, b in model.named_buffers() if "bias" in name)
    return trained, frozen + buffers


@pytest.mark.parametrize("name", EXACT)
def test_transformers_counts_the_same(name: str) -> None:
    values = {**config(name), **language(config(name))}
    values.pop("text_config", None)
    if values["model_type"] in ELSEWHERE:
        pytest.skip(f"transformers has no {values['model_type']}")
    ours = count(import_model.model_of(imported(config(name)), "public"))
    assert by_transformers(values) == (ours.total, ours.fp32_buffers)


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_counts_the_miniatures(kind: str) -> None:
    if kind == "deepseek_v3":
        pytest.skip("transformers leaves multi-token prediction out")
    ours = count(small(kind))
    assert by_transformers(KINDS[kind]) == (ours.total, ours.fp32_buffers)


@pytest.mark.parametrize("kind", CLASSES.keys() - ELSEWHERE - ALIASES.keys())
def test_a_class_has_what_we_take_where_a_file_says_nothing(kind: str) -> None:
    """Null says that a class derives it: of 24 heads in a width of 480, say."""
    sizes = {} if kind == "dbrx" else {"num_attention_heads": HEADS, "hidden_size": WIDTH}
    theirs = transformers.AutoConfig.for_model(kind, **sizes)
    derived = {"num_key_value_heads": HEADS, "head_dim": WIDTH // HEADS}
    given = {"num_attention_heads": HEADS, "hidden_size": WIDTH}
    for key, value in CLASSES[kind].implied.items():
        if key in WITHOUT_KEY or key in given:
            continue
        known = getattr(theirs, key, None)
        if key in derived and value is None:
            assert known in (None, derived[key]), key
        else:
            assert known == value, key
