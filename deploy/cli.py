"""The command line: `spikeleak …`."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from contract.errors import ConfigurationError, SpikeleakError
from deploy.audit.command import audit
from deploy.deploy_command import deploy_app
from deploy.enroll_command import enroll_app
from deploy.sweep.command import sweep

INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="What a fleet of spiking edge devices spends, and what it leaks.\n\nExample: spikeleak demo --out runs/first",
)
data_app = typer.Typer(
    no_args_is_help=True,
    help="Data sets: list them, fetch them, verify what lies on disk.\n\nExample: spikeleak data fetch cifar10",
)
app.add_typer(data_app, name="data")
app.add_typer(enroll_app, name="enroll")
app.add_typer(deploy_app, name="deploy")

out_console = Console()
_ROWS = ("accuracy", "energy", "worst PSNR, audit", "worst PSNR, training", "not scored", "lost", "duplicated")
Out = Annotated[Path | None, typer.Option("--out", help="Output folder; one that holds this run is resumed.")]
Config = Annotated[Path, typer.Argument(help="The party's settings, a TOML file.")]


def _default_out(name: str) -> Path:
    return Path("runs") / f"{name}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"


@app.command()
def demo(
    clients: Annotated[int | None, typer.Option(min=1, max=64, help="Devices to emulate.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, max=10_000, help="Training rounds; audits are kept.")] = None,
    out: Out = None,
) -> None:
    """Emulate a fleet on real data, attack it, and write a report.

    Example: spikeleak demo --clients 4 --out runs/first
    """
    from deploy.study import STUDIES, load_study, resized  # noqa: PLC0415 - keeps `--help` fast

    study = resized(load_study(STUDIES / "demo.toml"), clients=clients, rounds=rounds)
    _run(study, out or _default_out(study.name))


@app.command()
def run(
    study_file: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study.")],
    out: Out = None,
) -> None:
    """Run a study; run it again with the same --out to resume it.

    Example: spikeleak run study.toml --out runs/mine
    """
    from deploy.study import load_study  # noqa: PLC0415

    study = load_study(study_file)
    _run(study, out or _default_out(study.name))


def _run(study: Any, out: Path) -> None:
    from deploy.emulate import run_study  # noqa: PLC0415
    from deploy.interrupts import Interrupts  # noqa: PLC0415
    from deploy.progress_display import display  # noqa: PLC0415

    started_s = time.monotonic()
    out_console.print(f"{study.name}: {study.clients} devices → {out}", highlight=False, soft_wrap=True)
    try:
        with Interrupts() as interrupts, display(out_console) as shown:
            summary = run_study(study, out, show=shown.show, interrupts=interrupts)
    except KeyboardInterrupt:
        text = f"interrupted; run again with --out {out} to go on where it stopped"
        out_console.print(text, highlight=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    _print_summary(summary, out, time.monotonic() - started_s)


def _print_summary(summary: dict[str, Any], out: Path, wall_s: float) -> None:
    parts = {label: part for label, part in (("run", summary), ("twin", summary.get("twin"))) if part}
    table = Table("", *parts, box=None, pad_edge=False)
    for row in zip(_ROWS, *(_summary_cells(part) for part in parts.values()), strict=True):
        table.add_row(*row)
    out_console.print(table)
    out_console.print(f"finished in {wall_s:.0f} s; report: {out / 'report.html'}", highlight=False, soft_wrap=True)


def _summary_cells(part: dict[str, Any]) -> list[str]:
    def decibel(kind: str) -> str:
        found = part["leakage"]["by_schedule"].get(kind) or {}
        value = found.get("worst_psnr_db")
        return "—" if value is None else f"{value:.1f} dB ({found['worst_attack']})"

    energy = part["energy_j"]
    joules = "—" if energy["value"] is None else f"{energy['value']:.3g} J {energy['provenance']}"
    accuracy = "—" if part["accuracy"] is None else f"{part['accuracy']:.1%}"
    updates = part["updates"]
    counts = [part["leakage"]["unscored"], updates["lost"], updates["duplicated"]]
    return [accuracy, joules, decibel("audit"), decibel("train"), *map(str, counts)]


@app.command()
def report(directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run or a sweep.")]) -> None:
    """Write summary.json and report.html of a run, or of a sweep, again.

    Example: spikeleak report runs/first
    """
    from deploy.emulate import write_results  # noqa: PLC0415
    from deploy.sweep import session  # noqa: PLC0415

    if (directory / session.KEPT).exists():
        session.rewrite(directory)
    else:
        write_results(directory)
    out_console.print(str(directory / "report.html"), highlight=False, soft_wrap=True)


@app.command()
def export(directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run.")]) -> None:
    """Write the tables of a run's ledger as Parquet files, for pandas, polars or DuckDB.

    Example: spikeleak export runs/first
    """
    from deploy.ledger_export import export as write  # noqa: PLC0415

    for path in write(directory):
        out_console.print(str(path), highlight=False, soft_wrap=True)


@app.command()
def cite(
    directory: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="Folder of a run or a sweep.")] = None,
) -> None:
    """Print the BibTeX of all that a run or a study used, its modelled joules included; without a folder of everything.

    Example: spikeleak cite runs/first
    """
    from deploy.citations import citations  # noqa: PLC0415

    for citation in citations(directory):
        out_console.print(citation.entry + "\n", highlight=False, soft_wrap=True, markup=False)


def _stop_on_signal() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stop.set())
    return stop


def _party(run_party: Any, path: Path, kind: type[msgspec.Struct]) -> None:
    from contract.configuration import decode_toml  # noqa: PLC0415

    settings = decode_toml(path, kind)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    raise typer.Exit(run_party(settings, _stop_on_signal()))


@app.command()
def server(config: Config) -> None:
    """Run the server: rounds, aggregation, ledger, mirror.

    Example: spikeleak server server.toml
    """
    from server.app import run_server  # noqa: PLC0415
    from server.settings import ServerSettings  # noqa: PLC0415

    _party(run_server, config, ServerSettings)


@app.command()
def client(config: Config) -> None:
    """Run one device (on a board: `spikeleak-client CONFIG.toml`).

    Example: spikeleak client device.toml
    """
    from edge_client.app import run_client  # noqa: PLC0415
    from edge_client.settings import ClientSettings  # noqa: PLC0415

    _party(run_client, config, ClientSettings)


@app.command()
def attack(config: Config) -> None:
    """Run the attacker: reads the mirror, sends reconstructions.

    Example: spikeleak attack attack.toml
    """
    from attack.app import run_attack  # noqa: PLC0415
    from attack.settings import AttackSettings  # noqa: PLC0415

    _party(run_attack, config, AttackSettings)


app.command()(audit)
app.command()(sweep)


@app.command()
def meter(
    *,
    source: Annotated[
        str, typer.Option("--meter", help="Meters to read: auto, rapl, ppk2:5000, replay:FILE.csv, rapl+tasmota:PLUG …")
    ] = "auto",
    seconds: Annotated[float, typer.Option("--seconds", min=0, help="How long to read live; 0 only lists.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")] = False,
    record: Annotated[Path | None, typer.Option("--record", help="Write a trace that replay:FILE.csv plays.")] = None,
    link: Annotated[Path | None, typer.Option("--link", help="TOML whose [link] leads to the broker of plugs.")] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option("--calibrate", metavar="BOARD.toml", help="Fit this board's joules per operation and save them."),
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option("--ledger", metavar="DIR", help="With --calibrate: fit to a measured run instead.")
    ] = None,
) -> None:
    """List the energy meters of this machine, why others are not there, and read some live.

    Example: spikeleak meter --meter rapl+tasmota:plug-1 --seconds 60 --link device.toml

    With --calibrate, work of several kinds is done in windows of --seconds each.
    Example: spikeleak meter --meter rapl --seconds 2 --calibrate board.toml
    """
    if ledger is not None and calibrate is None:
        raise ConfigurationError(f"--ledger {ledger}: only with --calibrate BOARD.toml, which it is fitted for")
    if calibrate is not None:
        from deploy.calibration import calibrate as fitted  # noqa: PLC0415

        fitted(out_console, source=source, path=calibrate, window_s=seconds, ledger=ledger)
        return
    from deploy.meter_console import MeterRequest, run_meter  # noqa: PLC0415

    request = MeterRequest(spec=source, seconds=seconds, as_json=as_json, record=record, link_file=link)
    run_meter(out_console, request)


@data_app.command("list")
def data_list() -> None:
    """Show the data sets: licence, size, where each comes from, and what of it lies on disk.

    Example: spikeleak data list
    """
    from deploy.data_console import list_datasets  # noqa: PLC0415

    list_datasets(out_console)


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="A name of `spikeleak data list`, or 'all'.")],
    source: Annotated[str | None, typer.Option("--source", help="Folder or address of a copy of its files.")] = None,
) -> None:
    """Bring a data set here from its official source and verify it; run again, it goes on where it broke off.

    Example: spikeleak data fetch cifar10
    """
    from deploy.data_console import fetch_dataset  # noqa: PLC0415

    fetch_dataset(out_console, name, source)


@data_app.command("verify")
def data_verify(name: Annotated[str, typer.Argument(help="A name of `spikeleak data list`, or 'all'.")]) -> None:
    """Check a data set on disk against its checksum.

    Example: spikeleak data verify mnist5k
    """
    from deploy.data_console import verify_dataset  # noqa: PLC0415

    verify_dataset(out_console, name)


def main() -> None:
    """Entry point: every error that is ours becomes one line and its exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        app()
    except SpikeleakError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
