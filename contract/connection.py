"""One connection: paho's client, whose network thread never ends unheard and whose messages in flight are known."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections import deque

import msgspec
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from contract.errors import EnvironmentFaultError
from contract.link_limits import PATIENCE_S, SOON_S, Ending
from contract.switchboard import OwnThreads, Switchboard

log = logging.getLogger(__name__)

PROTOCOLS = {"5": mqtt.MQTTv5, "3.1.1": mqtt.MQTTv311}
_CONNECT_TIMEOUT_S = 5.0
_END_TIMEOUT_S = 3.0
_STALL_S = 30.0


class _Message(msgspec.Struct, kw_only=True, eq=False):
    """A message that was handed over; `info` is what paho knows of it, once it has it."""

    nbytes: int
    at_s: float
    info: mqtt.MQTTMessageInfo | None = None

    def answered(self) -> bool:
        """Whether the broker has sent its PUBACK.

        One that paho says it could not send, as the connection just ended, may well be what ended it.
        """
        return self.info is not None and self.info.rc == mqtt.MQTT_ERR_SUCCESS and self.info.is_published()


def _send_at_once(_client: mqtt.Client, _userdata: object, sock: object) -> None:
    """Turns Nagle's algorithm off (RFC 896).

    With it, what ends an object waits for the acknowledgement of what came before, which the other side may put off for
    40 ms (RFC 1122, 4.2.3.2): at each turn of a round.
    """
    if isinstance(sock, socket.socket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Connection(mqtt.Client):
    """From CONNECT to loss, used once: no hidden state survives it.

    Args:
        client_id: MQTT client identifier.
        protocol: `5` or `3.1.1`.

    Attributes:
        answered: A CONNACK has come, or whatever ended the connection before it.
        accepted: The CONNACK said yes.
        gone: The connection is lost, or its network thread has ended.
        fault: Why, where paho does not say.
        reason: Code of the DISCONNECT, or paho's in its place; `None` while it lives or when this side ended it.
        unusable: What makes this broker useless, if anything does.
    """

    def __init__(self, client_id: str, protocol: str) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=PROTOCOLS[protocol],
            reconnect_on_failure=False,
            clean_session=None if protocol == "5" else True,
        )
        self.connect_timeout = _CONNECT_TIMEOUT_S
        self.on_socket_open = _send_at_once
        self.max_queued_messages_set(0)
        self.answered, self.gone = threading.Event(), threading.Event()
        self.accepted = False
        self.fault = ""
        self.reason: int | None = None
        self.unusable: EnvironmentFaultError | None = None
        self._started, self._left = False, threading.Event()
        self._switchboard: Switchboard | None = None
        self._heard_s = self._moved_s = time.monotonic()
        self._flight: deque[_Message] = deque()
        self._answered: deque[_Message] = deque()
        self._survived = 0
        self._flight_lock = threading.Lock()  # never held while paho is called, whose own locks it would cross

    # --- the network thread -------------------------------------------------------------------------------------

    def begin(self, threads: Switchboard | OwnThreads) -> None:
        """Starts a network thread of its own, or goes onto a switchboard: then on the thread of that."""
        self._started, self._heard_s = True, time.monotonic()
        if isinstance(threads, Switchboard):
            self._switchboard = threads
            self.on_socket_register_write = lambda *_: threads.flush(self)
            self.on_socket_close = lambda *_: threads.unplug(self)
            threads.plug(self)
        else:
            self.loop_start()

    def lost(self, why: str) -> None:
        """Called by a switchboard: nothing more can be done for this connection."""
        self.fault = self.fault or why
        self.gone.set()

    def loop_forever(self, timeout: float = 1.0, retry_first_connection: bool = False) -> MQTTErrorCode:  # noqa: FBT001, FBT002 - paho's
        """What the network thread runs: its end, for whatever reason, is the connection's."""
        try:
            return super().loop_forever(timeout, retry_first_connection)
        except BaseException as error:  # a thread ends here
            self.fault = f"network thread ended by {type(error).__name__}: {error}"
            log.exception("network thread ended")
            return MQTTErrorCode.MQTT_ERR_UNKNOWN
        finally:
            self._left.set()
            self.gone.set()

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """Called by paho when bytes have come."""
        self._heard_s = time.monotonic()
        return super().loop_read(max_packets)

    def silent(self) -> bool:
        """Whether nothing has come for twice the keepalive: pings are unanswered, or the network thread hangs."""
        return time.monotonic() - self._heard_s > 2 * self.keepalive + 1.0

    def narrow(self, window: int) -> None:
        """Sets how many messages may await their PUBACK.

        paho refuses this on an open connection, but the limit comes with the CONNACK, when nothing is in flight yet.
        """
        self._max_inflight_messages = window

    def cut(self) -> None:
        """Shuts the socket without saying so to the broker."""
        sock = self.socket()
        if isinstance(sock, socket.socket):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Ends the connection and the network thread; one that hangs is left behind, with its socket shut."""
        self.disconnect()
        if not self._started:
            return
        if self._switchboard is not None:
            self._leave(self._switchboard)
            return
        if not self._left.wait(_END_TIMEOUT_S if not self.silent() else 0.0):
            self.cut()
        if self._left.wait(_END_TIMEOUT_S):
            self.loop_stop()
        else:
            log.error("the network thread hangs: it is left behind")

    def _leave(self, switchboard: Switchboard) -> None:
        """Says what can be said at once, and closes."""
        sock = self.socket()
        if sock is not None:
            self.loop_write()
            switchboard.unplug(self)
            sock.close()
        self._left.set()

    # --- messages in flight -------------------------------------------------------------------------------------

    def send(self, topic: str, payload: bytes, *, retain: bool = False) -> mqtt.MQTTMessageInfo:
        """Publishes at QoS 1 and remembers the message until the broker has answered it."""
        message = _Message(nbytes=len(payload), at_s=time.monotonic())
        with self._flight_lock:  # before it leaves: the connection may end at it at once
            self._settle()
            if not self._flight:
                self._moved_s = message.at_s
            self._flight.append(message)
        info = message.info = self.publish(topic, payload, qos=1, retain=retain)
        return info

    def _settle(self) -> None:
        """Forgets what was answered, but for its size."""
        now_s = time.monotonic()
        while self._flight and self._flight[0].answered():
            self._answered.append(self._flight.popleft())
            self._moved_s = now_s
        while self._answered and now_s - self._answered[0].at_s > SOON_S:
            self._survived = max(self._survived, self._answered.popleft().nbytes)

    def sending(self) -> bool:
        """Whether messages still leave, one after the other; `False` also when nothing has moved for long."""
        with self._flight_lock:
            self._settle()
            return bool(self._flight) and time.monotonic() - self._moved_s < _STALL_S

    def ending(self) -> Ending:
        """What was in flight at the end; to be asked for when the connection is lost."""
        with self._flight_lock:
            self._settle()
            now_s, flight = time.monotonic(), list(self._flight)
            answered = [*self._answered, *(m for m in flight if m.answered())]
        late = [m.nbytes for m in flight if not m.answered() and now_s - m.at_s <= PATIENCE_S]
        recent = max((m.nbytes for m in [*answered, *flight] if now_s - m.at_s <= SOON_S), default=0)
        passed = max((m.nbytes for m in answered), default=self._survived)
        largest = max(late, default=0)
        return Ending(
            reason=self.reason,
            open_bytes=largest if largest > max(passed, self._survived) else 0,
            recent_bytes=recent,
            survived_bytes=self._survived,
        )
