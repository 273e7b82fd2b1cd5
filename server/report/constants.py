"""The constants behind a page's modelled figures: their value, unit, node and source, and what has none."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from hardware.energy_model import EnergyModel
from hardware.errors import MeterError
from hardware.profile_files import KEPT, profiles
from server.report.data import ConstantRow
from server.report.quantities import significant

_MODEL = "model:"
OPERATION_TITLES: dict[str, str] = {
    "mac": "multiply-accumulate, forward",
    "ac": "accumulate caused by a spike",
    "membrane_update": "membrane update",
    "backward_mac": "multiply-accumulate, backward",
    "memory_byte": "byte moved",
}


class UsedConstants(msgspec.Struct, frozen=True, kw_only=True):
    """What a page says about its energy model.

    Attributes:
        rows: Constants, and operations without one.
        prices: Joules of one operation by profile.
        notes: What the profiles assume or leave out.
        problems: Profiles whose constants cannot be shown.
    """

    rows: tuple[ConstantRow, ...] = ()
    prices: dict[str, dict[str, float]] = {}
    notes: tuple[tuple[str, str], ...] = ()
    problems: tuple[str, ...] = ()


def used_constants(sources: Iterable[str], directory: Path) -> UsedConstants:
    """The constants of every profile that gave a reading.

    Args:
        sources: Sources of readings; those of profiles begin with ``model:``.
        directory: The run's folder, in which profiles of the user's own lie.
    """
    models, missing = models_of(sources, directory)
    rows = {(row.name, row.value, row.source): row for model in models for row in _rows(model)}
    return UsedConstants(
        rows=tuple(rows.values()),
        prices={model.name: model.prices_j for model in models},
        notes=tuple(dict.fromkeys(note for model in models for note in model.notes.items())),
        problems=tuple(missing.values()),
    )


def models_of(sources: Iterable[str], directory: Path) -> tuple[list[EnergyModel], dict[str, str]]:
    """The energy model of every profile that gave a reading; and the names of those that cannot be shown, and why.

    Args:
        sources: Sources of readings; those of profiles and their radios begin with ``model:``.
        directory: The run's folder, in which profiles of the user's own lie.
    """
    names = sorted({source.removeprefix(_MODEL) for source in sources if source.startswith(_MODEL)})
    kept = {path.stem: str(path) for path in sorted((directory / KEPT).glob("*.toml"))}
    models, problems, radios = [], {}, set()
    for name in names:
        if name not in kept and name not in profiles():
            radios.add(name)
            continue
        try:
            models.append(EnergyModel.load(name if name in profiles() else kept[name]))
        except MeterError as error:
            problems[name] = f"energy constants: {error}"
    radios -= {model.radio_name for model in models}
    problems |= {
        name: f"figures by {name!r} stand on this page, whose constants are not at hand: its profile, {name}.toml, "
        f"belongs into {KEPT}/ of this run's folder"
        for name in sorted(radios)
    }
    return models, problems


def _rows(model: EnergyModel) -> list[ConstantRow]:
    intervals = {} if model.fit is None else model.fit.intervals
    rows = [
        ConstantRow(
            name=c.name,
            value=c.value,
            unit=c.unit,
            node=c.node,
            source=c.source,
            between=_between(intervals[c.name].low, intervals[c.name].high) if c.name in intervals else "",
        )
        for c in model.constants
    ]
    rows += [
        ConstantRow(name=OPERATION_TITLES[op], value=None, unit="", node=model.title, source=f"absent: {reason}")
        for op, reason in model.absent.items()
    ]
    if not model.radio_name:
        rows.append(
            ConstantRow(name="radio", value=None, unit="", node=model.title, source=f"absent: {model.no_radio}")
        )
    if model.fit is not None:
        fit = model.fit
        said = f"fit of {fit.date} to {fit.windows} windows of {fit.meter}"
        said += f": residual {fit.residual_w:.3g} W, R² {fit.r2:.4f}"
        rows.append(
            ConstantRow(name="baseline, not charged", value=fit.baseline_w, unit="W", node=model.title, source=said)
        )
    return rows


def _between(low: float, high: float) -> str:
    return f"{significant(low)} to {significant(high)}"
