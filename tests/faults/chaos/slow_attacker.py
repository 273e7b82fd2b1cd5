"""An attacker that is stopped, or a hundred times too slow: rounds must not wait for it.

Blocks of rounds with an attacker that keeps up alternate with blocks under a fault, in one run: SIGSTOP throughout, or
SIGSTOP for 99 % of the time. Links carry 60 ms each way, so that a round is nearly nothing but waiting. Medians of both
kinds of block are compared; the interval is a 95 % percentile bootstrap of their ratio. The run ends with the attacker
stopped: what it never saw must be counted, and shown as never attacked.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from deploy.emulate import write_results
from deploy.shaping.proxy import Direction
from server.mirror import reach
from server.settings import ScheduleEntry
from tests.faults.chaos import Outcome
from tests.faults.chaos.federation import Federation, federation
from tests.faults.chaos.member import PATIENCE_S, Member

AT_LEAST = 3
"""Blocks under a fault in the shortest form."""
BLOCK = 6
"""Rounds of a block; the first is left out: an attacker that may run again works off what waited."""
TAIL = 4
"""Rounds after the last block, the attacker stopped."""
ALLOWED = 0.02
BY_CHANCE = 0.1
"""What a short form may see by chance: more is a failure even where its interval reaches down to what is allowed."""
FEW_ROUNDS = 50
"""Under a fault; from so many on the ratio itself must be within what is allowed."""
PERIOD_S = 0.5
SLOWDOWN = 100


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """Median round times with and without a fault, and their ratio with its 95 % interval."""

    keeping_up_s: float
    faulty_s: float
    low: float
    high: float
    rounds: int

    @property
    def ratio(self) -> float:
        """Above 1: rounds were slower under the fault."""
        return self.faulty_s / self.keeping_up_s


def run(count: int, folder: Path) -> Outcome:
    """Alternates blocks of rounds with and without a fault of the attacker."""
    count = max(count, AT_LEAST)
    rounds = 2 * count * (BLOCK + 1) + TAIL + 2
    plan = ScheduleEntry(rounds=rounds, algorithm="fedsgd", batch_size=1, learning_rate=0.05, deadline_s=30.0)
    with federation(
        folder / "federation",
        (plan,),
        devices=3,
        weather=Direction(latency_s=0.06),
        attack={"attacks": ("ratio",), "budget_s": 2.0},
    ) as fed:
        attacker = fed.attacker
        assert attacker is not None, "this federation was asked for with one"
        fed.until_round(2)
        blocks: dict[bool, list[int]] = {False: [], True: []}
        for number in range(2 * count):
            fault = bool(number % 2)
            with _fault(attacker, number // 2) if fault else contextlib.nullcontext():
                blocks[fault] += _block(fed)
        attacker.send(signal.SIGSTOP)
        ended = fed.server.wait(PATIENCE_S + 2 * TAIL)
        assert ended == 0, f"the run did not finish, status {ended}: {fed.server.tail()}"
        attacker.kill()
        fed.settle()
        counts = fed.account()
        compared = _compare(fed, blocks)
        missed = _shown(fed)
    return Outcome(
        injected=count,
        figures=(
            f"median round {compared.keeping_up_s * 1e3:.1f} ms with an attacker that keeps up, "
            f"{compared.faulty_s * 1e3:.1f} ms with one stopped or {SLOWDOWN}× too slow: {compared.ratio - 1:+.1%} "
            f"(95 % {compared.low - 1:+.1%} … {compared.high - 1:+.1%}, {compared.rounds} rounds each); {missed} "
            f"updates that it never saw are in summary and report as never attacked; {counts['published']} updates, "
            f"{counts['lost']} lost, {counts['duplicated']} duplicated"
        ),
    )


@contextlib.contextmanager
def _fault(attacker: Member, number: int) -> Iterator[None]:
    """The attacker stopped, or by turns running for a hundredth of the time."""
    over = threading.Event()
    thread = threading.Thread(target=_slowly, args=(attacker, over))
    attacker.send(signal.SIGSTOP)
    if number % 2:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if number % 2:
            thread.join()
        attacker.send(signal.SIGCONT)


def _slowly(attacker: Member, over: threading.Event) -> None:
    while not over.wait(PERIOD_S * (1 - 1 / SLOWDOWN)):
        attacker.send(signal.SIGCONT)
        over.wait(PERIOD_S / SLOWDOWN)
        attacker.send(signal.SIGSTOP)


def _block(fed: Federation) -> list[int]:
    """Lets a block of rounds pass; those that began and ended in it."""
    first = fed.witness.round + 1
    fed.until_round(first + BLOCK)
    return list(range(first + 1, first + BLOCK))


def _compare(fed: Federation, blocks: dict[bool, list[int]]) -> Compared:
    """Holds the medians against each other.

    Raises:
        AssertionError: Rounds are slower under the fault than is allowed, beyond what chance explains.
    """
    with fed.ledger() as ledger:
        took = {row["round"]: row["duration_s"] for row in ledger.rows("SELECT round, duration_s FROM rounds")}
    keeping, faulty = (np.array([took[round_] for round_ in blocks[fault]]) for fault in (False, True))
    draws = np.random.default_rng(0)
    ratios = _medians(faulty, draws) / _medians(keeping, draws)
    low, high = np.quantile(ratios, [0.025, 0.975])
    found = Compared(
        keeping_up_s=float(np.median(keeping)),
        faulty_s=float(np.median(faulty)),
        low=float(low),
        high=float(high),
        rounds=len(faulty),
    )
    said = (
        f"median round {found.keeping_up_s:.4f} s, under the fault {found.faulty_s:.4f} s: ratio {found.ratio:.3f}, "
        f"95 % {found.low:.3f} … {found.high:.3f}, {found.rounds} rounds each"
    )
    by_chance = found.low <= 1 + ALLOWED and found.ratio <= 1 + BY_CHANCE and len(blocks[True]) < FEW_ROUNDS
    assert found.ratio <= 1 + ALLOWED or by_chance, said
    return found


def _medians(values: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    return np.median(draws.choice(values, size=(2000, len(values))), axis=1)


def _shown(fed: Federation) -> int:
    """How many updates the attacker never saw, having checked that summary and report say so."""
    with fed.ledger() as ledger:
        never = ledger.value(
            "SELECT COUNT(*) FROM updates WHERE status = 'admitted' "
            "AND uid NOT IN (SELECT update_uid FROM reconstructions)"
        )
        admitted = ledger.value("SELECT COUNT(*) FROM updates WHERE status = 'admitted'")
        dropped = reach(ledger).dropped
    assert never >= TAIL, f"the attacker was stopped for the last {TAIL} rounds and missed only {never} updates"
    leakage = write_results(fed.directory)["leakage"]
    assert leakage["never_attacked"] == never, f"{never} updates were never attacked; summary.json: {leakage}"
    assert leakage["mirror_dropped"] == dropped, f"{dropped} mirror drops in the ledger; summary.json: {leakage}"
    page = (fed.directory / "report.html").read_text(encoding="utf-8")
    text = f"{never} of {admitted} admitted updates were never attacked"
    assert text in page, f"report.html does not say {text!r}"
    return int(never)
