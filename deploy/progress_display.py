"""Live progress of a run: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from server.progress import Progress

_PLAIN_EVERY_S = 5.0
_TABLE_COLUMNS = 110
"""Width from which the table of progress fits without cutting a word."""


def energy_text(progress: Progress) -> str:
    """Joules so far, one figure per provenance, each with its name; never added up."""
    if not progress.energy_j:
        return "—"
    return ", ".join(f"{value:.3g} J {provenance}" for provenance, value in sorted(progress.energy_j.items()))


def line(label: str, progress: Progress) -> str:
    """The state of a run in one line."""
    accuracy = "—" if progress.accuracy is None else f"{progress.accuracy:.1%}"
    worst = "—" if progress.worst_psnr_db is None else f"{progress.worst_psnr_db:.1f} dB"
    return (
        f"{label}: round {progress.round}/{progress.rounds} {progress.kind} {progress.status}, "
        f"clients in {progress.arrived}/{progress.selected}, accuracy {accuracy}, "
        f"energy {energy_text(progress)}, worst PSNR {worst}, scored {progress.scored}/{progress.admitted}"
    )


class Display(Protocol):
    """What shows progress."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def show(self, label: str, progress: Progress) -> None:
        """Takes the newest state of one arm."""


class PlainDisplay:
    """One line when something changed, at most every few seconds, and one at each new round."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: dict[str, tuple[str, int, str, float]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, label: str, progress: Progress) -> None:
        """Prints the state if it is news."""
        text = line(label, progress)
        old_text, old_round, old_status, old_s = self._last.get(label, ("", -1, "", 0.0))
        now_s = time.monotonic()
        turned = progress.round != old_round or (progress.status == "finished" != old_status)
        if text != old_text and (turned or now_s - old_s >= _PLAIN_EVERY_S):
            self._console.print(text, highlight=False, soft_wrap=True)
            self._last[label] = (text, progress.round, progress.status, now_s)


class LiveDisplay:
    """A table that is redrawn in place, one row per arm."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._states: dict[str, Progress] = {}
        self._live = Live(console=console, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, value, trace)

    def show(self, label: str, progress: Progress) -> None:
        """Redraws the table; where it does not fit, one line per arm that wraps."""
        self._states[label] = progress
        if self._console.width < _TABLE_COLUMNS:
            self._live.update(Group(*(Text(line(name, state)) for name, state in self._states.items())))
            return
        table = Table(box=None, pad_edge=False)
        for title in ("run", "round", "", "clients in", "accuracy", "energy so far", "worst PSNR", "updates scored"):
            table.add_column(title, justify="left" if title in {"run", ""} else "right")
        for name, state in self._states.items():
            table.add_row(
                name,
                f"{state.round}/{state.rounds}",
                f"{state.kind} {state.status}",
                f"{state.arrived}/{state.selected}",
                "—" if state.accuracy is None else f"{state.accuracy:.1%}",
                energy_text(state),
                "—" if state.worst_psnr_db is None else f"{state.worst_psnr_db:.1f} dB",
                f"{state.scored}/{state.admitted}",
            )
        self._live.update(table)


def display(console: Console) -> Display:
    """What fits this console."""
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)
