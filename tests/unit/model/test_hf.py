"""Public models from their config.json: the exact count, or refused by name; none is silent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from refit import import_model
from refit.errors import UserError
from refit.importers import options
from refit.job import Job
from refit.model.architecture import catalogue
from refit.model.hf.classes import CLASSES, KNOWN_TO_DIFFER
from refit.model.hf.read import Imported, imported
from refit.model.parameters import count
from refit.model_config import Model
from refit.rules.families import SHARDS_ALONE
from tests.support.public import EXACT, PUBLIC, REFUSED, config, language, tables

WITHOUT_WEIGHTS = ("clip_qkv", "rope_theta")  # inside DBRX's attn_config


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_model_is_exact_or_refused_by_name(name: str) -> None:
    if words := REFUSED.get(name):
        with pytest.raises(UserError, match=f"model_type .* {words}.*not modelled"):
            imported(config(name))
        return
    found = count(import_model.model_of(imported(config(name)), "public"))
    assert found.total == PUBLIC[name]["parameters"]
    if (buffers := PUBLIC[name]["fp32_buffers"]) is not None:
        assert found.fp32_buffers == buffers


def test_every_class_is_met_by_a_public_model() -> None:
    met = {language(config(name))["model_type"] for name in EXACT}
    assert met == CLASSES.keys()
    assert not CLASSES.keys() & KNOWN_TO_DIFFER.keys()


def test_the_page_lists_every_class_and_kind() -> None:
    """`python -m tests.support.public` prints the rows that it must have."""
    page = (Path(__file__).parents[3] / "docs" / "models.md").read_text()
    kinds, classes = page.split("## Classes that are read")
    assert [row for row in classes.splitlines() if row.startswith("| `")] == tables()
    for field in SHARDS_ALONE:
        rows = [row for row in kinds.splitlines() if f"`{field}" in row and row[0] == "|"]
        assert rows and all(row.endswith("| shards |") for row in rows), field


SHIPPED = {
    "kimi_k2": "moonshotai/Kimi-K2-Instruct",
    "deepseek_v3": "deepseek-ai/DeepSeek-V3",
    "gpt_oss_20b": "openai/gpt-oss-20b",
    "glm45_355b": "zai-org/GLM-4.5",
    "mixtral_8x7b": "mistralai/Mixtral-8x7B-v0.1",
    "qwen25_05b": "Qwen/Qwen2.5-0.5B",
    "qwen3_06b": "Qwen/Qwen3-0.6B",
    "llama32_1b": "meta-llama/Llama-3.2-1B",
}


@pytest.mark.parametrize("option", SHIPPED)
def test_an_import_has_the_tensors_of_the_shipped_model(option: str) -> None:
    """Name by name, and not only in sum."""
    ours = options.models()[option]
    theirs = import_model.model_of(imported(config(SHIPPED[option])), option)
    assert (
        catalogue(theirs, source_tp=8).families == catalogue(ours, 8, vocab_rows=None).families
        or ours.make_vocab_size_divisible_by != theirs.make_vocab_size_divisible_by
    )
    one, other = (catalogue(m, vocab_rows=m.vocab_size).families for m in (ours, theirs))
    assert one == other


# -- each key of a file matters, is known not to, or is refused


def keys_of(values: dict[str, Any]) -> list[tuple[str, ...]]:
    """Paths of the keys that a reader takes of a config."""
    silent = set(imported(values).silent)
    found: list[tuple[str, ...]] = []
    for key, value in values.items():
        if key not in silent:
            inside = key in ("attn_config", "ffn_config")
            found += [(key, inner) for inner in value] if inside else [(key,)]
    return [path for path in found if len(path) == 1 or path[1] not in WITHOUT_WEIGHTS]


def changed(values: dict[str, Any], path: tuple[str, ...], *value: Any) -> dict[str, Any]:
    """A copy with another value of one key, or without it."""
    first, *rest = path
    if rest:
        return {**values, first: changed(values[first], tuple(rest), *value)}
    without = {k: v for k, v in values.items() if k != first}
    return {**without, first: value[0]} if value else without


def outcome(values: dict[str, Any]) -> Imported | str:
    try:
        found = imported(values)
        import_model.model_of(found, "public")
    except UserError as error:
        return str(error)
    return found


@pytest.mark.parametrize("name", EXACT)
def test_without_a_mapped_key_the_result_differs_or_is_refused(name: str) -> None:
    values = language(config(name))
    whole = imported(values)
    for path in keys_of(values):
        if path[-1] in whole.held:
            continue  # it says what the class has anyway; another value is refused, see below
        try:
            without = imported(changed(values, path))
        except UserError:
            continue
        # what the class has by default is said, also where it is what the file had
        assert without.fields != whole.fields or without.implied != whole.implied, path


def others(value: Any) -> list[Any]:
    """Values of a key that are not the one it has."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value * 2 or 1]
    return ["zzz", 3]


@pytest.mark.parametrize("name", EXACT)
def test_another_value_of_a_mapped_key_differs_or_is_refused(name: str) -> None:
    values = language(config(name))
    whole = imported(values)
    for path in keys_of(values):
        value: Any = values
        for key in path:
            value = value[key]
        for other in others(value):
            try:
                found = imported(changed(values, path, other))
            except UserError:
                continue
            assert found.fields != whole.fields, (path, other)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "llamas"}, "'llamas' is not known; did you mean llama? Known are llama, "),
        ({"model_type": None}, "Known are llama"),
        ({"extra_heads": 3}, "'extra_heads' is not known of model_type llama, and may carry"),
        ({"hidden_size": None}, "hidden_size=None is not a whole number"),
        ({"hidden_size": 2048.0}, "hidden_size=2048.0 is not a whole number"),
        ({"hidden_act": "xielu"}, "hidden_act='xielu' is not known; known are silu"),
        ({"mlp_bias": True}, "mlp_bias=True is not modelled where attention_bias=False"),
        ({"attention_bias": 1}, "attention_bias=1 is not true or false"),
        ({"num_key_value_heads": 5}, "does not divide by model.num_query_groups=5"),
        ({"rope_theta": 0.5}, "rope_theta=0.5 is not a whole number"),
    ],
)
def test_what_is_refused(change: dict[str, Any], says: str) -> None:
    assert says in str(outcome({**config("meta-llama/Llama-3.2-1B"), **change}))


def test_a_size_that_a_file_lacks_is_no_other_models() -> None:
    """Of seven sizes one missing was a smaller model before, and planned."""
    values = config("meta-llama/Meta-Llama-3.1-405B")
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"):
        assert f"it has no '{key}'" in str(outcome(changed(values, (key,))))


def test_what_is_left_out_is_said() -> None:
    for name, words in {
        "deepseek-ai/DeepSeek-V3": "num_nextn_predict_layers=1: layers of multi-token prediction",
        "MiniMaxAI/MiniMax-M2.5": "num_mtp_modules=3: layers of multi-token prediction",
        "google/gemma-3-27b-it": "vision_config: another tower",
        "openai/gpt-oss-20b": "quantization_config: ",
    }.items():
        found = imported(config(name))
        assert any(said.startswith(words) for said in found.left_out)
        assert words.split(":")[0] in import_model.text_of(
            import_model.model_of(found, "x"), found, "config.json", "0"
        )


def test_multi_token_prediction_by_hand() -> None:
    """DeepSeek-V3's layer, eh_proj and three norms; with a buffer of 256."""
    values = config("deepseek-ai/DeepSeek-V3")
    without, whole = (imported(values, more_tokens=more) for more in (False, True))
    assert whole.left_out == [said for said in without.left_out if "nextn" not in said]
    counts = [count(import_model.model_of(found, "x")) for found in (without, whole)]
    assert counts[1].total - counts[0].total == 11_507_286_016 + 102_760_448 + 21_504
    assert counts[1].fp32_buffers - counts[0].fp32_buffers == 256
    for name in ("Qwen/Qwen3-0.6B", "moonshotai/Moonlight-16B-A3B"):  # no such class; no such key
        with pytest.raises(UserError, match="leave out --with-mtp"):
            imported(config(name), more_tokens=True)


# -- the program


def written(folder: Path, values: object, name: str = "config.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize("name", EXACT)
def test_the_yaml_is_the_model(name: str) -> None:
    found = imported(config(name))
    model = import_model.model_of(found, "x")
    text = import_model.text_of(model, found, "there/config.json", "ab12")
    assert f"{count(model).total:,} parameters" in text and "# sha256 ab12" in text
    assert all(len(line) <= 100 or not line.startswith("#") for line in text.splitlines())
    values = yaml.safe_load(text)
    made = {"model": values, "parallel": {"name": "p"}, "refit": {"name": "r"}}
    back = Job.from_dict({**made, "cluster": {"name": "c"}}).model
    assert back == Model(**{**vars(model), "published_parameters": count(model).total})


def test_the_program_writes_what_config_dir_finds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "Qwen3-0.6B"
    folder.mkdir()
    path = written(folder, config("Qwen/Qwen3-0.6B"))
    import_model.main([str(path), "--published", "596,049,920"])
    shown = capsys.readouterr().out
    assert "name: qwen3_0_6b\n" in shown
    assert yaml.safe_load(shown) == OmegaConf.to_container(OmegaConf.create(shown))
    import_model.main([str(path), "--name", "mine", "--output", str(tmp_path / "my_conf")])
    assert (tmp_path / "my_conf" / "model" / "mine.yaml").read_text() == shown.replace(
        "qwen3_0_6b", "mine"
    )
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/my_conf/model/mine.yaml: 596,049,920 parameters, all active",
        f"python -m refit.run --config-dir {tmp_path}/my_conf mode=plan model=mine",
    ]


def test_the_program_refuses(tmp_path: Path) -> None:
    path = written(tmp_path, {**config("Qwen/Qwen3-0.6B"), "lm_head_rank": 8})
    for words, says in {
        (): "'lm_head_rank' is not known of model_type qwen3, and may carry weights; --ignore",
        ("--ignore", "lm_head_rank", "--published", "600"): "596,049,920 parameters, and --publi",
        ("--name", "a/b"): "--name a/b",
    }.items():
        with pytest.raises(UserError, match=says):
            import_model.main([str(path), *words])
    for bad in (tmp_path / "none.json", written(tmp_path, [], "list.json")):
        with pytest.raises(UserError, match=str(bad)):
            import_model.main([str(bad)])
