"""Rounds with secure aggregation on the page: what a curious server saw, whom it lost, what masks cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from contract.masking import flat, read_masked
from contract.messages import Aggregate, Update, unpack
from server.ledger import Ledger
from server.report.data import Family, Histogram, Image, Secure
from server.report.images import data_uri
from server.report.quantities import count, data_size, energy, percent
from server.report.svg import MUTED, SERIES, chart
from server.secure_summary import secure

BINS = 64
"""Equal parts of the integers modulo 2^32, of which a uniform value is in each as likely."""
_RING = 2.0**32


def read_secure(ledger: Ledger) -> Secure | None:
    """Reads it; `None` of a run without.

    The update shown is the first by round and device that is part of a sum, audit rounds first: not a choice by result.
    """
    told = secure(ledger)
    if told is None:
        return None
    bytes_up = ledger.value("SELECT COALESCE(SUM(bytes), 0) FROM updates")
    view = ledger.row(
        "SELECT views.object, json_extract(views.parts, '$[0][1]') AS uid FROM views "
        "JOIN rounds USING (round, attempt) WHERE seen = 'aggregate' AND object IS NOT NULL "
        "ORDER BY kind != 'audit', round LIMIT 1"
    )
    if view is None:
        return Secure(told=told, bytes_up=bytes_up)
    update, views = unpack(ledger.value("SELECT object FROM updates WHERE uid = ?", view["uid"]), Update)
    masked = read_masked(update.tensors, views)
    values, first = flat(masked), next(name for name, tensor in masked.items() if tensor.ndim >= 2)
    row, mean_image = _first_row(view["object"], first, ledger)
    noise = np.random.default_rng(update.round).integers(0, 1 << 32, size=len(values), dtype=np.uint32)
    shape = None if mean_image is None else mean_image.shape
    own, control = masked[first].reshape(len(masked[first]), -1)[row], noise[: masked[first][0].size]
    return Secure(
        told=told,
        values=len(values),
        seen=(
            _histogram("masked update", values, None if shape is None else own.reshape(shape)),
            _histogram("random integers", noise, None if shape is None else control.reshape(shape)),
        ),
        of=f"{update.node}, round {update.round}",
        mean_image=mean_image,
        bytes_up=bytes_up,
    )


def _first_row(blob: bytes, name: str, ledger: Ledger) -> tuple[int, Image | None]:
    """The row of the first layer in which most of the mean lies, and that row as an image where it has its shape."""
    head, views = unpack(blob, Aggregate)
    at = [record.name for record in head.tensors].index(name)
    weight = np.frombuffer(views[at], dtype="<f4").reshape(head.tensors[at].shape)
    rows = weight.reshape(len(weight), -1)
    row = int(np.abs(rows).sum(axis=1).argmax())
    shape = ledger.row("SELECT shape FROM truths LIMIT 1")
    sides = () if shape is None else tuple(msgspec.json.decode(shape["shape"]))
    if weight.ndim != 2 or not sides or int(np.prod(sides)) != rows.shape[1]:
        return row, None
    low, high = float(rows[row].min()), float(rows[row].max())
    return row, ((rows[row] - low) / (high - low or 1.0)).astype(np.float32).reshape(sides)


def _histogram(title: str, values: np.ndarray[Any, Any], image: np.ndarray[Any, Any] | None) -> Histogram:
    from scipy.stats import chisquare  # noqa: PLC0415 - takes a second, and few runs have masks

    counts = np.bincount((values >> np.uint32(26)).astype(np.int64), minlength=BINS)
    return Histogram(
        title=title,
        shares=tuple((counts / len(values)).tolist()),
        chi2_p=float(chisquare(counts).pvalue),
        image=None if image is None else (image / _RING).astype(np.float32),
    )


# --- on the page ----------------------------------------------------------------------------------------------------


def histogram_chart(found: Secure, name: str) -> Markup | None:
    """The masked update's values beside the control's; `None` without one."""
    if not found.seen:
        return None

    def draw(figure: Figure, narrow: bool) -> None:  # noqa: FBT001 - the form that svg.Draw has
        shape = (len(found.seen), 1) if narrow else (1, len(found.seen))
        axes = figure.subplots(*shape, squeeze=False, sharey=True).reshape(-1)
        for ax, seen, colour in zip(axes, found.seen, SERIES, strict=False):
            _bars(ax, seen, colour)

    label = "Histograms of a masked update's values and of random integers modulo 2 to the 32"
    return chart(name, label, draw, wide_height=210, narrow_height=360)


def _bars(ax: Axes, seen: Histogram, colour: str) -> None:
    ax.bar((np.arange(BINS) + 0.5) / BINS, seen.shares, width=0.9 / BINS, color=colour)
    ax.axhline(1 / BINS, color=MUTED, linewidth=1.0, linestyle="--")
    ax.set_title(seen.title)
    ax.set_xlabel("value / 2³²")
    ax.set_ylabel("share of values")
    ax.set_xlim(0, 1)


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """One picture of the section."""

    title: str
    uri: str
    note: str


def panels(found: Secure) -> tuple[Panel, ...]:
    """One row of the first layer: masked, the control, and the mean that was opened."""
    if found.mean_image is None:
        return ()
    shown = [
        Panel(title=seen.title, uri=data_uri(seen.image), note=f"χ² test against uniform: p = {seen.chi2_p:.2g}")
        for seen in found.seen
        if seen.image is not None
    ]
    return (*shown, Panel(title="opened mean", uri=data_uri(found.mean_image), note="of all devices in the sum"))


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What the page says of one network's masks."""

    title: str
    sentences: tuple[str, ...]
    chart: Markup | None
    panels: tuple[Panel, ...]
    values: int
    of: str


def parts(families: Sequence[Family]) -> tuple[Part, ...]:
    """One part for each network that was trained or audited under masks."""
    return tuple(
        Part(
            title=family.title,
            sentences=sentences(family.title, family.secure),
            chart=histogram_chart(family.secure, f"masks-{index}"),
            panels=panels(family.secure),
            values=family.secure.values,
            of=family.secure.of,
        )
        for index, family in enumerate(families)
        if family.secure is not None
    )


def sentences(title: str, found: Secure) -> tuple[str, ...]:
    """Dropouts and overhead, in words."""
    told = found.told
    lost = (
        f"{count(told['lost'])} lost after they had dealt shares, their masks taken out"
        if told["lost"]
        else "none lost"
    )
    failed = told["openings_failed"]
    again = f"; openings that came to nothing and were begun anew: {count(failed)}" if failed else ""
    said = (
        f"{title}, rounds that were summed under masks: {count(told['rounds'])}, over {count(told['survivors'])} "
        f"updates of devices that stayed to the end ({lost}){again}."
    )
    overhead = ""
    if told["survivors"]:
        share = told["bytes_messages"] / found.bytes_up if found.bytes_up else None
        overhead = (
            f"Keys, shares and their opening took {data_size(told['bytes_messages'])} up and down, "
            f"{data_size(told['bytes_messages_per_update'])} an update: {percent(share)} of what the updates took "
            "themselves, in which a masked value has four bytes, as fp32 has. What is beyond a plan's ± clip a device "
            "cuts off before it rounds; nobody else sees how much that was."
        )
    return (said, overhead, _joules(told))


def _joules(told: Mapping[str, Any]) -> str:
    known = [row for row in told["energy_j"] if row["energy_j"] is not None]
    unknown = [row for row in told["energy_j"] if row["energy_j"] is None]
    said = [f"{energy(row['energy_j'])} for {row['work']} ({row['provenance']})" for row in known]
    said += [f"for {row['work']} none is known ({row['reason']}; {row['duration_s']:.2g} s)" for row in unknown]
    return f"Joules that masks added, by the devices' account: {'; '.join(said)}." if said else ""
