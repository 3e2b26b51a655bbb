"""The README's pictures of a report: `python -m benchmarks.screenshots DIR [TO]`.

Opens DIR's report in a headless Chromium and photographs two of its parts: what is drawn of all
points, and the layouts and the traffic of the point that moved most. TO is docs/pictures where it
is not said.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from refit.record.record import Record
from sweeper.collect import read
from sweeper.report.page import page

MOST_BYTES = 200_000
WIDTH, HEIGHT = 1100, 900

ALL = ("matrix-heading", "picture-medians")
ONE = ("picture-layouts", "picture-traffic")


def browser() -> webdriver.Chrome:
    """Debian's Chromium, without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    words = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
    for word in (*words, f"--window-size={WIDTH},{HEIGHT}"):
        options.add_argument(word)
    return webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))


def keep(driver: webdriver.Chrome, ids: Sequence[str], to: Path) -> None:
    """Photograph these parts of the page, below each other, and nothing else."""
    driver.execute_script(
        "const kept = arguments[0].map(id => document.getElementById(id));"
        "kept.forEach((part, i) => { if (part.tagName === 'H2') kept[i] = part.parentNode; });"
        "document.body.replaceChildren(...kept);"
        "document.querySelectorAll('.as-table, .modebar, figcaption').forEach(e => e.remove());"
        "document.body.style.padding = '4px 12px';",
        list(ids),
    )
    high = driver.execute_script("return document.documentElement.scrollHeight")
    size = {"width": WIDTH, "height": high, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.find_element("tag name", "body").screenshot(str(to))
    nbytes = to.stat().st_size
    if nbytes > MOST_BYTES:
        raise SystemExit(f"{to} has {nbytes} bytes, and {MOST_BYTES} are allowed: fewer points")
    print(f"written: {to}, {nbytes} bytes")


def moved_most(records: Sequence[Record]) -> str:
    """The id of the point with most bytes, of those whose ranks held a time."""
    timed = [record for record in records if record.seconds and record.plan]
    return max(timed, key=lambda record: record.plan.bytes if record.plan else 0).id


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.screenshots", description=__doc__)
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("to", metavar="TO", type=Path, nargs="?", default=Path("docs/pictures"))
    options = parser.parse_args(arguments)
    records, _ = read(options.folder)
    made = options.folder / "report.html"
    made.write_text(page(records, options.folder), encoding="utf-8")
    options.to.mkdir(parents=True, exist_ok=True)
    address = made.resolve().as_uri()
    driver = browser()
    for name, ids, fragment in (
        ("report.png", ALL, "#status=ok"),
        ("report-point.png", ONE, f"#point={moved_most(records)}"),
    ):
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.get("about:blank")
        driver.get(f"{address}{fragment}")
        driver.execute_script("everything()")
        keep(driver, ids, options.to / name)
    driver.quit()


if __name__ == "__main__":
    main(sys.argv[1:])
