"""Nordic's Power Profiler Kit II as an ampere meter: ``ppk2:MILLIVOLTS`` or ``ppk2:PORT,MILLIVOLTS``.

In this mode the kit measures the current of a board that has a supply of its own and knows nothing of its voltage, so
the user states it: 5000 for a board on 5 V. Power is the mean current since the last sample times that voltage; the
voltage's error is not in the uncertainty. `pip install ppk2-api` (GPL-2.0; pyserial); written against version 0.9.2:
`PPK2_API(port)`, `list_devices()`, `get_modifiers()`, `use_ampere_meter()`, `set_source_voltage(mV)`,
`start_measuring()`, `get_data()`, `get_samples(bytes)` → (microamperes, digital), `stop_measuring()`. The kit sends
100,000 samples a second, which that package takes apart in Python: see the sampler's cost in `spikeleak meter`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hardware.errors import MeterError
from hardware.finding import Finding
from hardware.meters.bench import driver_of
from hardware.power import SampleError

NAME = "ppk2"
SCOPE = "board"
LOWEST_MV, HIGHEST_MV = 800, 5000
SAMPLE_BYTES = 4
RESOLUTION_A = 200e-9
"""In the lowest of five ranges; the widest has 1 mA (Nordic, PPK2 product specification)."""
INTERVAL_S = 0.02


class Ppk2Source:
    """Implements `hardware.power.PowerSource`.

    Args:
        kit: A `PPK2_API`, opened.
        port: Where it is.
        millivolts: Of the board's own supply.
    """

    name, scope, interval_s = NAME, SCOPE, INTERVAL_S

    def __init__(self, kit: Any, port: str, millivolts: int) -> None:
        self._kit, self._volts, self._rest = kit, millivolts / 1000, b""
        self.source = f"{NAME}:{port} at {millivolts} mV"
        self.resolution_w: float | None = RESOLUTION_A * self._volts
        kit.get_modifiers()
        kit.use_ampere_meter()
        kit.set_source_voltage(millivolts)
        kit.start_measuring()

    def power_w(self) -> float:
        """Mean power since the last call.

        Raises:
            SampleError: The kit sent nothing since.
        """
        data = self._rest + self._kit.get_data()
        if len(data) < SAMPLE_BYTES:
            self._rest = data
            raise SampleError("the PPK2 sent no sample since the last one: is it still plugged in?")
        self._rest = b""
        currents_ua, _ = self._kit.get_samples(data)
        if not currents_ua:
            raise SampleError("the PPK2 sent samples outside of its range")
        return max(0.0, float(sum(currents_ua)) / len(currents_ua) * 1e-6 * self._volts)

    def close(self) -> None:
        """Ends measuring; the board's supply is its own."""
        self._kit.stop_measuring()


def _parts(argument: str) -> tuple[str, int]:
    port, _, text = argument.rpartition(",")
    if not (text.isascii() and text.isdigit() and LOWEST_MV <= int(text) <= HIGHEST_MV):
        raise MeterError(
            f"meter {NAME!r} needs the voltage of the board's supply in millivolts, {LOWEST_MV} to {HIGHEST_MV}: "
            f"ppk2:5000 or ppk2:/dev/ttyACM0,5000; found {argument!r}"
        )
    return port, int(text)


def open_source(argument: str, root: Path = Path("/"), *, driver: Any = None) -> Ppk2Source:  # noqa: ARG001 - of the family
    """The kit, measuring.

    Args:
        argument: Port (where several are plugged in) and millivolts.
        root: Not used: the driver finds its ports itself.
        driver: The module `ppk2_api.ppk2_api`; imported when it is `None`.

    Raises:
        MeterError: No voltage.
        SampleError: No driver, no kit, or no permission.
    """
    port, millivolts = _parts(argument)
    driver = driver or driver_of("ppk2_api.ppk2_api", "ppk2-api")
    port = port or _only(driver)
    try:
        return Ppk2Source(driver.PPK2_API(port), port, millivolts)
    except OSError as error:  # pyserial's own are of this kind
        raise SampleError(f"cannot open {port}: {error}; are you in the group 'dialout'?") from error


def _only(driver: Any) -> str:
    ports = [str(port) for port in driver.PPK2_API.list_devices()]
    if not ports:
        raise SampleError("no PPK2 on USB: plug one in and switch it on")
    if len(set(ports)) > 1:  # each kit has a port for measuring and, in newer firmware, a second one
        raise SampleError(f"several ports of PPK2 on USB: name one, ppk2:PORT,MILLIVOLTS of {', '.join(ports)}")
    return ports[0]


def find(root: Path = Path("/"), *, driver: Any = None) -> Finding:  # noqa: ARG001 - of the family
    """Whether one is plugged in."""
    try:
        ports = (driver or driver_of("ppk2_api.ppk2_api", "ppk2-api")).PPK2_API.list_devices()
    except SampleError as fault:
        return Finding(meter=NAME, available=False, detail=str(fault))
    if not ports:
        return Finding(meter=NAME, available=False, detail="no PPK2 on USB: plug one in and switch it on")
    detail = f"what is wired to {', '.join(map(str, ports))}; ask for ppk2:PORT,MILLIVOLTS"
    return Finding(meter=NAME, available=True, detail=detail)
