"""Messages of secure aggregation: into the ledger first, then to the round machine; what devices are to hear, out."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import cast

import msgspec

from contract import messages, topics
from contract.errors import SpikeleakError, WireError
from contract.masking import Place, require_packages
from contract.messages import KeyOffer, MaskingCost, Message, Reveal, ShareOffer
from contract.secure import SecureAggregation
from server.course import Relay, State, Unmask
from server.exchange import Exchange, Spoken
from server.ledger import Ledger
from server.model import Wire
from server.unmasking import settle

log = logging.getLogger(__name__)

RESEND_S = 2.0
"""Survivors that have not answered are asked again after this time."""


class ExchangeDesk:
    """Journal and mail of one life of the server.

    Args:
        ledger: The run's ledger.
        wire: The connection.
        run: Its name.
        task_hash: Its task.
        needed: Whether the schedule has secure aggregation at all.

    Raises:
        EnvironmentFaultError: It has, and a package for it is missing.
    """

    def __init__(self, ledger: Ledger, wire: Wire, run: str, task_hash: str, *, needed: bool) -> None:
        if needed:
            require_packages()
        self._ledger, self._wire, self._run, self._hash = ledger, wire, run, task_hash
        self._asked_s = 0.0

    def hear(self, topic: topics.Topic, payload: bytes, state: State, births: Mapping[str, int]) -> Spoken | None:
        """Takes a device's message.

        Returns:
            The message when the round waited for it and it is in the ledger; `None` when it changes nothing.

        Raises:
            WireError: It does not follow SPEC.md, or speaks for another device.
        """
        said = cast("Spoken", messages.decode_one_of(payload, KeyOffer, ShareOffer, Reveal))
        if said.node != topic.node or said.round != topic.round:
            raise WireError(f"message of {said.node}, round {said.round} on the topic of {topic.node}, {topic.round}")
        if isinstance(said, KeyOffer) and said.keys.node != said.node:
            raise WireError(f"{said.node} offers keys of {said.keys.node}")
        if said.epoch != births.get(said.node):
            log.info("%s: %s of its life %d ignored", said.node, type(said).__name__, said.epoch)
            return None
        exchange = state.exchange
        if exchange is None or (said.round, said.attempt) != (state.round, state.attempt):
            self._late(said, len(payload))
            return None
        if said.node not in state.selected or not exchange.awaits(said):
            self._repeated(exchange, state, said, len(payload))
            return None
        with self._ledger.transaction():
            self._write(state.round, state.attempt, said.node, said, payload)
            self._cost_of(said)
        return said

    def _late(self, said: Spoken, nbytes: int) -> None:
        """What came after its opening: others sufficed, but it was sent and made all the same."""
        known = self._ledger.row("SELECT 1 FROM rounds WHERE round = ? AND attempt = ?", said.round, said.attempt)
        if known is not None:
            with self._ledger.transaction():
                self._count(said.round, said.attempt, said.node, type(said), nbytes)
                self._cost_of(said)

    def _cost_of(self, said: Spoken) -> None:
        if not isinstance(said, Reveal) or said.cost is None:
            return
        uid = self._ledger.value(
            "SELECT uid FROM updates WHERE node = ? AND round = ? AND status = 'admitted' ORDER BY sequence DESC",
            said.node,
            said.round,
        )
        if uid is not None:
            place = {"update_uid": uid, "node": said.node, "round": said.round}
            write_cost(self._ledger, place, "reveal", said.cost)

    def _repeated(self, exchange: Exchange, state: State, said: Spoken, nbytes: int) -> None:
        """A repetition: its device has not heard what it is to hear."""
        with self._ledger.transaction():
            self._count(state.round, state.attempt, said.node, type(said), nbytes)
            self._cost_of(said)
        if not isinstance(said, Reveal):
            self._tell(exchange, state.round, state.attempt, said.node)

    def relay(self, action: Relay, state: State, at_s: float) -> None:
        """Tells devices what they are to hear in the present stage."""
        if state.exchange is None:
            return
        self._asked_s = at_s
        with self._ledger.transaction():
            for node in action.nodes:
                self._tell(state.exchange, action.round, action.attempt, node)

    def tick(self, state: State, at_s: float) -> None:
        """Asks survivors again that have not answered."""
        exchange = state.exchange
        if exchange is None or exchange.stage != "reveals" or at_s - self._asked_s < RESEND_S:
            return
        answered = {said.node for said in exchange.reveals}
        waiting = tuple(node for node in exchange.survivors if node not in answered)
        self.relay(Relay(state.round, state.attempt, waiting), state, at_s)

    def _tell(self, exchange: Exchange, round_: int, attempt: int, node: str) -> None:
        message = exchange.told(node, round_, attempt)
        if message is None:
            return
        payload = messages.encode(message)
        if self._wire.publish(topics.relay(self._run, node), payload):
            self._count(round_, attempt, node, type(message), len(payload))

    def unmask(self, action: Unmask, secure: SecureAggregation, threshold: int) -> str:
        """Unmasks the sum of a round into the ledger; why not, or nothing."""
        place = Place(run=self._run, task_hash=self._hash, round=action.round, attempt=action.attempt)
        try:
            settle(self._ledger, place, secure, threshold, action.uids)
        except SpikeleakError as error:
            return str(error)
        return ""

    def _write(self, round_: int, attempt: int, node: str, said: Message, payload: bytes) -> None:
        self._count(round_, attempt, node, type(said), len(payload))
        self._ledger.execute(
            "UPDATE masking_messages SET object = ? WHERE round = ? AND attempt = ? AND node = ? AND message = ?",
            payload,
            round_,
            attempt,
            node,
            type(said).__name__,
        )

    def _count(self, round_: int, attempt: int, node: str, kind: type[Message], nbytes: int) -> None:
        self._ledger.execute(
            "INSERT INTO masking_messages (round, attempt, node, message, bytes, times, wall) "
            "VALUES (?, ?, ?, ?, ?, 1, ?) ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes, times = times + 1",
            round_,
            attempt,
            node,
            kind.__name__,
            nbytes,
            time.time(),
        )


def write_cost(ledger: Ledger, place: Mapping[str, object], part: str, cost: MaskingCost) -> None:
    """What secure aggregation added to one update, by its device's own account."""
    for work, reading in [*(("computing", reading) for reading in cost.computing), ("sending", cost.sending)]:
        ledger.insert(
            "masking_costs",
            {
                **place,
                "part": part,
                "work": work,
                "bytes_up": cost.bytes_up,
                "bytes_down": cost.bytes_down,
                **msgspec.structs.asdict(reading),
            },
            or_ignore=True,
        )
