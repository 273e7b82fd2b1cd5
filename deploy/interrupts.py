"""Ctrl-C and SIGTERM as a wish that is looked at between two steps, never an exception in the middle of one."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any, Self


class Interrupts:
    """Counts the signals that arrive within a `with` block.

    The first asks for a clean end, the second for a quick one; from the third on each raises KeyboardInterrupt wherever
    the program is. Python raises it there from the first on by default: in the middle of starting a process, where it
    is lost, or of ending one, which then stays behind.
    """

    def __init__(self) -> None:
        self.count = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self.count > 2:
            raise KeyboardInterrupt

    def check(self) -> None:
        """To be called where it is safe to end.

        Raises:
            KeyboardInterrupt: A signal has arrived.
        """
        if self.count:
            raise KeyboardInterrupt

    @property
    def hurry(self) -> bool:
        """Whether the end is to be quick."""
        return self.count > 1
