"""The leakage chart of a run as a picture of its own: `python -m server.report.picture DIR OUT.svg`.

The same drawing as in the report, with the report's colours (light and dark) inside the file.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from contract.errors import ConfigurationError
from server.report.round_charts import leakage_chart
from server.report.source import read_report_data

_STYLE = Path(__file__).with_name("report.css")


def picture(directory: Path) -> str:
    """The chart as a standalone SVG.

    Args:
        directory: The run's folder.

    Raises:
        ConfigurationError: The folder holds no run, or none of its updates was scored.
    """
    drawn = leakage_chart(read_report_data(directory).families)
    if drawn is None:
        raise ConfigurationError(f"{directory}: no update of this run was scored, so there is no leakage to draw")
    chart = re.search(r"<svg.*?</svg>", drawn, re.DOTALL)
    assert chart is not None, "a chart is an SVG"
    colours = _STYLE.read_text(encoding="utf-8").split("* { box-sizing", 1)[0]
    style = f"<style>{colours} svg {{ background: var(--paper); font-family: var(--sans); }}</style>"
    return re.sub(r"<svg([^>]*)>", rf'<svg xmlns="http://www.w3.org/2000/svg"\1>{style}', chart[0], count=1)


def main() -> None:
    """Writes the picture of the run named first into the file named second."""
    Path(sys.argv[2]).write_text(picture(Path(sys.argv[1])) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
