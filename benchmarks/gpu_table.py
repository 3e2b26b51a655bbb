"""A table of the records below a folder, as fractions of what each measured beside: gpu.sh's.

Run: python -m benchmarks.gpu_table <folder>
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def line(record: dict[str, Any]) -> str:
    """One record in one line."""
    what = f"{record['config']['parallel']['name']:36} {record['method'] or '-':10}"
    if record["status"] != "ok":
        return f"{what} {record['status']}: {record['reason'].splitlines()[0]}"
    rate, layout = record["throughput"], record["layout"]
    active = layout["world"] - len(layout["idle"])
    of = "  ".join(
        f"{rate['gbps'] / limit['gbps']:4.2f} of {limit['kind']} {limit['gbps']:.1f}"
        for limit in rate["limits"]
        if limit["source"] == "measured"
    )
    device = record["environment"]["device"]
    return f"{what} {active} ranks  {rate['gbps']:8.1f} GB/s  {of}  verified  {device}"


def main() -> None:
    """Print one line per record."""
    found = sorted(Path(sys.argv[1]).glob("*/*/timing.json"))
    if not found:
        raise SystemExit(f"no records below {sys.argv[1]}")
    for record in (json.loads(path.read_text()) for path in found):
        if record["status"] != "skipped":  # a layout that is impossible on eight ranks
            print(line(record))


if __name__ == "__main__":
    main()
