"""`spikeleak deploy …`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from deploy.boards.playbook import Event, Fault

deploy_app = typer.Typer(
    no_args_is_help=True,
    help="Boards over ssh, by Ansible: install, update, watch, collect.\n\n"
    "Example: spikeleak deploy push --inventory boards.yml --enrolment lab --run trial",
)

console = Console()
error_console = Console(stderr=True)
Inventory = Annotated[Path, typer.Option("--inventory", "-i", metavar="FILE", help="Ansible inventory of the boards.")]
Boards = Annotated[list[str] | None, typer.Argument(metavar="[BOARD]...", help="Boards of it; all when none is named.")]
Enrolment = Annotated[Path, typer.Option("--enrolment", metavar="DIR", help="Folder of `spikeleak enroll`.")]
Run = Annotated[str, typer.Option("--run", help="The server's run.")]
Wheel = Annotated[Path | None, typer.Option("--wheel", help="Wheel of spikeleak to push, in place of a build.")]
ClockLimit = Annotated[int, typer.Option("--clock-limit", min=1, help="Refuse boards whose clock is further off, s.")]
_INVENTORY = Path("boards.yml")
_CLOCK_LIMIT_S = 60
_WIDE = 240
"""Columns of a table that goes to a file."""


def _say(text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def _started(event: Event) -> None:
    shown = {"copy", "install", "start", "go back", "pack"}
    if event.event == "started" and event.task in shown:
        _say(f"{event.board}: {event.task} …")


def _end(faults: Mapping[str, Fault]) -> None:
    """One line a board that has a fault; status 1 when there is one."""
    for fault in faults.values():
        error_console.print(f"error: {fault.board}: {fault.text}", highlight=False, soft_wrap=True, markup=False)
    if faults:
        raise typer.Exit(1)


def _push(
    enrolment: Path,
    run: str,
    inventory: Path,
    boards: list[str] | None,
    wheel: Path | None,
    *,
    clock: int,
    careful: bool,
) -> None:
    from deploy.boards import rollout  # noqa: PLC0415 - keeps `--help` fast
    from deploy.enroll import recorded  # noqa: PLC0415

    recorded(enrolment)
    release = rollout.Release(
        enrolment=enrolment,
        run=run,
        own_wheel=wheel,
        pip_args=os.environ.get("PIP_ARGS", ""),
        clock_limit_s=clock,
        careful=careful,
    )
    done, faults = rollout.push(rollout.fleet(inventory, boards or ()), release, _started)
    for board, name in done.items():
        _say(f"{board}: runs release {name}")
    _end(faults)


@deploy_app.command()
def push(  # noqa: PLR0917 - typer takes options as parameters
    enrolment: Enrolment,
    run: Run,
    boards: Boards = None,
    inventory: Inventory = _INVENTORY,
    wheel: Wheel = None,
    clock_limit: ClockLimit = _CLOCK_LIMIT_S,
) -> None:
    """Install the devices of a run on boards and start them, all at once.

    Each board is looked at first: processor, Python, disk, clock. One that does not start goes back.

    Example: spikeleak deploy push pi-1 pi-2 -i boards.yml --enrolment lab --run trial
    """
    _push(enrolment, run, inventory, boards, wheel, clock=clock_limit, careful=False)


@deploy_app.command()
def update(  # noqa: PLR0917
    enrolment: Enrolment,
    run: Run,
    boards: Boards = None,
    inventory: Inventory = _INVENTORY,
    wheel: Wheel = None,
    clock_limit: ClockLimit = _CLOCK_LIMIT_S,
) -> None:
    """Push a new release carefully: one board first, the others when it lives.

    Example: spikeleak deploy update -i boards.yml --enrolment lab --run trial --wheel new/spikeleak-0.2.0-….whl
    """
    _push(enrolment, run, inventory, boards, wheel, clock=clock_limit, careful=True)


@deploy_app.command()
def rollback(boards: Boards = None, inventory: Inventory = _INVENTORY) -> None:
    """Go back to the release that ran before; again, and it goes forward.

    Example: spikeleak deploy rollback pi-1 -i boards.yml
    """
    from deploy.boards import rollout  # noqa: PLC0415

    outcome = rollout.fleet(inventory, boards or ()).play("rollback", {}, _started)
    for event in outcome.events:
        if (event.event, event.task) == ("ok", "go back"):
            _say(event.output)
    _end(outcome.faults)


@deploy_app.command()
def stop(boards: Boards = None, inventory: Inventory = _INVENTORY) -> None:
    """Stop devices; they stay stopped until the next push.

    Example: spikeleak deploy stop -i boards.yml
    """
    from deploy.boards import rollout  # noqa: PLC0415

    meant = rollout.fleet(inventory, boards or ())
    outcome = meant.play("stop", {}, _started)
    for board in meant.boards:
        if board.name not in outcome.faults:
            _say(f"{board.name}: stopped")
    _end(outcome.faults)


@deploy_app.command()
def logs(
    boards: Boards = None,
    inventory: Inventory = _INVENTORY,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=100_000, help="How many of each board.")] = 50,
) -> None:
    """Show the last lines of each device's journal.

    Example: spikeleak deploy logs pi-1 -n 20 -i boards.yml
    """
    from deploy.boards import rollout  # noqa: PLC0415

    meant = rollout.fleet(inventory, boards or ())
    outcome = meant.play("logs", {"spikeleak_lines": lines}, _started)
    for board in meant.boards:
        event = outcome.last(board.name, "journal")
        for line in () if event is None else event.output.splitlines():
            _say(f"{board.name}  {line}")
    _end(outcome.faults)


@deploy_app.command()
def collect(
    boards: Boards = None,
    inventory: Inventory = _INVENTORY,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Gets one folder a board.")] = Path("collected"),
    receipts: Annotated[  # noqa: FBT002 - a flag
        bool,
        typer.Option("--receipts", help="Bring receipts too: whoever has them and the data knows the true samples."),
    ] = False,
) -> None:
    """Bring spools and logs of boards to this machine.

    Example: spikeleak deploy collect -i boards.yml --out collected
    """
    from deploy.boards import rollout  # noqa: PLC0415

    made, faults = rollout.collect(rollout.fleet(inventory, boards or ()), out, receipts=receipts, show=_started)
    for folder in made:
        _say(str(folder))
    _end(faults)


@deploy_app.command()
def sizing(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished run: what an update weighs.")],
    devices: Annotated[list[int] | None, typer.Option("--devices", min=1, help="Sizes of fleets.")] = None,
    period: Annotated[float, typer.Option("--period", min=1, help="Seconds from one round to the next.")] = 3600.0,
    asked: Annotated[int | None, typer.Option("--asked", min=1, help="Devices that a round asks [all].")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File for the measured figures, JSON.")] = None,
) -> None:
    """Measure a broker here and compute what larger fleets need of brokers, links and attack workers.

    Example: spikeleak deploy sizing runs/first --devices 1000 --devices 100000 --asked 1000 --period 600
    """
    import msgspec  # noqa: PLC0415

    from deploy.cluster.broker_cost import measure  # noqa: PLC0415
    from deploy.cluster.sizing import Measured, table  # noqa: PLC0415
    from deploy.cluster.traffic import measured  # noqa: PLC0415

    found = Measured(run=run.resolve().name, traffic=measured(run), cost=measure())
    if out is not None:
        out.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    _say(table(found, devices or (10**3, 10**5, 10**7), period_s=period, asked=asked))


@deploy_app.command()
def status(
    boards: Boards = None,
    inventory: Inventory = _INVENTORY,
    enrolment: Annotated[
        Path | None,
        typer.Option("--enrolment", metavar="DIR", help="Folder of `spikeleak enroll`: asks its broker too."),
    ] = None,
    clock_limit: ClockLimit = _CLOCK_LIMIT_S,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line and board, for programs.")] = False,  # noqa: FBT002 - a flag
) -> None:
    """Show each board: online by ssh and by the broker, round, battery or meter, release, clock, last error.

    Where ssh and broker contradict each other, a line says how. Without --enrolment the broker is not asked.

    Example: spikeleak deploy status -i boards.yml --enrolment lab
    """
    from deploy.boards import overview, rollout  # noqa: PLC0415

    seen = overview.look(rollout.fleet(inventory, boards or ()), enrolment, clock_limit_s=clock_limit, show=_started)
    if as_json:
        for one in seen.boards:
            _say(overview.line(one))
    else:
        wide = console if console.is_terminal else Console(width=_WIDE)
        wide.print(overview.table(seen.boards), highlight=False)
    for note in seen.notes:
        error_console.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)
    _end(seen.faults)
