"""Options anywhere among the overrides; what may not be deleted."""

from __future__ import annotations

import pytest

from refit.command_line import deletes, ordered


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
