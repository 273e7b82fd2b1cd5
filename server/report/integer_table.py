"""The table of int8 inference: what the final models are like in true integers."""

from __future__ import annotations

from server.report.data import Family, Record, ReportData
from server.report.quantities import MISSING, data_size, percent, weight_grid


class IntegerLine(Record, frozen=True):
    """One network's row.

    Attributes:
        trained: Its accuracy as trained, and on which weights.
        integer: Accuracy of the int8 graph.
        float_size: Size of the ONNX file with float32 weights.
        integer_size: Size of the int8 one, and as a share of it.
        layers: Layers that are computed in integers.
        reason: Why there are no figures; empty where there are.
    """

    title: str
    trained: str
    integer: str
    float_size: str
    integer_size: str
    layers: str
    reason: str


def integer_lines(data: ReportData) -> tuple[IntegerLine, ...]:
    """A row per network, also where it could not be done: the reason stands in it."""
    return tuple(_line(family) for family in data.families)


def _line(family: Family) -> IntegerLine:
    found = family.int8
    task = family.task
    grid = MISSING if task is None or task.model.own is not None else weight_grid(task.model.weight_bits)
    share = None if not (found.bytes and found.float_bytes) else found.bytes / found.float_bytes
    return IntegerLine(
        title=family.title,
        trained=f"{percent(found.fake_quantised_accuracy)} ({grid})",
        integer=percent(found.accuracy),
        float_size=data_size(found.float_bytes),
        integer_size=data_size(found.bytes) + ("" if share is None else f" ({percent(share)})"),
        layers=MISSING if found.layers is None else f"{found.integer_layers} of {found.layers}",
        reason=found.reason,
    )
