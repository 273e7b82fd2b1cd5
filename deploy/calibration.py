"""`spikeleak meter --calibrate`: what one operation costs on this board, by its own meter.

Known work of several shapes is done in windows of equal length, with rest in between, and the counted operations of
each window are held against the meter's joules (`hardware.calibration`). The same fit is made from the ledger of a run
whose devices had a meter, without doing anything again.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import msgspec
import tomli_w
from rich.console import Console
from rich.table import Table

from contract.errors import ConfigurationError, EnvironmentFaultError
from deploy.calibration_work import COUNTED, REPEATS, SHAPES, Bench
from hardware.calibration import Estimate, Window, calibrated_profile, fit
from hardware.energy_model import EnergyModel
from hardware.errors import MeterError
from hardware.meter import open_meter
from hardware.profile import Profile
from hardware.profile_files import profiles
from server.ledger import FILE_NAME, Ledger

SHORTEST_S = 0.2
_NO_RADIO = "the fit is of arithmetic and memory: set radio to a model's name to have one"


def calibrate(console: Console, *, source: str, path: Path, window_s: float, ledger: Path | None = None) -> Profile:
    """Measures, fits and saves a profile.

    Args:
        console: Where the fit is shown.
        source: The meter.
        path: The profile's file, to be written.
        window_s: Length of each stretch of work.
        ledger: Folder of a run whose devices were measured; nothing is measured then.

    Raises:
        ConfigurationError: The file's name cannot be a profile's, windows are too short, no such meter or run.
        EnvironmentFaultError: The meter gave nothing, or no fit can be made of what it gave.
    """
    _check_path(path)
    if ledger is None:
        windows, meter = _measured(console, source, window_s)
    else:
        windows, meter = recorded(ledger)
    try:
        estimate = fit(windows)
    except MeterError as error:
        raise EnvironmentFaultError(f"no profile of {meter}: {error}") from error
    date = dt.datetime.now(tz=dt.UTC).date().isoformat()
    title = f"{path.stem}, calibrated"
    profile = calibrated_profile(estimate, name=path.stem, title=title, meter=meter, date=date, no_radio=_NO_RADIO)
    save(profile, path)
    _show(console, estimate, path)
    return profile


def _check_path(path: Path) -> None:
    if path.suffix != ".toml" or path.stem in profiles():
        raise ConfigurationError(
            f"--calibrate {path}: expected a file that ends in .toml and is not called like a profile of this program "
            f"({', '.join(profiles())})"
        )
    if not path.parent.is_dir():
        raise ConfigurationError(f"--calibrate {path}: there is no folder {path.parent}; make it first")


def _measured(console: Console, source: str, window_s: float) -> tuple[list[Window], str]:
    if window_s < SHORTEST_S:
        raise ConfigurationError(f"--seconds {window_s:g}: a window of work needs at least {SHORTEST_S:g}")
    try:
        meter = open_meter(source)
    except MeterError as error:
        raise ConfigurationError(f"--meter {source}: {error}") from error
    total_s = REPEATS * (1 + len(SHAPES)) * window_s
    console.print(f"{meter.name}: {REPEATS} rounds of rest and {len(SHAPES)} kinds of work, about {total_s:.0f} s")
    bench = Bench(meter)
    try:
        windows = [window for _, window in bench.windows(window_s)]
    finally:
        meter.close()
    if not windows:
        raise EnvironmentFaultError(f"--meter {source}: no window was measured: {bench.faults[0]}")
    return windows, f"{meter.name}, {meter.scope}"


def recorded(directory: Path) -> tuple[list[Window], str]:
    """The measured training windows of a run, and its idle time as rest.

    Args:
        directory: Folder of the run.

    Raises:
        ConfigurationError: There is no run, or none of its devices was measured by one meter.
    """
    names = ", ".join(f"o.{name}" for name in COUNTED)
    sql = (
        f"SELECT e.source, e.scope, e.energy_j, e.duration_s, e.phase, {names} FROM energy e "  # noqa: S608 - own names
        "JOIN operations o USING (update_uid) WHERE e.provenance = 'measured' AND e.phase IN ('train', 'idle') "
        "AND e.duration_s > 0 ORDER BY e.round, e.node, e.phase"
    )
    with Ledger.open_read(directory / FILE_NAME) as ledger:
        rows = list(ledger.rows(sql))
    meters = sorted({f"{row['source']}, {row['scope']}" for row in rows})
    if len(meters) != 1:
        raise ConfigurationError(
            f"{directory}: its measured training windows are of {len(meters)} meters ({'; '.join(meters) or 'none'}): "
            "a profile is fitted to one, so set devices.meter and let one kind of board run"
        )
    windows = [
        Window(
            energy_j=row["energy_j"],
            duration_s=row["duration_s"],
            counts=tuple(row[name] if row["phase"] == "train" else 0 for name in COUNTED),
        )
        for row in rows
    ]
    return windows, meters[0]


def save(profile: Profile, path: Path) -> None:
    """Writes a profile, whole or not at all, and reads it back.

    Raises:
        EnvironmentFaultError: It cannot be written.
    """
    half = path.with_name(f".{path.name}.part")
    try:
        half.write_text(tomli_w.dumps(msgspec.to_builtins(profile)), encoding="utf-8")
        half.replace(path)
    except OSError as error:
        half.unlink(missing_ok=True)
        raise EnvironmentFaultError(f"the profile {path} cannot be written: {error}") from error
    EnergyModel.load(str(path))


def _show(console: Console, estimate: Estimate, path: Path) -> None:
    table = Table("operation", "pJ", "±, 95 %", box=None, pad_edge=False)
    for op, joules in estimate.joules.items():
        table.add_row(op, f"{1e12 * joules:.4g}", f"{1e12 * estimate.half_width_j[op]:.2g}")
    console.print(table)
    console.print(
        f"baseline {estimate.baseline_w:.3f} W, residual {estimate.residual_w:.3g} W, R² {estimate.r2:.4f}, "
        f"{estimate.windows} windows; use it: energy_profile = {str(path)!r}",
        highlight=False,
        soft_wrap=True,
    )
