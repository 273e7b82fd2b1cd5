"""A study with more or fewer devices or rounds, for `spikeleak demo`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from contract.errors import ConfigurationError
from server.settings import ScheduleEntry

if TYPE_CHECKING:
    from deploy.study import Study


def resized(study: Study, *, clients: int | None, rounds: int | None) -> Study:
    """The study with another number of devices or of training rounds; audits are kept.

    Args:
        study: The study.
        clients: Number of devices; `None` leaves it.
        rounds: Training rounds in all, spread over the schedule's training entries; `None` leaves them.
    """
    if clients is not None:
        schedule = tuple(_at_most(entry, clients) for entry in study.schedule)
        study = msgspec.structs.replace(study, clients=clients, schedule=schedule)
    if rounds is not None:
        study = msgspec.structs.replace(study, schedule=_spread(study.schedule, rounds))
    return study


def _at_most(entry: ScheduleEntry, clients: int) -> ScheduleEntry:
    def capped(value: int | None) -> int | None:
        return None if value is None else min(value, clients)

    return msgspec.structs.replace(entry, clients=capped(entry.clients), min_updates=capped(entry.min_updates))


def _spread(schedule: tuple[ScheduleEntry, ...], rounds: int) -> tuple[ScheduleEntry, ...]:
    """Deals `rounds` to the training entries as evenly as it goes; entries that get none are left out."""
    training = [e for e in schedule if e.kind == "train"]
    if not training:
        raise ConfigurationError("--rounds: the study has no training rounds")
    share, rest = divmod(rounds, len(training))
    counts = iter([share + (i < rest) for i in range(len(training))])
    numbered = [(e, next(counts) if e.kind == "train" else e.rounds) for e in schedule]
    return tuple(msgspec.structs.replace(e, rounds=n) for e, n in numbered if n > 0)
