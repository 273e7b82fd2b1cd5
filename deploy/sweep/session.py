"""A sweep from its first run to its table; killed at any moment and started again, it keeps the runs that are finished.

A run that was under way begins anew: a device that starts again draws other batches than one that was never stopped,
and the table is to be the same as that of a sweep that nobody killed.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from contract.errors import ConfigurationError
from deploy.emulate import write_atomically
from deploy.interrupts import Interrupts
from deploy.output import locked
from deploy.sweep import comparison, table
from deploy.sweep.local_runs import pause
from deploy.sweep.plan import Point, Sweep, load_sweep
from deploy.sweep.plan import points as points_of
from server.progress import read_progress

_SHOW_EVERY_S = 1.0
KEPT = "sweep.toml"
"""Its file's copy in its folder, by which the folder is known."""


class Runs(Protocol):
    """What carries runs out: `LocalRuns` here, `RayRuns` on a cluster."""

    def start(self, point: Point) -> bool:
        """Starts a run if there is room for one now."""
        ...

    def poll(self) -> dict[str, str]:
        """Runs that ended since the last look, by name: why they failed, or nothing."""
        ...

    def close(self) -> None:
        """Ends what still runs."""
        ...


class State(msgspec.Struct, frozen=True, kw_only=True):
    """How far a sweep is.

    Attributes:
        total: All runs.
        finished: Of these, finished, in earlier lives too.
        running: Points at work.
        failed: Why, by name.
        elapsed_s: Since this life began.
        remaining_s: Estimated from the runs that finished in this life and the rounds of those at work; `None` before
            there is anything to estimate from.
    """

    total: int
    finished: int
    running: tuple[str, ...]
    failed: dict[str, str]
    elapsed_s: float
    remaining_s: float | None


def finished(folder: Path) -> bool:
    """Whether a run's folder is complete."""
    if not (folder / "summary.json").exists():
        return False
    progress = read_progress(folder)
    return progress is not None and progress.status == "finished"


class Session:
    """One life of a sweep.

    Args:
        sweep: The sweep.
        points: Its runs.
        out: Its folder; the runs lie in ``runs/`` below it.
        runs: What carries them out.
    """

    def __init__(self, sweep: Sweep, points: tuple[Point, ...], out: Path, runs: Runs) -> None:
        self._sweep, self._points, self._out, self._runs = sweep, points, out, runs
        self._waiting = [point for point in points if not finished(out / "runs" / point.name)]
        self._before = len(points) - len(self._waiting)
        self._alive: dict[str, float] = {}
        self._took_s: list[float] = []
        self._failed: dict[str, str] = {}
        self._began_s = time.monotonic()

    def go(self, show: Callable[[State], None], interrupts: Interrupts) -> dict[str, str]:
        """Carries out all runs.

        Args:
            show: Called about once a second.
            interrupts: Looked at between steps.

        Returns:
            Why runs failed, by name; the others are finished.

        Raises:
            KeyboardInterrupt: `interrupts` asked for the end; what runs is ended and can be resumed.
        """
        shown_s = 0.0
        try:
            while self._waiting or self._alive:
                interrupts.check()
                self._settle()
                self._start()
                if time.monotonic() >= shown_s:
                    show(self.state())
                    shown_s = time.monotonic() + _SHOW_EVERY_S
                pause()
            show(self.state())
        finally:
            self._runs.close()
        return self._failed

    def _start(self) -> None:
        while self._waiting and self._runs.start(self._waiting[0]):
            self._alive[self._waiting.pop(0).name] = time.monotonic()

    def _settle(self) -> None:
        for name, fault in self._runs.poll().items():
            took_s = time.monotonic() - self._alive.pop(name)
            if not fault and finished(self._out / "runs" / name):
                self._took_s.append(took_s)
            else:
                self._failed[name] = fault or "it left without finishing"

    def state(self) -> State:
        """How far it is now."""
        return State(
            total=len(self._points),
            finished=self._before + len(self._took_s),
            running=tuple(self._alive),
            failed=dict(self._failed),
            elapsed_s=time.monotonic() - self._began_s,
            remaining_s=self._remaining_s(),
        )

    def _remaining_s(self) -> float | None:
        """Work left over the rate so far: finished runs count whole, those at work by their rounds."""
        shares = [_share(self._out / "runs" / name) for name in self._alive]
        done = len(self._took_s) + sum(shares)
        if done < 0.1:
            return None
        left = len(self._waiting) + len(self._alive) - sum(shares)
        return (time.monotonic() - self._began_s) * left / done


def _share(folder: Path) -> float:
    progress = read_progress(folder)
    if progress is None or progress.rounds == 0:
        return 0.0
    return min(progress.round / progress.rounds, 0.95)


@contextmanager
def held(out: Path) -> Iterator[None]:
    """The sweep's folder, ours alone.

    Raises:
        EnvironmentFaultError: It cannot be written, or another sweep writes there.
    """
    with locked(out, "sweep"):
        (out / "runs").mkdir(exist_ok=True)
        yield


def write_tables(sweep: Sweep, points: tuple[Point, ...], out: Path) -> dict[str, Any]:
    """Writes ``sweep.parquet``, ``attacks.parquet`` and ``summary.json``; beside twins ``networks.parquet`` too.

    Returns:
        The content of ``summary.json``.
    """
    from deploy import parquet  # noqa: PLC0415 - takes a moment

    whole = [point for point in points if finished(out / "runs" / point.name)]
    runs, attacks = table.collect(sweep, whole, out / "runs")
    about = json.dumps(msgspec.to_builtins(sweep))
    parquet.write(out / "sweep.parquet", runs, table.schema(sweep), about=about)
    parquet.write(out / "attacks.parquet", attacks, table.ATTACK_COLUMNS, about=about)
    pairs = comparison.pairs(runs, attacks)
    if pairs:
        names = comparison.columns([axis.title for axis in sweep.axes])
        parquet.write(out / "networks.parquet", comparison.rows(pairs), names, about=about)
    missing = [point.name for point in points if point not in whole]
    summary = {
        "name": sweep.name,
        "runs": len(points),
        "runs_finished": len(points) - len(missing),
        "runs_missing": missing,
        "axes": [axis.title for axis in sweep.axes],
        "seeds": list(sweep.seeds),
        "audited": sum(row["audited"] for row in runs),
        "lost": sum(row["lost"] for row in runs),
        "duplicated": sum(row["duplicated"] for row in runs),
        "false_certificates": sum(row["false_certificates"] for row in runs),
    }
    write_atomically(out / "summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    return summary


def write_results(sweep: Sweep, points: tuple[Point, ...], out: Path) -> None:
    """Writes the tables, ``summary.json`` and ``report.html`` from the runs that are there."""
    from deploy import parquet  # noqa: PLC0415 - these bring torch and matplotlib
    from deploy.citations import citations  # noqa: PLC0415
    from deploy.sweep import baselines  # noqa: PLC0415
    from deploy.sweep.report.page import render  # noqa: PLC0415

    summary = write_tables(sweep, points, out)
    runs, attacks = (parquet.read(out / f"{name}.parquet") for name in ("sweep", "attacks"))
    if any(row["arm"] == "twin" for row in runs):
        baselines.write(points, out / baselines.FILE_NAME)
    page = render(
        sweep,
        runs,
        attacks,
        folder=out / "runs",
        missing=summary["runs_missing"],
        cited=citations(out) if runs else [],
        guesses=baselines.read(out / baselines.FILE_NAME),
    )
    write_atomically(out / "report.html", page)


def rewrite(out: Path) -> None:
    """The same from a sweep's folder alone.

    Raises:
        ConfigurationError: Its ``sweep.toml`` cannot be read, or none of the runs that are there is one of its own.
    """
    path = out / KEPT
    sweep = load_sweep(path)
    points = points_of(sweep, path)
    there = [summary.parent.name for summary in sorted((out / "runs").glob("*/summary.json"))]
    if there and not any(finished(out / "runs" / point.name) for point in points):
        raise ConfigurationError(
            f"{out}: none of its {len(there)} runs ({there[0]}, …) is a finished run of its {KEPT} as this version "
            "reads both: report it with the version that ran it, or run the sweep again with another --out. Nothing "
            "was written"
        )
    write_results(sweep, points, out)


def keep_file(path: Path, out: Path) -> None:
    """A copy of the sweep's file beside its results."""
    target = out / KEPT
    if path.resolve() != target.resolve():
        shutil.copyfile(path, target)
