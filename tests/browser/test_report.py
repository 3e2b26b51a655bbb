"""The report in a browser: it draws what the records say, and what they say does nothing."""

from __future__ import annotations

import json
import os
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys

from refit.published import DATA
from sweeper.report import __main__ as report
from tests.browser.conftest import QWEN, Opened

MOST_S = 2.0
TRACES = """
everything();
const figures = [...document.querySelectorAll('section:not([hidden]) .picture')];
const drawn = figure => figure.querySelector('.plot').data.map(
    ({name, x, y, z, xaxis}) => ({name, x, y, z, xaxis}));
const said = figure => figure.querySelector('.none');
return Object.fromEntries(figures.map(figure => [
    figure.dataset.picture, said(figure).hidden ? drawn(figure) : said(figure).textContent]));
"""


def pictures(driver: Chrome) -> dict[str, Any]:
    """What plotly holds of each picture, or what is said in its place."""
    found: dict[str, Any] = driver.execute_script(TRACES)
    return found


def rows(driver: Chrome) -> list[list[str]]:
    """The texts of the table's rows that are shown."""
    found: list[list[str]] = driver.execute_script(
        "return [...document.querySelectorAll('#points tbody tr:not([hidden])')]"
        ".map(row => [...row.cells].map(cell => cell.textContent))"
    )
    return found


def trace(traces: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    (found,) = (each for each in traces if each["name"] == name)
    return found


def boxes(drawn: dict[str, Any]) -> list[list[float]]:
    """The left and right edges of each outline of a trace."""
    edges: list[list[float]] = [[]]
    for x in drawn["x"]:
        if x is None:
            edges.append([])
        else:
            edges[-1].append(x)
    return [each for each in edges if each]


def ok(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record for record in records if record["seconds"]]


def test_pictures_hold_the_numbers_of_the_records(
    opened: Opened, page: Path, records: list[dict[str, Any]]
) -> None:
    drawn = pictures(opened(page))
    measured = ok(records)
    assert len(measured) == 4
    dots: dict[str, list[float]] = {r["method"]: [] for r in measured}
    for record in measured:
        dots[record["method"]] += record["seconds"]["warm"]
    for method, seconds in dots.items():
        assert trace(drawn["medians"], method)["x"] == seconds
    medians = [r["seconds"]["median"] for r in measured]
    assert trace(drawn["medians"], "median")["x"] == medians
    predicted = [r for r in records if r["prediction"]]
    for term in ("floor", "estimate"):
        terms = [r["prediction"][term]["seconds"] for r in predicted]
        assert trace(drawn["medians"], term)["x"] == terms
    fractions = [r["throughput"]["fraction"] for r in measured]
    assert drawn["fractions"][0]["x"] == fractions
    for axis, whole in (("x", [r["seconds"]["cold"] for r in measured]), ("x2", medians)):
        parts = [t for t in drawn["phases"] if t["xaxis"] == axis]
        sums = [sum(of_one) for of_one in zip(*(t["x"] for t in parts), strict=True)]
        # each phase is its slowest rank's, so on a busy machine they may add up to more
        (rest,) = (t["x"] for t in parts if t["name"] == "unattributed")
        phases = [of_one - left for of_one, left in zip(sums, rest, strict=True)]
        assert sums == pytest.approx([max(pair) for pair in zip(whole, phases, strict=True)])
    assert {"plan", "prepare", "transfer", "copy", "wire", "unattributed"} <= {
        t["name"] for t in drawn["phases"]
    }
    curve, best = drawn["knees"]
    by_bucket = {
        r["config"]["refit"]["bucket_mb"]: r["prediction"]["estimate"]["seconds"]
        for r in predicted
        if r["config"]["parallel"]["source"]["tp"] == 4 and r["config"]["model"]["name"] != QWEN
        if "refit=gloo" in r["overrides"]
    }
    assert dict(zip(curve["x"], curve["y"], strict=True)) == by_bucket and len(by_bucket) == 3
    assert best["y"] == [min(by_bucket.values())]
    (pair,) = (r for r in predicted if "refit.method=gloo" in r["overrides"])
    (same,) = (r for r in measured if r["method"] == "gloo" and r["placement"] == "collocated")
    beside = trace(drawn["predicted"], "points")
    assert beside["x"] == [pair["prediction"]["estimate"]["seconds"]]
    assert beside["y"] == [same["seconds"]["median"]]
    kimi = [r for r in predicted if r["config"]["model"]["name"] == "kimi_k2"]
    line = trace(drawn["gpus"], f"kimi_k2 \u00b7 {kimi[0]['method']} \u00b7 h100 \u00b7 estimate")
    assert line["x"] == [128, 288]
    assert line["y"] == [r["prediction"]["estimate"]["seconds"] for r in kimi]
    (qwen,) = (r for r in predicted if r["config"]["parallel"]["name"] == QWEN)
    assert "seconds: [0.54, 0.67]" in DATA.read_text().partition(QWEN)[0]
    assert trace(drawn["published"], "published")["x"] == [pytest.approx((0.54 + 0.67) / 2)]
    ours = trace(drawn["published"], "ours: estimate or median")
    assert ours["x"] == [qwen["prediction"]["estimate"]["seconds"]]


def test_one_point_is_drawn_as_its_plan_and_its_ranks_say(
    opened: Opened, page: Path, records: list[dict[str, Any]]
) -> None:
    (record,) = (r for r in ok(records) if r["placement"] == "collocated" and r["method"] == "ipc")
    driver = opened(page, f"#point={record['id']}")
    drawn = pictures(driver)
    assert driver.find_element("id", "one-heading").text == record["name"]
    z = [[n or 0 for n in row] for row in drawn["traffic"][0]["z"]]
    plan = record["plan"]
    assert sum(map(sum, z)) == plan["bytes"]
    local = [z[rank][rank] for rank in range(4)]
    assert sum(local) == plan["local_bytes"] > 0
    assert max(sum(row) - own for row, own in zip(z, local, strict=True)) == plan["max_send_bytes"]
    received = [sum(of) - own for of, own in zip(zip(*z, strict=True), local, strict=True)]
    assert max(received) == plan["max_recv_bytes"]
    # TP 2, EP 2 to TP 2, EP 1: of the experts' column a half before, four ranks; all after, two
    before, after = (t for t in drawn["layouts"] if "experts.linear" in (t["name"] or ""))
    widths = [[max(box) - min(box) for box in boxes(side)] for side in (before, after)]
    assert widths == [[pytest.approx(0.44)] * 4, [pytest.approx(0.88)] * 2]
    seconds = record["seconds"]
    for rank, median in seconds["per_rank"].items():
        spread = trace(drawn["spread"], rank)["y"]
        assert statistics.median(spread) == pytest.approx(median, abs=1e-6)
        assert len(spread) == len(seconds["warm"]) == 6
    assert trace(drawn["iterations"], "the refit")["y"] == seconds["warm"]
    assert sum(drawn["slowest"][0]["y"]) == 6
    facts = driver.find_element("id", "facts").text
    assert record["throughput"]["limit"] in facts and "python -m refit.run" in facts
    assert record["environment"]["commit"][:10] in facts
    # a point that never ran says so, where others have pictures
    (skipped, *_) = (r for r in records if r["status"] == "skipped")
    said = pictures(opened(page, f"#point={skipped['id']}"))
    assert "was not planned" in said["traffic"] and "was not planned" in said["layouts"]
    assert "No timed refits" in said["iterations"]


def test_filters_are_in_the_address_and_hold_everywhere(
    opened: Opened, page: Path, records: list[dict[str, Any]]
) -> None:
    driver = opened(page)
    assert len(rows(driver)) == len(records) == 16
    select = driver.find_element("name", "method")
    select.send_keys("ipc")
    assert driver.execute_script("return location.hash") == "#method=ipc"
    driver.find_element("name", "status").send_keys("ok")
    address = driver.current_url
    driver = opened(page, "#" + address.partition("#")[2])
    ipc = [r for r in ok(records) if r["method"] == "ipc"]
    assert len(rows(driver)) == 2
    assert driver.find_element("id", "shown").text == "2 of 16 points"
    assert pictures(driver)["fractions"][0]["x"] == [r["throughput"]["fraction"] for r in ipc]
    # by the keyboard alone: a heading sorts, and says so
    button = driver.find_element("css selector", "th[data-column=median] button")
    button.send_keys(Keys.ENTER)
    head = driver.find_element("css selector", "th[data-column=median]")
    assert head.get_attribute("aria-sort") == "ascending"
    button.send_keys(Keys.ENTER)
    assert head.get_attribute("aria-sort") == "descending"
    assert "sort=-median" in driver.current_url
    slowest_first = sorted((r["seconds"]["median"] for r in ipc), reverse=True)
    at = [cell.text for cell in driver.find_elements("css selector", "#points thead th")]
    shown = [row[at.index("median")] for row in rows(driver)]
    assert shown == [f"{s:.3f} s" for s in slowest_first]
    assert pictures(driver)["fractions"][0]["x"] == [
        r["throughput"]["fraction"]
        for r in sorted(ipc, key=lambda r: -float(r["seconds"]["median"]))
    ]
    driver.find_element("css selector", "#filters button[type=reset]").click()
    assert len(rows(driver)) == 16
    assert rows(opened(page, "#method=nonsense&other=1&sort=nothing")) == []


def test_what_failed_is_there_with_its_log_and_its_command(
    opened: Opened, page: Path, records: list[dict[str, Any]]
) -> None:
    driver = opened(page, "#status=failed")
    shown = [
        a for a in driver.find_elements("css selector", "#failures article") if a.is_displayed()
    ]
    failed = [r for r in records if r["status"] == "failed"]
    assert len(shown) == len(failed) == 2
    for article, record in zip(shown, failed, strict=True):
        assert record["name"] in article.text and record["reason"] in article.text
        assert "Traceback" in article.text or "Error" in article.text
        again = shlex.split(article.find_element("css selector", "code").text)
        assert again[:3] == ["python", "-m", "refit.run"]
        assert again[3:] == [*record["overrides"], f"hydra.run.dir={page.parent}"]
    driver.find_element("css selector", "#filters button[type=reset]").click()
    assert driver.find_element("id", "failures").text.count("skipped: ") == 3


def test_the_matrix_marks_the_best_of_a_row(
    opened: Opened, page: Path, records: list[dict[str, Any]]
) -> None:
    driver = opened(page, "#mode=measured")
    lines = driver.find_element("id", "matrix").text.splitlines()
    assert lines[0].split() == ["row", "gloo", "ipc"] and len(lines) == 3
    for line in lines[1:]:
        of_row = [r for r in ok(records) if r["config"]["parallel"]["name"] in line.split()]
        best = min(of_row, key=lambda r: float(r["seconds"]["median"]))
        share = best["throughput"]["fraction"]
        assert f"* {best['seconds']['median']:.3f} s ({share:.0%})" in line
        assert line.count("*") == 1


HOSTILE = (
    "<b>b</b><a href='http://a.invalid'>a</a><script>window.hit=1</script>"
    "<img src=x onerror='window.hit=1'> %{x} </script>"
)


def written(page: Path, folder: Path, records: Sequence[dict[str, Any]]) -> Path:
    """The report of such records."""
    for number, record in enumerate(records):
        below = folder / f"point-{number}"
        below.mkdir(parents=True)
        (below / "timing.json").write_text(json.dumps(record))
    assert report.main([str(folder)]) == 0
    return folder / "report.html"


def test_hostile_names_are_text(
    opened: Opened, page: Path, records: list[dict[str, Any]], tmp_path: Path
) -> None:
    hostile = json.loads(json.dumps([*ok(records), next(r for r in records if r["reason"])]))
    for number, record in enumerate(hostile):
        record["name"] = record["reason"] = record["method"] = HOSTILE
        record["id"] = f"{HOSTILE}{number}"
        record["reason"] = HOSTILE if record["status"] != "ok" else ""
        record["overrides"] = [f"model={HOSTILE}", "'$(reboot)`"]
        for group in ("model", "parallel", "refit", "cluster"):
            record["config"][group]["name"] = HOSTILE
    page = written(page, tmp_path / "results", hostile)
    driver = opened(page)
    driver.find_element("css selector", "#points tbody button").click()
    drawn = pictures(driver)
    for details in driver.find_elements("css selector", ".as-table"):
        driver.execute_script("arguments[0].open = true", details)
    assert isinstance(drawn["medians"], list) and isinstance(drawn["traffic"], list)
    state = driver.execute_script(
        "return [window.hit || 0, document.querySelectorAll('main img, main b, svg a').length,"
        " document.querySelector('#picture-medians .ytick text').textContent]"
    )
    assert state[:2] == [0, 0]
    assert state[2].startswith("<b>b</b><a href=")
    assert driver.find_element("id", "one-heading").text == " ".join(HOSTILE.split())
    assert rows(driver)[0][0] == HOSTILE


def test_a_thousand_points_open_within_two_seconds(
    opened: Opened, page: Path, records: list[dict[str, Any]], tmp_path: Path
) -> None:
    many = []
    for number in range(1000):
        record = json.loads(json.dumps(records[number % len(records)]))
        record["id"] = record["name"] = f"point-{number}"
        record["overrides"] = [*record["overrides"], f"seed={number}", f"+at={number}"]
        many.append(record)
    page = written(page, tmp_path / "results", many)
    driver = opened(page)
    before = renderer_s(driver)
    driver.get(page.as_uri())
    driver.find_element("name", "method").send_keys("gloo")
    asked = [r["method"] or r["config"]["refit"]["method"] for r in many]
    gloo = asked.count("gloo")
    assert driver.find_element("id", "shown").text == f"{gloo} of 1000 points" and gloo > 100
    assert renderer_s(driver) - before < MOST_S
    assert driver.execute_script("return window.Plotly") is None
    assert len(rows(driver)) == gloo
    # the first rows are laid out, the others on demand, and on paper
    height = "return document.getElementById('points').offsetHeight"
    few = driver.execute_script(height)
    driver.find_element("id", "every").click()
    assert driver.execute_script(height) > 2 * few


def renderer_s(driver: Chrome) -> float:
    """Processor time of the browser's pages so far: this machine may be busy with other things."""
    parents, used = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
            command = stat.with_name("cmdline").read_text()
        except OSError:  # it has ended
            continue
        parents[stat.parent.name] = words[1]
        if "--type=renderer" in command:
            used[stat.parent.name] = (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    root = str(driver.service.process.pid)

    def is_ours(pid: str) -> bool:
        return pid == root or (pid in parents and is_ours(parents[pid]))

    return sum(seconds for pid, seconds in used.items() if is_ours(pid))


def test_it_needs_no_network_and_reads_in_the_dark_and_on_paper(opened: Opened, page: Path) -> None:
    driver = opened(page)
    assert driver.execute_script("return performance.getEntriesByType('resource')") == []
    assert page.read_text().count("plotly.js v") == 1  # once, and within
    grounds = []
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        grounds.append(
            driver.execute_script(
                "everything(); return [getComputedStyle(document.body).backgroundColor,"
                " document.querySelector('#picture-medians .plot').layout.font.color]"
            )
        )
    (light, dark_ink), (dark, light_ink) = grounds
    assert (light, dark) == ("rgb(255, 255, 255)", "rgb(13, 17, 23)") and dark_ink != light_ink
    # on paper, from the dark: nothing was drawn by scrolling
    driver.refresh()
    driver.execute_script("dispatchEvent(new Event('beforeprint'))")
    printed = driver.execute_script(
        "return ['medians', 'published'].map(name => document.querySelector("
        "`#picture-${name} .plot`).layout.font.color)"
    )
    assert printed == [dark_ink, dark_ink]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    unlabelled = driver.execute_script(
        "return [...document.querySelectorAll('thead th, tbody th')].filter(th => !th.scope).length"
        " + document.querySelectorAll('.plot:not([aria-labelledby])').length"
    )
    assert unlabelled == 0
