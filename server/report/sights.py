"""What was attacked, and from where: a curious server takes the better of all that it sees of an update."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from typing import get_args

from contract.messages import Seen, Verdict
from server.report.data import ScoreRow
from server.vantages import FELLOW

_RANK = {verdict: -rank for rank, verdict in enumerate(get_args(Verdict))}


def of_server(rows: Iterable[ScoreRow], half_seen: Container[str] = ()) -> list[ScoreRow]:
    """One row for each update and attack: under secure aggregation the better one of masked update and sum.

    A fellow client's are left out. So a trial stays an update, and the worst case is over all that the server sees.

    Args:
        rows: Scores of all that was attacked.
        half_seen: Updates whose sum was opened and never scored: no trials, like those that nobody attacked at all.
    """
    best: dict[tuple[str, str], ScoreRow] = {}
    for row in rows:
        if row.seen not in FELLOW and row.update not in half_seen:
            key = (row.update, row.score.attack)
            held = best.get(key)
            best[key] = row if held is None or _success(row) > _success(held) else held
    return list(best.values())


def of_kind(rows: Iterable[ScoreRow], seen: Seen) -> list[ScoreRow]:
    """The rows of one kind of sight."""
    return [row for row in rows if row.seen == seen]


def kinds(rows: Sequence[ScoreRow]) -> tuple[Seen, ...]:
    """What was attacked at all, in the order of `Seen`."""
    there = {row.seen for row in rows}
    return tuple(seen for seen in get_args(Seen) if seen in there)


def _success(row: ScoreRow) -> tuple[float, ...]:
    """How much an attack got, image first."""
    score = row.score
    figures = (score.psnr_db, score.frames_exact, score.labels_right, score.membership_auc)
    return (*(-math.inf if figure is None else float(figure) for figure in figures), _RANK[score.verdict])
