"""Pictures from the ledger: true samples beside what the attacks made of them; only the chosen images are read."""

from __future__ import annotations

import json

import numpy as np

from server.ledger import Ledger
from server.report.data import Candidate, Image, Picture, ScoreRow

PICTURES = 4
"""Updates of which the report shows pictures."""


def read_pictures(ledger: Ledger, scores: tuple[ScoreRow, ...]) -> tuple[Picture, ...]:
    """Truth and reconstructions of the first scored updates of each device, audit rounds first.

    Args:
        ledger: Open for reading.
        scores: All scores of the run.
    """
    scored: dict[str, list[ScoreRow]] = {}
    for row in scores:
        scored.setdefault(row.update, []).append(row)
    truths = {row["update_uid"] for row in ledger.rows("SELECT DISTINCT update_uid FROM truths")}
    candidates = [rows for update, rows in scored.items() if update in truths]
    return tuple(picture_of(ledger, rows) for rows in first_by_device(candidates))


def first_by_device(updates: list[list[ScoreRow]], most: int = PICTURES) -> list[list[ScoreRow]]:
    """At most so many updates, chosen by kind, round and device alone: every device once before any comes twice.

    Args:
        updates: The scores of each update.
        most: How many.
    """
    ordered = sorted(updates, key=lambda rows: (rows[0].kind != "audit", rows[0].round, rows[0].node))
    turn: dict[str, int] = {}
    ranked = []
    for place, rows in enumerate(ordered):
        node = rows[0].node
        turn[node] = turn.get(node, -1) + 1
        ranked.append((turn[node], place))
    return [ordered[place] for _, place in sorted(ranked)[:most]]


def picture_of(ledger: Ledger, rows: list[ScoreRow]) -> Picture:
    """One update with its truth: the sample that came out best, and all attacks on it.

    Args:
        ledger: Open for reading.
        rows: The update's scores.
    """
    named = [row.score for row in rows if row.score.sample >= 0]
    best = max(named, key=lambda score: score.psnr_db or 0.0, default=None)
    update, sample = rows[0].update, 0 if best is None else best.sample
    truth = ledger.row("SELECT * FROM truths WHERE update_uid = ? ORDER BY sample != ?, sample LIMIT 1", update, sample)
    assert truth is not None, "the caller chose updates with a truth"
    return Picture(
        update=update,
        node=rows[0].node,
        round=rows[0].round,
        kind=rows[0].kind,
        sample=truth["sample"],
        truth=_array(truth["image"], json.loads(truth["shape"])),
        label=truth["label"],
        candidates=tuple(
            Candidate(score=row.score, image=_reconstruction(ledger, row, truth["sample"])) for row in rows
        ),
    )


def _reconstruction(ledger: Ledger, row: ScoreRow, sample: int) -> Image | None:
    score = row.score
    found = ledger.row(
        "SELECT shape, images, kept FROM reconstructions WHERE update_uid = ? AND attack = ? AND seen = ?",
        row.update,
        score.attack,
        row.seen,
    )
    if found is None or found["images"] is None or score.sample != sample or not 0 <= score.candidate < found["kept"]:
        return None
    shape = [found["kept"], *json.loads(found["shape"])[1:]]
    images: Image = _array(found["images"], shape)
    return images[score.candidate : score.candidate + 1].reshape(shape[1:])


def _array(blob: bytes, shape: list[int]) -> Image:
    return np.frombuffer(blob, dtype="<f4").reshape(shape)
