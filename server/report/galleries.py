"""Truth beside reconstructions, as the template prints them."""

from __future__ import annotations

import msgspec

from contract.messages import AttackScore
from server.report.data import Candidate, Picture, ReportData
from server.report.images import data_uri
from server.report.quantities import MISSING, decibel
from server.report.trials import attack_names


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """One picture: a truth or a reconstruction; `uri` is empty when there is no image."""

    title: str
    uri: str
    figure: str
    verdict: str
    note: str = ""


class PictureRow(msgspec.Struct, frozen=True, kw_only=True):
    """One true sample and all attacks that ran on its update; those that give labels only stand in `notes`."""

    title: str
    detail: str
    notes: tuple[str, ...]
    truth: Panel
    candidates: tuple[Panel, ...]


class Gallery(msgspec.Struct, frozen=True, kw_only=True):
    """Pictures of one network."""

    title: str
    rows: tuple[PictureRow, ...]


def galleries(data: ReportData) -> tuple[Gallery, ...]:
    """Truth beside reconstructions, as the ledger gave them."""
    order = attack_names(data.families)
    return tuple(Gallery(title=f.title, rows=tuple(_picture_row(p, order) for p in f.pictures)) for f in data.families)


def _picture_row(picture: Picture, order: tuple[str, ...]) -> PictureRow:
    def place(candidate: Candidate) -> int:
        return order.index(candidate.score.attack) if candidate.score.attack in order else len(order)

    ran = sorted((c for c in picture.candidates if c.score.verdict != "refused"), key=place)
    label = "" if picture.label is None else f"label {picture.label}"
    return PictureRow(
        title=picture.node,
        detail=f"round {picture.round}, update {picture.update[:8]}",
        truth=Panel(title="truth", uri=data_uri(picture.truth), figure=label, verdict=""),
        notes=tuple(f"{c.score.attack}: {_figure(c.score)}" for c in ran if _labels_only(c.score)),
        candidates=tuple(_panel(c) for c in ran if not _labels_only(c.score)),
    )


def _panel(candidate: Candidate) -> Panel:
    score = candidate.score
    return Panel(
        title=score.attack,
        uri="" if candidate.image is None else data_uri(candidate.image),
        figure=_figure(score),
        verdict=score.verdict,
        note=_no_image(score) if candidate.image is None else "",
    )


def _figure(score: AttackScore) -> str:
    if score.psnr_db is not None:
        return f"{decibel(score.psnr_db)} dB"
    return MISSING if score.labels_right is None else _labels(score.labels_right)


def _labels_only(score: AttackScore) -> bool:
    return score.psnr_db is None and score.labels_right is not None and score.verdict != "failed"


def _labels(right: int) -> str:
    return {0: "no label right", 1: "label right"}.get(right, f"{right} labels right")


def _no_image(score: AttackScore) -> str:
    return "no image" if score.psnr_db is None else "image not kept"
