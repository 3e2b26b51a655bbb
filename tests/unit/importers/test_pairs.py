"""Public launch scripts as pairs: their degrees, worlds and bytes, or refused by name.

The scripts are in `tests/data/pairs`. What each must come to is written out by hand from them, and
the bytes are those that others have counted of these layouts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from refit import import_pair
from refit.errors import UserError
from refit.import_model import model_of
from refit.importers import areal_stages, options
from refit.importers.pair import Pair, shipped
from refit.job import Job
from refit.layout.place import place
from refit.model.hf.read import imported
from refit.model.megatron_versions import NORMS_DIRECT_QUERIES
from refit.rules.impossible import impossible
from refit.rules.setup import Setup
from refit.rules.stated_memory import held
from tests.support.public import config

FOLDER = Path(__file__).parents[2] / "data" / "pairs"
FIRST, LAST = "num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage"
LAYOUT, VPP = "pipeline_model_parallel_layout", "virtual_pipeline_model_parallel_size"
ACCOUNTS = {f"account_for_{what}_in_pipeline_split": True for what in ("embedding", "loss")}
ETP_1 = "actor_rollout_ref.actor.megatron.expert_tensor_parallel_size=1"


def side(text: str, **more: Any) -> dict[str, Any]:
    """`tp4 pp8 64` -> {tp: 4, pp: 8, gpus: 64}."""
    *degrees, gpus = text.split()
    sizes = {word.rstrip("0123456789"): int(word.lstrip("etpc")) for word in degrees}
    return {**sizes, **more, "gpus": int(gpus)}


def engine(text: str) -> dict[str, Any]:
    return {"kind": "engine", **side(text)}


@dataclass(frozen=True)
class Script:
    """What one comes to.

    Attributes:
        words: behind it on the command line.
        source, destination: fields of `Degrees`.
        world: ranks, of whole nodes.
        model: the shipped option that it brings, or the name of one to import.
    """

    source: dict[str, Any]
    destination: dict[str, Any]
    world: int
    model: str | None
    words: tuple[str, ...] = ()
    apart: bool = False


SCRIPTS: dict[str, Script] = {
    "slime/run-glm5-744B-A40B.sh": Script(
        side("tp4 cp2 pp4 ep32 etp1 256", **{LAST: 18}), engine("tp1 ep64 256"), 256, "glm_5"
    ),
    "slime/run-qwen3-235B-A22B.sh": Script(
        side("tp4 cp2 pp4 ep16 etp1 64", **{LAST: 22}), engine("tp8 ep32 64"), 128,
        "qwen3_235b_a22b", apart=True,
    ),
    "slime/run-minimax-m2.sh": Script(
        side("tp2 pp2 ep4 etp1 128"), engine("tp16 ep16 128"), 128, "minimax_m2_5"
    ),
    "slime/run-moonlight-16B-A3B.sh": Script(
        side("tp4 ep8 etp1 8"), engine("tp8 8"), 8, "moonlight_16b_a3b"
    ),
    "slime/run-qwen3-next-80B-A3B.sh": Script(
        side("tp2 cp4 pp4 ep8 etp1 32", **{LAST: 9}), engine("tp8 ep8 32"), 32,
        "qwen3_next_80b_a3b_thinking",
    ),
    # prefill and decode engines, all of one layout
    "slime/run-glm5.2-744B-A40B.sh": Script(
        side("tp4 cp8 pp8 ep32 etp1 256", **{FIRST: 14, LAST: 16}), engine("tp1 ep64 256"), 256,
        "glm_5_2_fp8",
    ),
    "slime/run-qwen3.5-27B.sh": Script(
        side("tp4 cp4 pp2 etp1 32", **{LAST: 30}), engine("tp2 32"), 32, "qwen3_5_27b"
    ),
    "slime/run-glm4-9B.sh": Script(
        side("tp2 cp2 etp1 4"), engine("tp2 4"), 8, "glm_z1_9b_0414", apart=True
    ),
    "slime/run-deepseek-r1.sh": Script(
        side("tp8 cp4 pp4 ep32 etp1 128", **{LAST: 13}), engine("tp8 ep64 128"), 128, "deepseek_v3"
    ),
    "miles/run-kimi-k2-64node-profile.sh": Script(
        side("tp8 cp4 pp8 ep32 etp1 256", **{LAST: 5}), engine("tp4 ep32 256"), 512, "kimi_k2",
        ("1=p2p", "2=0", "3=head"), apart=True,
    ),
    "verl/run_deepseek_v3_671b_megatron.sh": Script(
        side("tp8 pp12 ep8 etp1 96", **{LAST: 6}), engine("tp32 96"), 96, "deepseek_v3"
    ),
    "verl/run_qwen3_235b_a22b_megatron.sh": Script(
        side("tp4 pp8 ep4 etp1 64", **{FIRST: 11, LAST: 11}), engine("tp8 ep64 64"), 64,
        "qwen3_235b_a22b", ("DEVICE=gpu", ETP_1),
    ),
    "verl/run_deepseek_v4_flash_megatron.sh": Script(
        side("tp1 pp8 ep8 etp1 64", **{LAYOUT: "Et*6|t*6|t*6|t*5|t*5|t*5|t*5|t*5L"}),
        engine("tp1 ep4 64"), 64, "deepseek_v4_flash",
    ),
    "verl/run_qwen3_30b_a3b_megatron.sh": Script(
        side("tp4 pp2 ep2 etp1 8", **{VPP: 2}), engine("tp4 ep2 etp2 8"), 8, "qwen3_30b_a3b",
        (ETP_1,),
    ),
    "verl/run_moonlight_16b_a3b_megatron.sh": Script(
        side("tp4 pp3 ep4 etp1 24"), engine("tp4 24"), 24, "moonlight_16b_a3b"
    ),
    "verl/run_qwen3_8b_fsdp.sh": Script(
        {"kind": "fsdp", "gpus": 8}, engine("tp2 8"), 8, "qwen3_8b", ("DEVICE=gpu",)
    ),
    "verl/grpo_30b_a3b_base_math_megatron_96_32.sh": Script(
        side("tp2 cp2 ep8 etp1 32"), engine("tp4 96"), 128, "qwen3_30b_a3b", apart=True
    ),
    "nemo_rl/recipes/llm/grpo-dapomath17k-dsv3-megatron.yaml": Script(
        side("tp8 cp4 pp8 ep32 etp1 256", **{FIRST: 7, LAST: 6}), engine("tp32 256"), 256, None
    ),
    "nemo_rl/recipes/llm/grpo-glm5.1-64n8g-megatron.yaml": Script(
        side("tp8 pp8 ep64 etp1 512", **{FIRST: 9, LAST: 9}), engine("tp32 ep128 512"), 512,
        "glm_5_1",
    ),
    "nemo_rl/recipes/llm/performance/grpo-deepseek-v3-64n8g-async-1off.yaml": Script(
        side("tp1 pp16 ep16 etp1 256", **{FIRST: 3, LAST: 2}), engine("tp32 256"), 512,
        "deepseek_v3", ("--model=deepseek_v3",), apart=True,
    ),
    "nemo_rl/recipes/llm/performance/grpo-qwen3-30ba3b-24n8g-async-8off.yaml": Script(
        side("tp1 ep8 etp1 128"), engine("tp2 64"), 192, "qwen3_30b_a3b", apart=True
    ),
    "nemo_rl/grpo_math_70B_megatron.yaml": Script(
        side("tp4 pp4 etp1 64"), engine("tp8 64"), 64, "llama31_70b"
    ),
    "roll/qwen3-235BA22B-rlvr_megatron.yaml": Script(
        side("tp4 pp8 ep8 256", **{VPP: 6}, **ACCOUNTS), engine("tp8 200"), 256, "qwen3_235b_a22b"
    ),
    "roll/qwen3-30BA3B-rlvr_megatron.yaml": Script(
        side("tp1 cp4 pp2 ep4 32", **{VPP: 8}), engine("tp2 24"), 32, "qwen3_30b_a3b"
    ),
    "areal/gsm8k_grpo_megatron_lora_moe.yaml": Script(
        side("pp6 etp1 6"), engine("tp2 2"), 8, "qwen3_30b_a3b", apart=True
    ),
    "areal/config_235b_moe_airline.yaml": Script(
        side("tp4 pp12 ep4 etp1 48", **{LAYOUT: [7, *[8] * 10, 7]}), engine("tp8 32"), 80,
        "qwen3_235b_a22b", apart=True,
    ),
}  # fmt: skip

LEFT_OUT = {
    "slime/run-deepseek-r1.sh": [
        "sequence parallel: no weights depend on it",
        "${MODEL_ARGS[@]}",
        "--sglang-moe-dense-tp-size 1",
    ],
    "slime/run-qwen3-235B-A22B.sh": ["Qwen3-235B-A22B-FP8: engines hold less than bfloat16"],
    "verl/run_qwen3_235b_a22b_megatron.sh": [
        "expert_parallel_size=64: verl demands TP times data_parallel_size, 8 * 1",
        "if [ ${DEVICE} = npu ] trainer.n_gpus_per_node=16",
    ],
    "verl/run_qwen3_30b_a3b_megatron.sh": ["moe_tensor_parallel_size=2 with trtllm alone"],
    "verl/run_qwen3_8b_fsdp.sh": ["verl trains in float32"],
    "nemo_rl/recipes/llm/grpo-glm5.1-64n8g-megatron.yaml": ["sequence parallel"],
    "areal/gsm8k_grpo_megatron_lora_moe.yaml": [
        "model.lora={rank:32,targets:[linear_qkv,linear_proj,linear_fc1,linear_fc2]}"
    ],
}


def asked(name: str, *words: str) -> import_pair.Asked:
    path = FOLDER / name
    return import_pair.asked_for([str(path) if path.exists() else name, *words])


def read(name: str, *words: str) -> Pair:
    return import_pair.read(asked(name, *words))[0]


def test_every_script_is_in_the_table() -> None:
    files = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file()}
    bases = {f"nemo_rl/{name}.yaml" for name in ("grpo_math_1B", "grpo_math_1B_megatron")}
    bases |= {f"nemo_rl/recipes/llm/performance/{name}.yaml"
              for name in ("grpo-deepseek-v3-32n8g", "grpo-qwen3-30ba3b-4n8g")}  # fmt: skip
    assert files - bases - {"SOURCES.md"} == SCRIPTS.keys()


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_public_script_is_this_pair(name: str) -> None:
    want = SCRIPTS[name]
    question = asked(name, *want.words)
    pair, sha256 = import_pair.read(question)
    assert pair.source == want.source
    assert pair.destinations == [want.destination]
    assert pair.mode == ("non-collocated" if want.apart else "collocated")
    option = want.model if want.model in options.models() else None
    job = import_pair.job_of(pair, question.name, option)
    placement = place(job)
    assert placement.world == want.world
    if option is not None:
        assert impossible(job) is None
    for words in LEFT_OUT.get(name, []):
        assert any(words in said for said in pair.left_out), words
    text = import_pair.text_of(pair, question, sha256, placement)
    assert f"# sha256 {sha256}" in text
    assert written(text, option) == {
        **import_pair.parallel(pair, question.name, want.model),
        "use_case": f"{pair.framework}: {question.name}",
    }


def written(text: str, option: str | None) -> dict[str, Any]:
    """The fields of a YAML file, whose header is of short lines and which brings its model."""
    head = [line for line in text.splitlines() if line.startswith("# ")]
    assert all(len(line) <= 100 or line.startswith("#   ") for line in head)
    values: dict[str, Any] = yaml.safe_load(text)
    brought = values.pop("defaults", None)
    assert brought == (option and [{"override /model@_global_.model": option}])
    return values


# -- bytes that others have counted


def job_of(name: str, model: str | None = None) -> Job:
    """The job of a script; with another model, shipped or by its config.json."""
    want = SCRIPTS[name]
    option = model if model in options.models() else want.model
    option = option if option in options.models() else None
    job = import_pair.job_of(read(name, *want.words), "x", option)
    if model is None or model in options.models():
        return job
    return replace(job, model=model_of(imported(config(model)), "x"))


RECIPES = "nemo_rl/recipes/llm/performance/grpo-"


@pytest.mark.parametrize(
    ("name", "model", "source", "destination"),
    [
        # NeMo-RL and ROLL, to the byte: all engines' weights
        (f"{RECIPES}deepseek-v3-64n8g-async-1off.yaml", None, None, 11_247_766_470_656),
        (f"{RECIPES}qwen3-30ba3b-24n8g-async-8off.yaml", None, None, 1_954_874_654_720),
        ("roll/qwen3-30BA3B-rlvr_megatron.yaml", None, None, 733_077_995_520),
        # 4.218 TB: experts cut over TP 32, where whole ones would be 125.8; engines have no row of
        # the vocabulary beyond 129,280
        ("verl/run_deepseek_v3_671b_megatron.sh", None, None, 4_217_912_426_496),
        (
            "slime/run-moonlight-16B-A3B.sh", "moonshotai/Moonlight-16B-A3B", None,
            32_415_657_984 + (8 * 27 * 2048 * 2 if NORMS_DIRECT_QUERIES else 0),
        ),
        # 2.008 GB on each of eight ranks; four engines of 16.06
        ("verl/run_qwen3_8b_fsdp.sh", "llama31_8b", 8 * 2_007_565_312, 64_244_219_904),
    ],
)  # fmt: skip
def test_the_bytes_of_a_script(
    name: str, model: str | None, source: int | None, destination: int
) -> None:
    setup = Setup.of(job_of(name, model))
    bytes_held = {key: int(of.sum()) for key, of in held(setup.catalogue, setup.placement).items()}
    assert bytes_held["destination"] == destination
    assert source is None or bytes_held["source"] == source


def test_fsdp_moves_what_a_rank_does_not_hold() -> None:
    """56.214 GB, and nothing at all where FSDP was taken for replicas."""
    plan = Setup.of(job_of("verl/run_qwen3_8b_fsdp.sh", "llama31_8b")).plan()
    assert plan.bounds.move == 56_213_692_416


def test_heads_that_engines_copy_are_counted() -> None:
    """MiniMax-M2.5 at TP 16: 8 groups' keys and values twice in each of 8 engines, 6.24 GB."""
    job = job_of("slime/run-minimax-m2.sh", "MiniMaxAI/MiniMax-M2.5")
    as_megatron = replace(job.parallel.destination, kind=None, etp=1,
                          make_vocab_size_divisible_by=4)  # fmt: skip
    other = replace(job, parallel=replace(job.parallel, destination=as_megatron))
    sums = []
    for one in (job, other):
        setup = Setup.of(one)
        sums.append(int(held(setup.catalogue, setup.placement)["destination"].sum()))
    layers, rows, hidden, engines = 62, 2 * 8 * 128, 3072, 8
    assert sums[0] - sums[1] == engines * layers * rows * hidden * 2 == 6_241_124_352


# -- what is refused, and how


@pytest.mark.parametrize(
    ("name", "words", "says"),
    [
        ("verl/run_qwen3_235b_a22b_megatron.sh", ("DEVICE=gpu",), f"put {ETP_1} behind the file"),
        ("verl/run_qwen3_8b_fsdp.sh", (), "n_gpus_per_node: the script does not say what"),
        ("verl/run_qwen3_8b_fsdp.sh", (), "only a shell knows whether it holds: case $(python3"),
        ("miles/run-kimi-k2-64node-profile.sh", (), "knows whether it holds: if [ $NODE_RANK"),
        ("none.sh", (), "none.sh cannot be read: No such file"),
        ("slime/run-glm4-9B.sh", ("x",), "x is no NAME=VALUE"),
        ("slime/run-glm4-9B.sh", ("--name", "a/b"), "--name a/b: letters"),
        (f"{RECIPES}qwen3-30ba3b-24n8g-async-8off.yaml", ("cluster.num_nodes=8",), "all 64 GPUs"),
        ("roll/qwen3-30BA3B-rlvr_megatron.yaml", ("actor_infer.device_mapping=[0,2]",), "one af"),
        ("sglang:d4t8", (), "'sglang:d4t8' has 1 parts"),
        ("sglang:d4t8+archon:d8", (), "archon's layouts are not modelled"),
        ("sglang:d4t8t2+fsdp:d8", (), "t is said twice"),
        ("sglang:d4t8+megatron:(attn:d1p2t4|ffn:d1p4e4)", (), "the same p and the same world"),
    ],
)  # fmt: skip
def test_what_is_refused(name: str, words: tuple[str, ...], says: str) -> None:
    with pytest.raises(UserError) as refused:
        import_pair.main([asked(name).source, *words])
    assert says in str(refused.value)


SLIME = """python3 train.py --actor-num-nodes 2 --actor-num-gpus-per-node 8 --colocate \\
  --tensor-model-parallel-size 2 --hf-checkpoint /root/Qwen3-8B --rollout-num-gpus-per-engine 4 \\
  {more}"""
VERL = """python3 -m verl.trainer.main_ppo model_engine=megatron trainer.nnodes=2 {more} \\
  actor_rollout_ref.actor.megatron.tensor_model_parallel_size=2"""
NEMO = """
policy: {{megatron_cfg: {{enabled: true, tensor_model_parallel_size: 2 {more} }},
  generation: {{vllm_cfg: {{tensor_parallel_size: 4}} }} }}
cluster: {{gpus_per_node: 8, num_nodes: 2}}
"""
AREAL = """
rollout: {{backend: 'sglang:d4t4'}}
actor: {{backend: 'megatron:d8t2', path: Qwen/Qwen3-8B}}
sglang: {{mem_fraction_static: 0.8 {more} }}
"""
ROLL = """
pretrain: Qwen/Qwen3-8B
actor_train: {{device_mapping: 'list(range(0,16))', strategy_args: {{strategy_name: megatron_train,
  strategy_config: {{tensor_model_parallel_size: 2 {more} }} }} }}
actor_infer: {{device_mapping: 'list(range(0,16))', strategy_args: {{strategy_name: vllm,
  strategy_config: {{tensor_parallel_size: 4}} }} }}
"""
TEXTS = {
    "run.sh": SLIME, "verl.sh": VERL, "nemo.yaml": NEMO, "areal.yaml": AREAL, "roll.yaml": ROLL,
    "none.sh": "echo {more}", "none.yaml": "a: 1{more}",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "more", "says"),
    [
        # a key that may say where weights lie, and is not known
        ("run.sh", "--sglang-attn-cp-size 2", "'sglang-attn-cp-size' is not known, and may say"),
        ("verl.sh", "actor_rollout_ref.rollout.moe_dp_size=2", "rollout.moe_dp_size' is not known"),
        ("nemo.yaml", ", hybrid_context_parallel_size: 2", "hybrid_context_parallel_size' is not"),
        ("areal.yaml", ", moe_dp_size: 2", "'sglang.moe_dp_size' is not known"),
        ("roll.yaml", ", moe_parallel_folding: 2", "moe_parallel_folding' is not known"),
        # a value that the script does not say, and that matters
        ("run.sh", "--expert-model-parallel-size $EP", "does not say what $EP is; put NAME=VALUE"),
        ("verl.sh", "trainer.n_gpus_per_node=$(nproc)", "does not say what $(nproc) is"),
        ("nemo.yaml", ", context_parallel_size: '${oc.env:CP}'", "what ${oc.env:CP} is; put KEY"),
        # what is none
        ("run.sh", "--context-parallel-size two", "context-parallel-size=two is not a whole"),
        ("run.sh", "--rollout-num-gpus-per-engine 3", "16 GPUs are no whole number of engines of"),
        ("run.sh", "--sglang-dp-size 2", "without --sglang-enable-dp-attention"),
        ("run.sh", "--sglang-config f.yaml", "a file that this script does not write"),
        ("none.sh", "", "it is no script of slime or miles (--rollout-num"),
        ("none.yaml", "", "no config of NeMo-RL (policy), ROLL (actor_train) or AReaL"),
        ("run.sh", "--debug-train-only", "this script serves no weights"),
        ("verl.sh", "model_engine=veomni", "known are megatron, fsdp and fsdp2"),
        ("verl.sh", "actor_rollout_ref.rollout.name=hf", "known are vllm, sglang, trtllm"),
        ("verl.sh", "actor_rollout_ref.rollout.expert_parallel_size=3", "is not TP 2 times"),
        ("run.sh", "${P[@]}\nif [ -d /x ]; then\nP=(--a 1)\nfi", "${P[@]} is filled under a con"),
        ("verl.sh", "actor_rollout_ref.hybrid_engine=False", "does not say what serves"),
    ],
)  # fmt: skip
def test_keys_and_values_that_are_refused(tmp_path: Path, name: str, more: str, says: str) -> None:
    path = tmp_path / name
    path.write_text(TEXTS[name].format(more=more))
    with pytest.raises(UserError, match=name) as refused:
        import_pair.main([str(path)])
    assert says in str(refused.value)


@pytest.mark.parametrize("name", [name for name in TEXTS if "none" not in name])
def test_the_same_layout_in_every_dialect(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    words = ("actor_rollout_ref.rollout.tensor_model_parallel_size=4",) if name == "verl.sh" else ()
    path.write_text(TEXTS[name].format(more=""))
    pair = read(str(path), *words)
    source = {key: value for key, value in pair.source.items() if key != "etp"}
    assert source == {"tp": 2, "gpus": 16}
    assert pair.destinations == [engine("tp4 16")]


def test_what_is_known_to_say_nothing_may_be_ignored(tmp_path: Path) -> None:
    path = tmp_path / "run.sh"
    path.write_text(SLIME.format(more="--sglang-attn-cp-size 2"))
    assert read(str(path), "--ignore", "sglang-attn-cp-size").source["gpus"] == 16


def test_engines_of_several_kinds_are_several_destinations(tmp_path: Path) -> None:
    """Two groups in a file that the script writes: TP 2 with EP, and attention replicas."""
    path = tmp_path / "run.sh"
    groups = """
cat > c.yaml <<EOF
sglang: [{name: default, server_groups: [
  {worker_type: prefill, num_gpus: 8, num_gpus_per_engine: 2, overrides: {ep_size: 2}},
  {worker_type: decode, num_gpus: 8, overrides: {dp_size: 2, enable_dp_attention: true}}]}]
EOF
"""
    path.write_text(groups + SLIME.format(more="--sglang-config c.yaml"))
    question = asked(str(path))
    pair, sha256 = import_pair.read(question)
    assert pair.destinations == [engine("tp2 ep2 8"), {**engine("tp2 etp4 8")}]
    placement = place(import_pair.job_of(pair, "x", None))
    text = import_pair.text_of(pair, question, sha256, placement)
    assert yaml.safe_load(text)["destinations"] == pair.destinations
    path.write_text(groups.replace("num_gpus: 8, o", "num_gpus: 4, o") + SLIME.format(
        more="--sglang-config c.yaml"))  # fmt: skip
    with pytest.raises(UserError, match="its groups have 12 GPUs, and 16 serve"):
        read(str(path))


MIXTRAL = """
torchrun --nproc_per_node 8 --nnodes ${NNODES:-4} pretrain_gpt.py --num-layers 32 \\
  --hidden-size 4096 --num-attention-heads 32 --num-experts 8 --sequence-parallel --bf16 \\
  --tensor-model-parallel-size 1 --pipeline-model-parallel-size 4 --expert-model-parallel-size 8
"""


def test_megatrons_own_flags(tmp_path: Path) -> None:
    """The degrees of its examples/mixtral, which need 32 GPUs, and not the 8 of one node."""
    path = tmp_path / "mixtral.sh"
    path.write_text(MIXTRAL)
    pair = read(str(path))
    assert pair.source == pair.destinations[0] == {"tp": 1, "pp": 4, "ep": 8}
    assert any("no --rl-inference- flag" in said for said in pair.left_out)
    assert "sequence parallel: no weights depend on it" in pair.left_out
    assert any("started on 8 GPUs" in said for said in read(str(path), "NNODES=1").left_out)
    path.write_text(MIXTRAL + " --rl-inference-tensor-model-parallel-size 8")
    assert read(str(path)).destinations[0]["tp"] == 8


# -- the model, and the program


@pytest.mark.parametrize(
    ("path", "option"),
    [
        ("/root/Qwen3-235B-A22B-FP8", "qwen3_235b_a22b"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "qwen25_05b"),
        ("meta-llama/Meta-Llama-3.1-8B", "llama31_8b"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama31_70b"),
        ("deepseek-ai/DeepSeek-V3-0324", "deepseek_v3"),
        ("moonshotai/Kimi-K2-Thinking", "kimi_k2"),
        ("zai-org/GLM-4.5-Air", "glm45_air_106b"),
        ("openai/gpt-oss-120b", "gpt_oss_120b"),
        ("mistralai/Mixtral-8x7B-v0.1", "mixtral_8x7b"),
        ("Qwen/Qwen3-30B-A3B-Thinking-2507", "qwen3_30b_a3b"),
        ("Qwen/Qwen3-32B", None),
        ("zai-org/GLM-5", None),
    ],
)
def test_the_shipped_model_of_a_name(path: str, option: str | None) -> None:
    assert shipped(path) == option


def test_layers_as_areal_deals_them_out() -> None:
    """By hand: four equal layers and an embedding as heavy as two; of a tie the earliest start."""
    assert areal_stages.balanced([1, 1, 1, 1], 2, 0, 2) == [1, 3]
    assert areal_stages.balanced([1] * 4, 0, 0, 2) == [2, 2]
    assert areal_stages.balanced([1] * 5, 0, 0, 2) == [2, 3]
    assert areal_stages.balanced([4, 1, 1, 1, 1], 0, 0, 2) == [1, 4]


def test_the_program_writes_what_config_dir_finds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = str(FOLDER / "slime/run-qwen3-235B-A22B.sh")
    import_pair.main([script, "--name", "mine"])
    shown = capsys.readouterr().out
    import_pair.main([script, "--name", "mine", "--output", str(tmp_path)])
    text = (tmp_path / "parallel" / "mine.yaml").read_text()
    assert text == shown.replace("--config-dir DIR", f"--config-dir {tmp_path}")
    *left_out, path, command = capsys.readouterr().out.splitlines()
    assert all(line.startswith("left out: ") for line in left_out) and len(left_out) == 3
    assert path.startswith(f"{tmp_path}/parallel/mine.yaml: World size: 128 (using 128 GPUs); ")
    assert command == (
        f"python -m refit.run --config-dir {tmp_path} parallel=mine mode=plan build=shards"
        " cluster=h100"
    )


def test_a_model_that_is_not_shipped_is_to_be_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = str(FOLDER / "slime/run-minimax-m2.sh")
    import_pair.main([script, "--output", str(tmp_path)])
    *_, model, command = capsys.readouterr().out.splitlines()
    assert model == (
        f"python -m refit.import_model config.json --output {tmp_path} --name minimax_m2_5"
        "  # of /root/MiniMax-M2.5"
    )
    assert command.endswith(" cluster=h100 model=minimax_m2_5")
