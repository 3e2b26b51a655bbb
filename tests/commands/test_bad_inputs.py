"""A table of bad inputs: each ends with a message and its exit code, soon and in little memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.badly import CPU_S, PLAIN, RUN, Said, all_said

HUGE = "1" + "0" * 20
LONG = "x" * 81

NUMBERS = {  # an override -> what is said of it
    "bench.deadline_s=inf": "bench.deadline_s=inf: must be 1e+06 or less",
    "bench.deadline_s=1e300": "bench.deadline_s=1e+300: must be 1e+06 or less",
    "bench.deadline_s=nan": "bench.deadline_s=nan: must be more than 0",
    "bench.deadline_s=-1": "bench.deadline_s=-1.0: must be more than 0",
    "bench.deadline_s=soon": "Error merging override bench.deadline_s=soon",
    "bench.iterations=0": "bench.iterations=0: must be 1 or more",
    "bench.iterations=-1": "bench.iterations=-1: must be 1 or more",
    "bench.iterations=1000000000000": "bench.iterations=1000000000000: must be 1000000 or less",
    "bench.iterations=1.5": "Error merging override bench.iterations=1.5",
    "bench.iterations=null": "Error merging override bench.iterations=null",
    "bench.iterations=[1]": "Error merging override bench.iterations=[1]",
    "bench.warmup=-1": "bench.warmup=-1: must be 0 or more",
    "bench.warmup=1e9": "Error merging override bench.warmup=1e9",
    "refit.bucket_mb=inf": "refit.bucket_mb=inf: must be 1e+06 or less",
    "refit.bucket_mb=-inf": "refit.bucket_mb=-inf: must be more than 0",
    "refit.bucket_mb=1e300": "refit.bucket_mb=1e+300: must be 1e+06 or less",
    "refit.bucket_mb=nan": "refit.bucket_mb=nan: must be more than 0",
    "refit.bucket_mb=0": "refit.bucket_mb=0.0: must be more than 0",
    "refit.in_flight=0": "refit.in_flight=0: must be 1 or more",
    "refit.in_flight=100000000": "refit.in_flight=100000000: must be 4096 or less",
    "refit.streams=1000000000": "refit.streams=1000000000: must be 1024 or less",
    "refit.max_ops_per_group=1": "refit.max_ops_per_group=1: must be 2 or more",
    f"refit.max_ops_per_group={HUGE}": "must be 1000000 or less",
    f"seed={HUGE}": f"seed={HUGE}: must be 9223372036854775807 or less",
    f"seed=-{HUGE}": f"seed=-{HUGE}: must be -9223372036854775808 or more",
    f"seed={'9' * 5000}": "Exceeds the limit (4300 digits)",
    "seed=x": "Error merging override seed=x",
    "parallel.source.tp=0": "parallel.source: tp=0: a parallel degree must be 1 or more",
    "parallel.source.tp=-1": "parallel.source: tp=-1: a parallel degree must be 1 or more",
    "parallel.source.tp=10000000": "parallel.source.tp=10000000: must be 262144 or less",
    f"parallel.source.tp={HUGE}": "must be 262144 or less",
    "parallel.source.pp=10000000": "parallel.source.pp=10000000: must be 262144 or less",
    "parallel.source.ep=10000000": "parallel.source.ep=10000000: must be 262144 or less",
    "parallel.source.cp=10000000": "parallel.source.cp=10000000: must be 262144 or less",
    "parallel.source.etp=10000000": "parallel.source.etp=10000000: must be 262144 or less",
    "parallel.source.etp=0": "parallel.source: etp=0: a parallel degree must be 1 or more",
    "parallel.source.gpus=10000000": "parallel.source.gpus=10000000: must be 262144 or less",
    "parallel.source.gpus=0": "parallel.source: gpus=0: must be 1 or more",
    f"parallel.destination.gpus={HUGE}": "must be 262144 or less",
    "parallel.source.offset=1000000000000": "must be 262144 or less",
    "parallel.source.offset=-1": "parallel.source: offset=-1",
    "parallel.source.expert_slots=1000000000": "must be 262144 or less",
    "parallel.source.make_vocab_size_divisible_by=100000000000": "must be 4194304 or less",
    "parallel.source.make_vocab_size_divisible_by=0": "must be 1 or more",
    "parallel.source.virtual_pipeline_model_parallel_size=10000000": "must be 10000 or less",
    "parallel.source.num_layers_in_first_pipeline_stage=10000000": "must be 10000 or less",
    'parallel.source.pipeline_model_parallel_layout="Et*10000000000|L"': "is longer than 100000",
    'parallel.source.pipeline_model_parallel_layout="Et*99999|t*99999999999999999999|L"': "longer",
    "parallel.source.pipeline_model_parallel_layout=[1000000000000]": "lists 1000000000000",
    "parallel.source.pipeline_model_parallel_layout=[1e300]": "layout[0]=1e+300: must be",
    "parallel.nodes=10000000": "parallel.nodes=10000000: must be 262144 or less",
    "parallel.nodes=0": "parallel.nodes=0",
    "cluster.ranks_per_node=0": "cluster.ranks_per_node=0: must be 1 or more",
    "cluster.ranks_per_node=10000000": "cluster.ranks_per_node=10000000: must be 4096 or less",
    f"cluster.ranks_per_node={HUGE}": "must be 4096 or less",
    "cluster.nodes=10000000": "cluster.nodes=10000000: must be 262144 or less",
    f"cluster.nodes={HUGE}": "must be 262144 or less",
    "model.num_moe_experts=10000000": "model.num_moe_experts=10000000: must be 262144 or less",
    "model.num_moe_experts=262144": "are 1048576 experts, and 262144 at most can be planned",
    f"model.num_moe_experts={HUGE}": "must be 262144 or less",
    "model.num_moe_experts=0": "model.num_moe_experts=0: must be 1 or more",
    "model.num_layers=10000000": "model.num_layers=10000000: must be 10000 or less",
    f"model.num_layers={HUGE}": "must be 10000 or less",
    "model.vocab_size=0": "model.vocab_size=0: must be 1 or more",
    "model.vocab_size=10000000": "model.vocab_size=10000000: must be 4194304 or less",
    f"model.vocab_size={HUGE}": "must be 4194304 or less",
    f"model.hidden_size={HUGE}": "must be 4194304 or less",
    f"model.ffn_hidden_size={HUGE}": "must be 4194304 or less",
    "model.num_attention_heads=10000000": "must be 65536 or less",
    "model.num_query_groups=3": "does not divide by model.num_query_groups=3",
    "model.mtp_num_layers=10000000": "model.mtp_num_layers=10000000: must be 100 or less",
    "model.max_position_embeddings=100000000000": "must be 16777216 or less",
    "model.seq_length=0": "model.seq_length=0: must be 1 or more",
    "model.rotary_base=10000000000000": "must be 1000000000000 or less",
    "model.rotary_percent=nan": "model.rotary_percent=nan: must be more than 0",
    "model.rotary_percent=7": "model.rotary_percent=7.0: must be 1 or less",
    "model.layernorm_epsilon=nan": "model.layernorm_epsilon=nan: must be a number from -1e+12",
    "model.layernorm_epsilon=inf": "model.layernorm_epsilon=inf: must be a number",
    "model.glu_linear_offset=nan": "model.glu_linear_offset=nan: must be a number",
    "model.moe_z_loss_coeff=-inf": "model.moe_z_loss_coeff=-inf: must be a number",
    "model.mscale=nan": "model.mscale=nan: must be a number",
    "model.beta_fast=inf": "model.beta_fast=inf: must be a number",
    "model.moe_aux_loss_coeff=nan": "model.moe_aux_loss_coeff=nan: must be a number",
    "model.moe_aux_loss_coeff=[0.1,inf]": "model.moe_aux_loss_coeff[1]=inf: must be a number",
    "model.moe_layer_freq=0": "moe_layer_freq=0: give a positive int",
    f"model.moe_layer_freq={HUGE}": "must be a number from",
    'model.moe_layer_freq="[1]*10000000000"': "moe_layer_freq='[1]*10000000000': give a positive",
    'model.moe_layer_freq="([1]*9**9**9)"': "give a positive int",
    'model.moe_layer_freq="[1]*9999*9999*9999"': "give a positive int",
    f'model.moe_layer_freq="{"(" * 300}1{")" * 300}"': "give a positive int",
    "model.window_size=[1]": "model.window_size=[1] is not a list of two whole numbers",
    f"model.window_size=[{HUGE},0]": "model.window_size[0]=",
    f"model.lora={{rank:{HUGE},targets:[linear_qkv]}}": "model.lora.rank=",
    "cluster.hardware.latency_us=nan": "cluster.hardware.latency_us=nan: must be 0 or more",
    "cluster.hardware.nic_gbps=inf": "cluster.hardware.nic_gbps=inf: must be more than 0, or null",
    "cluster.hardware.peer_efficiency=1.5": "must be more than 0, and 1 at most",
    "cluster.hardware.fitted={ipc:{wire:nan}}": "cluster.hardware.fitted.ipc.wire=nan: must be 1",
    "sweep.pack=0": "sweep.pack=0: must be 1 or more",
    f"sweep.pack={HUGE}": "must be 10000 or less",
    "sweep.repeat=100000000": "sweep.repeat=100000000: must be 10000 or less",
    "sweep.repetition=0": "sweep.repetition=0: must be 1 or more",
    "sweep.max_attempts=0": "sweep.max_attempts=0: must be 1 or more",
}
WORDS = {
    "mode=paln": "mode=paln is not one of measure, plan; did you mean plan?",
    "build=tensors": "build=tensors is not one of megatron, shards",
    "verify=hash": "verify=hash is not one of bits, logits",
    "refit.fanout=tree": "refit.fanout=tree is not one of direct, hierarchical",
    "parallel.mode=auto": "parallel.mode=auto is not one of collocated, non-collocated",
    "parallel.source.kind=zero": "parallel.source: kind=zero is not one of",
    "parallel.source.dtype=int8": "parallel.source: dtype=int8 is not one of",
    "parallel.source.order=tp-tp": "parallel.source: order=tp-tp",
    "refit.method=glo": "no refit method 'glo'",
    'refit.method=":X"': "no refit method ':X'",
    'refit.method="a:"': "no refit method 'a:'",
    'refit.method="..:X"': "no refit method '..:X'",
    'refit.method="a b:X"': "no refit method 'a b:X'",
    'refit.method=""': "no refit method ''",
    "refit.include=*": "refit.include=* is not a list of patterns",
    "refit.include=[zzz]": "refit.include: 'zzz' meets no tensor of model",
    "cluster.env=[A]": "cluster.env=['A'] is not a mapping of environment variables",
    "cluster.env={A B: 1}": "cluster.env: 'A B' is no name of an environment variable",
    "cluster.env={OMP_NUM_THREADS: 1}": "a rank sets that itself",
    "parallel.name=a/b": "parallel.name='a/b': a name is a part of a folder's name",
    "parallel.name=../../x": "parallel.name='../../x': a name is",
    'parallel.name=""': "parallel.name='': a name is",
    "parallel.name=.": "parallel.name='.': a name is",
    "parallel.name=..": "parallel.name='..': a name is",
    "parallel.name='a\nb'": r"parallel.name='a\nb': a name is",
    "parallel.name=' a'": "parallel.name=' a': a name is",
    "cluster.name='a\x1b[31m'": r"cluster.name='a\x1b[31m': a name is",
    f"refit.name={LONG}": f"refit.name='{LONG[:80]}...': a name is",
    f"parallel.name='{'é' * 41}'": "bytes of UTF-8",
    "model.name=a/b": "model.name='a/b': a name is",
    "model.name=null": "Error merging override model.name=null",
    "bench=3": "Error merging override bench=3",
    "parallel.destinations=[]": "is not a list of one or more mappings of fields",
    "+nosuch=1": "unknown field 'nosuch'",
    "bench.iteratons=3": "unknown field 'bench.iteratons'; did you mean iterations?",
    "+model.fp8_param=true": "is not modelled: the scales of FP8 weights",
    "model.name=${nosuch.thing}": "Interpolation key 'nosuch.thing' not found",
    "model.name=${oc.env:NO_SUCH_VARIABLE}": "Environment variable 'NO_SUCH_VARIABLE' not found",
    "bench.iterations={": "no viable alternative at input '{'",
}
FILES: dict[str, tuple[bytes, str]] = {  # options of a user's, and what is said of each
    "binary": (b"\xff\xfe\0", "binary.yaml: is no text in UTF-8: invalid start byte at byte 0"),
    "latin": ("name: \xe9\n".encode("latin-1"), "latin.yaml: is no text in UTF-8"),
    "nul": (b"name: \0x\n", "nul.yaml: malformed YAML: unacceptable character #x0000"),
    "tab": (b"name: x\n\tnum_layers: 3\n", "tab.yaml: malformed YAML: while scanning"),
    "list": (b"- 1\n", "list.yaml: is a list, and a file of options is a mapping of fields"),
    "scalar": (b"3\n", "scalar.yaml: is one value, and a file of options is a mapping of fields"),
    "empty": (b"", "'model.name' has no value; set it in its YAML file"),
    "cyclic": (b"name: x\nlora: &a [*a]\n", "cyclic.yaml: *a is within what it stands for"),
    "cyclic2": (b"name: x\nlora: &a\n  b: *a\n", "cyclic2.yaml: *a is within what it stands for"),
    "deep": (b"name: x\nlora: " + b"[" * 60 + b"]" * 60, "deep.yaml: is nested deeper than 40"),
    "deeper": (b"name: x\nlora: " + b"[" * 3000, "deeper.yaml: "),
    "tagged": (b"name: !!python/object/apply:os.getcwd []\n", "tagged.yaml: could not determine"),
    "twice": (b"name: x\nname: y\n", "twice.yaml: while constructing a mapping"),
    "documents": (b"name: x\n---\nname: y\n", "documents.yaml: expected a single document"),
    "large": (b"name: x\n" + b"# more\n" * 200_000, "large.yaml: has 1400008 bytes, and 1000000"),
    "itself": (b"defaults: [itself]\n", "options include each other in their defaults: model/its"),
    "one": (b"defaults: [other]\n", "options include each other in their defaults: model/o"),
    "other": (b"defaults: [one]\n", "options include each other in their defaults: model/o"),
    "absent": (b"defaults: [nosuch]\n", "In 'model/absent': Could not load 'model/nosuch'"),
    "interpolated": (b"name: ${model.name}\n", "Recursive interpolation"),
    "bomb": (
        b"x0: &x0 [a,a,a,a,a,a,a,a,a]\n"
        + b"".join(
            b"x%d: &x%d [%s]\n" % (i, i, b",".join([b"*x%d" % (i - 1)] * 9)) for i in range(1, 10)
        ),
        "bomb.yaml: stands for more than 100000 values, by its aliases",
    ),
}  # fmt: skip
PROGRAMS: dict[str, tuple[Sequence[str], str]] = {
    "an option that is none": ((RUN, "parallel=nope"), "Could not find 'parallel/nope'"),
    "no folder of options": ((RUN, "--config-dir=/nonexistent"), "'/nonexistent' not found"),
    "no search path": (
        (RUN, "hydra.searchpath=[/nonexistent]"),
        "hydra.searchpath in command-line: /nonexistent is not there; a search path is a",
    ),
    "no search path in a sweep": (
        (RUN, "-m", "hydra.searchpath=[/nonexistent]", "parallel=glob(*)", "mode=plan"),
        "is not there; a search path is a list of folders",
    ),
    "a search path that is no list": ((RUN, "hydra.searchpath=3"), "must be a list of strings"),
    "sweeper.params that are none": (
        (RUN, "-m", "hydra.sweeper.params=3", "mode=plan"),
        "hydra.sweeper.params=3 is no mapping of what is swept; write",
    ),
    "sweeper.params that are a list": (
        (RUN, "-m", "hydra.sweeper.params=[1]", "mode=plan"),
        "hydra.sweeper.params=[1] is no mapping",
    ),
    "an endless sweep": (
        (RUN, "-m", "seed=range(100000000)", "mode=plan"),
        "the sweep has more than 100000 points, the most that one has",
    ),
    "a large product": (
        (RUN, "-m", "seed=range(1000)", "bench.warmup=range(1000)", "mode=plan"),
        "the sweep has more than 100000 points",
    ),
    "endless repeats": (
        (RUN, "-m", "sweep.repeat=100000000", "mode=plan"),
        "sweep.repeat=100000000: must be 10000 or less",
    ),
    "one bad value of two in a sweep": (
        (RUN, "-m", "bench.iterations=2,-1", "mode=plan"),
        "bench.iterations=-1: must be 1 or more",
    ),
    "no vocabulary in a sweep": (
        (RUN, "-m", "model.vocab_size=0", "mode=plan"),
        "model.vocab_size=0: must be 1 or more",
    ),
    "no number in a sweep": (
        (RUN, "-m", "refit.bucket_mb=nan", "mode=plan"),
        "refit.bucket_mb=nan: must be more than 0",
    ),
    "no degree in a sweep": (
        (RUN, "-m", "parallel.source.tp=1,0", "mode=plan"),
        "parallel.source: tp=0: a parallel degree must be 1 or more",
    ),
    "two lines for sbatch": (
        (RUN, "-m", "cluster=slurm", "sweep.dry_run=true", "+cluster.slurm.comment='a\nb'"),
        r"cluster.slurm.comment='a\nb': a value is one line of printable characters",
    ),
    "two lines for srun": (
        (RUN, "-m", "cluster=slurm", "sweep.dry_run=true", "+cluster.slurm.srun_args=['a\nb']"),
        r"cluster.slurm.srun_args=['a\nb']: a value is one line of printable characters",
    ),
    "a line as a name for sbatch": (
        (
            *(RUN, "-m", "cluster=slurm", "sweep.dry_run=true"),
            "+cluster.slurm.additional_parameters={a/b: 1}",
        ),
        "cluster.slurm: 'a/b' is no name of an option of sbatch's",
    ),
    "advise: many GPUs": (
        ("refit.advise", "model=kimi_k2", "gpus=10000000"),
        "gpus=10000000 is not a number of 1 or more, and 262144 at most, such as gpus=64",
    ),
    "advise: most GPUs": (
        ("refit.advise", "model=kimi_k2", f"gpus={HUGE}"),
        "is not a number of 1 or more, and 262144 at most",
    ),
    "advise: no digits": (
        ("refit.advise", "model=kimi_k2", f"gpus={'9' * 5000}"),
        "is not a number of 1 or more, and 262144 at most",
    ),
    "advise: a digit of another kind": (
        ("refit.advise", "model=kimi_k2", "gpus=\N{SUPERSCRIPT TWO}"),
        "is not a number of 1 or more, and 262144 at most",
    ),
    "advise: no rows": (
        ("refit.advise", "model=kimi_k2", "gpus=64", "top=0"),
        "top=0 is not a number of 1 or more, and 262144 at most",
    ),
    "advise: deep": (
        ("refit.advise", "model=kimi_k2", "gpus=64", "model.num_layers=100000000"),
        "the source is impossible: model.num_layers=100000000: must be 10000 or less",
    ),
    "advise: wide nodes": (
        ("refit.advise", "model=kimi_k2", "gpus=64", "cluster.ranks_per_node=10000000"),
        "the source is impossible: cluster.ranks_per_node=10000000: must be 4096 or less",
    ),
    "model: deep": (
        ("refit.model_table", "model=kimi_k2", "model.num_layers=100000000"),
        "model.num_layers=100000000: must be 10000 or less",
    ),
    "model: many experts": (
        ("refit.model_table", "model=kimi_k2", "model.num_moe_experts=10000000"),
        "model.num_moe_experts=10000000: must be 262144 or less",
    ),
    "workloads: no such EP": (("refit.workloads", "--ep", HUGE), "no workload has it"),
    "workloads: no file": (("refit.workloads", "--csv", ""), "cannot write .: Is a directory"),
    "workloads: no folder": (
        ("refit.workloads", "--csv", "/nonexistent/x"),
        "cannot write /nonexistent/x: No such file or directory",
    ),
    "workloads: a full device": (
        ("refit.workloads", "--csv", "/dev/full"),
        "cannot write /dev/full: No space left on device",
    ),
    "calibrate: nothing there": (("refit.calibrate", "/nonexistent"), "no verified measurement"),
    "status: nothing there": (("sweeper.status", "/nonexistent"), "no points in /nonexistent"),
    "collect: nothing there": (("sweeper.collect", "/nonexistent"), "no records in /nonexistent"),
    "import: nothing there": (("refit.import_model", "/nonexistent"), "/nonexistent"),
    "an option that a program lacks": (("refit.published", "--nope"), "usage: python -m refit.pub"),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Said]:
    """How every case ends."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "conf" / "model").mkdir(parents=True)
    for name, (content, _) in FILES.items():
        (folder / "conf" / "model" / f"{name}.yaml").write_bytes(content)
    cases: dict[str, Sequence[str]] = {word: (PLAIN, word) for word in NUMBERS | WORDS}
    of_files = f"--config-dir={folder}/conf"
    cases |= {name: (RUN, of_files, f"model={name}", "mode=plan") for name in FILES}
    cases |= {name: words for name, (words, _) in PROGRAMS.items()}
    cases["all files"] = (RUN, "-m", of_files, "model=glob(*c*)", "mode=plan")
    found = all_said(cases, folder)
    assert not list(folder.glob("results/*/timing.json"))
    return found


CASES = {
    **{word: (2, words) for word, words in (NUMBERS | WORDS).items()},
    **{name: (2, words) for name, (_, words) in FILES.items()},
    **{name: (2, words) for name, (_, words) in PROGRAMS.items()},
    "all files": (2, ".yaml: "),
}


def test_there_are_many() -> None:
    assert len(CASES) >= 150
    assert len(CASES) == len(NUMBERS) + len(WORDS) + len(FILES) + len(PROGRAMS) + 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[:60])
def test_a_bad_input_is_one_message(case: str, said: dict[str, Said]) -> None:
    code, words = CASES[case]
    found = said[case]
    assert "Traceback" not in found.whole
    assert (found.code, words in found.first) == (code, True), found.first
    assert found.first.startswith(("error: ", "usage: "))
    assert found.cpu_s < CPU_S


def test_a_helpful_program_says_what_it_is_for(tmp_path: Path) -> None:
    names = ("published", "advise", "workloads", "calibrate", "model_table", "import_model")
    found = all_said({name: (f"refit.{name}", "--help") for name in names}, tmp_path)
    assert {name: (said.code, said.whole) for name, said in found.items()} == dict.fromkeys(
        names, (0, "")
    )


def test_the_table_would_see_what_is_no_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "misbehaves.py").write_text(
        "def main(words):\n"
        "    while 'long' in words: pass\n"
        "    return bytearray(10**11) if 'much' in words else 1 / 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("tests.support.badly.CPU_S", 0.1)
    cases = {word: ("misbehaves", word) for word in ("long", "much", "wrong")}
    found = all_said(cases, tmp_path)
    last = {name: said.whole.splitlines()[-1].partition(":")[0] for name, said in found.items()}
    assert last == {"long": "TimeoutError", "much": "MemoryError", "wrong": "ZeroDivisionError"}
