"""Values of `cluster.slurm` as YAML and the command line give them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from refit.compose import configs, job
from refit.errors import UserError
from sweeper.request import check_text

WRITTEN = """
time: [45, "60", "90:00", "1:30:00", "2-12", "1-0:30", "1-00:00:00", unlimited]
time_min: ["10"]
account: ["00123", mine]
constraint: ["no", "h100&ib"]
nodelist: ["1e3", "node[1-2]"]
mem: [4G, 64, 0]
cpus_per_task: [6]
gpus_per_node: [8, "h100:8"]
exclusive: [true, false, user]
begin: ["16:00"]
nice: [10]
"""
SPOILED = """
time: [1:30:00, 90:00, 3600, 1.5, true, -1]
time-min: [2:00:00]
account: [00123, 123]
constraint: [no, on]
nodelist: [1e3, 17]
qos: [off]
partition: [1.0]
exclude: [[node1, node2]]
begin: [16:00]
mem: [1e3, no]
cpus_per_task: [yes]
"""
NO_TIMES = ("90m", "1h", "1:2:3:4", "", "1-", "soon")


def each(text: str) -> list[tuple[str, Any]]:
    read = OmegaConf.to_container(OmegaConf.create(text))  # as Hydra reads files
    assert isinstance(read, dict)
    return [(str(name), value) for name, values in read.items() for value in values]


@pytest.mark.parametrize(("name", "value"), each(WRITTEN))
def test_what_says_one_thing_is_taken(name: str, value: Any) -> None:
    check_text(name, value)
    check_text(name.replace("_", "-"), value, "additional_parameters.")


@pytest.mark.parametrize(("name", "value"), each(SPOILED))
def test_what_yaml_may_have_made_is_refused(name: str, value: Any) -> None:
    word = str(value).lower() if isinstance(value, bool) else value
    for where in ("", "additional_parameters."):
        start = re.escape(f"cluster.slurm.{where}{name}={word} is ")
        with pytest.raises(UserError, match=f"^{start}.*quote it: "):
            check_text(name, value, where)


@pytest.mark.parametrize("text", NO_TIMES)
def test_a_time_is_one_of_slurms_forms(text: str) -> None:
    with pytest.raises(UserError, match=f"time={text} is not a time of Slurm's: minutes, minutes:"):
        check_text("time", text)


SHELL = ("echo ${HOME} $USER", "export A=${mode}", "cd ${A:-/tmp}/${B}", r"a \${HOME}", r"b \\${C}")


@pytest.mark.parametrize("name", ["setup", "teardown", "srun_args"])
def test_what_a_shell_is_told_is_the_shells(name: str, tmp_path: Path) -> None:
    """In a file and as typed; elsewhere ${mode} is ours, and measure."""
    (tmp_path / "cluster").mkdir()
    lines = "".join(f"    - '{text}'\n" for text in SHELL)
    text = f"defaults: [slurm, _self_]\nslurm:\n  {name}:\n{lines}"
    (tmp_path / "cluster" / "site.yaml").write_text(text)
    quoted = ",".join(f"'{text}'" for text in SHELL)
    typed = f"++cluster.slurm.{name}=[{quoted}]"
    with configs():
        found = [
            job([typed, "cluster=slurm", "cluster.slurm.partition=${mode}"]),
            job([f"hydra.searchpath=[file://{tmp_path}]", "cluster=site"]),
        ]
    kept = [text.replace(r"a \$", "a $") for text in SHELL]  # as one had to write it before
    assert [one.cluster.slurm[name] for one in found] == [kept, kept]
    assert found[0].cluster.slurm["partition"] == "measure"
