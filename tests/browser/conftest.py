"""A real sweep, its report, and one headless Chromium for all tests; skips where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from refit import compose
from refit.forecast.predict import predict_point
from refit.record.point import Point
from sweeper.report import __main__ as report

ROOT = Path(__file__).parents[2]
CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
RAISES = "tests.support.faults:Raises"

SWEEP = (
    "parallel=noncollocated_4_tp2ep1_to_tp1ep1,collocated_4_tp2ep2_to_tp2ep1,pitfall_12gpus_tp8_to_tp4",
    f"refit.method=ipc,gloo,{RAISES}", "model=moe_8e", "build=shards", "model.vocab_size=1000",
    "model.published_parameters=null", "bench.iterations=6", "cluster.ranks_per_node=4",
)  # fmt: skip
"""Two pairs and two methods that work, a pair that is impossible, and a method that fails."""

QWEN = "qwen3_30b_a3b_32_tp2ep4_to_tp4ep4"
PLANNED = (
    *(("refit=gloo", f"refit.bucket_mb={mb}", "parallel.source.tp=4") for mb in (1, 16, 256)),
    ("parallel=kimi_k2_128_tp8pp8ep8_to_tp8ep64", "model=kimi_k2"),
    ("parallel=kimi_k2_288_tp8pp8cp4ep32_to_tp4ep32", "model=kimi_k2"),
    (f"parallel={QWEN}", "model=qwen3_30b_a3b"),
)
"""A curve, Kimi K2 over GPUs, and a refit that others published; on H100s."""


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real sweep, and of predictions beside it."""
    folder = tmp_path_factory.mktemp("report") / "results"
    command = [sys.executable, "-m", "refit.run", "-m", *SWEEP, f"hydra.sweep.dir={folder}"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    same = [word for word in SWEEP[2:] if not word.startswith("bench")]
    of_measured = ("parallel=collocated_4_tp2ep2_to_tp2ep1", "refit.method=gloo", *same)
    with compose.configs():
        for words in (*PLANNED, of_measured):
            overrides = ("mode=plan", "cluster=h100", *words)
            predict_point(Point.of(compose.job(overrides), folder, overrides))
    return folder


@pytest.fixture(scope="session")
def page(results: Path) -> Path:
    """The report of it."""
    assert report.main([str(results)]) == 0
    return results / "report.html"


@pytest.fixture(scope="session")
def records(page: Path) -> list[dict[str, Any]]:
    """Every record, in the order of the page's points."""
    return [json.loads(path.read_text()) for path in sorted(page.parent.glob("*/timing.json"))]


@pytest.fixture(scope="session")
def browser() -> Iterator[webdriver.Chrome]:
    if not (CHROMIUM.exists() and DRIVER.exists()):
        pytest.skip("needs Debian's chromium and chromium-driver: bash tests/debian.sh")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.add_argument("--window-size=1300,1000")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    driver.set_script_timeout(300)  # this machine may be busy
    yield driver
    driver.quit()


Opened = Callable[..., webdriver.Chrome]


@pytest.fixture
def opened(browser: webdriver.Chrome) -> Iterator[Opened]:
    """Opens a page from disk at an address of it; nothing may be said in the console."""

    def at(page: Path, fragment: str = "") -> webdriver.Chrome:
        browser.get("about:blank")
        browser.get(f"{page.as_uri()}{fragment}")
        return browser

    yield at
    assert browser.get_log("browser") == []
