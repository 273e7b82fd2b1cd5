"""When emulated devices come and go: `[devices.churn]`. A device's schedule follows from seed and name alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from contract.streams import stream

Kind = Literal["leave", "crash", "sleep"]
Change = Literal["leave", "crash", "sleep", "back"]
Share = Annotated[float, Meta(ge=0, le=1)]


class ChurnSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[devices.churn]`: devices leave and come back. What they have stored waits for them.

    Attributes:
        online_s: Mean seconds that a device stays (exponentially distributed, as is the next).
        away_s: Mean seconds that it is away.
        share: Of the devices that come and go at all; the others stay.
        crash: Share of the departures that are crashes: no farewell, the broker notices.
        sleep: Share of the departures that are a sleep: the device stops where it is and goes on later.
        join_s: Devices that come and go join at a time drawn evenly from the first so many seconds.
        seed: Of the schedule. The same seed and number of devices give the same schedule, from the start of each
            `spikeleak run`.
    """

    online_s: Annotated[float, Meta(gt=0)] = 60.0
    away_s: Annotated[float, Meta(gt=0)] = 20.0
    share: Share = 1.0
    crash: Share = 0.0
    sleep: Share = 0.0
    join_s: Annotated[float, Meta(ge=0)] = 0.0
    seed: Annotated[int, Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        if self.crash + self.sleep > 1:
            raise ValueError(
                f"crash = {self.crash} and sleep = {self.sleep}: together at most 1, the rest leave orderly"
            )


class Absence(msgspec.Struct, frozen=True, kw_only=True):
    """One time away, in seconds from the start."""

    leave_s: float
    back_s: float
    kind: Kind


def absences(section: ChurnSection, node: str) -> Iterator[Absence]:
    """A device's times away, one after the other, without end; none for one that stays."""
    rng = stream(section.seed, "churn", node)
    if rng.random() >= section.share:
        return
    now_s = 0.0
    if section.join_s > 0:
        now_s = rng.uniform(0.0, section.join_s)
        yield Absence(leave_s=0.0, back_s=now_s, kind="leave")
    while True:
        leave_s = now_s + rng.exponential(section.online_s)
        now_s = leave_s + rng.exponential(section.away_s)
        drawn = rng.random()
        kind: Kind = "crash" if drawn < section.crash else "sleep" if drawn < section.crash + section.sleep else "leave"
        yield Absence(leave_s=leave_s, back_s=now_s, kind=kind)


class Attendance:
    """Whether a device is to be there.

    Args:
        section: The schedule's parameters.
        node: The device.
        began_s: The start, on the monotonic clock.
    """

    def __init__(self, section: ChurnSection, node: str, *, began_s: float) -> None:
        self._absences, self._began_s = absences(section, node), began_s
        self._next = next(self._absences, None)
        self.present = self._next is None or self._next.leave_s > 0

    def due(self, now_s: float) -> Change | None:
        """The next change that is due, if one is; it is taken as carried out."""
        if self._next is None:
            return None
        elapsed_s = now_s - self._began_s
        if self.present and elapsed_s >= self._next.leave_s:
            self.present = False
            return self._next.kind
        if not self.present and elapsed_s >= self._next.back_s:
            self.present, self._next = True, next(self._absences, None)
            return "back"
        return None
