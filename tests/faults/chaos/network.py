"""Bad links: a device cut off, talking to nobody, on 50 kB/s, or with connections that are reset.

Three devices, each behind a proxy; server and broker speak directly. Three rounds in four wait for all devices until
their deadline, the fourth for two of three. Links carry 50 ms each way, models and updates 60 kB.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from contract.task import EncodingSpec, ModelSpec, TaskSpec
from deploy.shaping.proxy import Conditions, Direction
from server.settings import ScheduleEntry
from tests.faults.chaos import Outcome
from tests.faults.chaos.federation import Federation, federation
from tests.faults.chaos.member import wait_until

WEATHER = Direction(latency_s=0.05)
DEADLINE_S = 1.5
LATE_S = 5.0
"""How much later than its deadline a round may close: the server looks every 50 ms, the rest is for a busy machine."""
KEEPALIVE_S = 2
TASK = TaskSpec(dataset="digits", encoding=EncodingSpec(steps=2), model=ModelSpec(hidden=(200,)))
_PLAN = {"algorithm": "fedsgd", "batch_size": 1, "learning_rate": 0.05, "deadline_s": DEADLINE_S}
SCHEDULE = (ScheduleEntry(rounds=3, **_PLAN), ScheduleEntry(rounds=1, min_updates=2, **_PLAN)) * 1000


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of fault.

    Attributes:
        begin: Strikes a device's link; called with the federation and its name.
        until: Waits until it has bitten; called with these and the last round before it.
        end: Mends the link.
    """

    begin: Callable[[Federation, str], object]
    until: Callable[[Federation, str, int], None]
    end: Callable[[Federation, str], object]


def _closed_without(fed: Federation, node: str, after: int) -> None:
    """Waits for a round that asked the device and closed without it, others being in."""

    def seen() -> bool:
        with fed.ledger() as ledger:
            return bool(
                ledger.value(
                    "SELECT COUNT(*) FROM rounds r WHERE round > ? AND closed IN ('deadline', 'complete') "
                    "AND admitted >= 1 AND EXISTS (SELECT 1 FROM json_each(selected) WHERE value = ?) AND NOT EXISTS "
                    "(SELECT 1 FROM aggregated a JOIN updates u ON u.uid = a.uid WHERE a.round = r.round AND node = ?)",
                    after,
                    node,
                    node,
                )
            )

    wait_until(seen, f"a round after {after} that closed without {node}; {fed.server.tail(3)}", 30.0)


def _offline(fed: Federation, node: str, after: int) -> None:
    """Waits until the server has heard that the device is gone: from the broker, by its last will."""
    _closed_without(fed, node, after)

    def gone() -> bool:
        with fed.ledger() as ledger:
            newest = "SELECT status FROM nodes WHERE node = ? ORDER BY epoch DESC LIMIT 1"
            return bool(ledger.value(newest, node) == "offline")

    wait_until(gone, f"the server to hear that {node} is gone", 5 * KEEPALIVE_S)


def _reset_seen(fed: Federation, node: str, _after: int) -> None:
    before = fed.proxies[node].tally.resets
    wait_until(lambda: fed.proxies[node].tally.resets > before, f"a reset of {node}'s connection at 1 % a chunk", 60.0)


def _mend(fed: Federation, node: str) -> None:
    fed.proxies[node].shape(fed.weather)


def _narrow(fed: Federation, node: str) -> None:
    fed.proxies[node].shape(Conditions.both(Direction(latency_s=WEATHER.latency_s, bytes_s=50_000)))


def _brittle(fed: Federation, node: str) -> None:
    fed.proxies[node].shape(Conditions.both(Direction(latency_s=WEATHER.latency_s, reset_probability=0.01)))


def _cut(fed: Federation, node: str) -> None:
    fed.proxies[node].partition()


def _join(fed: Federation, node: str) -> None:
    fed.proxies[node].partition(on=False)


def _desert(fed: Federation, node: str) -> None:
    wait_until(lambda: fed.proxies[node].half_open() > 0, f"a connection of {node} to desert")


FAULTS: dict[str, Fault] = {
    "partition": Fault(begin=_cut, until=_closed_without, end=_join),
    "half-open": Fault(begin=_desert, until=_closed_without, end=lambda _fed, _node: None),
    "50 kB/s": Fault(begin=_narrow, until=_closed_without, end=_mend),
    "1 % resets": Fault(begin=_brittle, until=_reset_seen, end=_mend),
    "long partition": Fault(begin=_cut, until=_offline, end=_join),
}


def run(count: int, folder: Path) -> Outcome:
    """Strikes one device after another, each time until it has missed a round, and waits for its return."""
    draws = random.Random(count)
    back_s: dict[str, list[float]] = {name: [] for name in FAULTS}
    with federation(
        folder / "federation",
        SCHEDULE,
        devices=3,
        weather=WEATHER,
        keepalive_s=KEEPALIVE_S,
        server={"task": TASK},
    ) as fed:
        fed.until_round(3)
        for number in range(count):
            name, node = list(FAULTS)[number % len(FAULTS)], draws.choice(fed.names)
            back_s[name].append(_strike(fed, FAULTS[name], name, node))
        fed.settle()
        counts = fed.account()
        closed = _check_rounds(fed)
    took = ", ".join(f"{name} {statistics.median(times):.1f} s" for name, times in back_s.items() if times)
    slowest = max(max(times, default=0.0) for times in back_s.values())
    return Outcome(
        injected=count,
        figures=(
            f"{closed['deadline']} rounds closed by deadline and {closed['complete']} complete, the latest "
            f"{closed['late_ms']} ms after its deadline; median until a device is in an aggregate again: {took} "
            f"(longest {slowest:.1f} s); {counts['published']} updates, {counts['lost']} lost, "
            f"{counts['duplicated']} duplicated"
        ),
    )


def _strike(fed: Federation, fault: Fault, name: str, node: str) -> float:
    """One fault; gives the seconds from its end to the device's next update in an aggregate."""
    before = fed.witness.round
    fault.begin(fed, node)
    fault.until(fed, node, before)
    fault.end(fed, node)
    ended_s, ended = time.monotonic(), fed.witness.round
    wait_until(
        lambda: fed.in_aggregate(node, ended),
        f"{node} in an aggregate after round {ended}, after: {name}; {fed.devices[node].tail()}",
        30.0,
    )
    return time.monotonic() - ended_s


def _check_rounds(fed: Federation) -> dict[str, int]:
    """Every round closed when its schedule says: complete with k of n, or at the deadline with what there was."""
    with fed.ledger() as ledger:
        rows = [
            (row, len(msgspec.json.decode(row["selected"])))
            for row in ledger.rows("SELECT * FROM rounds WHERE closed IN ('deadline', 'complete', 'empty')")
        ]
    late_s = 0.0
    for row, selected in rows:
        said = f"round {row['round']}: {row['closed']} after {row['duration_s']:.2f} s with {row['admitted']}"
        late_s = max(late_s, row["duration_s"] - DEADLINE_S)
        if row["closed"] == "complete":
            assert row["admitted"] >= row["needed"] >= min(2, selected), f"{said}, {row['needed']} were needed"
        else:
            assert row["admitted"] < row["needed"], f"{said}, {row['needed']} were needed"
            assert row["duration_s"] >= DEADLINE_S, f"{said}, before its deadline of {DEADLINE_S} s"
    assert late_s < LATE_S, f"a round closed {late_s:.2f} s after its deadline of {DEADLINE_S} s"
    found = [row["closed"] for row, _ in rows]
    return {
        "deadline": found.count("deadline"),
        "complete": found.count("complete"),
        "late_ms": round(1000 * late_s),
    }
