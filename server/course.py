"""What the round machine speaks of: the course of a run, its state, what happens, and what is to be done."""

from __future__ import annotations

from typing import Literal

import msgspec

from contract.secure import SecureAggregation
from server.aggregation import FedBuff
from server.exchange import Exchange, Spoken
from server.settings import ScheduleEntry

Phase = Literal["waiting", "open", "finished", "failed"]


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """What does not change during a run.

    Attributes:
        schedule: One entry per round, repeats written out.
        seed: Seed of the draw of devices.
        clients, start_with, grace_s, max_attempts: As in `ServerSettings`.
    """

    schedule: tuple[ScheduleEntry, ...]
    seed: int
    clients: int
    start_with: int | None = None
    grace_s: float = 30.0
    max_attempts: int = 5

    def entry(self, round_: int) -> ScheduleEntry:
        """The schedule's entry for a round, counted from 1."""
        return self.schedule[round_ - 1]

    def fedbuff(self, round_: int) -> FedBuff | None:
        """The settings of a round that is asynchronous; `None` of one that is not, or that is not there."""
        return self.entry(round_).fedbuff if round_ <= len(self.schedule) else None

    def secure(self, round_: int) -> SecureAggregation | None:
        """The settings of a round with secure aggregation; `None` of one without, or that is not there."""
        return self.entry(round_).secure if round_ <= len(self.schedule) else None


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run stands.

    Attributes:
        round: The round that is open or next to open, from 1.
        attempt: How often that round has been opened, over all lives of the server.
        empty: Openings of that round in this life that ended without an update.
        started: Whether a round has been opened to its devices in this life: from then on nobody waits for all. A round
            that an earlier life left complete is closed without them, and does not count.
        online: Devices that are online.
        invited: Devices that were asked for this round in any opening: they may deliver.
        selected: Devices that are waited for.
        needed: Updates that close the round.
        delivered: (node, uid) of the updates admitted for this round. In an asynchronous one: of those that wait in the
            buffer for the next version, in the order of their admission.
        versions: Versions that an asynchronous round has made.
        since_s: When the present phase began, or the last version was made.
        exchange: Of an open round with secure aggregation: where that stands.
    """

    phase: Phase = "waiting"
    round: int = 1
    attempt: int = 0
    empty: int = 0
    started: bool = False
    online: frozenset[str] = frozenset()
    invited: frozenset[str] = frozenset()
    selected: tuple[str, ...] = ()
    needed: int = 0
    delivered: tuple[tuple[str, str], ...] = ()
    versions: int = 0
    since_s: float = 0.0
    exchange: Exchange | None = None

    @property
    def takes_updates(self) -> bool:
        """Whether the round takes updates: it is open, or was open and is about to be opened again."""
        if self.exchange is not None:
            return self.exchange.stage == "updates"
        return self.phase == "open" or (self.phase == "waiting" and bool(self.invited))


class Online(msgspec.Struct, frozen=True):
    """A device came, or came back."""

    at_s: float
    node: str


class Offline(msgspec.Struct, frozen=True):
    """A device left or died. It is still waited for until the deadline: it may come back."""

    at_s: float
    node: str


class Admitted(msgspec.Struct, frozen=True):
    """An update is in the ledger."""

    at_s: float
    node: str
    uid: str
    round: int


class Tick(msgspec.Struct, frozen=True):
    """Time has passed."""

    at_s: float


class Spoke(msgspec.Struct, frozen=True):
    """A device's message of secure aggregation is in the ledger."""

    at_s: float
    message: Spoken


class Unmasked(msgspec.Struct, frozen=True):
    """The sum of a round is in the ledger; or it could not be unmasked, and `fault` says why."""

    at_s: float
    fault: str = ""


Event = Online | Offline | Admitted | Tick | Spoke | Unmasked


class OpenRound(msgspec.Struct, frozen=True):
    """Ask the selected devices for updates."""

    round: int
    attempt: int
    selected: tuple[str, ...]
    invited: tuple[str, ...]
    needed: int


class Invite(msgspec.Struct, frozen=True):
    """Devices were added to those of an asynchronous round."""

    round: int
    attempt: int
    selected: tuple[str, ...]
    invited: tuple[str, ...]


class MakeVersion(msgspec.Struct, frozen=True):
    """Make the next version out of the buffer of an asynchronous round, which goes on."""

    round: int
    uids: tuple[str, ...]


class CloseRound(msgspec.Struct, frozen=True):
    """The round is over; aggregate what was admitted. `reason`: `complete` or `deadline`.

    Of an asynchronous round nothing is left to aggregate.
    """

    round: int
    attempt: int
    reason: str
    uids: tuple[str, ...]
    missing: tuple[str, ...]


class EmptyRound(msgspec.Struct, frozen=True):
    """The deadline passed without any update, or for another `reason`; the round will be opened again."""

    round: int
    attempt: int
    selected: tuple[str, ...]
    reason: str = "no update by the deadline; it is opened again"


class Relay(msgspec.Struct, frozen=True):
    """Tell devices what they are to hear in this stage of secure aggregation."""

    round: int
    attempt: int
    nodes: tuple[str, ...]


class Unmask(msgspec.Struct, frozen=True):
    """Enough shares are there: unmask the sum of these updates."""

    round: int
    attempt: int
    uids: tuple[str, ...]


class Finish(msgspec.Struct, frozen=True):
    """The schedule is done."""


class Fail(msgspec.Struct, frozen=True):
    """The run cannot go on."""

    reason: str


Action = OpenRound | Invite | MakeVersion | CloseRound | EmptyRound | Relay | Unmask | Finish | Fail
