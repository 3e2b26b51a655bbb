"""A config.json as a whole: which class it is, and what becomes of each of its keys. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from refit.errors import UserError
from refit.model.hf.blocks import Fields
from refit.model.hf.classes import CLASSES, KNOWN_TO_DIFFER
from refit.model.hf.keys import Keys

SILENT = {
    "architectures", "model_type", "_name_or_path", "name_or_path", "auto_map",
    "transformers_version", "torch_dtype", "dtype", "use_cache", "cache_implementation",
    "initializer_range", "output_attentions", "output_hidden_states", "output_router_logits",
    "return_dict", "id2label", "label2id", "problem_type", "chunk_size_feed_forward",
    "is_encoder_decoder", "pretraining_tp", "ep_size", "attention_dropout", "hidden_dropout",
    "resid_pdrop", "embd_pdrop", "embedding_dropout", "router_aux_loss_coef",
    "router_jitter_noise", "input_jitter_noise", "router_z_loss_coef", "aux_loss_alpha",
    "seq_aux", "seq_aux_loss", "norm_topk_prob", "topk_method", "scoring_func",
    "routed_scaling_factor", "rope_theta", "rope_scaling", "rope_parameters", "rope_interleave",
    "rope_local_base_freq", "partial_rotary_factor", "original_max_position_embeddings",
    "max_position_embeddings", "max_seq_len", "rms_norm_eps", "norm_eps", "layer_norm_eps",
    "layernorm_epsilon", "sliding_window", "sliding_window_pattern", "_sliding_window_pattern",
    "use_sliding_window", "max_window_layers", "layer_types", "attention_chunk_size", "clip_qkv",
    "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping",
    "use_bidirectional_attention", "embedding_multiplier", "logits_scaling",
    "residual_multiplier", "attention_multiplier", "quantization_config",
}  # fmt: skip
"""Keys that carry no weights in any class that is read, where no reader takes them."""

_TOKENS = re.compile(r"(\w+_)?(token_id|token_ids|token_index|tokens_per_image)")
_MTP = {"num_nextn_predict_layers", "use_mtp", "mtp_transformer_layers", "num_mtp_modules"}
MORE_TOKENS = (
    "deepseek_v3", "kimi_k2", "deepseek_v32", "glm_moe_dsa", "glm4_moe", "glm4_moe_lite",
)  # fmt: skip
"""Classes whose layers of multi-token prediction are as Megatron has them."""
_TOWERS = {"vision_config", "audio_config"}


@dataclass(frozen=True)
class Imported:
    """What a config says.

    Attributes:
        model_type: the class, of the language model where there are others.
        fields: of `Model`, but for its name.
        implied: what the class has where the file says nothing, by key.
        silent: keys without weights.
        held: keys that must have the one value that is modelled, and have it.
        left_out: what of the model is not part of it, or held otherwise, each in words.
    """

    model_type: str
    fields: Fields
    implied: dict[str, Any]
    silent: list[str]
    held: list[str]
    left_out: list[str] = field(default_factory=list)


def imported(
    values: Mapping[str, Any], ignore: frozenset[str] = frozenset(), more_tokens: bool = False
) -> Imported:
    """The model of a config.

    Args:
        values: the file's.
        ignore: keys that whoever asks says carry no weights.
        more_tokens: with its layers of multi-token prediction, where they are DeepSeek-V3's.

    Raises:
        UserError: the class is unknown or not modelled, or a key is unknown, missing or of a value
            that is not modelled; the text names it.
    """
    outer, values = _language(values)
    kind = str(values.get("model_type", ""))
    known = CLASSES.get(kind)
    if known is None:
        raise UserError(_unknown(kind, values))
    keys = Keys(values, known.implied)
    fields = known.read(keys)
    if more_tokens:
        fields |= _more_tokens(kind, keys)
    silent, left_out = [], [*outer]
    for key in keys.left():
        if key in _MTP:
            if values[key]:
                left_out.append(f"{key}={values[key]}: layers of multi-token prediction")
            silent.append(key)
        elif key in SILENT | known.silent | ignore or _TOKENS.fullmatch(key):
            silent.append(key)
        else:
            raise UserError(
                f"'{key}' is not known of model_type {kind}, and may carry weights; --ignore {key}"
                " if you know that it does not"
            )
    if values.get("quantization_config"):
        left_out.append("quantization_config: the file's weights are fewer bits and scales")
    dtype = values.get("torch_dtype", values.get("dtype"))
    if dtype not in (None, "bfloat16", "auto"):
        left_out.append(f"dtype={dtype}: say it of a side, parallel.source.dtype={dtype}")
    return Imported(kind, fields, keys.taken, silent, sorted(keys.held), left_out)


def _more_tokens(kind: str, keys: Keys) -> Fields:
    """As many layers of multi-token prediction as the file says, in the form of DeepSeek-V3.

    Raises:
        UserError: it says none, or the class has them otherwise.
    """
    if kind not in MORE_TOKENS or "num_nextn_predict_layers" not in keys:
        raise UserError(
            "multi-token prediction is modelled where num_nextn_predict_layers of"
            f" {', '.join(MORE_TOKENS)} says it; leave out --with-mtp"
        )
    return {"mtp_num_layers": keys.whole("num_nextn_predict_layers")}


def _language(values: Mapping[str, Any]) -> tuple[list[str], Mapping[str, Any]]:
    """The language model's keys, and what stands beside it.

    Raises:
        UserError: a key beside it is unknown.
    """
    inside = values.get("text_config")
    if not isinstance(inside, Mapping):
        return [], values
    beside, merged = [], dict(inside)
    for key, value in values.items():
        if key == "tie_word_embeddings":
            merged.setdefault(key, value)
        elif key in _TOWERS:
            if value is not None:
                beside.append(f"{key}: another tower, of which nothing is moved")
        elif key not in SILENT | {"text_config"} and not _TOKENS.fullmatch(key):
            raise UserError(
                f"'{key}' is not known beside text_config, and may carry weights; take the file's"
                " text_config alone if you know that it does not"
            )
    return beside, merged


def _unknown(kind: str, values: Mapping[str, Any]) -> str:
    if what := KNOWN_TO_DIFFER.get(kind):
        return f"model_type {kind} has {what}, which are not modelled"
    if "block_configs" in values:
        return f"model_type {kind or 'none'} has blocks that differ, which are not modelled"
    close = get_close_matches(kind, CLASSES, 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    said = f"model_type {kind!r} is not known" if kind else "it has no model_type"
    return f"{said}{hint} Known are {', '.join(CLASSES)}"
