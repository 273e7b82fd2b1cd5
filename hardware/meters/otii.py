"""Qoitech's Otii Arc and Ace through the Otii application: ``otii`` or ``otii:NAME``.

The instrument belongs to the Otii application (3 or later), whose server listens on 127.0.0.1:1905 and wants an
automation licence; user and password come from ``credentials.json`` or OTII_USERNAME and OTII_PASSWORD, read by the
client alone. Power is its main current times its main voltage. `pip install otii-tcp-client` (MIT); written against
version 1.0.13: `OtiiClient().connect(try_for_seconds=…)`, `get_devices(timeout)`, `Arc.name`, `Arc.get_value("mc")` A,
`Arc.get_value("mv")` V, `OtiiClient.disconnect()`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hardware.finding import Finding
from hardware.meters.bench import driver_of
from hardware.power import SampleError

NAME = "otii"
SCOPE = "board"
PATIENCE_S = 1
INTERVAL_S = 0.01
_MODULE, _PACKAGE = "otii_tcp_client.otii_client", "otii-tcp-client"
_START = "start the Otii application, connect the instrument, and start its server (otii_server)"


class OtiiSource:
    """Implements `hardware.power.PowerSource`.

    Args:
        client: An `OtiiClient`, connected.
        instrument: One of its devices.
    """

    name, scope, interval_s = NAME, SCOPE, INTERVAL_S
    resolution_w: float | None = None

    def __init__(self, client: Any, instrument: Any) -> None:
        self._client, self._instrument = client, instrument
        self.source = f"{NAME}:{instrument.name}"

    def power_w(self) -> float:
        """Main current times main voltage, each as it is now.

        Raises:
            SampleError: The application does not answer, or not with a number.
        """
        try:
            current_a, voltage_v = (float(self._instrument.get_value(channel)) for channel in ("mc", "mv"))
        except Exception as error:
            raise SampleError(f"Otii gave no value: {_text(error)}; is the instrument still connected?") from error
        return max(0.0, current_a * voltage_v)

    def close(self) -> None:
        """Gives licence and connection back."""
        self._client.disconnect()


def _text(error: Exception) -> str:
    """Otii's exceptions keep their words in an attribute of their own."""
    return str(getattr(error, "message", "") or error or type(error).__name__)


def _connected(driver: Any) -> tuple[Any, list[Any]]:
    client = driver.OtiiClient()
    try:
        return client, list(client.connect(try_for_seconds=PATIENCE_S).get_devices(timeout=PATIENCE_S))
    except Exception as error:
        raise SampleError(f"no answer of the Otii application: {_text(error)}; {_START}") from error


def open_source(argument: str, root: Path = Path("/"), *, driver: Any = None) -> OtiiSource:  # noqa: ARG001 - of the family
    """The instrument of this name, or the only one.

    Args:
        argument: Its name in the Otii application; empty where there is only one.
        root: Not used: it is reached over the network.
        driver: The module `otii_tcp_client.otii_client`; imported when it is `None`.

    Raises:
        SampleError: No driver, no application, no instrument, or several without a choice.
    """
    client, found = _connected(driver or driver_of(_MODULE, _PACKAGE))
    fitting = [one for one in found if argument in {"", one.name}]
    if len(fitting) == 1:
        return OtiiSource(client, fitting[0])
    client.disconnect()
    names = ", ".join(repr(one.name) for one in found) or "none"
    if fitting:
        raise SampleError(f"{len(fitting)} instruments on Otii: name one, otii:NAME of {names}")
    raise SampleError(f"no instrument {argument!r} on Otii (found: {names}): {_START}")


def find(root: Path = Path("/"), *, driver: Any = None) -> Finding:  # noqa: ARG001 - of the family
    """Whether the application answers and has an instrument."""
    try:
        client, found = _connected(driver or driver_of(_MODULE, _PACKAGE))
    except SampleError as fault:
        return Finding(meter=NAME, available=False, detail=str(fault))
    client.disconnect()
    if not found:
        return Finding(meter=NAME, available=False, detail=f"no instrument on Otii: {_START}")
    names = ", ".join(str(one.name) for one in found)
    return Finding(meter=NAME, available=True, detail=f"what is wired to {names}; ask for it by name")
