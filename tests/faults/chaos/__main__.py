"""`make chaos`: the rows at length, one table at the end."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.faults.chaos import ROWS


def main(arguments: list[str] | None = None) -> int:
    """Runs the rows that were asked for; 1 when a claim does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all when none is given")
    parser.add_argument("--share", type=float, default=1.0, help="of each row's count (default 1)")
    asked = parser.parse_args(arguments)
    unknown = [name for name in asked.rows if name not in ROWS]
    if unknown:
        parser.error(f"no row {', '.join(unknown)}: choose from {', '.join(ROWS)}")
    if not 0 < asked.share <= 1:
        parser.error(f"--share {asked.share}: above 0, at most 1")
    lines, failed = ["| fault | injected | seconds | claim | seen |", "|---|---|---|---|---|"], 0
    for name in asked.rows or ROWS:
        row = ROWS[name]
        print(f"{name}: {row.share(asked.share)} × {row.fault} …", file=sys.stderr, flush=True)
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"chaos-{name}-") as folder:
            try:
                outcome = row.load()(row.share(asked.share), Path(folder))
                injected, seen = str(outcome.injected), outcome.figures
            except Exception as error:  # noqa: BLE001 - a row that breaks is a row whose claim was not shown
                traceback.print_exc()
                failed += 1
                injected, seen = "—", f"**DOES NOT HOLD**: {' '.join(str(error).split())[:300]}"
        lines.append(f"| {row.fault} | {injected} | {time.monotonic() - began:.0f} | {row.claim} | {seen} |")
        print(lines[-1], file=sys.stderr, flush=True)
    print("\n".join(lines))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
