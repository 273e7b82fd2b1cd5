"""What one update cost, phase by phase: the meter's reading beside the model's, each with its provenance."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from contract.messages import Operations, PhaseEnergy
from hardware.energy import PHASES, EnergyReading, unavailable
from hardware.energy_model import EnergyModel
from hardware.meter import Meter

_UNCOUNTED = "the layers of a network of the user's own are not known to the device, so that nothing is counted"
REPORTED: tuple[str, ...] = tuple(phase for phase in PHASES if phase != "sleep")
"""Phases of an update that a device passes through; it never sleeps between rounds."""
ELSEWHERE = "other"
"""Phase of work that belongs to no update (scoring, preparing data)."""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of time in one phase, with what the meter says about it."""

    phase: str
    duration_s: float
    reading: EnergyReading


class PhaseMeter:
    """Cuts time into consecutive windows: where one phase ends the next begins, in the same reading.

    Args:
        meter: The device's meter. Whatever it raises becomes an unavailable reading: it never stops training.
        clock: Monotonic seconds.
    """

    def __init__(self, meter: Meter, clock: Callable[[], float]) -> None:
        self._meter, self._clock = meter, clock
        self.phase = ELSEWHERE
        self._since_s = clock()
        self._fault = ""
        try:
            meter.start()
        except Exception as error:  # noqa: BLE001 - a meter's fault is data here, not a failure
            self._fault = f"{type(error).__name__}: {error}"

    @property
    def name(self) -> str:
        """The meter's name."""
        return self._meter.name

    def enter(self, phase: str) -> Window:
        """Ends the phase under way and begins the next one.

        Returns:
            The window that ended.
        """
        reading = self._read()
        now_s = self._clock()
        duration_s = max(0.0, now_s - self._since_s)
        if reading.provenance == "unavailable":
            reading = msgspec.structs.replace(reading, duration_s=duration_s)
        window = Window(phase=self.phase, duration_s=duration_s, reading=reading)
        self.phase, self._since_s = phase, now_s
        return window

    def _read(self) -> EnergyReading:
        if self._fault:
            reason, self._fault = self._fault, ""
            self._restart()
            return self.missing(reason)
        try:
            return self._meter.read()
        except Exception as error:  # noqa: BLE001 - see above
            return self.missing(f"{type(error).__name__}: {error}")

    def _restart(self) -> None:
        try:
            self._meter.start()
        except Exception as error:  # noqa: BLE001 - see above
            self._fault = f"{type(error).__name__}: {error}"

    def missing(self, reason: str, *, duration_s: float = 0.0) -> EnergyReading:
        """What this meter says where it says nothing."""
        return unavailable(self._meter.name, self._meter.scope, reason, duration_s=duration_s)


def merged(windows: list[Window]) -> EnergyReading | None:
    """One reading over several windows of a phase; unavailable as soon as one of them is."""
    if not windows:
        return None
    first = windows[0].reading
    for window in windows:
        if window.reading.energy_j is None:
            return msgspec.structs.replace(window.reading, duration_s=sum(w.duration_s for w in windows))
    return msgspec.structs.replace(
        first,
        energy_j=sum(w.reading.energy_j or 0.0 for w in windows),
        duration_s=sum(w.reading.duration_s for w in windows),
        samples=sum(w.reading.samples for w in windows),
    )


class UpdateWindows(msgspec.Struct, frozen=True, kw_only=True):
    """The windows of one update up to its publication, stored beside it so that a restart does not lose them.

    Attributes:
        windows: In order of time.
        operations: What was counted while training; `None` where the task's operations cannot be counted.
        encoded_ahead: Whether the encoding had a window of its own.
        masking: Those among the windows in which keys, shares and masks were made.
        masking_up, masking_down: Payload bytes of the messages about them, sent and received.
    """

    windows: tuple[Window, ...]
    operations: Operations | None
    encoded_ahead: bool = True
    masking: tuple[Window, ...] = ()
    masking_up: int = 0
    masking_down: int = 0


def phase_energies(
    made: UpdateWindows,
    transmit: EnergyReading,
    *,
    model: EnergyModel,
    meter: str,
    sent_bytes: int,
    transmit_s: float | None,
) -> tuple[PhaseEnergy, ...]:
    """All readings of one update: per phase the meter's, then the model's.

    Args:
        made: Windows from the last update to the publication of this one.
        transmit: The meter's reading from publication to acknowledgement.
        model: Energy model.
        meter: Name of the meter, for phases that have no window.
        sent_bytes: Bytes handed to the network for it, repetitions included.
        transmit_s: Seconds from publication to acknowledgement; `None` when a restart lay between.
    """
    phases = []
    for phase in REPORTED:
        windows = [w for w in made.windows if w.phase == phase]
        if phase == "transmit":
            measured = transmit
        elif phase == "encode" and not made.encoded_ahead:
            reason = "the input was encoded step by step inside the train window: all frames together are too large"
            measured = unavailable(meter, "none", reason)
        else:
            measured = merged(windows) or unavailable(meter, "none", f"this update has no window of phase {phase!r}")
        duration_s = transmit_s if phase == "transmit" else sum(w.duration_s for w in windows)
        modelled = _modelled(phase, made, model, sent_bytes, duration_s)
        phases.append(PhaseEnergy(phase=phase, readings=(measured, modelled)))
    return tuple(phases)


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
    reason = f"the energy model counts operations and bytes; it has no figure for phase {phase!r}"
    return unavailable("model", "operations", reason, duration_s=duration_s or 0.0)
