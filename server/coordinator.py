"""The server's mind without its body: messages and ticks in, messages out through a `Wire`. No socket, no clock.

It carries out what the round machine (`server.rounds`) decides, and keeps the retained topics true.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec

from contract import messages, topics
from contract.errors import WireError
from contract.messages import NodeState
from contract.task import RoundPlan, task_hash
from server import journal
from server.admission import Expected
from server.buffered_rounds import overdue, resting
from server.drain import Drain
from server.exchange_desk import ExchangeDesk
from server.herald import Herald
from server.intake import Intake
from server.ledger import Ledger
from server.model import PUBLISHED_VERSIONS, GlobalModel, Wire
from server.publication import PublishedGraphs
from server.resumption import course_of, resume
from server.rounds import (
    Action,
    Admitted,
    CloseRound,
    EmptyRound,
    Event,
    Fail,
    Finish,
    Invite,
    MakeVersion,
    Offline,
    Online,
    OpenRound,
    Relay,
    Spoke,
    Tick,
    Unmask,
    Unmasked,
    advance,
)
from server.settings import ScheduleEntry, ServerSettings
from server.sights import Round, show_models, show_sum
from server.vantages import UNSCORED

log = logging.getLogger(__name__)

_ADMITTED = "SELECT COUNT(*) FROM updates WHERE status = 'admitted' AND round = ?"
MAX_DEVICES = 4096
"""Names that a run takes births of: whoever may publish as any device cannot fill the server's memory with them."""


class Coordinator:
    """One life of the server.

    Args:
        settings: The run.
        ledger: Its ledger, claimed for these settings.
        model: The current model.
        wire: The connection.
        epoch: This life's number.
        at_s: Now, on the monotonic clock; as in all methods.
    """

    def __init__(
        self, settings: ServerSettings, ledger: Ledger, model: GlobalModel, wire: Wire, *, epoch: int, at_s: float
    ) -> None:
        self.settings, self.ledger, self.model = settings, ledger, model
        self._epoch, self._now_s = epoch, at_s
        self._hash = task_hash(settings.task)
        self._course = course_of(settings)
        self.state = resume(ledger, self._course, epoch=epoch, model_version=model.version, at_s=at_s)
        self._births: dict[str, int] = {
            row["node"]: row["epoch"]
            for row in ledger.rows("SELECT node, MAX(epoch) AS epoch FROM nodes GROUP BY node")
        }
        largest = 2 * sum(value.nbytes for value in model.parameters.values()) + (1 << 20)
        self.intake = Intake(
            settings,
            ledger,
            wire,
            expected=self._expected,
            admitted=self._on_admitted,
            held=model.held,
            max_update_bytes=largest,
        )
        secure = any(entry.secure is not None for entry in settings.schedule)
        self._exchange = ExchangeDesk(ledger, wire, settings.run, self._hash, needed=secure)
        self.drain: Drain | None = None
        self.failure = ""
        self._opened_s = at_s
        graphs = PublishedGraphs(ledger, wanted=settings.export)
        self.herald = Herald(settings, self._course, model, graphs, wire, epoch=epoch)
        self._remirror = bool(ledger.row("SELECT 1 FROM updates WHERE status = 'admitted' LIMIT 1"))
        if overdue(self._course, self.state):
            self._step(Tick(at_s))

    # --- events -------------------------------------------------------------------------------------------------

    def message(self, topic_text: str, payload: bytes, at_s: float) -> None:
        """Takes one MQTT message; nothing that it holds can raise."""
        self._now_s = at_s
        try:
            topic = topics.parse(topic_text)
            if topic.kind == "node":
                self._node_state(topic, payload, at_s)
            elif topic.kind == "secure":
                self._secure(topic, payload, at_s)
            elif topic.node in self._births:
                self.intake.frame(topic, payload, at_s)
            else:  # its sender keeps the object and sends it again
                log.info("%s on %s ignored: no birth of that device is known yet", topic.node, topic.kind)
        except WireError as error:
            self.intake.frames_bad += 1
            log.warning("message on %s ignored: %s", topic_text, error)

    def _node_state(self, topic: topics.Topic, payload: bytes, at_s: float) -> None:
        if not payload:
            return
        state = messages.decode(payload, NodeState)
        if state.node != topic.node:
            raise WireError(f"device {state.node!r} speaks on the topic of {topic.node!r}")
        if state.node not in self._births and len(self._births) >= MAX_DEVICES:
            raise WireError(f"birth of {state.node!r} refused: {MAX_DEVICES} devices are known, a run takes no more")
        known = self._births.get(state.node, 0)
        if state.epoch < known:
            log.info("%s: %s of life %d ignored, it lives its %d.", state.node, state.status, state.epoch, known)
            return
        journal.write_node(self.ledger, state)
        self._births[state.node] = state.epoch
        present = state.node in self.state.online
        if state.status == "online" and not present:
            log.info("%s is online (%d of %d)", state.node, len(self.state.online) + 1, self.settings.clients)
            self._step(Online(at_s, state.node))
        elif state.status == "offline" and present:
            log.warning("%s is offline", state.node)
            self._step(Offline(at_s, state.node))

    def _secure(self, topic: topics.Topic, payload: bytes, at_s: float) -> None:
        said = self._exchange.hear(topic, payload, self.state, self._births)
        if said is not None:
            self._step(Spoke(at_s, said))

    def tick(self, at_s: float) -> None:
        """Time has passed."""
        self._now_s = at_s
        self._exchange.tick(self.state, at_s)
        self.intake.ask_missing(at_s)
        self._step(Tick(at_s))
        if self.drain is not None and self.drain.tick(at_s, self.intake.news):
            self.mirror_again()

    def up(self, at_s: float) -> None:
        """The connection stands (again): everything retained is published anew, a broker may have lost it."""
        self._now_s = at_s
        self.herald.everything(self.state)
        if not self._remirror:  # otherwise all that lack an answer follow once the devices are back
            self._mirror_rows("mirrored = 0")
            self.intake.send_views("mirrored = 0")

    def mirror_again(self) -> None:
        """Mirrors the updates that were not scored, each after the model that it starts from.

        Either nobody has reconstructed them, or their device was away when the reconstruction came; the attacker then
        sends the answer that it has.
        """
        count = self._mirror_rows("uid NOT IN (SELECT update_uid FROM objects WHERE kind = 'score')", with_models=True)
        for row in self.ledger.rows(f"SELECT DISTINCT model_version {UNSCORED}"):
            self.herald.model_again(row["model_version"])
        count += self.intake.send_views(f"uid IN (SELECT uid {UNSCORED})")
        if count:
            log.info("mirrored %d updates and views again that were not scored", count)

    def _mirror_rows(self, which: str, *, with_models: bool = False) -> int:
        """Mirrors the admitted updates that a condition names; how many there are."""
        rows = self.ledger.rows(
            f"SELECT uid, node, round, model_version FROM updates WHERE status = 'admitted' AND {which} "  # noqa: S608
            "ORDER BY round, uid"
        )
        version = None
        for row in rows:
            if with_models and row["model_version"] != version:
                version = row["model_version"]
                self.herald.model_again(version)
            blob = self.ledger.value("SELECT object FROM updates WHERE uid = ?", row["uid"])
            self.intake.send_mirror(row["node"], row["round"], row["uid"], blob)
        return len(rows)

    # --- what admission and the machine see -------------------------------------------------------------------------

    def _expected(self) -> Expected:
        state = self.state
        takes, exchange = state.takes_updates, state.exchange
        fedbuff = self._course.fedbuff(state.round)
        return Expected(
            task_hash=self._hash,
            shapes=self.model.shapes,
            settings=self.settings.admission,
            round=state.round if takes or exchange is not None else state.round - 1,
            open=takes,
            plan=self._plan,
            model_version=self.model.version,
            invited=state.invited,
            births=self._births,
            delivered=resting(fedbuff, state) if fedbuff else frozenset(node for node, _ in state.delivered),
            max_staleness=0 if fedbuff is None else fedbuff.max_staleness,
            attempt=0 if exchange is None else state.attempt,
            members=frozenset() if exchange is None else exchange.members,
        )

    @property
    def _plan(self) -> RoundPlan:
        return self._course.entry(min(self.state.round, self.settings.rounds)).plan

    def _on_admitted(self, node: str, uid: str, round_: int) -> None:
        self._step(Admitted(self._now_s, node, uid, round_))
        started = self.ledger.value("SELECT model_version FROM updates WHERE uid = ?", uid)
        if self.model.version - started >= PUBLISHED_VERSIONS:  # the attacker may not hold what it started from
            self.herald.model_again(started)

    def _step(self, event: Event) -> None:
        self.state, actions = advance(self._course, self.state, event)
        for action in actions:
            self._perform(action)
        self.herald.announce(self.state)

    def _perform(self, action: Action) -> None:
        _HANDLERS[type(action)](self, action)

    # --- actions --------------------------------------------------------------------------------------------------

    def _open(self, action: OpenRound) -> None:
        entry = self._course.entry(action.round)
        with self.ledger.transaction():
            self.ledger.insert(
                "rounds",
                {
                    "round": action.round,
                    "attempt": action.attempt,
                    "epoch": self._epoch,
                    "kind": entry.kind,
                    "algorithm": entry.algorithm,
                    "plan": msgspec.json.encode(entry.plan).decode(),
                    "model_version": self.model.version,
                    "invited": msgspec.json.encode(action.invited).decode(),
                    "selected": msgspec.json.encode(action.selected).decode(),
                    "needed": action.needed,
                    "deadline_s": entry.deadline_s,
                    "opened_wall": time.time(),
                },
            )
        self._opened_s = self._now_s
        log.info("round %d of %d open (%s)", action.round, self.settings.rounds, ", ".join(action.selected) or "nobody")
        self._mirror_after_restart()

    def _mirror_after_restart(self) -> None:
        if self._remirror:
            self._remirror = False
            self.mirror_again()

    def _invite(self, action: Invite) -> None:
        with self.ledger.transaction():
            self.ledger.execute(
                "UPDATE rounds SET invited = ?, selected = ? WHERE round = ? AND attempt = ?",
                msgspec.json.encode(action.invited).decode(),
                msgspec.json.encode(action.selected).decode(),
                action.round,
                action.attempt,
            )

    def _relay(self, action: Relay) -> None:
        self._exchange.relay(action, self.state, self._now_s)

    def _unmask(self, action: Unmask) -> None:
        secure, exchange = self._course.secure(action.round), self.state.exchange
        assert secure is not None
        assert exchange is not None
        fault = self._exchange.unmask(action, secure, exchange.threshold)
        self._step(Unmasked(self._now_s, fault))

    def _make_version(self, action: MakeVersion) -> None:
        entry = self._course.entry(action.round)
        version = self.model.advance(action.round, entry.plan, action.uids, entry.recipe)
        log.info("round %d: version %d out of %d updates", action.round, version, len(action.uids))
        self.herald.new_model()

    def _close(self, action: CloseRound) -> None:
        entry = self._course.entry(action.round)
        with self.ledger.transaction():
            version = self._version_of(action, entry)
            self.ledger.execute(
                "UPDATE rounds SET closed = ?, duration_s = ?, admitted = ?, new_version = ? "
                "WHERE round = ? AND attempt = ?",
                action.reason,
                self._now_s - self._opened_s,
                self.ledger.value(_ADMITTED, action.round) if entry.fedbuff else len(action.uids),
                version,
                action.round,
                action.attempt,
            )
            if action.missing:
                text = f"round {action.round} closed without {', '.join(action.missing)}"
                self.ledger.event("warning", text)
                log.warning("%s (%s)", text, action.reason)
            self._look(action, entry, version)
        if version is not None:
            self.herald.new_model()
        self.intake.send_views("mirrored = 0")

    def _look(self, action: CloseRound, entry: ScheduleEntry, version: int | None) -> None:
        """Notes what the closing of a round shows to those who see more than single updates."""
        if not self.settings.attacked or not action.uids:
            return
        started = self.ledger.value(
            "SELECT model_version FROM rounds WHERE round = ? AND attempt = ?", action.round, action.attempt
        )
        closing = Round(
            round=action.round,
            attempt=action.attempt,
            plan=entry.plan,
            task_hash=self._hash,
            model_version=started,
            uids=action.uids,
            new_version=None if entry.fedbuff is not None else version,
        )
        if entry.secure is not None:
            show_sum(self.ledger, closing)
        if "fellow" in self.settings.vantages:
            show_models(self.ledger, closing, entry.recipe, min(self._births))

    def _version_of(self, action: CloseRound, entry: ScheduleEntry) -> int | None:
        """The version that a round leaves, made now unless the round was asynchronous; `None`: the model stays."""
        if entry.fedbuff is not None:
            return self.model.version
        if not entry.plan.applied:
            return None
        return self.model.advance(action.round, entry.plan, action.uids, entry.recipe)

    def _empty(self, action: EmptyRound) -> None:
        text = f"round {action.round}, opening {action.attempt}: {action.reason}"
        log.warning("%s", text)
        with self.ledger.transaction():
            self.ledger.execute(
                "UPDATE rounds SET closed = 'empty', admitted = 0, duration_s = ? WHERE round = ? AND attempt = ?",
                self._now_s - self._opened_s,
                action.round,
                action.attempt,
            )
            self.ledger.event("warning", text)

    def _fail(self, action: Fail) -> None:
        self.failure = action.reason
        with self.ledger.transaction():
            self.ledger.execute("UPDATE rounds SET closed = 'empty', admitted = 0 WHERE closed IS NULL")
            self.ledger.event("error", action.reason)
            self.ledger.set_meta("outcome", f"failed: {action.reason}")

    def _finish(self, _action: Finish) -> None:
        log.info("all %d rounds are closed; waiting for energy reports and scores", self.settings.rounds)
        self.drain = Drain(self.ledger, self.settings.drain_s, self._now_s, scores=self.settings.attacked)
        self._mirror_after_restart()


_HANDLERS: dict[type[Action], Callable[[Coordinator, Any], None]] = {
    OpenRound: Coordinator._open,  # noqa: SLF001 - the class's own table
    Invite: Coordinator._invite,  # noqa: SLF001
    MakeVersion: Coordinator._make_version,  # noqa: SLF001
    Relay: Coordinator._relay,  # noqa: SLF001
    Unmask: Coordinator._unmask,  # noqa: SLF001
    CloseRound: Coordinator._close,  # noqa: SLF001
    EmptyRound: Coordinator._empty,  # noqa: SLF001
    Finish: Coordinator._finish,  # noqa: SLF001
    Fail: Coordinator._fail,  # noqa: SLF001
}
