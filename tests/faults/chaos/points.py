"""Named points at which a party can be killed: product functions wrapped from outside, no barrier in the product.

A point is passed before or after a call of one function, when the call is of the kind that it means. The process sends
itself SIGKILL at the N-th passage: nothing is flushed, no handler runs, the kernel keeps what was written.
`tests/faults/test_kill_points.py` holds that a fault-free run passes every point, so that none can silently vanish.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from contract.messages import Ack, decode

Call = tuple[tuple[Any, ...], dict[str, Any]]
AT_THE_WIRE_S = 0.02
"""Until what was handed to the network thread has left the process."""


class Point(Struct, frozen=True, kw_only=True):
    """One place in the product.

    Attributes:
        call: `module:function` or `module:Class.function`.
        moment: Before or after it.
        when: Whether a call with these arguments is meant; looked at before the call.
        pause_s: Seconds between the passage and the kill.
    """

    call: str
    moment: Literal["before", "after"]
    when: Callable[[Call], bool] = lambda _call: True
    pause_s: float = 0.0


def before(call: str, when: Callable[[Call], bool] = lambda _call: True) -> Point:
    """A point before a call."""
    return Point(call=call, moment="before", when=when)


def after(call: str, when: Callable[[Call], bool] = lambda _call: True, pause_s: float = 0.0) -> Point:
    """A point after a call has returned."""
    return Point(call=call, moment="after", when=when, pause_s=pause_s)


# --- which calls are meant ------------------------------------------------------------------------------------------


def _synced(folder: str, kind: str) -> Callable[[Call], bool]:
    """An fsync of a file of that kind in that folder of a spool."""

    def meant(call: Call) -> bool:
        path = Path(f"/proc/self/fd/{call[0][0]}").readlink()
        return path.parent.name == folder and f".{kind}." in path.name

    return meant


def _renamed(folder: str, kind: str) -> Callable[[Call], bool]:
    """A rename into that folder of a spool."""
    return lambda call: call[0][1].parent.name == folder and f".{kind}." in call[0][1].name


def _published(part: str, end: str = "") -> Callable[[Call], bool]:
    """A message that is not empty on a topic with that part and end."""
    return lambda call: part in call[0][1] and call[0][1].endswith(end) and bool(call[0][2])


def _of_update(call: Call) -> bool:
    """An action of the device on an update that is pending or at rest."""
    device, action = call[0]
    path = device.spool.outbox._files.get(action.uid)
    return path is not None and ".update." in path.name


def _journals_update(call: Call) -> bool:
    return "published" in call[1]


def _into(table: str) -> Callable[[Call], bool]:
    return lambda call: call[0][1] == table


def _of_up(call: Call) -> bool:
    return bool(call[0][1].kind == "up")


def _admits(call: Call) -> bool:
    return _published("/ack/")(call) and decode(call[0][2], Ack).status == "admitted"


_LINK = "contract.link:Link.publish"
_RENAME = "pathlib:Path.replace"
_DEVICE, _RESIDUALS = "edge_client.device:Device.", "edge_client.residual:Residuals."
_INTAKE, _MODEL = "server.intake:Intake.", "server.model:GlobalModel."

CLIENT: dict[str, Point] = {
    "resumed": after(f"{_DEVICE}_resumed"),
    "prepared": after(f"{_DEVICE}_prepare_task"),
    "train-before": before("edge_client.training:local_update"),
    "train-after": after("edge_client.training:local_update"),
    "residual-before-fsync": before("os:fsync", _synced("residuals", "residual")),
    "residual-before-rename": before(_RENAME, _renamed("residuals", "residual")),
    "residual-after-rename": after(_RENAME, _renamed("residuals", "residual")),
    "receipt-after": after("edge_client.spool:Spool.keep_receipt"),
    "spool-before-fsync": before("os:fsync", _synced("outbox", "update")),
    "spool-after-fsync": after("os:fsync", _synced("outbox", "update")),
    "spool-before-rename": before(_RENAME, _renamed("outbox", "update")),
    "spool-after-rename": after(_RENAME, _renamed("outbox", "update")),
    "journal-before": before("edge_client.spool:Spool.record", _journals_update),
    "journal-after": after("edge_client.spool:Spool.record", _journals_update),
    "residual-settled": after(f"{_RESIDUALS}settle"),
    "chunk-between": after(_LINK, _published("/up/", "/0"), AT_THE_WIRE_S),
    "chunks-handed-over": after(f"{_DEVICE}_send", _of_update),
    "chunks-sent": after(f"{_DEVICE}_send", _of_update, AT_THE_WIRE_S),
    "ack-before-delete": before(f"{_DEVICE}_delete", _of_update),
    "ack-after-delete": after(f"{_DEVICE}_delete", _of_update),
    "report-before-rename": before(_RENAME, _renamed("outbox", "energy")),
    "report-after-rename": after(_RENAME, _renamed("outbox", "energy")),
    "give-back-before": before(f"{_RESIDUALS}give_back"),
    "give-back-after": after(f"{_RESIDUALS}give_back"),
}
"""A device: trains, stores, sends, hears."""

SERVER: dict[str, Point] = {
    "resumed": after("server.coordinator:resume"),
    "open-inside": after("server.ledger:Ledger.insert", _into("rounds")),
    "open-after": before("server.coordinator:Coordinator._mirror_after_restart"),
    "announced": after(_LINK, _published("/server/", "/state"), AT_THE_WIRE_S),
    "chunk-before": before(f"{_INTAKE}frame", _of_up),
    "chunk-after": after(f"{_INTAKE}frame", _of_up),
    "journal-before": before(f"{_INTAKE}_journal_admitted"),
    "journal-inside": after("server.ledger:Ledger.insert", _into("updates")),
    "journal-after": after(f"{_INTAKE}_journal_admitted"),
    "commit-after": before("server.outgoing:Outgoing.say"),
    "ack-after": after(_LINK, _admits, AT_THE_WIRE_S),
    "mirror-before": before(f"{_INTAKE}send_mirror"),
    "mirror-between": after(_LINK, _published("/mirror/", "/0"), AT_THE_WIRE_S),
    "mirror-after": after(f"{_INTAKE}send_mirror"),
    "report-inside": after("server.ledger:Ledger.insert", _into("objects")),
    "aggregate-before": before(f"{_MODEL}advance"),
    "aggregate-inside": after("server.model:descend"),
    "checkpoint-before": before(f"{_MODEL}_store"),
    "checkpoint-inside": after(f"{_MODEL}_store"),
    "aggregate-after": after(f"{_MODEL}advance"),
    "checkpoint-after": before("server.herald:Herald.new_model"),
    "publish-between": after(_LINK, _published("/model/", "/0"), AT_THE_WIRE_S),
    "publish-after": after("server.herald:Herald.new_model"),
}
"""The server: opens, receives, journals, commits, acknowledges, mirrors, aggregates, checkpoints, publishes."""

POINTS: dict[str, dict[str, Point]] = {"client": CLIENT, "server": SERVER}


# --- wrapping -------------------------------------------------------------------------------------------------------


class Barrier:
    """Counts passages in this process.

    Args:
        kill_at: Point and passage at which the process ends.
        passed: File that collects each point at its first passage.
    """

    def __init__(self, kill_at: tuple[str, int] | None = None, passed: Path | None = None) -> None:
        self._kill_at, self._counts = kill_at, Counter[str]()
        self._passed = None if passed is None else os.open(passed, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def passage(self, name: str, pause_s: float) -> None:
        """The process is at a point."""
        self._counts[name] += 1
        if self._passed is not None and self._counts[name] == 1:
            os.write(self._passed, f"{name}\n".encode())
        if (name, self._counts[name]) == self._kill_at:
            time.sleep(pause_s)
            os.kill(os.getpid(), signal.SIGKILL)


def install(points: dict[str, Point], barrier: Barrier) -> None:
    """Wraps the functions of all points in this process.

    Raises:
        AttributeError, ModuleNotFoundError: The product has no such function any more.
    """
    for call in dict.fromkeys(point.call for point in points.values()):
        module, _, path = call.partition(":")
        owner: Any = importlib.import_module(module)
        *outer, last = path.split(".")
        for part in outer:
            owner = getattr(owner, part)
        mine = {name: point for name, point in points.items() if point.call == call}
        setattr(owner, last, _wrapped(getattr(owner, last), mine, barrier))


def _wrapped(function: Callable[..., Any], points: dict[str, Point], barrier: Barrier) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        meant = {name: point for name, point in points.items() if point.when((args, kwargs))}
        for name, point in meant.items():
            if point.moment == "before":
                barrier.passage(name, point.pause_s)
        result = function(*args, **kwargs)
        for name, point in meant.items():
            if point.moment == "after":
                barrier.passage(name, point.pause_s)
        return result

    return wrapper
