"""Every attack on every configuration, and the SNN beside its ANN twin."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from deploy.sweep.estimates import Estimate, middle, share
from deploy.sweep.report.configurations import Configuration, Row, best_by_update
from deploy.sweep.report.figures import ends
from server.report.quantities import decibel


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One attack on one configuration.

    Attributes:
        text: The median PSNR, or what stands in its place.
        under: n, and the 95 % interval.
        note: The same and verdicts, or why the attack does not apply; for the pointer.
        level: 0 to 4, how much of the picture is given away, for its shade.
    """

    text: str
    under: tuple[str, ...]
    note: str
    level: int


class Matrix(msgspec.Struct, frozen=True, kw_only=True):
    """Attacks by column, configurations by row."""

    attacks: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def matrix(found: Sequence[Configuration], attacks: Sequence[Row]) -> Matrix:
    """All attacks that were tried anywhere, in the order in which they ran; refused everywhere: left out."""
    tried = tuple(dict.fromkeys(row["attack"] for row in attacks if row["verdict"] != "refused"))
    by_run: dict[tuple[str, str, str], list[Row]] = {}
    for row in attacks:
        by_run.setdefault((row["run"], row["arm"], row["attack"]), []).append(row)
    return Matrix(
        attacks=tried,
        rows=tuple(
            (
                one.title,
                tuple(_cell([r for run in one.runs for r in by_run.get((run, one.arm, name), [])]) for name in tried),
            )
            for one in found
        ),
    )


def _cell(rows: Sequence[Row]) -> Cell:
    ran = [row for row in rows if row["verdict"] != "refused"]
    if not ran:
        reason = rows[0]["reason"] if rows else "it did not run"
        return Cell(text="·", under=(), note=f"not applicable: {reason}", level=0)
    if all(row["psnr_db"] is None and row["labels_right"] is not None for row in ran):
        right, of = sum(row["labels_right"] for row in ran), sum(row["samples"] for row in ran)
        part = ends(share(right, of).scaled(100.0), "{:.0f}".format)
        under, note = (f"n = {len(ran)}", f"{part} %"), f"labels right in n = {len(ran)} updates, 95 % CI {part} %"
        return Cell(text=f"{right}/{of}", under=under, note=note, level=3 if right == of else 1)
    found = middle(list(best_by_update(ran).values()))
    verdicts = {
        name: sum(row["verdict"] == name for row in ran) for name in ("exact", "recovered", "partial", "failed")
    }
    told = ", ".join(f"{count} {name}" for name, count in verdicts.items() if count)
    lines = [f"n = {found.n}", ends(found)]
    return Cell(
        text=decibel(found.value),
        under=tuple(line for line in lines if line),
        note=f"dB, {interval(found)}; {told}",
        level=_level(found.value),
    )


def _level(value_db: float | None) -> int:
    return 0 if value_db is None else sum(value_db >= bound for bound in (12, 20, 30, 60))


def interval(one: Estimate) -> str:
    """N and the 95 % interval of a figure in dB, in words."""
    if one.low is None and one.high is None:
        return f"n = {one.n}"
    return f"n = {one.n}, 95 % CI {ends(one)}"


def pairs(found: Sequence[Configuration]) -> list[tuple[Configuration, Configuration]]:
    """Each SNN configuration beside its ANN twin, where the sweep ran both."""
    twins = {tuple(one.labels.items()): one for one in found if one.arm == "twin"}
    mains = [one for one in found if one.arm == "main"]
    return [(one, twins[key]) for one in mains if (key := tuple(one.labels.items())) in twins]
