"""Forks parties from a process that has imported everything: a start takes milliseconds, not seconds.

The zygote never has a second thread. It hears orders on a socket of packets, one JSON object each, answers each with
the process number of the fork, and says when a fork has ended. When the socket closes it kills what still runs.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections import deque
from pathlib import Path

IMPORTS = ("tests.faults.chaos.party", "edge_client.engines.onnx", "amqtt.broker", "deploy.broker")
_PACKET = 65536
_PR_SET_PDEATHSIG = 1
_START_S = 60.0


class ZygoteEndedError(Exception):
    """The zygote is gone."""


class Zygote:
    """The driver's end.

    Args:
        log: File for what the zygote itself says.
    """

    def __init__(self, log: Path) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._exits: deque[tuple[int, int]] = deque()
        with theirs, log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.chaos.zygote", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        self._channel.settimeout(_START_S)

    def fork(self, main: str, arguments: list[str], log: Path) -> int:
        """Runs `module:function` with arguments in a fork; returns its process number."""
        self._channel.send(json.dumps({"main": main, "arguments": arguments, "log": str(log)}).encode())
        while "pid" not in (said := self._hear()):
            self._exits.append((said["ended"], said["status"]))
        return int(said["pid"])

    def ended(self, timeout_s: float) -> tuple[int, int] | None:
        """Number and exit status of a fork that has ended (negative: a signal), waited for at most so long."""
        if not self._exits and select.select([self._channel], [], [], timeout_s)[0]:
            said = self._hear()
            self._exits.append((said["ended"], said["status"]))
        return self._exits.popleft() if self._exits else None

    def _hear(self) -> dict[str, int]:
        packet = self._channel.recv(_PACKET)
        if not packet:
            raise ZygoteEndedError(f"the zygote ended with status {self._process.wait()}")
        heard: dict[str, int] = json.loads(packet)
        return heard

    def close(self) -> None:
        """Ends the zygote and all its forks."""
        self._channel.close()
        self._process.wait(10)


def _serve(channel: socket.socket) -> None:
    heard, woken = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(heard, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    children: set[int] = set()
    while True:
        ready, _, _ = select.select([channel, heard], [], [])
        if heard in ready:
            os.read(heard, 512)
            _reap(channel, children)
        if channel in ready:
            packet = channel.recv(_PACKET)
            if not packet:
                break
            pid = os.fork()
            if pid == 0:
                _live(json.loads(packet), (channel.fileno(), heard, woken))
            children.add(pid)
            channel.send(json.dumps({"pid": pid}).encode())
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _reap(channel: socket.socket, children: set[int]) -> None:
    for pid in list(children):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            children.discard(pid)
            channel.send(json.dumps({"ended": pid, "status": os.waitstatus_to_exitcode(status)}).encode())


def _live(order: dict[str, object], inherited: tuple[int, ...]) -> None:
    """The fork: becomes a process of its own and never returns."""
    status = 70
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in inherited:
            os.close(descriptor)
        output = os.open(str(order["log"]), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        module, _, function = str(order["main"]).partition(":")
        status = int(getattr(importlib.import_module(module), function)(order["arguments"]) or 0)
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else 1
    except BaseException:  # noqa: BLE001 - what is left of it is in the log
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def serve_amqtt(arguments: list[str]) -> int:
    """The embedded broker, as `python -m deploy.broker PORT`."""
    from deploy import broker

    sys.argv = ["deploy.broker", *arguments]
    broker.main()
    return 0


def become(arguments: list[str]) -> int:
    """Another program in the fork's place."""
    os.execv(arguments[0], arguments)


def wait_for_port(port: int, timeout_s: float) -> float:
    """When a TCP port of the loopback interface accepts, on the monotonic clock."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        with socket.socket() as visitor:
            if visitor.connect_ex(("127.0.0.1", port)) == 0:
                return time.monotonic()
        assert time.monotonic() < deadline_s, f"port {port} did not accept within {timeout_s:g} s"
        time.sleep(0.005)


if __name__ == "__main__":
    for name in IMPORTS:
        importlib.import_module(name)
    with socket.socket(fileno=int(sys.argv[1])) as mine:
        _serve(mine)
