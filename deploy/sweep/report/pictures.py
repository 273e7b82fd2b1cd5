"""The worst case of each configuration as a picture: truth beside reconstruction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from deploy.sweep.report.configurations import Configuration, Row
from server.ledger import FILE_NAME, Ledger
from server.report.data import ScoreRow
from server.report.images import data_uri
from server.report.ledger_pictures import picture_of
from server.summary import read_scores


class WorstPicture(msgspec.Struct, frozen=True, kw_only=True):
    """The update of a configuration that an attack reconstructed best.

    Attributes:
        truth: Address of the true sample; empty when devices kept it, or where the run's folder is gone.
        reconstruction: Address of the reconstruction; empty without an image.
        attack: Which attack.
        psnr_db: How near it comes.
    """

    truth: str
    reconstruction: str
    attack: str
    psnr_db: float


def worst_picture(one: Configuration, attacks: Sequence[Row], folder: Path) -> WorstPicture | None:
    """Looks it up in the run's ledger; `None` when no attack gave an image.

    Args:
        one: The configuration.
        attacks: Rows of ``attacks.parquet``.
        folder: Where the runs' folders lie.
    """
    ours = [r for r in attacks if r["run"] in one.runs and r["arm"] == one.arm and r["psnr_db"] is not None]
    if not ours:
        return None
    best = max(ours, key=lambda row: row["psnr_db"])
    path = folder / best["run"] / ("twin" if one.arm == "twin" else "") / FILE_NAME
    truth, image = "", ""
    if not path.exists():
        return WorstPicture(truth="", reconstruction="", attack=best["attack"], psnr_db=best["psnr_db"])
    with Ledger.open_read(path) as ledger:
        scores: list[ScoreRow] = [row for row in read_scores(ledger) if row.update == best["update"]]
        if ledger.value("SELECT COUNT(*) FROM truths WHERE update_uid = ?", best["update"]):
            found = picture_of(ledger, scores)
            truth = data_uri(found.truth)
            images = [c.image for c in found.candidates if c.score.attack == best["attack"]]
            image = "" if not images or images[0] is None else data_uri(images[0])
    return WorstPicture(truth=truth, reconstruction=image, attack=best["attack"], psnr_db=best["psnr_db"])
