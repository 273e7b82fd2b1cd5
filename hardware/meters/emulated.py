"""A meter of this machine, read for a board that the machine only stands in for: its figures are emulated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from hardware.energy import EnergyReading
    from hardware.meter import Meter


class EmulatedMeter:
    """Relabels every measured reading as `emulated`, and names the board in its source.

    The joules are real, but they are this machine's, under limits that make it resemble another: no measurement of the
    board. Modelled and unavailable readings pass as they are.

    Args:
        meter: Of this machine.
        board: What is emulated.
    """

    def __init__(self, meter: Meter, board: str) -> None:
        self._meter, self._board = meter, board

    @property
    def name(self) -> str:
        """The meter's name."""
        return self._meter.name

    @property
    def source(self) -> str:
        """What gives its figures, and for which board."""
        return self._of_board(self._meter.source)

    @property
    def scope(self) -> str:
        """What its figures cover: of this machine."""
        return self._meter.scope

    def start(self) -> None:
        """Begin a window now."""
        self._meter.start()

    def read(self) -> EnergyReading:
        """Energy since `start` or the last `read`, never `measured`."""
        reading = self._meter.read()
        if reading.provenance != "measured":
            return reading
        return msgspec.structs.replace(reading, provenance="emulated", source=self._of_board(reading.source))

    def _of_board(self, source: str) -> str:
        return f"{source} of the machine that emulates {self._board}"

    def close(self) -> None:
        """Release what the meter holds."""
        self._meter.close()
