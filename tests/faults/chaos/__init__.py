"""Fault injection at length: each row of the table is one kind of fault, how often it struck, and what was seen.

`make chaos` (or `python -m tests.faults.chaos [ROW ...] [--share S]`) runs the rows and prints one table. CI runs each
row with a share of its count (`tests/faults/test_chaos.py`). A row is a module beside this file with a function
`run(count, folder)`; it injects `count` faults, checks its claim with `AssertionError`s of its own making that name
what was seen, and returns what it measured.
"""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from msgspec import Struct


class Outcome(Struct, frozen=True, kw_only=True):
    """What a row saw.

    Attributes:
        injected: Faults that really struck; at least as many as were asked for.
        figures: What was counted or measured, in words with units: one short line.
    """

    injected: int
    figures: str


class Run(Protocol):
    """A row's function: faults to inject and an empty folder of its own to what was seen.

    Raises:
        AssertionError: The claim does not hold; the message says what was seen.
    """

    def __call__(self, count: int, folder: Path) -> Outcome: ...


class Row(Struct, frozen=True, kw_only=True):
    """A line of the table.

    Attributes:
        module: Beside this file.
        fault: What is done to the system.
        count: How often in the long form.
        claim: What must hold.
        function: Of the module.
    """

    module: str
    fault: str
    count: int
    claim: str
    function: str = "run"

    def share(self, share: float) -> int:
        """The count of a shorter form, at least 1."""
        return max(1, math.ceil(self.count * share))

    def load(self) -> Run:
        """The function."""
        return cast("Run", getattr(import_module(f"tests.faults.chaos.{self.module}"), self.function))


CI_SHARE = 1 / 20

ROWS: dict[str, Row] = {
    "client-kill": Row(
        module="client_kill",
        fault="SIGKILL of a client at each step (train, spool, mid-chunk, before ack)",
        count=1000,
        claim="0 acknowledged updates lost, 0 counted twice",
    ),
    "server-kill": Row(
        module="server_kill",
        fault="SIGKILL of the server (receive, journal, aggregate, checkpoint, publish)",
        count=300,
        claim="same, final model hash equal to the fault-free run",
    ),
    "broker-kill": Row(
        module="broker_kill",
        fault="SIGKILL of the broker, mosquitto default persistence and amqtt",
        count=300,
        claim="same; median time from broker back to first admitted update under 5 s",
    ),
    "network": Row(
        module="network",
        fault="partition, half-open connection, 50 kB/s link, 1 % connection resets",
        count=100,
        claim="rounds close at the deadline with k of n; devices rejoin by themselves; 0 lost, 0 duplicated",
    ),
    "histories": Row(
        module="histories",
        fault="duplicated, reordered, replayed, stale-epoch messages (Hypothesis over histories)",
        count=10_000,
        claim="result independent of order; every bad one refused with its reason",
    ),
    "payloads": Row(
        module="payloads",
        fault="truncated, bit-flipped, oversized, NaN/Inf, wrong-shape, wrong-task payloads; random bytes everywhere",
        count=1_000_000,
        claim="0 crashes, 0 admitted, server memory within its limit and one update",
    ),
    "intruder": Row(
        module="intruder",
        fault="wrong password, foreign or expired certificate, revoked device, writing as another, reading another's",
        count=40,
        claim="denied by a real mosquitto on the shipped settings and ACL; the legitimate party is served",
    ),
    "disk-full": Row(
        module="disk_full",
        fault="disk full on spool, ledger, results",
        count=50,
        claim="a clear error, no false acknowledgement, resumes when space returns; 0 lost, 0 duplicated",
    ),
    "clock": Row(
        module="clock",
        fault="wall clock set back or forward by a day, of server or devices",
        count=20,
        claim="rounds, deadlines and energy integrals unharmed",
    ),
    "slow-attacker": Row(
        module="slow_attacker",
        fault="attacker stopped (SIGSTOP) or 100 × too slow",
        count=20,
        claim="median round time within 2 %; updates that it never saw are counted and shown as never attacked",
    ),
    "soak": Row(
        module="soak",
        fault="soak: rounds on end with 20 devices (6 in the short form), tiny model",
        count=1000,
        claim="no growth of RSS, threads or file descriptors after the first tenth of the rounds",
    ),
}
