"""`spikeleak meter`: what can measure energy on this machine, and what it reads now."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from contract.errors import ConfigurationError, EnvironmentFaultError
from deploy.meter_live import Recorder, Tally, opened, watch
from hardware.finding import Finding
from hardware.meter import find_meters, split_specs

_BARS = "▁▂▃▄▅▆▇█"
NO_VALUE = "—"


class MeterRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for on the command line.

    Attributes:
        spec: Meters, as `hardware.meter.open_meters` takes them.
        seconds: How long to read; 0 only lists.
        as_json: Print one JSON object instead of tables.
        record: File for a trace.
        link_file: Settings with the `[link]` to the broker of plugs.
    """

    spec: str = "auto"
    seconds: float = 5.0
    as_json: bool = False
    record: Path | None = None
    link_file: Path | None = None


def run_meter(console: Console, request: MeterRequest) -> None:
    """Lists the meters, then reads those that are asked for.

    Raises:
        ConfigurationError: Unknown meter, or options that do not go together.
        EnvironmentFaultError: Not one of the meters asked for by name gave a figure, or a recording came to its end.
    """
    if request.record is not None and (len(split_specs(request.spec)) > 1 or request.seconds <= 0):
        raise ConfigurationError(
            f"--record {request.record}: needs one meter (found {request.spec}) and --seconds above 0"
        )
    found = find_meters()
    if not request.as_json:
        list_meters(console, found)
    by_name = request.spec != "auto"
    reads = request.seconds > 0 and (by_name or any(item.available for item in found))
    tallies = _read(console, request) if reads else []
    if request.as_json:
        told = {"meters": [msgspec.to_builtins(item) for item in found], "live": [tally.record() for tally in tallies]}
        console.out(json.dumps(told, indent=2, allow_nan=False), highlight=False)
    if tallies and by_name and not any(tally.windows for tally in tallies):
        raise EnvironmentFaultError(f"--meter {request.spec}: no figure in {request.seconds:g} s: {tallies[0].reason}")


def _read(console: Console, request: MeterRequest) -> list[Tally]:
    with contextlib.ExitStack() as held:
        meters = held.enter_context(opened(request.spec, request.link_file))
        recorder = None
        if request.record is not None:
            recorder = held.enter_context(contextlib.closing(Recorder(request.record)))
        if request.as_json:
            return watch(meters, request.seconds, show=lambda _tallies: None, recorder=recorder)
        live = held.enter_context(Live(console=console, refresh_per_second=8))
        tallies = watch(meters, request.seconds, show=lambda now: live.update(table(now)), recorder=recorder)
        live.update(table(tallies))
    if not console.is_terminal:
        console.line()
    console.print(*closing(tallies), sep="\n", highlight=False)
    return tallies


def list_meters(console: Console, found: Sequence[Finding]) -> None:
    """Prints all meters, those that are not there with the reason."""
    listed = Table(box=None, pad_edge=False)
    for title in ("meter", "found", "what it covers, or why it is not there"):
        listed.add_column(title)
    for item in found:
        listed.add_row(item.meter, "yes" if item.available else "no", item.detail)
    console.print(listed)


def sparkline(values: Sequence[float]) -> str:
    """Values as one line of bars from 0 to the largest."""
    top = max(values, default=0.0)
    if top <= 0:
        return _BARS[0] * len(values)
    return "".join(_BARS[min(len(_BARS) - 1, int(v / top * len(_BARS)))] for v in values)


def table(tallies: Sequence[Tally]) -> Table:
    """Watts of each meter: now, lowest, mean, highest; the ± of the mean; its last minute, or why there is nothing."""
    shown = Table(box=None, pad_edge=False)
    for title in ("meter", "W now", "min", "mean", "max", "± W", "sampler"):
        shown.add_column(
            title, justify="left" if title == "meter" else "right", no_wrap=title != "meter", overflow="fold"
        )
    shown.add_column("", overflow="fold")
    for tally in tallies:
        known = bool(tally.watts)
        figures = (tally.watts[-1], tally.lowest_w, tally.mean_w, tally.highest_w) if known else (None,) * 4
        off_j = tally.uncertainty_j
        off_w = off_j / tally.duration_s if off_j is not None and tally.duration_s > 0 else None
        line = sparkline(tally.watts) if known else f"unavailable: {tally.reason}"
        shown.add_row(tally.meter.source, *map(_watts, (*figures, off_w)), _sampler(tally), Text(line))
    return shown


def _watts(value: float | None) -> str:
    return NO_VALUE if value is None else f"{value:.3f}"


def _sampler(tally: Tally) -> str:
    """The sampler's part of one core."""
    sampling = tally.record()["sampling"]
    return NO_VALUE if sampling is None else f"{sampling['cpu_share']:.2%}"


def closing(tallies: Sequence[Tally]) -> list[str]:
    """One line for each meter, and how two of them compare."""
    lines = []
    for tally in tallies:
        off_j = tally.uncertainty_j
        gaps = f"; {tally.missing} windows without a figure, last: {tally.reason}" if tally.missing else ""
        known = f"{tally.energy_j:.3f} J{'' if off_j is None else f' ± {off_j:.3f} J'} in {tally.duration_s:.1f} s"
        lines.append(f"{tally.meter.source} ({tally.meter.scope}): {known if tally.windows else 'no figure'}{gaps}")
    first, second = (tallies[0].mean_w, tallies[1].mean_w) if len(tallies) > 1 else (None, None)
    if first is not None and second is not None:
        lines.append(
            f"{tallies[1].meter.source} − {tallies[0].meter.source}: {second - first:.3f} W, "
            f"ratio {second / first:.3f}; side by side, never added up"
        )
    return lines
