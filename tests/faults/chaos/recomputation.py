"""The result of a run computed again from what it rests on: the model from the updates, the updates from the devices.

`models` feeds the admitted updates alone, in another order, to a fresh ledger and the product's own aggregation: every
version must come out with the same SHA-256. `updates` lets each device train again, from the published models and its
own seed, with the residual that its history gives: every update must come out with the same SHA-256, and at the end the
residual on disk bit by bit. A residual that ran ahead of its update, or behind it, cannot pass.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from contract.codecs import decode_tensors
from contract.messages import Update, unpack
from contract.pipeline import RETURNED
from contract.task import RoundPlan, task_hash
from edge_client.app import prepare
from edge_client.objects import Workshop, update_blob
from edge_client.residual import ResidualNote, _values
from edge_client.settings import ClientSettings
from edge_client.training import Parameters, local_update, make_receipt
from server.ledger import FILE_NAME, Ledger
from server.model import GlobalModel, parameters_of
from tests.faults.chaos.history import History, UpdateRow, items
from tests.faults.chaos.parties import TASK, graphs


def models(ledger_path: Path) -> Iterator[str]:
    """Versions that do not follow from the admitted updates."""
    shuffle = random.Random(1).shuffle
    with Ledger.open_read(ledger_path) as told, tempfile.TemporaryDirectory() as folder:
        updates = told.rows("SELECT * FROM updates WHERE status = 'admitted'")
        shuffle(updates)
        rounds = told.rows("SELECT * FROM rounds WHERE new_version IS NOT NULL ORDER BY round")
        known = {row["version"]: row["sha256"] for row in told.rows("SELECT version, sha256 FROM models")}
        first = parameters_of(told.value("SELECT object FROM models WHERE version = 0"))
        with Ledger(Path(folder) / FILE_NAME) as fresh, fresh.transaction():
            for row in updates:
                fresh.insert("updates", dict(zip(row.keys(), row, strict=True)))
            model = GlobalModel(fresh, task_hash(TASK), lambda: first)
            for closed in rounds:
                uids = [row["uid"] for row in updates if row["round"] == closed["round"]]
                version = model.advance(closed["round"], msgspec.json.decode(closed["plan"], type=RoundPlan), uids)
                if model.sha256 != known.pop(version, None):
                    yield f"version {version}: the admitted updates give {model.sha256}, the ledger has another"
        known.pop(0)
        if known:
            yield f"versions {sorted(known)} are in the ledger and no closed round made them"


class _Again:
    """One device, training again."""

    def __init__(self, settings: ClientSettings, ledger: Ledger) -> None:
        self._ledger, self._settings = ledger, settings
        shard, engine = prepare(settings, TASK, {graph.name: graph.blob for graph in graphs()})
        assert settings.seed is not None
        self._workshop = Workshop(
            node=settings.node, secret=settings.seed, task=TASK, task_hash=task_hash(TASK), shard=shard, engine=engine
        )
        self._parameters: tuple[int, Parameters] = (-1, {})

    def _model(self, version: int) -> Parameters:
        if self._parameters[0] != version:
            blob = self._ledger.value("SELECT object FROM models WHERE version = ?", version)
            self._parameters = (version, parameters_of(blob))
        return self._parameters[1]

    def plan(self, round_: int) -> RoundPlan:
        """The plan of a round."""
        return msgspec.json.decode(
            self._ledger.value("SELECT plan FROM rounds WHERE round = ? LIMIT 1", round_), type=RoundPlan
        )

    def update(self, row: UpdateRow, residuals: Sequence[Parameters | None]) -> Iterator[tuple[bytes, Parameters]]:
        """The update that each residual would have given, and what it leaves."""
        workshop, plan = self._workshop, self.plan(row.round)
        receipt = make_receipt(
            TASK,
            plan,
            len(workshop.shard.x),
            secret=workshop.secret,
            node=workshop.node,
            round_=row.round,
            uid=row.uid,
        )
        made = local_update(
            workshop.engine,
            self._model(row.model_version),
            task=TASK,
            plan=plan,
            shard=workshop.shard,
            receipt=receipt,
        )
        for residual in residuals:
            blob, left = update_blob(
                workshop, made, plan, epoch=row.epoch, model_version=row.model_version, residual=residual
            )
            assert left is not None, "the plan has error feedback"
            yield blob, left


def updates(history: History, ledger_path: Path, settings: ClientSettings) -> Iterator[str]:
    """Updates and the residual of one device that do not follow from its history."""
    rows = sorted((row for row in history.updates if row.node == settings.node), key=lambda row: (row.round, row.order))
    with Ledger.open_read(ledger_path) as ledger:
        again = _Again(settings, ledger)
        residual: Parameters | None = None
        refused: list[Parameters] = []
        for row in rows:
            choices = list(_returned(residual, refused))
            made = again.update(row, [choice for choice, _ in choices])
            for (_, left), (blob, after) in zip(choices, made, strict=True):
                if _sha256(blob) == row.sha256:
                    residual, refused = after, left
                    break
            else:
                yield (
                    f"{row.uid} of {row.node}, round {row.round} ({row.status} {row.code}), is not what the "
                    f"{len(choices)} histories of its residual give"
                )
                return
            if row.code in RETURNED:
                update, views = unpack(blob, Update)
                refused.append(decode_tensors(update.tensors, views))
    if not any(_equal(choice, held(settings.directory)) for choice, _ in _returned(residual, refused)):
        yield f"{settings.node}: the residual on disk is not what its {len(rows)} updates leave"


def _returned(
    residual: Parameters | None, refused: list[Parameters]
) -> Iterator[tuple[Parameters | None, list[Parameters]]]:
    """The residual after some of the refused updates came back to it, and those that are still out."""
    for count in range(len(refused), -1, -1):
        for chosen in itertools.combinations(range(len(refused)), count):
            total = residual
            for index in chosen:
                assert total is not None, "what was refused left a residual"
                total = {name: value + refused[index][name] for name, value in total.items()}
            yield total, [said for index, said in enumerate(refused) if index not in chosen]


def held(folder: Path) -> Parameters | None:
    """The residual in a device's spool."""
    found = list(items(folder / "residuals").values())
    if not found:
        return None
    (item,) = found
    return {
        name: np.array(value)
        for name, value in _values(item, msgspec.msgpack.decode(item.note, type=ResidualNote)).items()
    }


def _equal(one: Parameters | None, other: Parameters | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def _sha256(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()
