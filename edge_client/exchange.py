"""Carries a device's session of secure aggregation through the network: what came in, what is said again and when."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import cast

import msgspec
import numpy as np

from contract import messages, topics
from contract.errors import WireError
from contract.masking import Place, quantised, records_of, require_packages
from contract.messages import MaskingCost, Message, Reveal, Roster, ServerState, ShareBundle, Survivors
from contract.pipeline import Tensors
from contract.task import RoundPlan
from edge_client import masking
from edge_client.account import Account
from edge_client.energy import UpdateWindows, Window, metered
from edge_client.events import MasksReady
from edge_client.masking import Session
from edge_client.pipeline import Draws, Pressed
from edge_client.preparation import Network
from edge_client.settings import ClientSettings
from hardware.energy import EnergyReading, unavailable
from hardware.energy_model import EnergyModel

log = logging.getLogger(__name__)

RESEND_S = 2.0
"""First wait for an answer to keys or shares; doubled at each repetition."""
LONGEST_RESEND_S = 15.0
Key = tuple[str, int, int]
"""Task hash, round and attempt."""


class MaskExchange:
    """A device's part in the secure aggregation of the open round, in memory alone.

    Args:
        settings: The device's settings.
        network: Where it publishes.
        account: Books the work on updates.
        model: Energy model, for the messages' bytes.
        clock: Monotonic seconds.
        entropy: So many bytes that nobody can guess.
    """

    def __init__(
        self,
        settings: ClientSettings,
        network: Network,
        account: Account,
        *,
        model: EnergyModel,
        clock: Callable[[], float],
        entropy: masking.Entropy = secrets.token_bytes,
    ) -> None:
        self._settings, self._network, self._account, self._model = settings, network, account, model
        self._clock, self._entropy = clock, entropy
        self._session: Session | None = None
        self._key: Key | None = None
        self._said: bytes | None = None
        self._due_s = self._wait_s = 0.0
        self._up = self._down = 0
        self._s_per_byte: float | None = None

    # --- when -------------------------------------------------------------------------------------------------------

    def tend(self, server: ServerState | None, task_hash: str, made: Key | None, epoch: int) -> None:
        """Begins a session for an open round that asks for one, and says again what was not answered.

        Raises:
            EnvironmentFaultError: A package that secure aggregation needs is missing here.
        """
        key = None if server is None else (server.task_hash, server.round, server.attempt)
        if server is None or server.status != "open":
            return
        if key != self._key and server.plan.secure is not None:
            named = self._settings.node in server.selected and server.task_hash == task_hash
            if named and made != key:
                self._begin(server, epoch)
            return
        if self._said is not None and self._clock() >= self._due_s:
            self._say(self._said)

    def _begin(self, server: ServerState, epoch: int) -> None:
        require_packages()
        assert server.plan.secure is not None
        place = Place(run=self._settings.run, task_hash=server.task_hash, round=server.round, attempt=server.attempt)
        self._key = (server.task_hash, server.round, server.attempt)
        with self._account.overhead():
            self._session = masking.opened(self._settings.node, epoch, place, server.plan.secure, self._entropy)
            said = messages.encode(masking.offer(self._session))
        self._speak(said)

    def _speak(self, payload: bytes) -> None:
        self._wait_s = RESEND_S
        self._said = payload
        self._say(payload)

    def _say(self, payload: bytes) -> None:
        assert self._key is not None
        topic = topics.secure(self._settings.run, self._settings.node, self._key[1])
        if self._network.publish(topic, payload):
            self._up += len(payload)
        self._due_s = self._clock() + self._wait_s
        self._wait_s = min(2 * self._wait_s, LONGEST_RESEND_S)

    # --- what the server says -----------------------------------------------------------------------------------------

    def receive(self, payload: bytes) -> MasksReady | None:
        """Takes a message of the server; an event when an update can be masked now.

        Raises:
            WireError: It is none, or one that this device refuses.
        """
        said: Message = messages.decode_one_of(payload, Roster, ShareBundle, Survivors)
        session = self._session
        if session is None:
            raise WireError(f"{type(said).__name__} without a session: this device takes no part in this opening")
        self._down += len(payload)
        if isinstance(said, ShareBundle):
            return self._bundle(session, said)
        if isinstance(said, Roster):
            self._roster(session, said)
        else:
            self._survivors(session, cast("Survivors", said), len(payload))
        return None

    def _roster(self, session: Session, said: Roster) -> None:
        if session.roster:
            return  # said again, because the answer was late: it is repeated in its time
        try:
            with self._account.overhead():
                self._session, answer = masking.dealt(session, said)
        except WireError:
            self._said = None
            raise
        self._speak(messages.encode(answer))

    def _bundle(self, session: Session, said: ShareBundle) -> MasksReady | None:
        if session.ready:
            return None
        with self._account.overhead():
            self._session = masking.gathered(session, said)
        self._said = None
        assert self._key is not None
        return MasksReady(key=self._key)

    def _survivors(self, session: Session, said: Survivors, heard: int) -> None:
        with self._account.overhead(booked=False) as windows:
            self._session, answer = masking.revealed(session, said)
        self._down = 0  # it is told here, and not with the next update
        payload = b""
        for _ in range(3):  # the length is in what it is the length of
            payload = messages.encode(self._with_cost(answer, windows, len(payload), heard))
        self._say(payload)
        self._up = 0

    def _with_cost(self, answer: Reveal, windows: list[Window], length: int, heard: int) -> Reveal:
        cost = MaskingCost(
            bytes_up=length,
            bytes_down=heard,
            computing=self._computing(windows),
            sending=self._sending(length, None if self._s_per_byte is None else self._s_per_byte * length),
        )
        return msgspec.structs.replace(answer, cost=cost)

    def traffic(self) -> tuple[int, int]:
        """Payload bytes of messages sent and received since it was last asked."""
        both, self._up, self._down = (self._up, self._down), 0, 0
        return both

    # --- the update -------------------------------------------------------------------------------------------------

    def press(self, plan: RoundPlan, attempt: int, update: Tensors, draws: Draws) -> Pressed:
        """The update clipped, noised, quantised and masked, as `edge_client.pipeline.press` gives others.

        Raises:
            WireError: A value that is not finite.
        """
        session = self._session
        assert session is not None, "the machine asks for masked updates with a session only"
        assert session.place.attempt == attempt, "a session is of one opening"
        assert plan.secure is not None
        cut = sum(int((np.abs(tensor) > plan.secure.clip).sum()) for tensor in update.values())
        if cut:
            total = sum(tensor.size for tensor in update.values())
            log.warning(
                "%d of %d values are beyond secure.clip = %g and cut off: raise it", cut, total, plan.secure.clip
            )
        with self._account.overhead():
            integers = quantised(update, plan.secure, draws("codec"))
            records, buffers = records_of(masking.masked(session, integers), plan.secure)
        return Pressed(records=records, buffers=list(buffers), residual=None)

    def cost(self, made: UpdateWindows, sent_bytes: int, transmit_s: float | None) -> MaskingCost | None:
        """What secure aggregation cost up to an update; `None` of one without.

        Args:
            made: Its windows.
            sent_bytes: Bytes of the update that were sent.
            transmit_s: Seconds that this took: the messages are charged at the same rate, as their own time is not
                known. `None` when it is not known either.
        """
        if not made.masking:
            return None
        self._s_per_byte = transmit_s / sent_bytes if transmit_s and sent_bytes else None
        seconds = None if self._s_per_byte is None else self._s_per_byte * made.masking_up
        return MaskingCost(
            bytes_up=made.masking_up,
            bytes_down=made.masking_down,
            computing=self._computing(list(made.masking)),
            sending=self._sending(made.masking_up, seconds),
        )

    def _computing(self, windows: list[Window]) -> tuple[EnergyReading, ...]:
        reason = "no window of this work was cut"
        return metered(windows) if windows else tuple(unavailable(m, "none", reason) for m in self._account.meters)

    def _sending(self, nbytes: int, seconds: float | None) -> EnergyReading:
        if seconds is None:
            return unavailable(
                "model", "radio", "how long an update takes is not known: the rate of sending follows from it"
            )
        return self._model.radio(nbytes, seconds)
