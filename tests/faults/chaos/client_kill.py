"""Devices killed at every step of an update's life, over and over in one federation of many rounds."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from msgspec.structs import replace

from deploy import broker
from server.settings import ScheduleEntry
from tests.faults.chaos import Outcome
from tests.faults.chaos.parties import DEVICES, ROUND, Federation, federation
from tests.faults.chaos.points import CLIENT
from tests.faults.chaos.proof import figures, prove
from tests.faults.chaos.zygote import Zygote

TURNS = (*(f"{name}:1" for name in CLIENT), "residual-settled:2", "spool-after-rename:2", "ack-after-delete:2")
"""Each point in turn; those that a life passes at its start also at a later passage."""
_ROUNDS_A_KILL = 0.6
_SECONDS_A_KILL = 3.0


def schedule(rounds: int) -> tuple[ScheduleEntry, ...]:
    """Two rounds that wait for all devices, then two that two of three close: the third's update is refused."""
    pair = (replace(ROUND, rounds=2), replace(ROUND, rounds=2, min_updates=len(DEVICES) - 1))
    return pair * max(1, -(-rounds // 4))


def in_turn(
    running: Federation, turns: tuple[str, ...], count: int, parties: tuple[str, ...]
) -> Callable[[str], str | None]:
    """Gives each new life of one of the parties the next point, until so many kills have struck."""
    cycle = itertools.cycle(turns)
    return lambda name: next(cycle) if name in parties and running.kills.total() < count else None


def run(count: int, folder: Path) -> Outcome:
    """See `tests.faults.chaos.Run`."""
    plan = schedule(12 + int(count * _ROUNDS_A_KILL))
    section = broker.BrokerSection(kind="mosquitto")
    with (
        closing(Zygote(folder / "zygote.log")) as zygote,
        broker.serve(section, folder) as running,
        federation(folder / "run", running.link, plan, zygote) as parties,
    ):
        parties.run(in_turn(parties, TURNS, count, DEVICES), timeout_s=60 + _SECONDS_A_KILL * count)
        told = prove(parties)
    struck = parties.kills.total()
    assert struck >= count, f"the run was over after {struck} of {count} kills: {dict(parties.kills)}"
    missed = set(CLIENT) - set(parties.kills)
    assert count < len(TURNS) or not missed, f"no kill struck at {sorted(missed)}"
    return Outcome(injected=struck, figures=f"{len(parties.kills)} points; {figures(told)}")
