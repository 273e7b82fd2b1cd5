"""A long run: memory, threads and file descriptors of the server and of a device must not grow with the rounds.

`count` is the number of rounds: 1,000 with 20 devices, a twentieth of that with six. Everything is sampled once a round
from `/proc`; the first tenth of the rounds, and never less than 20, is warming up. The ledger's file may grow. Of
threads and descriptors those count that a quarter of the samples always shows: a sample may fall into a write. Updates
of the short form are twenty times as large (60 kB), so that SQLite's page cache of 2 MB is full before it is looked at.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import msgspec

from contract.task import ModelSpec
from server.settings import ScheduleEntry
from tests.faults.chaos import Outcome
from tests.faults.chaos.federation import TASK, Federation, federation
from tests.faults.chaos.member import Member

MANY, FEW = 20, 6
LEAST = 300
"""In fewer rounds a step or two of the allocator, 0.6 MB or so each, have a slope like a leak's."""
LONG = 500
"""Rounds from which on there are many devices, and their model is tiny."""
SHORT_TASK = msgspec.structs.replace(TASK, model=ModelSpec(hidden=(200,)))
WARM_ROUNDS = 20
MB_A_HUNDRED = 1.0
"""Allowed growth of resident memory, MB (10^6 bytes) per 100 rounds, by a line fitted through all samples …"""
SHARE = 0.05
"""… and of the mean of the last quarter over that of the first, both after warming up."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """A process at one moment."""

    round: int
    rss_mb: float
    threads: int
    descriptors: int


def look(member: Member, round_: int) -> Sample:
    """A party as `/proc` shows it."""
    place = Path(f"/proc/{member.pid}")
    pages = int((place / "statm").read_text().split()[1])
    return Sample(
        round=round_,
        rss_mb=pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        threads=len(list((place / "task").iterdir())),
        descriptors=len(list((place / "fd").iterdir())),
    )


def run(count: int, folder: Path) -> Outcome:
    """Runs that many rounds, at least `LEAST`."""
    count = max(count, LEAST)
    devices, task = (MANY, TASK) if count >= LONG else (FEW, SHORT_TASK)
    plan = ScheduleEntry(rounds=count, algorithm="fedsgd", batch_size=1, learning_rate=0.05, deadline_s=30.0)
    with federation(folder / "federation", (plan,), devices=devices, server={"task": task}) as fed:
        watched = {"server": fed.server, "a device": fed.devices[fed.names[0]]}
        began_s = time.monotonic()
        samples = _watch(fed, watched, count)
        took_s = time.monotonic() - began_s
        assert fed.server.wait() == 0, f"the run did not finish: {fed.server.tail()}"
        fed.settle()
        counts = fed.account()
        size_mb = (fed.directory / "ledger.sqlite").stat().st_size / 1e6
    assert counts["admitted"] == devices * count, f"{counts['admitted']} updates of {devices} devices in {count} rounds"
    said = [_steady(name, taken, count) for name, taken in samples.items()]
    return Outcome(
        injected=count,
        figures=(
            f"{devices} devices, {count} rounds in {took_s:.0f} s; {'; '.join(said)}; the ledger is {size_mb:.1f} MB; "
            f"{counts['published']} updates, {counts['lost']} lost, {counts['duplicated']} duplicated"
        ),
    )


def _watch(fed: Federation, watched: dict[str, Member], count: int) -> dict[str, list[Sample]]:
    """One sample of each in every round."""
    samples: dict[str, list[Sample]] = {name: [] for name in watched}
    for round_ in range(1, count + 1):
        fed.until_round(round_)
        for name, member in watched.items():
            if member.ended() is None:
                samples[name].append(look(member, fed.witness.round))
        if fed.witness.round >= count:
            return samples
    return samples


def _steady(name: str, taken: list[Sample], count: int) -> str:
    """Checks one party's samples.

    Raises:
        AssertionError: It grows.
    """
    after = max(WARM_ROUNDS, count // 10)
    warm = [sample for sample in taken if sample.round > after]
    assert len(warm) >= 20, f"{name}: only {len(warm)} samples after round {after}"
    slope = statistics.linear_regression([s.round for s in warm], [s.rss_mb for s in warm]).slope * 100
    quarter = len(warm) // 4
    first, last = (statistics.fmean(s.rss_mb for s in part) for part in (warm[:quarter], warm[-quarter:]))
    shown = f"{name}: RSS {first:.1f} → {last:.1f} MB, {slope:+.2f} MB per 100 rounds"
    assert slope < MB_A_HUNDRED, f"{shown}; less than {MB_A_HUNDRED} MB is allowed"
    assert last < first * (1 + SHARE), f"{shown}; less than {SHARE:.0%} is allowed"
    for what in ("threads", "descriptors"):
        early, late = (min(getattr(s, what) for s in part) for part in (warm[:quarter], warm[-quarter:]))
        most = max(getattr(s, what) for s in warm)
        assert late <= early, f"{name}: {what} went from {early} to {late} that are always held"
        shown += f", {late} {what} (at most {most})"
    return shown
