"""The command `spikeleak sweep`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from deploy.interrupts import Interrupts

if TYPE_CHECKING:
    from deploy.sweep.session import Runs, State

INTERRUPTED = 130
_PLAIN_EVERY_S = 10.0

out_console = Console()


def sweep(
    sweep_file: Annotated[Path, typer.Argument(metavar="SWEEP.toml", help="The sweep.")],
    out: Annotated[Path | None, typer.Option("--out", help="Output folder; finished runs in it are kept.")] = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster", metavar="ADDRESS", help="A Ray cluster to run on.")
    ] = None,
    parallel: Annotated[int | None, typer.Option("--parallel", min=1, help="Runs at a time at most.")] = None,
) -> None:
    """Run a grid or a sample of studies; run it again with the same --out to go on.

    With --cluster each run, and each of its attack workers, is a task of that cluster, as it has CPUs for them.

    Example: spikeleak sweep sweep.toml --out runs/sweep
    Example: spikeleak sweep sweep.toml --out runs/sweep --cluster 10.0.0.1:6379
    """
    from deploy.sweep import plan, session  # noqa: PLC0415 - keeps `--help` fast

    planned = plan.load_sweep(sweep_file)
    points = plan.points(planned, sweep_file)
    folder = out or Path("runs") / f"{planned.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    out_console.print(f"{planned.name}: {len(points)} runs → {folder}", highlight=False, soft_wrap=True)
    with session.held(folder):
        session.keep_file(sweep_file, folder)
        try:
            with Interrupts() as interrupts:
                runs = _runs(cluster, folder / "runs", parallel or planned.parallel)
                failed = session.Session(planned, points, folder, runs).go(Shown(out_console).show, interrupts)
        except KeyboardInterrupt:
            text = f"interrupted; run again with --out {folder} to go on where it stopped"
            out_console.print(text, highlight=False, soft_wrap=True)
            raise typer.Exit(INTERRUPTED) from None
        session.write_results(planned, points, folder)
    for name, fault in failed.items():
        out_console.print(f"run {name} failed: {fault}", highlight=False, soft_wrap=True, markup=False)
    out_console.print(f"report: {folder / 'report.html'}", highlight=False, soft_wrap=True)
    if failed:
        text = f"{len(failed)} of {len(points)} runs failed; run again with --out {folder} to try them again"
        out_console.print(text, highlight=False, soft_wrap=True)
        raise typer.Exit(1)


def _runs(cluster: str | None, folder: Path, parallel: int | None) -> Runs:
    if cluster is not None:
        from deploy.sweep.ray_runs import RayRuns  # noqa: PLC0415

        return RayRuns(cluster, folder, parallel)
    from deploy.sweep.local_runs import LocalRuns, cores  # noqa: PLC0415

    return LocalRuns(folder, parallel or cores())


class Shown:
    """Progress of a sweep as lines: when a run ended, and every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._finished, self._next_s = -1, 0.0

    def show(self, state: State) -> None:
        """Prints the state if it is news."""
        now_s = time.monotonic()
        ended = state.finished + len(state.failed)
        if ended == self._finished and now_s < self._next_s:
            return
        self._finished, self._next_s = ended, now_s + _PLAIN_EVERY_S
        left = "time left not known yet" if state.remaining_s is None else f"about {_minutes(state.remaining_s)} left"
        faults = f", {len(state.failed)} failed" if state.failed else ""
        text = f"{state.finished}/{state.total} runs finished{faults}, {len(state.running)} at work, {left}"
        self._console.print(text, highlight=False, soft_wrap=True)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
