"""What one update cost, phase by phase: the meter's reading beside the model's, each with its provenance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from contract.messages import Operations, PhaseEnergy
from hardware.baseline import Baseline, measure
from hardware.energy import PHASES, EnergyReading, unavailable
from hardware.energy_model import EnergyModel
from hardware.meter import Meter
from hardware.uncertainty import added

_UNCOUNTED = "not known to the device: the layers of a network of the user's own, or what one emitted that diverged"
_AWAKE = "this device does not sleep between rounds ([sleep] is not set): time without work is 'idle'"
LONGEST_SUSPENSION_S = 0.05
"""Of a window that still has figures: the two clocks that tell it are not read at one moment."""
_SUSPENDED = "the machine was suspended for {:.3g} s: no meter was read meanwhile"
_WORK: dict[str, str] = {
    "idle": "waiting",
    "load": "a byte read from a board's storage and memory",
    "encode": "a random draw and an encoded entry",
    "compress": "a byte clipped, quantised and packed",
    "sleep": "sleeping",
}
"""What modelled energy of the other phases would need a price of."""
ELSEWHERE = "other"
"""Phase of work that belongs to no update (scoring, preparing data)."""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of time in one phase, with what each meter says about it."""

    phase: str
    duration_s: float
    readings: tuple[EnergyReading, ...]


class PhaseMeter:
    """Cuts time into consecutive windows: where one phase ends the next begins, in the same reading.

    Args:
        meters: The device's meters. Whatever one raises becomes an unavailable reading: it never stops training.
        clock: Monotonic seconds.
        asleep: Seconds that the machine was suspended for so far, in which `clock` stood still.
    """

    def __init__(
        self, meters: Sequence[Meter], clock: Callable[[], float], asleep: Callable[[], float] = lambda: 0.0
    ) -> None:
        self._meters, self._clock, self._asleep = tuple(meters), clock, asleep
        self.phase = ELSEWHERE
        self._since_s, self._asleep_s = clock(), asleep()
        self._faults = [self._start(meter) for meter in self._meters]

    @property
    def names(self) -> tuple[str, ...]:
        """The meters' names."""
        return tuple(meter.name for meter in self._meters)

    def enter(self, phase: str) -> Window:
        """Ends the phase under way and begins the next one.

        Returns:
            The window that ended; without figures when the machine was suspended in it.
        """
        readings = self.read()
        now_s, asleep_s = self._clock(), self._asleep()
        suspended_s, self._asleep_s = max(0.0, asleep_s - self._asleep_s), asleep_s
        duration_s = max(0.0, now_s - self._since_s) + suspended_s
        if suspended_s > LONGEST_SUSPENSION_S:
            readings = self.missing(_SUSPENDED.format(suspended_s))
        readings = tuple(
            msgspec.structs.replace(reading, duration_s=duration_s) if reading.energy_j is None else reading
            for reading in readings
        )
        window = Window(phase=self.phase, duration_s=duration_s, readings=readings)
        self.phase, self._since_s = phase, now_s
        return window

    def baselines(self, seconds: float, wait: Callable[[float], object]) -> tuple[Baseline, ...]:
        """Idle power, from so many seconds of waiting; nothing, and no waiting, where no meter was asked for."""
        if all(meter.name == "none" for meter in self._meters) or seconds <= 0:
            return ()
        return measure(self.read, seconds, wait)

    def read(self) -> tuple[EnergyReading, ...]:
        """Ends a window of every meter without changing the phase."""
        return tuple(self._read(index, meter) for index, meter in enumerate(self._meters))

    def _read(self, index: int, meter: Meter) -> EnergyReading:
        if self._faults[index]:
            reason, self._faults[index] = self._faults[index], self._start(meter)
            return _missing(meter, reason)
        try:
            return meter.read()
        except Exception as error:  # noqa: BLE001 - a meter's fault is data here, not a failure
            return _missing(meter, f"{type(error).__name__}: {error}")

    @staticmethod
    def _start(meter: Meter) -> str:
        """Starts a meter; what went wrong."""
        try:
            meter.start()
        except Exception as error:  # noqa: BLE001 - see above
            return f"{type(error).__name__}: {error}"
        return ""

    def missing(self, reason: str, *, duration_s: float = 0.0) -> tuple[EnergyReading, ...]:
        """What the meters say where they say nothing."""
        return tuple(_missing(meter, reason, duration_s) for meter in self._meters)


def _missing(meter: Meter, reason: str, duration_s: float = 0.0) -> EnergyReading:
    return unavailable(meter.source, meter.scope, reason, duration_s=duration_s)


def merged(readings: Sequence[EnergyReading]) -> EnergyReading | None:
    """One meter's reading over several windows of a phase; unavailable as soon as one of them is.

    Half widths are added up, as `hardware.uncertainty` says.
    """
    if not readings:
        return None
    duration_s = sum(reading.duration_s for reading in readings)
    for reading in readings:
        if reading.energy_j is None:
            return msgspec.structs.replace(reading, duration_s=duration_s)
    return msgspec.structs.replace(
        readings[0],
        energy_j=sum(reading.energy_j or 0.0 for reading in readings),
        duration_s=duration_s,
        samples=sum(reading.samples for reading in readings),
        uncertainty_j=added(reading.uncertainty_j for reading in readings),
        overhead_s=added(reading.overhead_s for reading in readings),
    )


class UpdateWindows(msgspec.Struct, frozen=True, kw_only=True):
    """The windows of one update up to its publication, stored beside it so that a restart does not lose them.

    Attributes:
        windows: In order of time.
        operations: What was counted while training; `None` where they cannot be counted.
        encoded_ahead: Whether the encoding had a window of its own.
        masking: Those among the windows in which keys, shares and masks were made.
        masking_up, masking_down: Payload bytes of the messages about them, sent and received.
        baselines: Idle power of the device, as it was measured in the life that made the update.
        sleeps: Whether the device sleeps between rounds.
    """

    windows: tuple[Window, ...]
    operations: Operations | None
    encoded_ahead: bool = True
    masking: tuple[Window, ...] = ()
    masking_up: int = 0
    masking_down: int = 0
    baselines: tuple[Baseline, ...] = ()
    sleeps: bool = False


def radio_s(rate_mbit_s: float | None, sent_bytes: int, transmit_s: float | None) -> float | None:
    """How long the radio's model takes sending to last.

    Args:
        rate_mbit_s: Rate of the link, if the device's settings state one.
        sent_bytes: Bytes handed to the network.
        transmit_s: Seconds from publication to acknowledgement; `None` when a restart lay between.

    Returns:
        The bytes' time at that rate; without one `transmit_s`, which holds the server's answer too and so is an upper
        bound. `None` when the bytes are not known.
    """
    return transmit_s if rate_mbit_s is None or transmit_s is None else 8e-6 * sent_bytes / rate_mbit_s


def phase_energies(
    made: UpdateWindows,
    transmit: tuple[EnergyReading, ...],
    *,
    model: EnergyModel,
    meters: tuple[str, ...],
    sent_bytes: int,
    transmit_s: float | None,
) -> tuple[PhaseEnergy, ...]:
    """All readings of one update: per phase each meter's, in their order, then the model's.

    Args:
        made: Windows from the last update to the publication of this one.
        transmit: The meters' readings from publication to acknowledgement.
        model: Energy model.
        meters: Names of the meters, for phases that have no window.
        sent_bytes: Bytes handed to the network for it, repetitions included.
        transmit_s: Seconds from publication to acknowledgement; `None` when a restart lay between.
    """
    phases = []
    for phase in PHASES:
        windows = [w for w in made.windows if w.phase == phase]
        measured = transmit if phase == "transmit" else _measured(phase, windows, made, meters)
        duration_s = transmit_s if phase == "transmit" else sum(w.duration_s for w in windows)
        modelled = _modelled(phase, made, model, sent_bytes, duration_s)
        phases.append(PhaseEnergy(phase=phase, readings=(*measured, modelled)))
    return tuple(phases)


def metered(windows: Sequence[Window]) -> tuple[EnergyReading, ...]:
    """Each meter's reading over several windows, of which there is at least one."""
    found = (merged(readings) for readings in zip(*(window.readings for window in windows), strict=True))
    return tuple(reading for reading in found if reading is not None)


def _measured(
    phase: str, windows: Sequence[Window], made: UpdateWindows, meters: tuple[str, ...]
) -> tuple[EnergyReading, ...]:
    """Each meter's reading of a phase."""
    if phase == "encode" and not made.encoded_ahead:
        reason = "the input was encoded step by step inside the train window: all frames together are too large"
    elif windows:
        return metered(windows)
    else:
        reason = f"this update has no window of phase {phase!r}"
        reason = _AWAKE if phase == "sleep" and not made.sleeps else reason
    return tuple(unavailable(name, "none", reason) for name in meters)


def _modelled(
    phase: str,
    made: UpdateWindows,
    model: EnergyModel,
    sent_bytes: int,
    duration_s: float | None,
) -> EnergyReading:
    operations = made.operations
    if phase == "train":
        if operations is None:
            return unavailable("model", "operations", _UNCOUNTED, duration_s=duration_s or 0.0)
        return model.compute(
            macs=operations.macs,
            acs=operations.acs,
            membrane_updates=operations.membrane_updates,
            backward_macs=operations.backward_macs,
            memory_bytes=operations.memory_bytes,
            duration_s=duration_s or 0.0,
        )
    if phase == "transmit":
        if duration_s is None:
            return unavailable("model", "radio", "the device was restarted between publication and acknowledgement")
        # Messages about masks are charged at the rate of the update: their own time is not known.
        share = made.masking_up / sent_bytes if sent_bytes else 0.0
        return model.radio(sent_bytes + made.masking_up, duration_s * (1 + share))
    reason = f"no trustworthy constant was found for {_WORK.get(phase, 'it')}, the work of phase {phase!r}"
    return unavailable("model", "operations", reason, duration_s=duration_s or 0.0)
