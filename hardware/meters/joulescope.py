"""Joulescope JS220 and JS110 through their own driver: ``joulescope`` or ``joulescope:SERIAL``.

The instrument integrates power at a million samples a second and reports mean power and accumulated energy twenty times
a second (JS110: twice). `pip install pyjoulescope_driver` (Apache-2.0, Jetperch); written against version 2.2.12:
`Driver().device_paths()`, `open`, `publish`, `subscribe(topic, "pub", function)`, values as in its entry point
`statistics`: ``value["signals"]["power"]["avg"]["value"]`` W, ``value["accumulators"]["energy"]["value"]`` J.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from hardware.finding import Finding
from hardware.meters.bench import driver_of
from hardware.meters.none import NoMeter
from hardware.power import SampleError
from hardware.pushed_meter import PushedMeter

NAME = "joulescope"
SCOPE = "board"
PACKAGE = "pyjoulescope_driver"
SAMPLES_PER_REPORT = 50_000
INTERVAL_S = SAMPLES_PER_REPORT / 1_000_000
JS110_INTERVAL_S = 0.5
_PLUG_IN = "plug one in over USB and install its udev rules (see the driver's README)"


class _Feed:
    """One instrument, opened; each of its reports goes to `offer`."""

    def __init__(self, driver: Any, path: str) -> None:
        self._driver, self.path = driver, path
        self._topic = f"{path}/s/{'sstats' if 'js110' in path else 'stats'}/value"
        self._offer: Callable[..., None] = lambda *_: None

    def begin(self, offer: Callable[..., None]) -> None:
        self._offer = offer
        self._driver.open(self.path)
        if "js110" in self.path:
            self._driver.publish(f"{self.path}/s/i/range/select", "auto")
        else:
            self._driver.publish(f"{self.path}/s/i/range/mode", "auto")
            self._driver.publish(f"{self.path}/s/stats/scnt", SAMPLES_PER_REPORT)
            self._driver.publish(f"{self.path}/s/stats/ctrl", 1)
        self._driver.subscribe(self._topic, "pub", self._reported)

    def _reported(self, _topic: str, value: Any) -> None:
        power_w = float(value["signals"]["power"]["avg"]["value"])
        energy_j = float(value["accumulators"]["energy"]["value"])
        self._offer(max(0.0, power_w), energy_j, power_step_w=0.0, counter_step_j=0.0)

    def end(self) -> None:
        self._driver.unsubscribe(self._topic, self._reported)
        self._driver.close(self.path)
        self._driver.finalize()


def _chosen(driver: Any, argument: str) -> str:
    """The path of the instrument that was asked for.

    Raises:
        SampleError: None is there, or several without a choice.
    """
    paths = [str(path) for path in driver.device_paths()]
    found = [path for path in paths if not argument or path.rsplit("/", 1)[-1] == argument]
    if len(found) == 1:
        return found[0]
    serials = ", ".join(path.rsplit("/", 1)[-1] for path in paths)
    if found:
        raise SampleError(f"{len(found)} Joulescopes on USB: name one, {NAME}:SERIAL of {serials}")
    named = f" with the serial {argument} (found: {serials})" if argument and paths else ""
    raise SampleError(f"no Joulescope on USB{named}: {_PLUG_IN}")


def open_meter(
    argument: str, *, driver: Any = None, clock: Callable[[], float] = time.monotonic
) -> PushedMeter | NoMeter:
    """The instrument, reporting; or a meter that says why it is not there.

    Args:
        argument: Serial number; empty where only one is plugged in.
        driver: A `pyjoulescope_driver.Driver`; made when it is `None`.
        clock: Monotonic seconds.
    """
    try:
        driver = driver or driver_of(PACKAGE).Driver()
        feed = _Feed(driver, _chosen(driver, argument))
        meter = PushedMeter(
            name=NAME,
            source=f"{NAME}:{feed.path.rsplit('/', 1)[-1]}",
            scope=SCOPE,
            interval_s=JS110_INTERVAL_S if "js110" in feed.path else INTERVAL_S,
            least_stale_s=2.0,
            remedy="is it still plugged in, and does no other program use it?",
            clock=clock,
            release=feed.end,
        )
        feed.begin(meter.offer)
    except SampleError as fault:
        return NoMeter(str(fault), name=NAME, scope=SCOPE, clock=clock)
    except Exception as error:  # noqa: BLE001 - whatever a driver raises is why there is no figure
        return NoMeter(f"{PACKAGE}: {error}", name=NAME, scope=SCOPE, clock=clock)
    return meter


def find(*, driver: Any = None) -> Finding:
    """Whether one is plugged in."""
    try:
        made = driver or driver_of(PACKAGE).Driver()
        try:
            path = _chosen(made, "")
        finally:
            if driver is None:
                made.finalize()
    except SampleError as fault:
        return Finding(meter=NAME, available=False, detail=str(fault))
    except Exception as error:  # noqa: BLE001 - as above
        return Finding(meter=NAME, available=False, detail=f"{PACKAGE}: {error}")
    return Finding(meter=NAME, available=True, detail=f"what is wired to {path}; ask for it by name")
