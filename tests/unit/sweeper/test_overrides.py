"""A point of a sweep is the single run of its overrides: random ones, against Hydra's compose."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydra_plugins.refit_sweeper import expand
from hydra_plugins.refit_sweeper.composer import Composer
from refit import command_line, settings
from refit.compose import configs
from refit.errors import UserError

FILES = {
    "config": """
defaults: [{db: mysql}, {srv@srv.main: x}, {opt: null}, _self_]
seed: 0
name: n
ratio: 0.5
flag: true
nothing: null
bench: {warmup: 0, iterations: 3, deep: {a: 1, b: [1, 2]}}
layers: [1, 2, 3]
room: {}
link: ${bench.iterations}
""",
    "db/mysql": "{name: mysql, port: 1, more: {x: 1}}",
    "db/pg": "{name: pg, port: 2}",
    "srv/x": "{kind: x}",
    "srv/y": "{kind: y, at: '${seed}'}",
    "opt/o": "# @package _global_\nseed: 7\nbench: {deep: {a: 8}}",
}
FORMS: tuple[tuple[str, ...], ...] = (
    # one override each, of one form in a line
    ("seed=3", "name=abc", "ratio=1e-3", "flag=false", "name=", "seed=-1", "link=5", "name=yes"),
    ("name='a, b'", 'name="it\'s"', "name=a\\,b", "name='{x}'", "name=a b", "name='1'", "seed='2'"),
    ("nothing=null", "bench=null", "name=null", "room=null", "nothing={a:1}", "bench.deep.a=null"),
    ("layers=[3,4]", "layers=[]", "bench.deep.b=[x,'y z',null,{q:1}]", "layers=[[1],[2]]"),
    ("bench={iterations:1}", "bench={warmup:2}", "bench={deep:{a:5}}", "room={a:{b:[1]}}"),
    ("+room.k=1", "+fresh=1", "+bench={extra:1}", "+fresh.deep.er=x", "+seed=1", "+layers=[9]"),
    ("++seed=9", "++fresh.deep=[1]", "++bench={extra:2}", "++bench.iterations=4", "++room={q:[]}"),
    ("~name", "~name=n", "~bench.deep", "~flag", "~nothing", "~name=other", "~link", "~layers"),
    ("seed=${ratio}", "name=${bench.deep.a}-x", "name=${oc.env:HOME,none}", "seed='${ratio}'"),
    ("db=pg", "opt=o", "+opt@extra=o", "db={port:5}", "db.port=3", "~db", "~opt", "~db=mysql"),
    ("srv@srv.main=y", "+srv@srv.other=y", "srv.main.kind=z", "~srv@srv.main", "+srv@_global_=y"),
    ("seed=int(3.7)", "name=str(5)", "layers=sort([3,1])", "ratio=float(2)", "flag=bool(true)"),
)  # fmt: skip
SWEEPS: dict[str, Sequence[str]] = {
    "seed=1,2": ["seed=1", "seed=2"],
    "db=mysql,pg": ["db=mysql", "db=pg"],
    "db=glob(p*)": ["db=pg"],
    "bench.iterations=range(1,3)": ["bench.iterations=1", "bench.iterations=2"],
    "bench={iterations:1},{warmup:9}": ["bench={iterations:1}", "bench={warmup:9}"],
    "layers=[1],[2,3]": ["layers=[1]", "layers=[2,3]"],
    "name='a,b',null": ["name='a,b'", "name=null"],
    "+room.k=tag(t,choice(1,'x'))": ["+room.k=1", "+room.k='x'"],
    "srv@srv.main=x,y": ["srv@srv.main=x", "srv@srv.main=y"],
    "++fresh=${seed},2": ["++fresh=${seed}", "++fresh=2"],
}
REAL_SWEEPS = {
    "cluster=h100,h200": ["cluster=h100", "cluster=h200"],
    "parallel=glob(collocated_1*)": ["parallel=collocated_1_tp4ep2_to_tp2ep4"],
}
SETS = 320
NONE: Any = MappingProxyType({})


def drawn() -> Iterator[list[str]]:
    """Random sets of overrides, some with a sweep among them."""
    draw = random.Random(20)
    for number in range(SETS):
        words = [draw.choice(draw.choice(FORMS)) for _ in range(draw.randint(2, 5))]
        if number % 32 == 0:
            sweep = draw.choice([*SWEEPS])
            key = sweep.partition("=")[0]
            words = [word for word in words if word.partition("=")[0].lstrip("+~") != key]
            words.insert(draw.randint(0, len(words)), sweep)
        yield words


def told(config: DictConfig) -> Any:
    """What a config says, its interpolations as they are written."""
    values = OmegaConf.to_container(config)
    assert isinstance(values, dict)
    values.pop("hydra", None)
    return values


class Sweeps:
    """What the points of a sweep compose, the way the sweeper and the launcher make them."""

    def __init__(self, loader: ConfigLoader) -> None:
        self.loader = loader

    def begin(
        self, words: Sequence[str] = (), params: Any = NONE, config: str = "config"
    ) -> list[list[str]]:
        """The overrides of the points; Hydra first composes a config of the sweep."""
        typed = command_line.for_each_point(["--multirun", *words])[1:]
        whole = self.loader.load_configuration(config, list(typed), RunMode.MULTIRUN)
        self.hydra, self.load = whole.hydra, Composer(self.loader, whole, 0)._load
        return expand.batch(self.loader, self.hydra, params, settings.said(self.hydra, "task"))

    def points(self, words: Sequence[str] = (), params: Any = NONE) -> list[Any]:
        return self.made(self.begin(words, params))

    def made(self, batch: Sequence[Sequence[str]]) -> list[Any]:
        return [told(self.load(point, 0)) for point in batch]


def single_runs(words: Sequence[str]) -> list[list[str]]:
    """The same overrides, each value of a sweep by itself."""
    return [
        list(chosen)
        for chosen in product(*((SWEEPS | REAL_SWEEPS).get(word, [word]) for word in words))
    ]


def singles(words: Sequence[str]) -> list[Any]:
    """What Hydra composes of them."""
    return [told(compose("config", chosen)) for chosen in single_runs(words)]


def outcome(made: Any, *arguments: Any) -> Any:
    """What it returns, or that Hydra refuses it."""
    try:
        return made(*arguments)
    except (HydraException, OmegaConfBaseException, ValueError):
        return "refused"


@pytest.fixture
def sweeps(tmp_path: Path) -> Iterator[Sweeps]:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text)
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        yield Sweeps(GlobalHydra.instance().config_loader())


def test_a_point_is_the_single_run_of_its_overrides(sweeps: Sweeps) -> None:
    """What is the same word for word Hydra composes to the same: some of it is composed too."""
    sweeps.begin()
    composed = 0
    for number, words in enumerate(drawn()):
        wanted = single_runs(words)
        found = outcome(expand.batch, sweeps.loader, sweeps.hydra, NONE, words)
        if found == wanted and number % 32 and number % 64 != 16:
            continue
        expected = outcome(singles, words)
        assert outcome(sweeps.made, found) == expected, words
        composed += expected != "refused"
    assert composed >= 8


PARAMS: dict[str, Any] = {
    "seed": None,
    "name": "00123",
    "ratio": "1e3",
    "flag": False,
    "nothing": {"a": None, "b": ["x, y", "2", 2, {"its": "${seed}"}]},
    "layers": [1.5, "null", True],
    "db": "mysql,pg",
    "+room.k": "no",
    "bench": {"iterations": 1},
}


def test_params_keep_the_types_of_yaml(sweeps: Sweeps) -> None:
    params = OmegaConf.create({**PARAMS, "bench": {"iterations": 1}})
    two = sweeps.points(["bench={warmup:2}", "+room.k=yes"], params)
    assert [point["db"]["name"] for point in two] == ["mysql", "pg"]
    for point in two:
        for key in ("seed", "name", "ratio", "flag", "layers"):
            assert point[key] == PARAMS[key] and type(point[key]) is type(PARAMS[key])
        assert point["nothing"]["a"] is None
        assert point["nothing"]["b"][:3] == ["x, y", "2", 2]
        assert point["bench"]["iterations"] == 1 and point["bench"]["warmup"] == 2
        assert point["room"]["k"] == "yes"  # the command line wins


BATCHES: tuple[tuple[dict[str, Any], str, str], ...] = (
    # hydra.sweeper.params, the command line, and each point's overrides
    ({"db": "mysql,pg"}, "db=pg", "db=pg"),
    ({"db": "pg"}, "db=mysql,pg", "db=mysql | db=pg"),
    ({"db": "pg"}, "seed=1", "db=pg seed=1"),
    ({"db": "mysql,pg"}, "~db", "~db"),
    ({"+room.k": "1,2"}, "++room.k=3", "++room.k=3"),
    ({"db": "glob(*)", "seed": 1}, "~seed=0", "db=mysql ~seed=0 | db=pg ~seed=0"),
    ({"bench": {"iterations": 1}}, "bench={warmup:2}", "bench={iterations:1} bench={warmup:2}"),
    ({}, "seed=1,2 seed=3", "seed=3"),
    ({}, "seed=1 seed=2,3", "seed=1 seed=2 | seed=1 seed=3"),
    ({}, "bench={warmup:1},{warmup:2} bench={iterations:1}",
     "bench={warmup:1} bench={iterations:1} | bench={warmup:2} bench={iterations:1}"),
    ({}, "db=sort(pg,mysql)", "db=mysql | db=pg"),
    ({}, "db=tag(a,b,choice(pg,mysql))", "db=pg | db=mysql"),
    ({}, "db=glob([m*,p*],exclude=pg)", "db=mysql"),
    ({}, "db=glob(p*),mysql", "db=pg | db=mysql"),
    ({"db": "mysql,glob(*)"}, "", "db=mysql | db=pg"),
    ({}, "db=glob(x*)", ""),
)  # fmt: skip


def test_which_points_there_are(sweeps: Sweeps) -> None:
    sweeps.begin()
    for params, words, expected in BATCHES:
        made = expand.batch(sweeps.loader, sweeps.hydra, params, words.split())
        assert " | ".join(" ".join(point) for point in made) == expected


def test_a_glob_sees_what_composition_sees(sweeps: Sweeps, tmp_path: Path) -> None:
    more = tmp_path / "more"
    for name in ("own", "sub/deep", "sub/pg"):
        (more / f"db/{name}.yaml").parent.mkdir(parents=True, exist_ok=True)
        (more / f"db/{name}.yaml").write_text(f"name: {name}")
    meets = [["db=own"], ["db=pg"], ["db=sub/deep"]]
    word = "db=glob([o*,p*,de*])"
    assert sweeps.begin([f"hydra.searchpath=[file://{more}]", word]) == meets
    (tmp_path / "other.yaml").write_text(
        f"defaults: [{{db: mysql}}, _self_]\nhydra: {{searchpath: ['file://{more}']}}"
    )
    assert sweeps.begin([word], config="other") == meets
    assert sweeps.begin([word]) == [["db=pg"]]


def test_what_a_glob_meets_is_quoted_where_it_is_no_word(sweeps: Sweeps, tmp_path: Path) -> None:
    (tmp_path / "more/db").mkdir(parents=True)
    for name in ("übung", "own two", "pg"):
        (tmp_path / f"more/db/{name}.yaml").write_text("name: x")
    found = sweeps.begin([f"hydra.searchpath=[file://{tmp_path}/more]", "db=glob(*),'own two'"])
    assert found == [["db=mysql"], ["db='own two'"], ["db=pg"], ["db='übung'"]]


@pytest.mark.parametrize("word", ["seed=interval(0,1)", "seed=tag(a,interval(0,1))"])
def test_what_has_no_values_is_refused(word: str, sweeps: Sweeps) -> None:
    sweeps.begin()
    with pytest.raises(UserError, match=r"^seed=.*interval\(0,1\).*; write range"):
        expand.batch(sweeps.loader, sweeps.hydra, NONE, [word])


REAL = (
    ["bench={iterations:1}", "bench={warmup:2}"],
    ["cluster=h100,h200", "cluster.slurm.partition=gpu", "cluster.slurm={time:5}"],
    ["++cluster.slurm.extra='a, b'", "cluster=h100,h200", "cluster.slurm.qos=null"],
    ["cluster=slurm", "cluster.slurm={account:null,nodelist:'1e3'}", "cluster.slurm.time=1:30:00"],
    ["parallel.destination=null", "parallel.destinations=[{tp: 2, gpus: 4}, {tp: 1, gpus: 2}]"],
    ["parallel=glob(collocated_1*)", "parallel.source={tp:4}", "parallel.source={ep:1}"],
    ["cluster.slurm.nosuch=gpu", "cluster=h100,h200"],
    ["model=dense", "model.lora={rank:4,targets:[linear_qkv]}", "model.lora={rank:8}"],
    ["hardware=h100", "~workload", "cluster=slurm", "cluster.hardware={memory_gb:64}"],
    ["model.num_layers=many"],
)


def test_so_is_one_of_the_shipped_files() -> None:
    with configs():
        sweeps = Sweeps(GlobalHydra.instance().config_loader())
        for words in REAL:
            found = outcome(sweeps.begin, words)
            if found != single_runs(words):
                expected = outcome(singles, words)
                made = found if found == "refused" else outcome(sweeps.made, found)
                assert made == expected, words
