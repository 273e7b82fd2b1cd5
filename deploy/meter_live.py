"""Meters read for some time: their windows summed, recorded, and handed to whoever shows them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from contract.configuration import decode_tables, read_toml
from contract.errors import ConfigurationError, EnvironmentFaultError
from contract.link import Link, LinkSettings
from hardware.energy import EnergyReading
from hardware.errors import MeterError
from hardware.meter import Meter, open_meters
from hardware.meters.plug import Listener
from hardware.pushed_meter import PushedMeter
from hardware.sampled_meter import SampledMeter
from hardware.uncertainty import added

SHOWN = 60
"""Windows in the sparkline."""
WINDOW_S = 0.25


class Tally:
    """What one meter said so far."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.watts: list[float] = []
        self.lowest_w = self.highest_w = 0.0
        self.energy_j = self.duration_s = 0.0
        self.windows = self.missing = 0
        self.reason = ""
        self._half_widths_j: list[float | None] = []

    def add(self, reading: EnergyReading) -> None:
        """One more window."""
        if reading.energy_j is None or reading.duration_s <= 0:
            self.missing, self.reason = self.missing + 1, reading.reason
            return
        power_w = reading.energy_j / reading.duration_s
        self.lowest_w = min(self.lowest_w, power_w) if self.windows else power_w
        self.highest_w = max(self.highest_w, power_w)
        self.watts = [*self.watts, power_w][-SHOWN:]
        self.energy_j += reading.energy_j
        self.duration_s += reading.duration_s
        self.windows += 1
        self._half_widths_j = [added((*self._half_widths_j, reading.uncertainty_j))]

    @property
    def mean_w(self) -> float | None:
        """Over all windows with a figure; `None` without one."""
        return self.energy_j / self.duration_s if self.duration_s > 0 else None

    @property
    def uncertainty_j(self) -> float | None:
        """Half width of 95 % of the sum."""
        return added(self._half_widths_j)

    def record(self) -> dict[str, Any]:
        """All of it as plain values; what is not known is `None`."""
        known = self.windows > 0
        found: dict[str, Any] = {
            "meter": self.meter.name,
            "source": self.meter.source,
            "scope": self.meter.scope,
            "energy_j": self.energy_j if known else None,
            "uncertainty_j": self.uncertainty_j,
            "duration_s": self.duration_s,
            "mean_w": self.mean_w,
            "min_w": self.lowest_w if known else None,
            "max_w": self.highest_w if known else None,
            "windows": self.windows,
            "windows_without_figure": self.missing,
            "reason": self.reason,
            "sampling": None,
        }
        if isinstance(self.meter, SampledMeter):
            cost = self.meter.cost
            found["sampling"] = {
                "interval_s": self.meter.interval_s,
                "samples": cost.samples,
                "cpu_s": cost.cpu_s,
                "cpu_share": cost.cpu_share,
                "busy_share": cost.busy_s / cost.span_s if cost.span_s > 0 else None,
            }
        return found


@contextlib.contextmanager
def opened(spec: str, link_file: Path | None) -> Iterator[tuple[Meter, ...]]:
    """The meters of a specification, started; plugs among them hear the broker.

    Args:
        spec: As `hardware.meter.open_meters` takes it.
        link_file: A party's settings with the `[link]` to that broker; `None`: one on this machine.

    Raises:
        ConfigurationError: Unknown meter, or a file without a usable `[link]`.
        EnvironmentFaultError: The broker is not reached.
    """
    try:
        meters = open_meters(spec)
    except MeterError as error:
        raise ConfigurationError(f"--meter {spec}: {error}") from error
    with contextlib.ExitStack() as held:
        for meter in meters:
            held.enter_context(contextlib.closing(meter))
        plugs = [meter for meter in meters if isinstance(meter, Listener)]
        if plugs:
            held.enter_context(_listening(plugs, _link_settings(link_file)))
        for meter in meters:
            meter.start()
        yield meters


def _link_settings(path: Path | None) -> LinkSettings:
    if path is None:
        return LinkSettings()
    table = read_toml(path).get("link")
    if not isinstance(table, dict):
        raise ConfigurationError(
            f"--link {path}: has no [link]; name a device's, the server's or the attacker's settings"
        )
    return decode_tables(table, LinkSettings, origin=f"{path}: [link]")


@contextlib.contextmanager
def _listening(plugs: Sequence[Listener], settings: LinkSettings) -> Iterator[None]:
    def on_message(topic: str, payload: bytes) -> None:
        for plug in plugs:
            plug.receive(topic, payload)

    link = Link(settings, f"spikeleak-meter-{os.getpid()}", on_message=on_message)
    link.subscribe(*(place for plug in plugs for place in plug.filters))
    link.start()
    try:
        yield
    finally:
        link.stop()


def watch(
    meters: Sequence[Meter],
    seconds: float,
    *,
    show: Callable[[Sequence[Tally]], None],
    recorder: Recorder | None = None,
) -> list[Tally]:
    """Reads meters window by window.

    A meter that reports by itself is read when it has reported, the others four times a second.

    Args:
        meters: Started.
        seconds: How long.
        show: Called after each round of reading.
        recorder: Takes the windows of the only meter.

    Returns:
        One tally for each.

    Raises:
        EnvironmentFaultError: The meter that is recorded fell silent.
    """
    tallies = [Tally(meter) for meter in meters]
    end_s = time.monotonic() + seconds
    while (left_s := end_s - time.monotonic()) > 0:
        time.sleep(min(WINDOW_S, left_s))
        last = end_s - time.monotonic() <= 0
        for tally in tallies:
            if last or not isinstance(tally.meter, PushedMeter) or tally.meter.reported:
                reading = tally.meter.read()
                tally.add(reading)
                if recorder is not None:
                    recorder.add(reading)
        show(tallies)
    return tallies


class Recorder:
    """Writes windows as a trace that `hardware.meters.replay` plays back: each as two rows of its mean power.

    Every window is on disk before the next one begins. A trace has no gaps: the first window without a figure after one
    with a figure ends it.

    Args:
        path: A file that is not there yet.

    Raises:
        ConfigurationError: It is there.
        EnvironmentFaultError: It cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._time_s, self._half_width_w = path, 0.0, 0.0
        self._unknown = False
        try:
            self._file = path.open("x", encoding="utf-8")
        except FileExistsError as error:
            raise ConfigurationError(f"--record {path}: is there already; name a new file") from error
        except OSError as error:
            raise EnvironmentFaultError(f"--record {path}: cannot be written ({error.strerror})") from error

    def add(self, reading: EnergyReading) -> None:
        """One more window.

        Raises:
            EnvironmentFaultError: It has no figure, or the disk is full.
        """
        if reading.energy_j is None or reading.duration_s <= 0:
            if self._time_s > 0:
                text = f"--record {self._path}: ends after {self._time_s:.3g} s, since a trace has no gaps"
                raise EnvironmentFaultError(f"{text}: {reading.reason}")
            return
        if self._time_s == 0:
            self._write(f"# source: {reading.source}\n# scope: {reading.scope}\ntime_s,power_w\n")
        power_w = reading.energy_j / reading.duration_s
        self._write(f"{self._time_s!r},{power_w!r}\n{self._time_s + reading.duration_s!r},{power_w!r}\n")
        self._time_s += reading.duration_s
        if reading.uncertainty_j is None:
            self._unknown = True
        else:
            self._half_width_w = max(self._half_width_w, reading.uncertainty_j / reading.duration_s)

    def _write(self, text: str) -> None:
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise EnvironmentFaultError(f"--record {self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Ends the trace; the largest ± of its windows' power is written where it is known of all."""
        with self._file:
            if self._time_s > 0 and not self._unknown:
                self._write(f"# uncertainty_w: {self._half_width_w!r}\n")
