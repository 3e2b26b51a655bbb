"""Options anywhere among the overrides; what may not be deleted."""

from __future__ import annotations

import pytest

from refit.command_line import chooses_nothing, deletes, ordered


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("model=x --config-dir D mode=plan", "--config-dir=D model=x mode=plan"),
        ("refit=ipc -m parallel=a,b", "--multirun refit=ipc parallel=a,b"),
        ("parallel=a --cfg job model=b", "--cfg=job parallel=a model=b"),
        ("a=1 -cd D -cn other b=2", "--config-name=other --config-dir=D a=1 b=2"),
        ("a=1 --info searchpath", "--info=searchpath a=1"),
        ("~experiment -m +x=1 ++y=2", "--multirun ~experiment +x=1 ++y=2"),
        ("", ""),
    ],
)
def test_options_go_before_overrides(words: str, expected: str) -> None:
    assert sorted(ordered(words.split())) == sorted(expected.split())
    options = [word.startswith("--") for word in ordered(words.split())]
    assert options == sorted(options, reverse=True)
    overrides = [word for word in words.split() if "=" in word or word.startswith("~")]
    assert [word for word in ordered(words.split()) if not word.startswith("--")] == overrides


@pytest.mark.parametrize("words", ["--cfgg job", "a=1 --config-dir", "--cfg nothing"])
def test_what_is_no_option_ends_with_code_2(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        ordered(words.split())
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "word", ["~bench", "~model", "~model=dense", "~refit@refit", "~bench.iterations", "~seed"]
)
def test_what_every_point_needs_is_not_deleted(word: str) -> None:
    reason = deletes(["model=dense", word])
    assert reason is not None and reason.startswith(f"{word} deletes what every point needs")


@pytest.mark.parametrize("word", ["~experiment", "~workload", "bench.warmup=1", "~hydra.job.chdir"])
def test_what_may_be_deleted(word: str) -> None:
    assert deletes([word]) is None


@pytest.mark.parametrize(
    ("word", "way_out"),
    [
        ("workload=null", "(python -m refit.workloads lists them); leave workload= out for none"),
        ("+hardware=null", "(--help lists them); leave hardware= out for none"),
        ("hardware=h100,null", "leave hardware= out for none, in a command of its own"),
        ("experiment=[a,null]", "leave experiment= out for none"),
        ("model=null", "leave model= out for the shipped one"),
    ],
)
def test_null_is_no_option_of_a_group(word: str, way_out: str) -> None:
    reason = chooses_nothing(["seed=1", word])
    assert reason is not None and reason.startswith(f"{word}: null is no option of ")
    assert reason.endswith(way_out)


@pytest.mark.parametrize(
    "word", ["~workload", "model.lora=null", "model=glob(null*)", "workload=null_1", "seed=null,1"]
)
def test_what_may_be_null(word: str) -> None:
    assert chooses_nothing([word]) is None


def test_v_is_an_option_anywhere_and_with_others() -> None:
    for words in (["-v", "-m", "a=1,2"], ["a=1,2", "-mv"], ["-m", "a=1,2", "--verbose"]):
        assert ordered(words) == ["--multirun", "--verbose", "a=1,2"]
    assert "--verbose" not in ordered(["-m", "a=1"])
