"""What importers are made of: YAML values, engines, names of models, words of overrides."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refit.errors import UserError
from refit.importers import yaml_values
from refit.importers.options import _in_grammar, resolved
from refit.importers.pair import Pair, adapters, engine, named, option_name, shipped, vllm
from refit.job import Degrees, Parallel


def tree(folder: Path, **files: str) -> Path:
    """Files of that content; the path of the first."""
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder / next(iter(files))


def values(path: Path, starts: str | None = None, **variables: str) -> dict[str, Any]:
    keys = {key.replace("__", "."): value for key, value in variables.items()}
    return dict(yaml_values.said(path, keys, starts).values)


def test_values_by_dotted_key(tmp_path: Path) -> None:
    path = tree(tmp_path, a="x: {y: {z: 1}, w: {}}\nl: [1, {k: 2}]\n7: n\n")
    assert values(path) == {"x.y.z": 1, "x.w": {}, "l": [1, {"k": 2}], "7": "n"}
    more = values(path, x__y__z="[3, 4]", x__y__new="true", q__r="")
    assert more["x.y.z"] == [3, 4] and more["x.y.new"] is True and more["q.r"] is None


def test_what_stands_for_another_value(tmp_path: Path) -> None:
    path = tree(
        tmp_path,
        a="a: {b: 3}\nc: ${a.b}\nd: ${c}\ne: x${a.b}\nf: ${a.none}\ng: ${a.b.c}\nh: ${oc.env:X}\n"
        "loop: ${loop}\n",
    )
    assert values(path) == {
        "a.b": 3,
        "c": 3,
        "d": 3,
        "e": "x${a.b}",
        "f": "${a.none}",
        "g": "${a.b.c}",
        "h": "${oc.env:X}",
        "loop": "${loop}",
    }
    assert values(path, a__b="5")["d"] == 5


def test_a_file_starts_from_others(tmp_path: Path) -> None:
    path = tree(
        tmp_path,
        own="from: [one, two]\na: {x: 1}\nc: {_override_: true, z: 3}\ne: {f: 1}\n",
        one="from: base\na: {x: 5, y: 5}\nb: 5\n",
        two="b: 6\nc: {w: 6}\ne: 6\n",
        base="b: 7\nd: 7\n",
    )
    assert values(path, "from") == {"a.x": 1, "a.y": 5, "b": 6, "c.z": 3, "d": 7, "e.f": 1}
    assert values(path)["from"] == ["one", "two"]  # a key like any other


@pytest.mark.parametrize(
    ("files", "starts", "words"),
    [
        ({"a": "- 1\n"}, None, "a is no mapping of keys"),
        ({"a": "x: [\n"}, None, "a cannot be read: while parsing"),
        ({"a": "from: b\n"}, "from", "b, which a starts from, cannot be read: No such file"),
        ({"a": "from: b\n", "b": "from: a\n"}, "from", "a starts from itself"),
        ({"a": "from: {x: 1}\n"}, "from", "a: from={'x': 1} is no file, or list of files"),
        ({"a": "from: [b, 1]\n", "b": "x: 1"}, "from", "a: from=['b', 1] is no file, or list"),
    ],
)
def test_files_that_cannot_be_read(
    files: dict[str, str], starts: str | None, words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        values(tree(tmp_path, **files), starts)


def test_a_value_that_is_not_yamls(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^x\.y=\[: the value is not YAML's$"):
        values(tree(tmp_path, a="x: 1\n"), x__y="[")


@pytest.mark.parametrize(
    ("asked", "side"),
    [
        ({"gpus": 8, "tp": 4}, {"tp": 4}),
        ({"gpus": 8, "tp": 4, "pp": 2}, {"tp": 4, "pp": 2}),
        # EP of all ranks leaves each expert whole, which is what is meant where nothing is said
        ({"gpus": 8, "tp": 8, "ep": 8}, {"tp": 8, "ep": 8}),
        ({"gpus": 8, "tp": 8, "ep": 4}, {"tp": 8, "ep": 4, "etp": 2}),
        # attention in replicas, experts over all ranks
        ({"gpus": 8, "tp": 8, "attention_dp": 4}, {"tp": 2, "etp": 8}),
        ({"gpus": 8, "tp": 8, "ep": 8, "attention_dp": 8}, {"tp": 1, "ep": 8}),
        ({"gpus": 8, "tp": 4, "experts_tp": 2}, {"tp": 4, "etp": 2}),
        ({"gpus": 8}, {"tp": 1}),
    ],
)
def test_an_engines_side(asked: dict[str, int], side: dict[str, int]) -> None:
    assert engine(**asked) == {"kind": "engine", **side, "gpus": asked["gpus"]}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"gpus": 8, "tp": 4, "attention_dp": 3}, "3 replicas of attention do not divide the 4"),
        ({"gpus": 8, "tp": 4, "ep": 3}, "EP 3 does not divide the 4 ranks of an engine"),
        (
            {"gpus": 12, "tp": 4, "pp": 2},
            "12 GPUs are no whole number of engines of 8: TP 4 times PP 2",
        ),
    ],
)
def test_an_engine_that_cannot_be(asked: dict[str, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        engine(**asked)


def test_vllms_experts_are_over_all_its_ranks() -> None:
    whole = {"kind": "engine", "tp": 2, "ep": 8, "gpus": 16}
    assert vllm(16, 2, 4, expert_parallel=True) == whole
    cut = {"kind": "engine", "tp": 2, "pp": 2, "etp": 8, "gpus": 16}
    assert vllm(16, 2, 4, 2) == cut


def test_a_pair_has_no_degrees_of_one() -> None:
    pair = Pair("x", {"tp": 1, "cp": 1, "pp": 2, "ep": 1}, [{"ep": 1}, {"pp": 1, "ep": 2}], "m")
    assert (pair.source, pair.destinations) == ({"tp": 1, "pp": 2}, [{}, {"ep": 2}])
    assert (pair.per_node, pair.left_out, pair.etp) == (8, [], "")


@pytest.mark.parametrize(
    ("said", "option"),
    [
        ("deepseek-ai/DeepSeek-V3", "deepseek_v3"),
        ("/models/DeepSeek-R1/", "deepseek_v3"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama31_70b"),
        ("Qwen3-30B-A3B-Instruct-2507-FP8", "qwen3_30b_a3b"),
        ("Qwen3-30B-A3B_torch_dist", "qwen3_30b_a3b"),
        ("none-such", None),
    ],
)
def test_which_model_a_script_means(said: str, option: str | None) -> None:
    assert shipped(said) == option


def test_names() -> None:
    assert [option_name(x) for x in ("zai/GLM-5/", "--", "a b.c")] == ["glm_5", "imported", "a_b_c"]
    paths = ("/m/GLM-5/", "$HF_MODEL", "a b", "x y/z", None, "/", "a/b.c-d_e")
    assert [named(x) for x in paths] == ["/m/GLM-5/", None, None, None, None, None, "a/b.c-d_e"]
    said = adapters("LoRA", 8, ["q", "v"])
    assert said.endswith("model.lora={rank:8,targets:[q,v]}")
    assert adapters("LoRA").endswith("model.lora={rank:...,targets:[...]}")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (0.5, "0.5"),
        ("a-b_c", "a-b_c"),
        ("a b", '"a b"'),
        ("null", '"null"'),
        ("true", '"true"'),
        ("7", '"7"'),
        ([1, None, "x y"], '[1,null,"x y"]'),
    ],
)
def test_a_value_in_hydras_grammar(value: Any, text: str) -> None:
    assert _in_grammar(value) == text


@pytest.mark.parametrize("value", ['a "b"', "a\\b"])
def test_a_value_that_grammar_has_no_words_for(value: str) -> None:
    with pytest.raises(UserError, match="has a quote or a backslash in it"):
        _in_grammar(value)


def test_what_a_pair_has_where_nothing_is_said() -> None:
    source = Degrees(tp=2, cp=3, pp=5, ep=7)
    pair = Parallel("p", source=source, destination=replace(source, etp=1, gpus=4))
    assert [(side["etp"], side["gpus"]) for side in resolved(pair, True)] == [(2, 210), (1, 4)]
    assert [side["etp"] for side in resolved(pair, False)] == [1, 1]
