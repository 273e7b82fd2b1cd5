"""The global model: its versions in the ledger, a step per aggregated round, its retained copies on the broker."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from contract import frames, topics
from contract.codecs import decode_plain, decode_tensors, encode_tensors
from contract.messages import Model, Update, pack, unpack
from contract.task import RoundPlan
from server import unmasking
from server.aggregation import (
    ALGORITHMS,
    Aggregate,
    Array,
    Contribution,
    Parameters,
    Recipe,
    descend,
    is_moments,
)
from server.held_updates import HeldUpdates, Tensors
from server.ledger import Ledger
from server.vantages import UNSCORED

PUBLISHED_VERSIONS = 3
KEEP_BYTES = 256 * 1024 * 1024
"""Model objects kept in the ledger beyond the published ones and those that unanswered updates still need."""


class Wire(Protocol):
    """What the server needs of a connection; `contract.link.Link` is one."""

    @property
    def frame_bytes(self) -> int:
        """Largest frame that the broker takes now."""
        ...

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Hands a message to the network; `False` when offline."""
        ...


def object_of(parameters: Parameters, version: int, task_hash: str) -> bytes:
    """A model as the object that goes on the wire; the same bytes for the same parameters."""
    records, buffers = encode_tensors("fp32", parameters, np.random.default_rng(0))
    return pack(Model(version=version, task_hash=task_hash, tensors=records), buffers)


def parameters_of(blob: bytes) -> Parameters:
    """The parameters in a model's object."""
    model, views = unpack(blob, Model)
    return {name: np.array(value) for name, value in decode_plain(model.tensors, views).items()}


def contributions(
    ledger: Ledger, held: HeldUpdates, uids: Sequence[str], version: int, recipe: Recipe
) -> Iterator[Contribution]:
    """Admitted updates, one by one in ascending order of uid, decoded from the ledger if they are not held.

    Args:
        ledger: The run's ledger.
        held: Those that were admitted last.
        uids: The updates.
        version: Version of the model that they are to change: what is older of theirs is their staleness.
        recipe: How stale updates count.
    """
    for uid in sorted(uids):
        update, tensors = held.take(uid) or _stored(ledger, uid)
        yield Contribution(
            uid=uid,
            weight=float(update.samples),
            tensors=tensors,
            factor=recipe.factor(version - update.model_version),
        )


def _stored(ledger: Ledger, uid: str) -> tuple[Update, Tensors]:
    row = ledger.row("SELECT object FROM updates WHERE uid = ? AND status = 'admitted'", uid)
    assert row is not None, f"update {uid} was counted as admitted and is not in the ledger"
    update, views = unpack(row["object"], Update)
    return update, decode_tensors(update.tensors, views)


class GlobalModel:
    """The current version and how it moves on; a function of the ledger alone.

    Args:
        ledger: The run's ledger; an empty one gets version 0.
        task_hash: The task.
        initial: Makes the parameters of version 0.
    """

    def __init__(self, ledger: Ledger, task_hash: str, initial: Callable[[], Parameters]) -> None:
        self._ledger, self._task_hash = ledger, task_hash
        row = ledger.row("SELECT * FROM models ORDER BY version DESC LIMIT 1")
        self.velocity: dict[str, Array] | None = None
        self._published: set[int] = set()
        self.held = HeldUpdates()
        if row is None:
            self.version, self.parameters = 0, initial()
            self._store(round_=0)
        else:
            self.version, self.parameters = int(row["version"]), parameters_of(row["object"])
            self.velocity = load_tensors(row["velocity"]) if row["velocity"] is not None else None
            self.sha256 = str(row["sha256"])

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter shapes by name."""
        return {name: tuple(value.shape) for name, value in self.parameters.items()}

    def advance(self, round_: int, plan: RoundPlan, uids: Sequence[str], recipe: Recipe | None = None) -> int:
        """Aggregates updates into the next version and notes which went in, and how; all or nothing.

        Args:
            round_: Their round.
            plan: Its plan.
            uids: The updates, in any order.
            recipe: How they are aggregated; `None`: by their mean.

        Returns:
            The new version.
        """
        recipe = recipe or Recipe()
        if plan.secure is not None:
            aggregate = unmasking.aggregate(self._ledger, round_, uids)
        else:
            aggregate = recipe.aggregator.aggregate(contributions(self._ledger, self.held, uids, self.version, recipe))
        parameters, velocity = self._moved(ALGORITHMS[plan.algorithm].step(aggregate.value, plan), plan, recipe)
        before = self.parameters, self.velocity, self.version, self.sha256
        self.parameters, self.velocity, self.version = parameters, velocity, self.version + 1
        try:
            with self._ledger.transaction():
                self._store(round_, behind=0 if recipe.fedbuff is None else recipe.fedbuff.max_staleness)
                self._note(round_, aggregate, recipe)
        except BaseException:
            self.parameters, self.velocity, self.version, self.sha256 = before
            raise
        return self.version

    def _moved(
        self, step: dict[str, Array], plan: RoundPlan, recipe: Recipe
    ) -> tuple[Parameters, dict[str, Array] | None]:
        if recipe.optimiser is not None:
            return recipe.optimiser.descend(self.parameters, self.velocity, step, plan)
        velocity = None if self.velocity is None or is_moments(self.velocity) else self.velocity
        return descend(self.parameters, velocity, step, plan)

    def _note(self, round_: int, aggregate: Aggregate, recipe: Recipe) -> None:
        """Which updates went into the version that was just stored, and with what weight."""
        for uid, weight in aggregate.weights.items():
            started = self._ledger.value("SELECT model_version FROM updates WHERE uid = ?", uid)
            staleness = self.version - 1 - started
            self._ledger.insert(
                "aggregated",
                {
                    "version": self.version,
                    "round": round_,
                    "uid": uid,
                    "weight": weight,
                    "staleness": staleness,
                    "factor": recipe.factor(staleness),
                },
            )
        if aggregate.note:
            self._ledger.event("warning", f"round {round_}, version {self.version}: {aggregate.note}")

    def _store(self, round_: int, *, behind: int = 0) -> None:
        blob = object_of(self.parameters, self.version, self._task_hash)
        self.sha256 = hashlib.sha256(blob).hexdigest()
        velocity = None if self.velocity is None else save_tensors(self.velocity)
        with self._ledger.transaction():
            self._ledger.insert(
                "models",
                {
                    "version": self.version,
                    "round": round_,
                    "sha256": self.sha256,
                    "bytes": len(blob),
                    "object": blob,
                    "velocity": velocity,
                },
            )
            self._prune(behind)

    def _prune(self, behind: int) -> None:
        """Drops what no one can need any more: old momentum; old objects once they take much room.

        Args:
            behind: Versions by which updates to come may be behind.
        """
        oldest = self.version - PUBLISHED_VERSIONS
        self._ledger.execute("UPDATE models SET velocity = NULL WHERE version <= ? AND velocity IS NOT NULL", oldest)
        held = self._ledger.value("SELECT COALESCE(SUM(bytes), 0) FROM models WHERE object IS NOT NULL")
        if held > KEEP_BYTES:
            self._ledger.execute(
                "UPDATE models SET object = NULL WHERE version <= ? AND object IS NOT NULL "  # noqa: S608 - a literal
                "AND version NOT IN "
                "(SELECT model_version FROM updates WHERE status = 'admitted' AND uid NOT IN "
                f"(SELECT update_uid FROM reconstructions) UNION SELECT model_version {UNSCORED})",
                oldest - behind,
            )

    # --- the broker's retained copies -----------------------------------------------------------------------------

    def publish(self, run: str, wire: Wire, *, anew: bool = False) -> None:
        """Publishes the last versions (retained) and clears older ones.

        Args:
            run: Name of the run.
            wire: The connection.
            anew: Whether what was published on this connection is published again too.
        """
        if anew:
            self._published.clear()
        first = self.version - PUBLISHED_VERSIONS + 1
        for row in self._ledger.rows("SELECT version, chunks FROM retained WHERE version < ?", first):
            self._clear(run, wire, row["version"], 0, row["chunks"])
        for version in range(max(0, first), self.version + 1):
            if version not in self._published:
                self.publish_version(run, wire, version)

    def publish_version(self, run: str, wire: Wire, version: int) -> None:
        """Publishes one version (retained), if the ledger still has it; cleared with the next round's model if old."""
        row = self._ledger.row("SELECT object, sha256 FROM models WHERE version = ?", version)
        if row is None or row["object"] is None:
            return
        parts = list(frames.split(row["object"], row["sha256"][:32], frame_bytes=wire.frame_bytes))
        noted = self._ledger.value("SELECT chunks FROM retained WHERE version = ?", version) or 0
        if len(parts) > noted:  # noted first: what may be on the broker can then always be cleared
            self._ledger.execute("INSERT OR REPLACE INTO retained VALUES (?, ?)", version, len(parts))
        if all(wire.publish(topics.model_chunk(run, version, i), part, retain=True) for i, part in enumerate(parts)):
            self._published.add(version)
            self._clear(run, wire, version, len(parts), noted)

    def _clear(self, run: str, wire: Wire, version: int, first: int, count: int) -> None:
        """Clears the retained chunks from `first` up to `count`; notes it when all are gone."""
        sent = [
            wire.publish(topics.model_chunk(run, version, index), b"", retain=True) for index in range(first, count)
        ]
        if first == 0 and all(sent):
            self._published.discard(version)
            self._ledger.execute("DELETE FROM retained WHERE version = ?", version)
