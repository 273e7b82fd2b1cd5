"""Who turns a link: two threads of its own, or one thread that turns very many (`Switchboard`).

A link's life is a generator of waits (`Pauses`), and paho's client can be driven from outside: so the same code lives
on either. On a switchboard a link costs a socket and some 50 kB, and no thread.

Backpressure: while `full()` says so nothing more is read, and TCP holds the broker back. Writing goes on.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Protocol

import msgspec

log = logging.getLogger(__name__)

Pauses = Generator[tuple[threading.Event, float], None, None]
"""Each is an event, and for how many seconds to wait for it at most."""

_LOOK_S = 0.05
_FULL_S = 0.002
_MISC_S = 1.0
_BUDGET_S = 0.02
"""For what lives do in one turn (connecting, mostly), before sockets have their turn again."""


class Plug(Protocol):
    """A connection as a switchboard sees it: paho's functions for a foreign loop."""

    def socket(self) -> Any:
        """Its socket; `None` when it has none any more."""
        ...

    def loop_read(self) -> Any:
        """Reads what has come."""
        ...

    def loop_write(self) -> Any:
        """Writes what waits."""
        ...

    def loop_misc(self) -> Any:
        """Looks after the keepalive."""
        ...

    def want_write(self) -> bool:
        """Whether something waits to be written."""
        ...

    def lost(self, why: str) -> None:
        """Nothing more can be done for it."""
        ...


class OwnThreads:
    """One link, on threads of its own.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None

    def live(self, pauses: Pauses) -> None:
        """Lives through the pauses."""

        def run() -> None:
            for event, timeout_s in pauses:
                event.wait(timeout_s)

        self._thread = threading.Thread(target=run, name=self._name, daemon=True)
        self._thread.start()

    def await_end(self, _pauses: Pauses | None, timeout_s: float) -> None:
        """Waits for the end of a life."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)


class _Life(msgspec.Struct, kw_only=True, eq=False):
    pauses: Pauses
    event: threading.Event
    due_s: float


class Switchboard:
    """Many links on one thread.

    Args:
        full: Whether those who read the messages have enough to do; looked at before each reading.
    """

    def __init__(self, *, full: Callable[[], bool] = lambda: False) -> None:
        self._full = full
        self._selector = selectors.DefaultSelector()
        self._bell, self._rope = socket.socketpair()
        for end in (self._bell, self._rope):
            end.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._plugged: dict[Plug, Any] = {}
        self._dirty: deque[Plug] = deque()
        self._lives: deque[_Life] = deque()
        self._ends: dict[int, threading.Event] = {}
        self._stopping, self._look_now, self._rung = threading.Event(), False, False
        self._thread = threading.Thread(target=self._run, name="switchboard", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ends the thread; its links are to be stopped before."""
        self._stopping.set()
        self._ring()
        self._thread.join(timeout_s)
        for one in (self._selector, self._bell, self._rope):
            one.close()

    # --- from any thread ----------------------------------------------------------------------------------------

    def live(self, pauses: Pauses) -> None:
        """Lives through the pauses."""
        self._ends[id(pauses)] = threading.Event()
        now = threading.Event()
        now.set()
        self._lives.append(_Life(pauses=pauses, event=now, due_s=0.0))
        self._ring()

    def await_end(self, pauses: Pauses | None, timeout_s: float) -> None:
        """Waits for the end of a life."""
        ended = self._ends.get(id(pauses))
        if ended is not None and threading.current_thread() is not self._thread:
            self._ring()
            ended.wait(timeout_s)

    def flush(self, plug: Plug) -> None:
        """Something waits to be written."""
        self._dirty.append(plug)
        if threading.current_thread() is not self._thread:
            self._ring()

    def _ring(self) -> None:
        if self._rung:
            return
        self._rung = True
        with contextlib.suppress(OSError):  # it rings already, or is gone
            self._rope.send(b"!")

    # --- on its thread ------------------------------------------------------------------------------------------

    def plug(self, plug: Plug) -> None:
        """Takes over a connected client."""
        sock = plug.socket()
        if sock is None:
            plug.lost("the connection ended at once")
            return
        self._plugged[plug] = sock
        self._selector.register(sock, selectors.EVENT_READ, plug)
        self._dirty.append(plug)

    def unplug(self, plug: Plug) -> None:
        """Lets go of a client; to be called before its socket is closed."""
        sock = self._plugged.pop(plug, None)
        if sock is not None:
            self._selector.unregister(sock)
            self._look_now = True  # its life hears of it at once

    def _run(self) -> None:
        look_s = misc_s = 0.0
        while not self._stopping.is_set():
            rung = self._turn_sockets()
            while self._dirty:
                self._write(self._dirty.popleft())
            now_s = time.monotonic()
            if rung or self._look_now or now_s >= look_s:
                self._look_now = False
                look_s = now_s + _LOOK_S
                self._turn_lives(now_s)
            if now_s >= misc_s:
                misc_s = now_s + _MISC_S
                for plug in tuple(self._plugged):
                    self._guarded(plug, plug.loop_misc)

    def _turn_sockets(self) -> bool:
        """Reads and writes what is ready; whether the bell rang."""
        full, rung = self._full(), False
        ready = self._selector.select(0.0 if full or self._dirty else _LOOK_S)
        for key, events in ready:
            if key.data is None:
                self._rung = False  # before it is stilled: a ring in between is heard twice, never lost
                self._bell.recv(4096)
                rung = True
                continue
            if events & selectors.EVENT_WRITE:
                self._write(key.data)
            if events & selectors.EVENT_READ and not full:
                self._read(key.data)
        if full:
            time.sleep(_FULL_S)
        return rung

    def _read(self, plug: Plug) -> None:
        self._guarded(plug, plug.loop_read)
        sock = self._plugged.get(plug)
        while sock is not None and getattr(sock, "pending", int)():  # TLS has more than the socket shows
            self._guarded(plug, plug.loop_read)
            sock = self._plugged.get(plug)

    def _write(self, plug: Plug) -> None:
        if plug not in self._plugged:
            return
        self._guarded(plug, plug.loop_write)
        sock = self._plugged.get(plug)
        if sock is not None:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if plug.want_write() else 0)
            if self._selector.get_key(sock).events != wanted:
                self._selector.modify(sock, wanted, plug)

    def _guarded(self, plug: Plug, work: Callable[[], Any]) -> None:
        """No connection ends the thread of all."""
        try:
            work()
        except Exception as error:
            log.exception("a connection of the switchboard failed")
            self.unplug(plug)
            plug.lost(f"network thread: {type(error).__name__}: {error}")

    def _turn_lives(self, now_s: float) -> None:
        """Goes on with those whose wait is over."""
        for _ in range(len(self._lives)):
            life = self._lives.popleft()
            if not (life.event.is_set() or now_s >= life.due_s):
                self._lives.append(life)
                continue
            try:
                life.event, timeout_s = next(life.pauses)
            except StopIteration:
                self._ends.pop(id(life.pauses)).set()
                continue
            except Exception:
                log.exception("a link of the switchboard ended")
                self._ends.pop(id(life.pauses)).set()
                continue
            life.due_s = time.monotonic() + timeout_s
            self._lives.append(life)
            if time.monotonic() - now_s > _BUDGET_S:
                self._ring()
                return
