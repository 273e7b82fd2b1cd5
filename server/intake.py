"""What comes from devices and from the attacker: whole objects are journaled, then acknowledged, then acted upon."""

from __future__ import annotations

import logging
import math
import sqlite3
import time
from collections.abc import Callable

from contract import frames, messages, topics
from contract.errors import WireError
from contract.messages import MAX_IMAGES_BYTES, MAX_REPORT_BYTES, Ack, EnergyReport, Reconstruction, Score, Truth
from contract.topics import Topic
from server import journal, vantages
from server.admission import Admission, Expected, Refusal, examine
from server.held_updates import HeldUpdates
from server.inbox import Delivery, Inbox, OversizeError
from server.ledger import Ledger
from server.mirror import Mirror
from server.model import Wire
from server.privacy import columns
from server.settings import ServerSettings

log = logging.getLogger(__name__)

_ACK_EVERY_S = 0.5
_MAX_BYTES = {"score": MAX_REPORT_BYTES, "truth": MAX_IMAGES_BYTES, "recon": MAX_IMAGES_BYTES}
_MOST_ACKED = 4096

Reported = EnergyReport | Score | Truth
Admitted = Callable[[str, str, int], None]
"""Called with node, uid and round of each update once it is in the ledger."""


class Intake:
    """Takes frames on `up/`, `score/`, `truth/` and `recon/`.

    Args:
        settings: The server's settings.
        ledger: Where everything goes before it is acknowledged.
        wire: The connection.
        expected: What an update is held against at the moment of asking.
        admitted: See `Admitted`.
        held: Where what was decoded waits for its aggregation.
        max_update_bytes: Largest update taken.
    """

    def __init__(
        self,
        settings: ServerSettings,
        ledger: Ledger,
        wire: Wire,
        *,
        expected: Callable[[], Expected],
        admitted: Admitted,
        held: HeldUpdates,
        max_update_bytes: int,
    ) -> None:
        self._settings, self._run = settings, settings.run
        self._ledger, self._wire = ledger, wire
        self._expected, self._admitted, self._held = expected, admitted, held
        self._inbox = Inbox({"up": max_update_bytes, **_MAX_BYTES})
        self.mirror = Mirror(settings.run, wire.publish, first=settings.mirror == "first")
        self._acked: dict[str, float] = {}
        self.news = 0
        self.frames_bad = 0
        self._objects: dict[str, Callable[[Delivery], None]] = {
            "up": self._take_update,
            "score": self._take_report,
            "truth": self._take_report,
            "recon": self._take_reconstruction,
        }

    # --- frames -------------------------------------------------------------------------------------------------

    def frame(self, topic: Topic, payload: bytes, at_s: float) -> None:
        """Takes one frame; whatever it holds, nothing is raised but a fault of the ledger."""
        if topic.kind == "claim":
            self._claimed(topic, at_s)
        elif topic.kind == "working" and self._seen(topic) is not None:
            self.news += 1
        if topic.kind not in self._objects:
            return
        try:
            frame = frames.parse(payload)
            if topic.kind != "recon" and self._known(topic, frame, at_s):
                return
            delivery = self._inbox.add(topic, frame, at_s)
        except OversizeError as error:
            self._refuse_oversize(topic, error)
        except WireError as error:
            self.frames_bad += 1
            log.warning("frame on %s/%s refused: %s", topic.kind, topic.node, error)
        else:
            if delivery is not None:
                self._objects[topic.kind](delivery)

    def ask_missing(self, at_s: float) -> None:
        """Asks devices for the chunks of objects that have stalled."""
        for node, uid, missing in self._inbox.stalled(at_s):
            log.info("%s: chunks %s of %s are missing, asked again", node, _brief(missing), uid[:8])
            self._ack(node, Ack(uid=uid, status="missing", missing=missing))

    def _known(self, topic: Topic, frame: frames.Frame, at_s: float) -> bool:
        """Whether the frame belongs to an object with a verdict; repeats the verdict, at most every half second."""
        table = "updates" if topic.kind == "up" else "objects"
        row = self._ledger.row(f"SELECT * FROM {table} WHERE uid = ?", frame.uid)  # noqa: S608 - two literals
        if row is None:
            return False
        self._inbox.forget(topic, frame.uid)
        if row["node"] != topic.node:
            self._ack(topic.node, Ack(uid=frame.uid, status="refused", reason="node: this uid is another device's"))
            return True
        if frame.index == 0:
            self._ledger.execute(f"UPDATE {table} SET redelivered = redelivered + 1 WHERE uid = ?", frame.uid)  # noqa: S608
        if self._pause_is_over(frame.uid, at_s):
            refused = topic.kind == "up" and row["status"] == "refused"
            reason = f"{row['code']}: {row['reason']}" if refused else ""
            self._ack(topic.node, Ack(uid=frame.uid, status="refused" if refused else "admitted", reason=reason))
        return True

    def _pause_is_over(self, name: str, at_s: float) -> bool:
        """Whether something was last said of a name long enough ago; if so, that is noted as now."""
        if at_s - self._acked.get(name, -math.inf) < _ACK_EVERY_S:
            return False
        if len(self._acked) >= _MOST_ACKED:
            self._acked = {known: then for known, then in self._acked.items() if at_s - then < _ACK_EVERY_S}
        self._acked[name] = at_s
        return True

    def _refuse_oversize(self, topic: Topic, error: OversizeError) -> None:
        if topic.kind == "up":
            refusal = Refusal("size", str(error))
            self._journal_refused(topic, topic.uid, refusal, error.total, error.sha256)
        if topic.kind != "recon":
            self._ack(topic.node, Ack(uid=error.uid, status="refused", reason=f"size: {error}"))

    def _ack(self, node: str, ack: Ack) -> None:
        self._wire.publish(topics.ack(self._run, node), messages.encode(ack))

    # --- updates ------------------------------------------------------------------------------------------------

    def _take_update(self, delivery: Delivery) -> None:
        topic = delivery.topic
        verdict = examine(topic, delivery.blob, self._expected())
        if isinstance(verdict, Refusal):
            self._journal_refused(topic, delivery.uid, verdict, len(delivery.blob), delivery.sha256)
            log.warning("%s: update %s refused: %s", topic.node, delivery.uid[:8], verdict.reason)
            self._ack(topic.node, Ack(uid=delivery.uid, status="refused", reason=verdict.reason[:1000]))
            return
        self._journal_admitted(delivery, verdict)
        if verdict.tensors is not None and verdict.update.plan.applied:
            self._held.put(verdict.update, verdict.tensors)
        anew = verdict.update.plan.mode == "asynchronous"
        if anew:  # its device begins again when it is acknowledged: the model that it made is to be there by then
            self._admitted(topic.node, delivery.uid, topic.round)
        self._ack(topic.node, Ack(uid=delivery.uid, status="admitted"))
        self.send_mirror(topic.node, topic.round, delivery.uid, delivery.blob)
        if not anew:
            self._admitted(topic.node, delivery.uid, topic.round)

    def _journal_admitted(self, delivery: Delivery, verdict: Admission) -> None:
        update = verdict.update
        with self._ledger.transaction():
            self._ledger.insert(
                "updates",
                {
                    **_identity(delivery.topic, delivery.uid, len(delivery.blob), delivery.sha256),
                    "epoch": update.epoch,
                    "model_version": update.model_version,
                    "status": "admitted",
                    "code": "",
                    "reason": "",
                    "samples": update.samples,
                    "loss": update.loss,
                    "norm": verdict.norm,
                    "object": delivery.blob,
                    "sequence": self._ledger.value("SELECT COALESCE(MAX(sequence), 0) + 1 FROM updates"),
                    **columns(self._ledger, delivery.topic.node, update.plan, self._settings.privacy.delta),
                },
            )
        self.news += 1

    def _journal_refused(self, topic: Topic, uid: str, refusal: Refusal, nbytes: int, sha256: str) -> None:
        update = refusal.update
        with self._ledger.transaction():
            self._ledger.insert(
                "updates",
                {
                    **_identity(topic, uid, nbytes, sha256),
                    "epoch": None if update is None else update.epoch,
                    "model_version": None if update is None else update.model_version,
                    "status": "refused",
                    "code": refusal.code,
                    "reason": refusal.text[:1000],
                    "samples": None if update is None else update.samples,
                    "loss": update.loss if update is not None and math.isfinite(update.loss or 0.0) else None,
                    **columns(
                        self._ledger,
                        topic.node,
                        None if update is None else update.plan,
                        self._settings.privacy.delta,
                    ),
                },
                or_ignore=True,
            )

    def send_mirror(self, node: str, round_: int, uid: str, blob: bytes) -> None:
        """Mirrors one admitted object, and counts it when all of it was handed over."""
        if self._settings.attacked and self.mirror.send(node, round_, uid, blob, self._wire.frame_bytes):
            self._ledger.execute("UPDATE updates SET mirrored = mirrored + 1 WHERE uid = ?", uid)

    def send_views(self, which: str) -> int:
        """Mirrors what is seen of several devices together and fulfils a condition; how many there are."""
        sql = f"SELECT uid, seen, round, object FROM views WHERE object IS NOT NULL AND {which} ORDER BY round, uid"  # noqa: S608
        rows = self._ledger.rows(sql) if self._settings.attacked else []
        for row in rows:
            if self.mirror.send(row["seen"], row["round"], row["uid"], row["object"], self._wire.frame_bytes):
                self._ledger.execute("UPDATE views SET mirrored = mirrored + 1 WHERE uid = ?", row["uid"])
        return len(rows)

    def _claimed(self, topic: Topic, at_s: float) -> None:
        """A worker has the first chunk of an admitted update: it gets the others, at most every half second."""
        row = self._seen(topic)
        if row is None:
            log.warning("claim of update %s of %s ignored: it is not in the ledger", topic.uid, topic.node)
        elif self._pause_is_over(f"claim {topic.uid}", at_s):
            self.mirror.rest(topic.node, topic.round, topic.uid, row["object"], self._wire.frame_bytes)

    def _seen(self, topic: Topic) -> sqlite3.Row | None:
        """The object that an attacker names: an admitted update, or what is seen of several devices together."""
        return self._ledger.row(
            "SELECT object FROM updates WHERE uid = ?1 AND node = ?2 AND round = ?3 AND status = 'admitted' UNION ALL "
            "SELECT object FROM views WHERE uid = ?1 AND seen = ?2 AND round = ?3 AND object IS NOT NULL",
            topic.uid,
            topic.node,
            topic.round,
        )

    # --- reports of devices ---------------------------------------------------------------------------------------

    def _take_report(self, delivery: Delivery) -> None:
        topic = delivery.topic
        try:
            report, views = _unpack_report(topic.kind, delivery.blob)
            self._check_report(topic, delivery.uid, report)
            journal.write_report(self._ledger, report, views, nbytes=len(delivery.blob))
        except WireError as error:
            log.warning("%s: object on %s refused: %s", topic.node, topic.kind, error)
            self._ack(topic.node, Ack(uid=delivery.uid, status="refused", reason=f"schema: {error}"[:1000]))
            return
        self.news += 1
        self._ack(topic.node, Ack(uid=delivery.uid, status="admitted"))

    def _check_report(self, topic: Topic, uid: str, report: Reported) -> None:
        said = (report.node, report.uid, report.round)
        if said != (topic.node, uid, topic.round):
            raise WireError(f"object says node, uid, round {said}; its topic {topic.node}, {uid}, {topic.round}")
        owner = self._ledger.value("SELECT node FROM updates WHERE uid = ?", report.update_uid)
        if owner is None and not isinstance(report, EnergyReport):
            raise WireError(f"update {report.update_uid} is not in the ledger")
        if owner not in {None, report.node}:
            raise WireError(f"update {report.update_uid} is another device's")
        if isinstance(report, Score) and not vantages.holds(self._ledger, report.update_uid, report.seen):
            raise WireError(f"update {report.update_uid} is part of no {report.seen} that was mirrored")

    # --- the attacker's answers -----------------------------------------------------------------------------------

    def _take_reconstruction(self, delivery: Delivery) -> None:
        try:
            recon, views = messages.unpack(delivery.blob, Reconstruction)
            journal.write_reconstruction(self._ledger, recon, views, keep=self._settings.keep_images)
        except WireError as error:
            log.warning("reconstruction for %s not stored: %s", delivery.topic.node, error)
            return
        self.news += 1


_TYPES: dict[str, tuple[type[Reported], ...]] = {"score": (EnergyReport, Score), "truth": (Truth,)}


def _unpack_report(kind: str, blob: bytes) -> tuple[Reported, tuple[memoryview, ...]]:
    fault = WireError("empty")
    for expected in _TYPES[kind]:
        try:
            return messages.unpack(blob, expected)
        except WireError as error:
            fault = error
    raise fault


def _identity(topic: Topic, uid: str, nbytes: int, sha256: str) -> dict[str, object]:
    return {
        "uid": uid,
        "node": topic.node,
        "round": topic.round,
        "bytes": nbytes,
        "sha256": sha256,
        "received_wall": time.time(),
    }


def _brief(indices: tuple[int, ...]) -> str:
    return str(list(indices)) if len(indices) <= 8 else f"{list(indices[:8])} and {len(indices) - 8} more"
