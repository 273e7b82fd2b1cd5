"""`spikeleak meter`: what can measure energy on this machine, and what it reads now."""

from __future__ import annotations

import time

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from contract.errors import ConfigurationError
from hardware.errors import MeterError
from hardware.meter import find_meters, open_meter

_BARS = "▁▂▃▄▅▆▇█"
_WINDOW = 60
_INTERVAL_S = 0.25


def list_meters(console: Console) -> int:
    """Prints all meters, those that are not there with the reason.

    Returns:
        The number of meters found.
    """
    table = Table(box=None, pad_edge=False)
    for title in ("meter", "found", "what it covers, or why it is not there"):
        table.add_column(title)
    found = find_meters()
    for item in found:
        table.add_row(item.meter, "yes" if item.available else "no", item.detail)
    console.print(table)
    return sum(item.available for item in found)


def sparkline(values: list[float]) -> str:
    """Values as one line of bars from 0 to the largest."""
    top = max(values, default=0.0)
    if top <= 0:
        return _BARS[0] * len(values)
    return "".join(_BARS[min(len(_BARS) - 1, int(v / top * len(_BARS)))] for v in values)


def read_live(console: Console, source: str, seconds: float) -> None:
    """Shows live watts for some time, then the energy.

    Raises:
        ConfigurationError: Unknown meter.
    """
    try:
        meter = open_meter(source)
    except MeterError as error:
        raise ConfigurationError(f"--meter {source}: {error}") from error
    watts: list[float] = []
    total_j = 0.0
    faults: list[str] = []
    meter.start()
    began_s = time.monotonic()
    try:
        with Live(console=console, refresh_per_second=8, transient=False) as live:
            while time.monotonic() - began_s < seconds:
                time.sleep(_INTERVAL_S)
                reading = meter.read()
                if reading.energy_j is None or reading.duration_s <= 0:
                    faults.append(reading.reason)
                    live.update(Text(f"{meter.name}: unavailable: {reading.reason}"))
                    continue
                total_j += reading.energy_j
                watts = [*watts, reading.energy_j / reading.duration_s][-_WINDOW:]
                live.update(Text(f"{meter.name} ({reading.provenance}) {watts[-1]:8.3f} W {sparkline(watts)}"))
    finally:
        meter.close()
    if watts:
        gaps = f"; {len(faults)} readings unavailable" if faults else ""
        console.print(f"{total_j:.3f} J in {time.monotonic() - began_s:.1f} s{gaps}", highlight=False)
