"""Fault injection at length: each row of the table is one kind of fault, how often it struck, and what was seen.

`make chaos` (or `python -m tests.faults.chaos [ROW ...] [--share S]`) runs the rows and prints one table. CI runs each
row with a share of its count (`tests/faults/test_chaos.py`). A row is a module beside this file with a function
`run(count, folder)`; it injects `count` faults, checks its claim with `AssertionError`s of its own making that name what
was seen, and returns what it measured.
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
    "intruder": Row(
        module="intruder",
        fault="wrong password, foreign or expired certificate, revoked device, writing as another, reading another's",
        count=40,
        claim="denied by a real mosquitto on the shipped settings and ACL; the legitimate party is served",
    ),
}
