"""Which stretch of time belongs to which update: idle, the phases of its making, its way to the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edge_client.energy import ELSEWHERE, PhaseMeter, Window
from hardware.baseline import Baseline
from hardware.energy import WAITING, EnergyReading

_OVERLAPPED = "other work of the device, or a restart, lay between publication and acknowledgement"


class Account:
    """Books the meters' windows on updates.

    The phase `transmit` of an update is measured from its storing to its acknowledgement, and only where the device
    did nothing else in between.

    Args:
        phases: Cuts the meters' energy into windows.
        clock: Monotonic seconds.
    """

    def __init__(self, phases: PhaseMeter, clock: Callable[[], float]) -> None:
        self._phases, self._clock = phases, clock
        self._waited: list[Window] = []
        self._making: list[Window] = []
        self._ahead: list[Window] = []
        self._overheads: list[Window] = []
        self._masking = False
        self._in_flight = ""
        self._bytes_sent: dict[str, int] = {}
        self.baselines: tuple[Baseline, ...] | None = None

    @property
    def meters(self) -> tuple[str, ...]:
        """Names of the meters."""
        return self._phases.names

    def measure_baselines(self, seconds: float, wait: Callable[[float], object]) -> None:
        """Measures the idle power, once in the device's life, by waiting for so long."""
        if self.baselines is None:
            self.baselines = self._phases.baselines(seconds, wait)

    def enter(self, phase: str) -> None:
        """Ends the phase under way and begins `phase`."""
        if phase == self._phases.phase:
            return
        window = self._phases.enter(phase)
        if window.phase in WAITING:
            self._waited.append(window)
        elif window.phase == "transmit":
            self._in_flight = ""
        elif window.phase != ELSEWHERE:
            self._making.append(window)

    def begin(self) -> None:
        """An update is about to be made: the time since the last one was idle or asleep."""
        self._making, self._masking = [], False
        self.enter("load")

    def made(self, uid: str) -> tuple[Window, ...]:
        """The update is packed; gives its windows. Its transmission begins here."""
        self.enter("transmit")
        self._in_flight = uid
        if self._masking:
            self._overheads += [window for window in self._making if window.phase == "compress"]
            self._masking = False
        windows, self._waited, self._making = (*self._waited, *self._ahead, *self._making), [], []
        self._ahead = []
        return windows

    @contextmanager
    def overhead(self, *, booked: bool = True) -> Iterator[list[Window]]:
        """Work on masks, of phase `compress`; its window is in the list afterwards.

        Within the phase `compress` of an update no window is cut, which a slow meter could not measure: all of the
        phase counts as work on masks then, and the list stays empty.

        Args:
            booked: Whether it is booked on the update to come: failed openings of a round are the cost of the one that
                came about.
        """
        windows: list[Window] = []
        if self._phases.phase == "compress":
            self._masking = True
            yield windows
            return
        self.enter("compress")
        try:
            yield windows
        finally:
            windows.append(self._phases.enter("idle"))
            if booked:
                self._overheads += windows
                self._ahead += windows

    def overheads(self) -> tuple[Window, ...]:
        """The windows of work on masks since it was last asked."""
        windows, self._overheads = tuple(self._overheads), []
        return windows

    def gave_up(self) -> None:
        """The update under way came to nothing."""
        self.enter("idle")
        self._making = []

    def rest(self) -> None:
        """Work that belongs to no update is done, and what was idle before it is forgotten."""
        self.enter("idle")
        self._waited = []

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """Time in which the device does nothing on purpose; it belongs to the next update."""
        self.enter("sleep")
        try:
            yield
        finally:
            self.enter("idle")

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Work that belongs to no update."""
        self.enter(ELSEWHERE)
        try:
            yield
        finally:
            self.enter("idle")

    def sent(self, uid: str, count: int) -> None:
        """Bytes of an object were handed to the network."""
        self._bytes_sent[uid] = self._bytes_sent.get(uid, 0) + count

    def settled(self, uid: str, sent_s: float | None) -> tuple[tuple[EnergyReading, ...], float | None, int]:
        """The server answered for an update.

        Args:
            uid: The update.
            sent_s: When it was first sent in this life.

        Returns:
            The meters' readings from storing to acknowledgement, seconds from publication to acknowledgement (`None`
            when a restart lay between), and the bytes sent, repetitions included.
        """
        count = self._bytes_sent.pop(uid, 0)
        seconds = self._clock() - sent_s if sent_s is not None and count else None
        if uid == self._in_flight:
            self._in_flight = ""
            readings = self._phases.enter("idle").readings
        else:
            readings = self._phases.missing(_OVERLAPPED, duration_s=seconds or 0.0)
        return readings, seconds, count
