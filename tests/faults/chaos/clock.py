"""The wall clock set back or forward by a day in mid-run, for the server, a device, or everybody.

libfaketime gives each party its own time of day from a file that is changed while the party runs; the monotonic clock
stays true. That a party really lives in another day is read off what it writes: the server's `opened_wall`, the time in
a device's log. Devices replay a power trace of constant power, so that every joule can be checked against its seconds.
"""

from __future__ import annotations

import ctypes.util
import random
import signal
import time
from datetime import datetime
from pathlib import Path

from deploy.shaping.proxy import Direction
from server.settings import ScheduleEntry
from tests.faults.chaos import Outcome
from tests.faults.chaos.federation import Federation, federation
from tests.faults.chaos.member import Member, wait_until

DAY_S = 86_400.0
DEADLINE_S = 2.0
LATE_S = 5.0
"""How much later than its deadline a round may close on a busy machine; a clock that mattered would make it a day."""
POWER_W = 1.7
AT_LEAST = 3
"""Jumps of the shortest form: for the server, for a device, and for everybody."""
SCHEDULE = (ScheduleEntry(rounds=5000, algorithm="fedsgd", batch_size=1, learning_rate=0.05, deadline_s=DEADLINE_S),)
_LIBRARIES = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib/faketime/libfaketime.so.1", "/usr/local/lib/faketime/*")


class Clocks:
    """The parties' times of day, each an offset to the true one in a file.

    Raises:
        AssertionError: libfaketime is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        found = [path for pattern in _LIBRARIES for path in sorted(Path("/").glob(pattern[1:]))]
        found += [Path(name)] if (name := ctypes.util.find_library("faketime")) else []
        assert found, f"libfaketime is in none of {', '.join(_LIBRARIES)}: install the package 'faketime'"
        self._library = found[0]
        self.offset_s: dict[str, float] = {}

    def wind(self, member: Member) -> None:
        """Gives a party that is yet to start a clock of its own."""
        self.set(member.name, 0.0)
        member.environment |= {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._folder / member.name),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, name: str, offset_s: float) -> None:
        """Sets a party's clock, whether it runs or not."""
        partial = self._folder / f"{name}.tmp"
        partial.write_text(f"{offset_s:+.0f}\n", encoding="ascii")
        partial.replace(self._folder / name)
        self.offset_s[name] = offset_s


def run(count: int, folder: Path) -> Outcome:
    """Jumps while a round waits for its deadline, and looks at the rounds after it."""
    count, draws = max(count, AT_LEAST), random.Random(count)
    trace = folder / "trace.csv"
    trace.write_text(f"time_s,power_w\n0,{POWER_W}\n{DAY_S / 2:.0f},{POWER_W}\n", encoding="ascii")
    began_s = time.monotonic()
    with federation(
        folder / "federation",
        SCHEDULE,
        start=False,
        devices=3,
        weather=Direction(latency_s=0.03),
        device={"meter": f"replay:{trace}"},
    ) as fed:
        clocks = Clocks(folder / "clocks")
        for member in fed.members:
            clocks.wind(member)
        fed.start()
        for number in range(count):
            _jump(fed, clocks, number, draws)
        fed.settle()
        length_s = time.monotonic() - began_s
        counts = fed.account()
        closed, late_s = _check_rounds(fed)
        longest_s, columns = _check_durations(fed, length_s)
        readings, worst = _check_energy(fed, length_s)
    return Outcome(
        injected=count,
        figures=(
            f"{closed} rounds closed: complete, or {DEADLINE_S} … {DEADLINE_S + late_s:.2f} s after they opened; "
            f"{columns} columns of seconds lie in 0 … {longest_s:.1f} s (the run took {length_s:.1f} s); "
            f"{readings} measured readings are {POWER_W:g} W × their seconds within {worst:.1e}; "
            f"{counts['published']} updates, {counts['lost']} lost, {counts['duplicated']} duplicated"
        ),
    )


def _jump(fed: Federation, clocks: Clocks, number: int, draws: random.Random) -> None:
    """Sets clocks while a round is open that a stopped device holds up; sees that it tells, and that all goes on."""
    late, way = fed.devices[draws.choice(fed.names)], (DAY_S, -DAY_S)[number % 2]
    whose = [[fed.server], [fed.devices[draws.choice(fed.names)]], fed.members][number % 3]
    late.send(signal.SIGSTOP)
    fed.until_round(fed.witness.round + 1)
    held = fed.witness.round + 1
    fed.until_round(held)  # its update for the round before may have been under way; for this one it was not
    for member in whose:
        clocks.set(member.name, clocks.offset_s[member.name] + way)
    fed.until_round(held + 1)
    late.send(signal.SIGCONT)
    with fed.ledger() as ledger:
        row = ledger.row("SELECT * FROM rounds WHERE round = ?", held)
    said = f"round {held}, open while {', '.join(m.name for m in whose)} jumped by {way:+.0f} s: {dict(row)}"
    assert row["closed"] == "deadline", f"{said}; {late.name} was stopped"
    assert DEADLINE_S <= row["duration_s"] < DEADLINE_S + LATE_S, said
    fed.until_round(held + 3)
    for member in whose:
        wait_until(
            lambda member=member: abs(_told_s(fed, member) - time.time() - clocks.offset_s[member.name]) < DAY_S / 4,
            f"{member.name} to write times that are {clocks.offset_s[member.name]:+.0f} s off; they are "
            f"{_told_s(fed, member) - time.time():+.0f} s off: the fault did not strike",
            10.0,
        )


def _told_s(fed: Federation, member: Member) -> float:
    """The time of day that a party last wrote down."""
    if member is fed.server:
        with fed.ledger() as ledger:
            return float(ledger.value("SELECT opened_wall FROM rounds ORDER BY round DESC, attempt DESC LIMIT 1"))
    stamps = [line[:19] for line in member.log().splitlines() if " edge_client.device: round " in line]
    return datetime.strptime(stamps[-1], "%Y-%m-%d %H:%M:%S").astimezone().timestamp()


def _check_rounds(fed: Federation) -> tuple[int, float]:
    """Every round closed in time; how many, and the greatest delay beyond a deadline in seconds."""
    with fed.ledger() as ledger:
        rows = ledger.rows("SELECT * FROM rounds WHERE closed IS NOT NULL AND closed != 'interrupted'")
    for row in rows:
        limit = (0.0 if row["closed"] == "complete" else DEADLINE_S, DEADLINE_S + LATE_S)
        assert limit[0] <= row["duration_s"] < limit[1], f"round {row['round']}: {dict(row)}"
        assert row["admitted"] >= 1, f"round {row['round']} closed without an update: {dict(row)}"
    return len(rows), max(0.0, *(row["duration_s"] - DEADLINE_S for row in rows))


def _check_durations(fed: Federation, length_s: float) -> tuple[float, int]:
    """No column of seconds holds anything negative or longer than the run; the longest, and how many columns."""
    longest_s, columns = 0.0, 0
    with fed.ledger() as ledger:
        for table in [row[0] for row in ledger.rows("SELECT name FROM sqlite_master WHERE type = 'table'")]:
            for column in [row["name"] for row in ledger.rows(f"PRAGMA table_info({table})")]:
                if not (column.endswith("_s") or column == "seconds") or column == "deadline_s":
                    continue
                least, most = ledger.row(f"SELECT MIN({column}), MAX({column}) FROM {table}")
                if least is None:
                    continue
                assert 0 <= least <= most <= length_s, f"{table}.{column}: {least} … {most} s in a run of {length_s} s"
                longest_s, columns = max(longest_s, most), columns + 1
    assert columns >= 3, f"only {columns} columns of seconds were found"
    return longest_s, columns


def _check_energy(fed: Federation, length_s: float) -> tuple[int, float]:
    """Measured joules are power times seconds; no device measured longer than the run."""
    with fed.ledger() as ledger:
        rows = ledger.rows("SELECT * FROM energy WHERE provenance = 'measured'")
        sums = ledger.rows(
            "SELECT node, SUM(duration_s) AS s FROM energy WHERE provenance = 'measured' GROUP BY node ORDER BY node"
        )
        trained = ledger.value("SELECT COUNT(*) FROM energy WHERE phase = 'train' AND provenance = 'measured'")
        reported = ledger.value("SELECT COUNT(*) FROM objects WHERE kind = 'energy'")
    assert trained == reported > 0, f"{trained} of {reported} energy reports have a measured training phase"
    worst = 0.0
    for row in rows:
        assert row["duration_s"] > 0, f"a window of {row['duration_s']} s: {dict(row)}"
        worst = max(worst, abs(row["energy_j"] / (POWER_W * row["duration_s"]) - 1))
    assert worst < 1e-6, f"measured joules are {worst:.1e} off {POWER_W} W times their seconds"
    for row in sums:
        assert row["s"] <= length_s, f"{row['node']} measured {row['s']} s in a run of {length_s} s"
    return len(rows), worst
