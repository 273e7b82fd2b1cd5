"""How every party attaches to the broker: one set of rules, so that no party relies on what another's broker lacks.

- MQTT 5 where the broker has it, 3.1.1 otherwise; nothing depends on which.
- QoS 1. A PUBACK is *not* an acknowledgement: whoever must not lose something keeps it until the peer says so.
- Nothing is queued while offline: `publish` says `False`, and the caller's own spool is the queue.
- Every connection is a clean session with a fresh client, so no hidden state survives a reconnect.
- Reconnects back off exponentially with full jitter (Brooker, AWS Architecture Blog, 2015).
- Callbacks run on the network thread and must only enqueue; an exception in one is logged and never ends the thread.
"""

from __future__ import annotations

import contextlib
import logging
import random
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from contract.errors import ConfigurationError, EnvironmentFaultError
from contract.frames import CHUNK_BYTES

log = logging.getLogger(__name__)

_PROTOCOLS = {"5": mqtt.MQTTv5, "3.1.1": mqtt.MQTTv311}
_TOPIC_SLACK_BYTES = 512
_FIRST_DELAY_S = 0.2
_LONGEST_DELAY_S = 10.0
_CONNECT_TIMEOUT_S = 5.0
_CONNACK_TIMEOUT_S = 3.0


class TlsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """TLS 1.3 with mutual authentication, `[link.tls]`.

    Attributes:
        ca: Certificate of the authority that signed the broker's, PEM.
        certificate: This party's own, PEM; its common name is the party's identity (a device's is its node id).
        key: Its private key, PEM.
    """

    ca: Path
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """For a client: the broker's name and certificate are checked.

        Raises:
            ConfigurationError: A file is missing, unreadable or no PEM, or key and certificate do not belong together.
        """
        try:
            context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=self.ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"link.tls: ca = {str(self.ca)!r}, certificate = {str(self.certificate)!r}, key = {str(self.key)!r}: "
                f"{error}; name PEM files that this user may read, of one bundle"
            ) from error
        return context


class LinkSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the broker is and how to speak to it.

    Attributes:
        protocol: `auto` tries MQTT 5 and falls back to 3.1.1.
        keepalive_s: Seconds without traffic after which the broker publishes the last will (times 1.5).
        max_frame_bytes: Upper limit of a frame; lowered to what the broker announces.
        tls: Encryption and this party's certificate; `None` speaks in the clear.
    """

    host: str = "127.0.0.1"
    port: int = 1883
    protocol: Literal["auto", "5", "3.1.1"] = "auto"
    keepalive_s: int = 15
    username: str | None = None
    password: str | None = None
    max_frame_bytes: int = CHUNK_BYTES
    tls: TlsSettings | None = None


class Link:
    """A connection to the broker that comes back by itself.

    Args:
        settings: Broker and protocol.
        client_id: MQTT client identifier; unique per process.
        will: Topic and retained payload that the broker publishes when this party vanishes.
        on_message: Called with topic and payload of each message.
        on_up: Called after each (re)connection, once all subscriptions stand.
        on_down: Called with a reason when a connection is lost.
        seed: Seed of the back-off's jitter; `None` takes one from the system.
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
        seed: int | None = None,
    ) -> None:
        self.settings = settings
        self.frame_bytes = settings.max_frame_bytes
        self._tls = None if settings.tls is None else settings.tls.context()
        self._client_id = client_id
        self._will = will
        self._on_message, self._on_up, self._on_down = on_message, on_up, on_down
        self._jitter = random.Random(seed)  # noqa: S311 - spreads reconnects, no secret
        self._protocol = "5" if settings.protocol == "auto" else settings.protocol
        self._filters: dict[str, None] = {}
        self._awaited: set[int] = set()
        self._client: mqtt.Client | None = None
        self._lock = threading.RLock()
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._last_fault = "no attempt yet"
        self._thread = threading.Thread(target=self._run, name=f"link-{client_id}", daemon=True)

    @property
    def connected(self) -> bool:
        """Whether the connection and all subscriptions stand."""
        return self._ready.is_set()

    @property
    def protocol(self) -> str:
        """Protocol version in use or tried next: `5` or `3.1.1`."""
        return self._protocol

    def start(self, *, timeout_s: float | None = 10.0) -> None:
        """Connects; keeps the connection up from then on.

        Args:
            timeout_s: How long to wait for the first connection; `None` does not wait.

        Raises:
            EnvironmentFaultError: The broker was not reached in time; the link is stopped.
        """
        self._thread.start()
        if timeout_s is not None and not self._ready.wait(timeout_s):
            self.stop()
            where = f"{self.settings.host}:{self.settings.port}"
            raise EnvironmentFaultError(
                f"broker {where} not reached within {timeout_s:g} s ({self._last_fault}): "
                "start one there, for example 'mosquitto -p PORT', or correct host and port"
            )

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Hands a message to the network at QoS 1.

        Returns:
            `False` when offline; then nothing is queued.
        """
        with self._lock:
            client = self._client
            if client is None or not self._ready.is_set():
                return False
            return bool(client.publish(topic, payload, qos=1, retain=retain).rc == mqtt.MQTT_ERR_SUCCESS)

    def subscribe(self, *filters: str) -> None:
        """Subscribes at QoS 1, now and after each reconnect."""
        with self._lock:
            new = [f for f in filters if f not in self._filters]
            self._filters.update(dict.fromkeys(new))
            if new and self._client is not None and self._ready.is_set():
                self._client.subscribe([(f, 1) for f in new])

    def unsubscribe(self, *filters: str) -> None:
        """Ends subscriptions."""
        with self._lock:
            gone = [f for f in filters if self._filters.pop(f, 0) is None]
            if gone and self._client is not None and self._ready.is_set():
                self._client.unsubscribe(gone)

    def stop(self, *, farewell: tuple[str, bytes] | None = None, timeout_s: float = 3.0) -> None:
        """Says farewell (retained) when still connected, disconnects and ends the thread."""
        self._stopping.set()
        with self._lock:
            client = self._client
        if client is not None:
            if farewell is not None and self._ready.is_set():
                with contextlib.suppress(ValueError, RuntimeError):
                    client.publish(*farewell, qos=1, retain=True).wait_for_publish(timeout_s)
            client.disconnect()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    # --- the network thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        delay_s = _FIRST_DELAY_S
        while not self._stopping.is_set():
            if self._live_once():
                delay_s = _FIRST_DELAY_S
            elif self.settings.protocol == "auto":
                self._protocol = "3.1.1" if self._protocol == "5" else "5"
            if not self._stopping.wait(self._jitter.uniform(0.05, delay_s)):
                delay_s = min(2 * delay_s, _LONGEST_DELAY_S)

    def _live_once(self) -> bool:
        """One connection, from connect to loss; whether it was ever accepted."""
        client = self._new_client()
        with self._lock:
            self._client = client
        gone: threading.Event = client.user_data_get()["gone"]
        try:
            client.connect(self.settings.host, self.settings.port, keepalive=self.settings.keepalive_s)
            client.loop_start()
            if not self._answered(client, gone):
                self._last_fault = f"no answer to CONNECT with MQTT {self._protocol}"
            else:
                gone.wait()
        except (OSError, ValueError) as error:
            self._last_fault = str(error) or type(error).__name__
        finally:
            client.disconnect()
            client.loop_stop()
            with self._lock:
                self._client = None  # nothing else refers to it: paho closes its sockets when it is collected
        self._lost("connection closed")
        return bool(client.user_data_get()["accepted"])

    def _answered(self, client: mqtt.Client, gone: threading.Event) -> bool:
        """Waits for the CONNACK: a broker that does not know the protocol version may never send one."""
        userdata = client.user_data_get()
        deadline = time.monotonic() + _CONNACK_TIMEOUT_S
        while time.monotonic() < deadline and not gone.is_set() and not self._stopping.is_set():
            if userdata["answered"].wait(0.05):
                return True
        return False

    def _new_client(self) -> mqtt.Client:
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=_PROTOCOLS[self._protocol],
            reconnect_on_failure=False,
            userdata={"accepted": False, "answered": threading.Event(), "gone": threading.Event()},
            clean_session=None if self._protocol == "5" else True,
        )
        client.connect_timeout = _CONNECT_TIMEOUT_S
        client.max_queued_messages_set(0)
        client.max_inflight_messages_set(64)
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

    def _connected(
        self, client: mqtt.Client, userdata: Any, _flags: Any, reason: ReasonCode, properties: Properties | None
    ) -> None:
        userdata["answered"].set()
        if reason.is_failure:
            self._last_fault = f"broker refused MQTT {self._protocol}: {reason}"
            client.disconnect()
            return
        userdata["accepted"] = True
        announced = getattr(properties, "MaximumPacketSize", None)
        limit = self.settings.max_frame_bytes
        self.frame_bytes = min(limit, announced - _TOPIC_SLACK_BYTES) if announced else limit
        with self._lock:
            if self._filters:
                _, mid = client.subscribe([(f, 1) for f in self._filters])
                self._awaited = {mid} if mid is not None else set()
                return
        self._up()

    def _subscribed(self, _client: mqtt.Client, _userdata: Any, mid: int, reasons: list[Any], _properties: Any) -> None:
        for code in reasons:
            if code.is_failure:
                log.error("broker refused a subscription of %s: %s", self._client_id, code)
        if mid in self._awaited:
            self._awaited.clear()
            self._up()

    def _up(self) -> None:
        self._ready.set()
        self._guarded(self._on_up)

    def _lost(self, reason: str) -> None:
        if self._ready.is_set():
            self._ready.clear()
            self._guarded(lambda: self._on_down(reason))

    def _connect_failed(self, _client: mqtt.Client, _userdata: Any) -> None:
        self._last_fault = "connection refused"

    def _disconnected(
        self, _client: mqtt.Client, userdata: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        if reason.is_failure:
            self._last_fault = str(reason)
        self._lost(str(reason))
        userdata["gone"].set()

    def _received(self, _client: mqtt.Client, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        self._guarded(lambda: self._on_message(message.topic, bytes(message.payload)))

    def _guarded(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:  # the network thread survives whatever a callback does
            log.exception("callback of %s failed", self._client_id)
