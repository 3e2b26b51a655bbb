"""A config that points share, with their values put into it, is what Hydra composes of each."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from hydra_plugins.refit_sweeper.composer import Composer
from refit import compose as ours
from refit.errors import UserError
from refit.job import Job
from sweeper.shared import Alone, Shared

FILES = {
    "config": """
defaults: [{db: mysql}, {opt: null}, _self_, {override hydra/job_logging: stdout}]
hydra: {output_subdir: null}
seed: 0
name: n
nothing: null
bench: {warmup: 0, iterations: 3, deep: {a: 1, b: [1, 2]}}
room: {}
""",
    "db/mysql": "{name: mysql, port: 1}",
    "db/pg": "{name: pg, port: 2, of: 5}",
    "db/linked": "{name: linked, port: '${seed}'}",
    "opt/o": "# @package _global_\nseed: 7\nbench: {deep: {a: 8}}",
}
PLAIN = (
    *("seed=3", "seed=-1", "seed=0", "seed=1_000", "seed=00123", "seed=1e3", "seed='3'", "name="),
    *("name=yes", "name='a, b'", 'name="it\'s"', "name=a\\,b", "name=null", "nothing=false"),
    *("nothing=x", "bench.warmup=2", "bench.deep.a=null", "db.port=3", "db.name=other", "seed=nan"),
)
OTHERS = (
    *("db=pg", "db=linked", "opt=o", "bench={iterations:1}", "bench={deep:{a:4}}", "+room.k=1"),
    *("++seed=9", "~name", "bench.deep.b=[3]", "bench=null", "db.of=6", "name=${seed}", "+fresh=1"),
    *("seed=${db.port}", "bench.none=1", "room=1", "db={port:9}", "nothing={a:1}", "name=???"),
    *("seed=int(3.7)", "db.port.deep=1", "hydra.job.name=x"),
)


def drawn() -> Iterator[list[str]]:
    """Random sets of overrides, in any order, with keys that come twice or within each other."""
    draw = random.Random(15)
    for _ in range(45):
        words = draw.choices(PLAIN, k=draw.randint(1, 4)) + draw.choices(
            OTHERS, k=draw.choice((0, 1, 1))
        )
        yield draw.sample(words, len(words))


def test_it_is_hydras_own(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text)
    composed: list[Any] = []
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()

        def load(words: Any) -> Any:
            composed.append(words)
            return loader.load_configuration("config", list(words), RunMode.RUN)

        shared, told = Shared(loader, load), 0
        for words in drawn():
            try:
                found = shared.values(words)
            except Alone:
                continue
            config = compose("config", words)
            assert repr(found) == repr(OmegaConf.to_container(config, resolve=True)), words
            told += 1
    assert told > 20 and len(set(composed)) == len(composed) < 30


REAL = (
    ["seed=5", "bench.deadline_s=10", "refit.bucket_mb=1e1"],
    ["seed='5'", "bench.iterations=7", "model.kv_channels=null"],
    ["parallel.source.tp=1", "refit.mode=collocated", "seed=5"],
    ["model=dense", "model.num_layers=2", "cluster=slurm", "cluster.slurm.partition=gpu"],
    ["cluster=slurm", "cluster.slurm.partition=low", "cluster.slurm.setup=['echo ${HOME}']"],
    ["seed=many"],
    ["seed=5", "bench.iteration=3"],
)


def test_so_is_a_job_of_the_shipped_files() -> None:
    with ours.configs():
        loader = GlobalHydra.instance().config_loader()
        whole = loader.load_configuration("config", [], RunMode.MULTIRUN)
        composer = Composer(loader, whole, 0)
        for words in REAL:
            made: Job | str
            try:
                made = composer(words)
            except Exception as error:
                made = str(error.__cause__ or error)
                with pytest.raises(UserError):
                    ours.job(words)
            else:
                expected = ours.job(words)
                assert vars(made) | {"parallel": 0} == vars(expected) | {"parallel": 0}, words
                assert made.parallel.sides == expected.parallel.sides
        assert composer.hydra == [None] * 5
