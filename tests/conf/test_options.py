"""Every option of every group composes against the schema; the rows are the reference table's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from refit import schema
from refit.compose import configs
from refit.hydra_side import BasicSweeper
from refit.job import Hardware
from refit.layout.place import place
from refit.model.architecture import LOCAL_SPEC, PRODUCTION, catalogue, tensors_of
from refit.model_config import Model
from refit.plan.build import build_plan
from refit.rules.impossible import impossible
from refit.rules.methods import choose
from tests.support.composed import PUBLIC, SMALL_DENSE, composed
from tests.support.table import ROWS, mode

CONF = Path(__file__).parents[2] / "conf"
OPTIONS = sorted(CONF.glob("*/**/*.yaml"))
EXPERIMENT = "experiment"  # sweeps in files: about the whole config, so no part of a Job
SCALE = "scale"  # what a model brings of the whole config; nobody chooses it
GROUPS = ("cluster", EXPERIMENT, "hardware", "model", "parallel", "refit", SCALE)


@pytest.fixture
def hydra_on_conf() -> Iterator[None]:
    with configs():
        yield


def group_of(option: Path) -> str:
    """The group of an option; what is in a subfolder is chosen by its bare name too."""
    return option.relative_to(CONF).parts[0]


def test_groups_are_the_known_ones() -> None:
    assert tuple(sorted(p.name for p in CONF.iterdir() if p.is_dir())) == GROUPS
    assert {p.suffix for p in CONF.rglob("*") if p.is_file()} == {".yaml"}


@pytest.mark.parametrize("path", OPTIONS, ids=lambda p: f"{group_of(p)}={p.stem}")
def test_option_composes(path: Path) -> None:
    group = group_of(path)
    if group == SCALE:
        assert f"/scale@_global_: {path.stem}" in (CONF / "model" / path.name).read_text()
        return
    job = composed(f"{group}={path.stem}")
    if group == EXPERIMENT:
        assert impossible(job) is None
        assert path.read_text().startswith("# @package _global_\n")
    elif group == "hardware":
        # it takes the place of all that a cluster says of its hardware, so it says all
        assert set(OmegaConf.load(path)) == {field.name for field in fields(Hardware)}
        rates = job.cluster.hardware
        assert rates == composed(f"cluster={path.stem}").cluster.hardware != Hardware()
        assert rates == composed("cluster=cpu", f"hardware={path.stem}").cluster.hardware
    else:
        assert getattr(job, group).name == path.stem


@pytest.mark.parametrize("path", [CONF / "config.yaml", *OPTIONS], ids=lambda p: p.stem)
def test_header_says_what_and_how(path: Path) -> None:
    lines = path.read_text(encoding="ascii").splitlines()
    header = []
    for line in lines:
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            header.append(line)
    assert len(header) >= 2 and len(header[0]) > 40
    assert any("python -m refit.run" in line for line in header)
    if path.stem != "config":
        run = "python -m refit.run" + (" -m" if group_of(path) == EXPERIMENT else "")
        group = "model" if group_of(path) == SCALE else group_of(path)
        run += " -m" if group_of(path) == SCALE else ""
        assert any(f"{run} {group}={path.stem}" in li for li in header)
    assert all(len(line) <= 100 for line in lines)


def test_a_public_pair_brings_its_model() -> None:
    for path in (CONF / "parallel" / "public").glob("*.yaml"):
        job = composed(f"parallel={path.stem}")
        assert job.model.name == job.parallel.model
    other = composed("model=dense", f"parallel={path.stem}")  # the model that is said is kept
    assert "use model=" in (impossible(other) or "")


def test_default_point_is_the_minimal_row() -> None:
    job = composed()
    assert (job.model.name, job.parallel.name) == ("moe_16e", "noncollocated_4_tp2ep1_to_tp1ep1")
    assert (job.refit.method, job.refit.mode, job.cluster.ranks_per_node) == ("auto", "auto", 8)
    assert place(job).header() == [
        "World size: 8 (using 3 GPUs)",
        "Source ranks: 0-1 (TP=2, PP=1, EP=1)",
        "Destination ranks: 2 (TP=1, PP=1, EP=1)",
        "Idle ranks: 3-7 (not participating)",
    ]


@pytest.mark.usefixtures("hydra_on_conf")
def test_every_field_has_a_value_by_default() -> None:
    assert OmegaConf.missing_keys(compose("config")) == set()


@pytest.mark.parametrize("name", ROWS)
def test_row_is_the_reference_tables(name: str) -> None:
    (tp, ep), (to_tp, to_ep), gpus, idle, use_case = ROWS[name]
    job = composed(f"parallel={name}")
    assert (job.parallel.name, job.parallel.use_case) == (name, use_case)
    assert job.placement_mode == mode(name)
    placement = place(job)
    source, destination = placement.source, placement.destination
    assert (source.tp, source.ep, source.pp, source.cp, source.etp) == (tp, ep, 1, 1, 1)
    assert (destination.tp, destination.ep, destination.pp, destination.cp) == (to_tp, to_ep, 1, 1)
    assert destination.etp == 1
    assert (placement.world, placement.used, len(placement.idle)) == (8, gpus, idle)
    assert impossible(job) is None
    # the smaller model has four heads, too few for one row
    smaller = impossible(composed(f"parallel={name}", "model=moe_8e"))
    assert (smaller is None) is (max(tp, to_tp) <= 4)
    assert smaller is None or "model.num_attention_heads=4" in smaller


def choices(override: str) -> list[str]:
    """What Hydra's own sweeper makes of one override."""
    with configs():
        loader = GlobalHydra.instance().config_loader()
        parsed = OverridesParser.create(loader).parse_overrides([override])
    batches: Any = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return [point[0].split("=")[1] for batch in batches for point in batch]


@pytest.mark.parametrize("table", ["noncollocated", "collocated"])
def test_globs_select_the_two_tables(table: str) -> None:
    chosen = choices(f"parallel=glob({table}_*)")
    rows = {name for name in ROWS if name.startswith(f"{table}_")}
    assert rows <= {*chosen} and len({*chosen}) == len(chosen)
    assert all(name.startswith(f"{table}_") for name in chosen)


def test_glob_of_everything_runs_the_rows_and_skips_what_is_too_large() -> None:
    verdicts = {
        name: impossible(composed(f"parallel={name}")) for name in choices("parallel=glob(*)")
    }
    assert len(verdicts) == len(list((CONF / "parallel").glob("*.yaml")))
    assert {verdicts[name] for name in ROWS} == {None}
    assert verdicts["pitfall_12gpus_tp8_to_tp4"] == (
        "needs 12 GPUs (source 8 + destination 4), cluster 'local' has 8;"
        " use collocated mode (needs 8) or smaller degrees or a larger cluster"
    )
    assert "needs 16 GPUs" in str(verdicts["twonode_tp4ep4_to_tp8ep2"])


@pytest.mark.parametrize("more", [(), ("cluster.nodes=4",), ("mode=plan",), ("cluster=h200",)])
def test_the_pitfall_is_one_nodes_wherever_it_is_asked_for(more: tuple[str, ...]) -> None:
    pair = "parallel=pitfall_12gpus_tp8_to_tp4"
    said = impossible(composed(pair, *more)) or ""
    assert said.startswith("needs 12 GPUs (source 8 + destination 4), ")
    assert ("the pair is for 1 node(s) of 8 (parallel.nodes)" in said) is bool(more)
    assert said.endswith("parallel.nodes=null") is bool(more)
    if more:
        assert impossible(composed(pair, *more, "parallel.nodes=null")) is None
    assert impossible(composed(pair, *more, "cluster.ranks_per_node=12")) is None


def test_two_nodes_are_enough_for_the_two_node_pair() -> None:
    pair = "parallel=twonode_tp4ep4_to_tp8ep2"
    assert impossible(composed(pair, "cluster.nodes=2")) is None
    assert impossible(composed(pair, "cluster.ranks_per_node=16")) is None


# what Config 1's and Config 4's flags say of the model, in Megatron's names; and GPT-2's vocabulary
FLAGS: dict[str, dict[str, Any]] = {
    "moe_16e": {
        "num_layers": 4,
        "hidden_size": 1024,
        "num_attention_heads": 8,
        "ffn_hidden_size": 2688,
        "seq_length": 512,
        "max_position_embeddings": 512,
        "num_moe_experts": 16,
        "moe_shared_expert_intermediate_size": 512,
        "add_bias_linear": False,
        "vocab_size": 50257,
    },
    "moe_8e": {
        "num_layers": 2,
        "hidden_size": 512,
        "num_attention_heads": 4,
        "ffn_hidden_size": 1344,
        "seq_length": 256,
        "max_position_embeddings": 256,
        "num_moe_experts": 8,
        "moe_shared_expert_intermediate_size": 256,
        "add_bias_linear": False,
        "vocab_size": 50257,
    },
}


@pytest.mark.parametrize("name", FLAGS)
def test_the_tables_models_are_their_flags_and_megatrons_defaults(name: str) -> None:
    assert composed(f"model={name}").model == Model(name=name, **FLAGS[name])


@pytest.mark.parametrize("name", FLAGS)
def test_a_twin_differs_in_what_production_has(name: str) -> None:
    tables, twin = (composed(f"model={model}").model for model in (name, f"{name}_swiglu"))
    assert twin == replace(
        tables,
        name=f"{name}_swiglu",
        gated_linear_unit=True,
        activation_func="silu",
        normalization="RMSNorm",
        position_embedding_type="rope",
        share_embeddings_and_output_weights=False,
        moe_grouped_gemm=True,
    )


def test_model_sizes_by_hand() -> None:
    """Parameters of the shipped models, from their shapes; gated fc1 counts twice."""
    # one embedding of words, one of positions; norms have weights and biases
    layer = 4 * 1024**2 + 16 * 2 * 1024 * 2688 + 2 * 1024 * 512 + 16 * 1024 + 2 * 2 * 1024
    assert parameters("moe_16e") == (50257 + 512) * 1024 + 4 * layer + 2 * 1024 == 425_364_480
    layer = 4 * 512**2 + 8 * 2 * 512 * 1344 + 2 * 512 * 256 + 8 * 512 + 2 * 2 * 512
    assert parameters("moe_8e") == (50257 + 256) * 512 + 2 * layer + 2 * 512 == 50_517_504
    vocab = 2 * 50257
    attention = {1024: 4 * 1024**2, 512: 4 * 512**2}
    expert, shared = 3 * 1024 * 2688, 3 * 1024 * 512
    layer = attention[1024] + 16 * expert + shared + 16 * 1024 + 2 * 1024
    assert parameters("moe_16e_swiglu") == vocab * 1024 + 4 * layer + 1024
    expert, shared = 3 * 512 * 1344, 3 * 512 * 256
    layer = attention[512] + 8 * expert + shared + 8 * 512 + 2 * 512
    assert parameters("moe_8e_swiglu") == vocab * 512 + 2 * layer + 512
    layer = attention[1024] + 3 * 1024 * 2688 + 2 * 1024
    assert parameters("dense") == vocab * 1024 + 4 * layer + 1024


def test_bytes_of_the_first_row_by_hand() -> None:
    """TP 2, EP 2 to TP 2, EP 1: two ranks get half of what TP cuts, and all of what it does not."""
    # words, padded to a multiple of 2 * 128 rows; qkv and projection; the shared expert
    halved = 50432 * 1024 + 4 * (4 * 1024**2 + 2 * 1024 * 512)
    # positions; experts, whose ETP is 1; the router
    whole = 512 * 1024 + 4 * (16 * 2 * 1024 * 2688 + 16 * 1024)
    norms = (2 * 4 + 1) * 2 * 1024
    assert halved + 2 * (whole + norms) == 778_473_472
    production, local = bytes_of("moe_16e", "noncollocated_1_tp2ep2_to_tp2ep1")
    assert production == 2 * 778_473_472 == 1_556_946_944
    assert local == production + 2 * 2 * norms == 1_557_020_672  # norms are float32 there


def test_bytes_of_the_minimal_row_by_hand() -> None:
    """TP 2 to TP 1: one rank gets all, once."""
    norms = (2 * 2 + 1) * 2 * 512
    layer = 4 * 512**2 + 8 * 2 * 512 * 1344 + 2 * 512 * 256 + 8 * 512
    elements = (50432 + 256) * 512 + 2 * layer + norms
    production, local = bytes_of("moe_8e", "noncollocated_4_tp2ep1_to_tp1ep1")
    assert (production, local) == (2 * elements, 2 * (elements + norms))
    assert production == 101_214_208


def bytes_of(model: str, pair: str) -> list[int]:
    """What a pair writes, of production's tensors and of those that are built here."""
    job = composed(f"model={model}", f"parallel={pair}")
    placement = place(job)
    return [
        build_plan(tensors_of(job, placement, convention), placement).total_bytes
        for convention in (PRODUCTION, LOCAL_SPEC)
    ]


def test_every_model_has_its_parameters_counted() -> None:
    """Of ours by hand, as above; of a public one as published."""
    ours = {"moe_16e", "moe_8e", "moe_16e_swiglu", "moe_8e_swiglu", "dense", "kimi_k2_mini"}
    assert {path.stem for path in CONF.glob("model/*.yaml")} == ours | {*PUBLIC, *SMALL_DENSE}


def parameters(model: str) -> int:
    published = composed(f"model={model}").model
    return catalogue(published, vocab_rows=published.vocab_size).num_parameters


def test_dense_twin_differs_by_its_experts_alone() -> None:
    moe, dense = (composed(f"model={name}").model for name in ("moe_16e_swiglu", "dense"))
    different = {k for k, v in vars(moe).items() if vars(dense)[k] != v}
    assert different == {
        "name",
        "num_moe_experts",
        "moe_shared_expert_intermediate_size",
        "moe_grouped_gemm",
    }
    row = "parallel=noncollocated_1_tp2ep2_to_tp2ep1"
    assert "parallel.source.ep=2 needs experts" in str(impossible(composed("model=dense", row)))


@pytest.mark.usefixtures("hydra_on_conf")
@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("model=moe_9e", "moe_16e"),
        ("model.num_layer=3", "num_layer"),
        ("model.num_layers=many", "many"),
        ("paralel=glob", "paralel"),
        ("bench.iterations=1.5", "1.5"),
    ],
)
def test_mistyped_overrides_are_errors(override: str, text: str) -> None:
    with pytest.raises(ConfigCompositionException) as caught:
        compose("config", [override])
    told = f"{caught.value} {caught.value.__cause__}"
    assert text in told


@pytest.mark.usefixtures("hydra_on_conf")
def test_schema_can_be_registered_twice() -> None:
    schema.register()
    assert compose("config", ["model.num_layers=2"]).model.num_layers == 2


@pytest.mark.parametrize("hardware", ["a100", "h100", "h200", "h800", "b200"])
@pytest.mark.parametrize(
    "row", [next(r for r in ROWS if mode(r) == m) for m in ("collocated", "non-collocated")]
)
def test_a_plan_takes_the_methods_of_the_table(hardware: str, row: str) -> None:
    """The documents run non-collocated rows over NVSHMEM, and collocated ones over NCCL."""
    job = composed("mode=plan", f"cluster={hardware}", f"parallel={row}")
    method = {"non-collocated": "nvshmem", "collocated": "nccl"}[mode(row)]
    assert choose(job, place(job))[0] == method
