"""How every party attaches to the broker: one set of rules, so that no party relies on what another's broker lacks.

- MQTT 5 where the broker has it, 3.1.1 otherwise; nothing depends on which.
- QoS 1. A PUBACK is *not* an acknowledgement: whoever must not lose something keeps it until the peer says so.
- Nothing is queued while offline: `publish` says `False`, and the caller's own spool is the queue.
- Every connection is a clean session with a fresh client, so no hidden state survives a reconnect.
- Reconnects back off exponentially with full jitter (Brooker, AWS Architecture Blog, 2015).
- Frames and messages in flight are no more than the broker announces, frames no larger than it turns out to survive.
- A connection on which nothing comes for twice the keepalive, or whose network thread ends, is replaced.
- Callbacks run on the network thread and must only enqueue; an exception in one is logged and never ends the thread.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from contract.connection import Connection
from contract.errors import EnvironmentFaultError
from contract.link_limits import FrameLimit, window
from contract.link_settings import LinkSettings, TlsSettings
from contract.switchboard import OwnThreads, Pauses, Switchboard

__all__ = ["Link", "LinkSettings", "TlsSettings"]

log = logging.getLogger(__name__)

_FIRST_DELAY_S = 0.2
_LONGEST_DELAY_S = 10.0
_CONNACK_TIMEOUT_S = 3.0
_LOOK_S = 0.5


class Link:
    """A connection to the broker that comes back by itself.

    Args:
        settings: Broker and protocol.
        client_id: MQTT client identifier; unique per process.
        will: Topic and retained payload that the broker publishes when this party vanishes.
        on_message: Called with topic and payload of each message.
        on_up: Called after each (re)connection, once all subscriptions stand.
        on_down: Called with a reason when a connection is lost.
        on_fault: Called when the link gives up: the broker takes not even the smallest frames. It does not come back.
        seed: Seed of the back-off's jitter; `None` takes one from the system.
        switchboard: Turns many links on one thread; `None`: this one has threads of its own.

    Raises:
        ConfigurationError: A certificate cannot be used.
    """

    def __init__(
        self,
        settings: LinkSettings,
        client_id: str,
        *,
        will: tuple[str, bytes] | None = None,
        on_message: Callable[[str, bytes], None],
        on_up: Callable[[], None] = lambda: None,
        on_down: Callable[[str], None] = lambda _reason: None,
        on_fault: Callable[[EnvironmentFaultError], None] = lambda _fault: None,
        seed: int | None = None,
        switchboard: Switchboard | None = None,
    ) -> None:
        self.settings = settings
        self._where = f"{settings.host}:{settings.port}"
        self._limit = FrameLimit(settings.max_frame_bytes, self._where)
        self._tls = None if settings.tls is None else settings.tls.context()
        self._client_id = client_id
        self._will = will
        self._on_message, self._on_up, self._on_down, self._on_fault = on_message, on_up, on_down, on_fault
        self._jitter = random.Random(seed)  # noqa: S311 - spreads reconnects, no secret
        self._protocol = "5" if settings.protocol == "auto" else settings.protocol
        self._filters: dict[str, None] = {}
        self._shares = False
        self._asked = False  # whether this connection's broker was told of the filters
        self._awaited: set[int] = set()
        self._client: Connection | None = None
        self._lock = threading.RLock()
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._last_fault = "no attempt yet"
        self._given_up: EnvironmentFaultError | None = None
        self._threads = switchboard or OwnThreads(f"link-{client_id}")
        self._life: Pauses | None = None

    @property
    def connected(self) -> bool:
        """Whether the connection and all subscriptions stand."""
        return self._ready.is_set()

    @property
    def protocol(self) -> str:
        """Protocol version in use or tried next: `5` or `3.1.1`."""
        return self._protocol

    @property
    def shares(self) -> bool:
        """Whether this connection's broker offers shared subscriptions (MQTT 5)."""
        return self._shares

    @property
    def frame_bytes(self) -> int:
        """Largest frame that the broker takes, header included, as far as is known."""
        return self._limit.frame_bytes

    @property
    def sending(self) -> bool:
        """Whether messages that were handed over are still on their way to the broker."""
        client = self._client
        return client is not None and client.sending()

    def cut_smaller(self) -> bool:
        """For a sender that is not heard of: smaller frames from now on; `False` when size cannot be the reason."""
        return self._limit.cut_smaller()

    def start(self, *, timeout_s: float | None = 10.0) -> None:
        """Connects; keeps the connection up from then on.

        Args:
            timeout_s: How long to wait for the first connection; `None` does not wait.

        Raises:
            EnvironmentFaultError: The broker was not reached in time, or takes no useful packets; the link is stopped.
        """
        self._life = self._lives()
        self._threads.live(self._life)
        if timeout_s is not None:
            self.wait_until_up(timeout_s=timeout_s)

    def wait_until_up(self, *, timeout_s: float = 10.0) -> None:
        """Waits for the first connection of a link that was started without.

        Raises:
            EnvironmentFaultError: As `start`.
        """
        deadline_s = time.monotonic() + timeout_s
        while not self._ready.wait(0.05):
            if self._given_up is not None:
                raise self._given_up
            if time.monotonic() >= deadline_s:
                self.stop()
                raise EnvironmentFaultError(
                    f"broker {self._where} not reached within {timeout_s:g} s ({self._last_fault}): {self._remedy()}"
                )

    def _remedy(self) -> str:
        if self._tls is None:
            return "start one there, for example 'mosquitto -p PORT', or correct host and port"
        return "start one there that speaks TLS 1.3, or correct host and port, or the certificates of link.tls"

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Hands a message to the network at QoS 1.

        Returns:
            `False` when offline; then nothing is queued.
        """
        with self._lock:
            client = self._client
            if client is None or not self._ready.is_set():
                return False
            return bool(client.send(topic, payload, retain=retain).rc == mqtt.MQTT_ERR_SUCCESS)

    def subscribe(self, *filters: str) -> None:
        """Subscribes at QoS 1, now and after each reconnect."""
        with self._lock:
            new = [f for f in filters if f not in self._filters]
            self._filters.update(dict.fromkeys(new))
            if new and self._client is not None and self._asked:
                self._client.subscribe([(f, 1) for f in new])

    def unsubscribe(self, *filters: str) -> None:
        """Ends subscriptions."""
        with self._lock:
            gone = [f for f in filters if self._filters.pop(f, 0) is None]
            if gone and self._client is not None and self._asked:
                self._client.unsubscribe(gone)

    def stop(self, *, farewell: tuple[str, bytes] | None = None, timeout_s: float = 3.0) -> None:
        """Says farewell (retained) when still connected, disconnects and ends the thread."""
        self._stopping.set()
        with self._lock:
            client = self._client
        if client is not None:
            if farewell is not None and self._ready.is_set():
                with contextlib.suppress(ValueError, RuntimeError):
                    client.send(*farewell, retain=True).wait_for_publish(timeout_s)
            client.disconnect()
        self._threads.await_end(self._life, timeout_s)

    def sever(self, timeout_s: float = 3.0) -> None:
        """Ends the link without a word, as if its process had been killed: the broker publishes the will."""
        self._stopping.set()
        with self._lock:
            client = self._client
        if client is not None:
            client.cut()
        self._threads.await_end(self._life, timeout_s)

    # --- the link's life, on a thread that is not the caller's: each `yield` is a wait ---------------------------

    def _lives(self) -> Pauses:
        delay_s = _FIRST_DELAY_S
        while not self._stopping.is_set():
            try:
                accepted = yield from self._live_once()
            except EnvironmentFaultError as error:
                self._given_up = error
                self._guarded(partial(self._on_fault, error))
                return
            if accepted:
                delay_s = _FIRST_DELAY_S
            elif self.settings.protocol == "auto":
                self._protocol = "3.1.1" if self._protocol == "5" else "5"
            yield self._stopping, self._jitter.uniform(0.05, delay_s)
            delay_s = min(2 * delay_s, _LONGEST_DELAY_S)

    def _live_once(self) -> Generator[tuple[threading.Event, float], None, bool]:
        """One connection, from connect to loss; whether it was ever accepted.

        Raises:
            EnvironmentFaultError: There is no use in another one.
        """
        client = self._new_client()
        with self._lock:
            self._client, self._asked, self._awaited = client, False, set()
        try:
            client.connect(self.settings.host, self.settings.port, keepalive=self.settings.keepalive_s)
            client.begin(self._threads)
            yield from self._watch(client)
            if client.fault:
                self._lost(client.fault)
        except (OSError, ValueError) as error:
            over = "" if self._tls is None else "over TLS: "
            self._last_fault = f"{over}{error or type(error).__name__}"
            self._limit.absent()
        finally:
            client.end()
            with self._lock:
                self._client = None  # nothing else refers to it: paho closes its sockets when it is collected
        self._lost("connection closed")
        self._judge(client)
        return client.accepted

    def _watch(self, client: Connection) -> Pauses:
        """Ends when the connection is lost, or is to be given up."""
        deadline_s = time.monotonic() + _CONNACK_TIMEOUT_S
        while True:
            yield client.gone, _LOOK_S if client.answered.is_set() else 0.05
            if client.gone.is_set():
                break
            if client.answered.is_set():
                if client.silent():
                    client.fault = f"nothing heard for more than {2 * client.keepalive} s"
                    break
            elif self._stopping.is_set() or time.monotonic() > deadline_s:
                # A broker that does not know the protocol version may never answer.
                client.fault = f"no answer to CONNECT with MQTT {self._protocol} within {_CONNACK_TIMEOUT_S:g} s"
                break
        if not client.answered.is_set():
            self._last_fault = self._unanswered(client)
        elif client.fault:
            self._last_fault = client.fault

    def _unanswered(self, client: Connection) -> str:
        said = client.fault or f"connection closed instead of an answer to CONNECT with MQTT {self._protocol}"
        if self._tls is None:
            return f"{said}; if the port speaks TLS, it needs [link.tls]"
        return f"over TLS: {said}; does the broker accept this party's certificate, and does the port speak TLS?"

    def _judge(self, client: Connection) -> None:
        """Learns from the end of a connection how large a message may be."""
        if client.unusable is not None:
            raise client.unusable
        if client.fault or self._stopping.is_set():
            return
        told = self._limit.ended(client.ending())
        if told:
            log.warning("%s: %s", self._client_id, told)

    def _new_client(self) -> Connection:
        client = Connection(self._client_id, self._protocol)
        if self.settings.username is not None:
            client.username_pw_set(self.settings.username, self.settings.password)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        if self._will is not None:
            client.will_set(self._will[0], self._will[1], qos=1, retain=True)
        client.on_connect = self._connected
        client.on_connect_fail = self._connect_failed
        client.on_subscribe = self._subscribed
        client.on_disconnect = self._disconnected
        client.on_message = self._received
        return client

    # --- called by paho on the network thread -------------------------------------------------------------------

    def _connected(
        self, client: mqtt.Client, _userdata: Any, _flags: Any, reason: ReasonCode, properties: Properties | None
    ) -> None:
        assert isinstance(client, Connection)
        client.answered.set()
        if reason.is_failure:
            self._last_fault = f"broker refused MQTT {self._protocol}: {reason}"
            client.disconnect()
            return
        client.accepted = True
        self._shares = self._protocol == "5" and getattr(properties, "SharedSubscriptionAvailable", 1) != 0
        client.narrow(window(getattr(properties, "ReceiveMaximum", None)))
        try:
            self._limit.announced(getattr(properties, "MaximumPacketSize", None))
        except EnvironmentFaultError as error:
            client.unusable = error
            client.disconnect()
            return
        with self._lock:
            self._asked = True
            if self._filters:
                _, mid = client.subscribe([(f, 1) for f in self._filters])
                self._awaited = {mid} if mid is not None else set()
                return
        self._up(client)

    def _subscribed(self, client: mqtt.Client, _userdata: Any, mid: int, reasons: list[Any], _properties: Any) -> None:
        for code in reasons:
            if code.is_failure:
                log.error("broker refused a subscription of %s: %s", self._client_id, code)
        if mid in self._awaited:
            self._awaited.clear()
            self._up(client)

    def _up(self, client: mqtt.Client) -> None:
        if client is self._client:
            self._ready.set()
            self._guarded(self._on_up)

    def _lost(self, reason: str) -> None:
        if self._ready.is_set():
            self._ready.clear()
            self._guarded(lambda: self._on_down(reason))

    def _connect_failed(self, _client: mqtt.Client, _userdata: Any) -> None:
        self._last_fault = "connection refused"

    def _disconnected(
        self, client: mqtt.Client, _userdata: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        assert isinstance(client, Connection)
        if client is self._client:  # and not one that was left behind
            if reason.is_failure:
                client.reason = reason.value
                self._last_fault = str(reason)
            self._lost(str(reason))
        client.gone.set()

    def _received(self, client: mqtt.Client, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        if client is self._client:
            self._guarded(lambda: self._on_message(message.topic, bytes(message.payload)))

    def _guarded(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:  # the network thread survives whatever a callback does
            log.exception("callback of %s failed", self._client_id)
