"""The residual of error feedback at rest: it advances exactly when its update enters the outbox.

An update and the residual that it leaves are one fact, and a crash may fall between any two writes. So:

1. the new residual is written under the update's uid, beside the old one;
2. the update goes into the outbox; its note names that residual. *This rename decides*;
3. the journal takes the name over; residuals that it does not name are deleted.

After a start the newest update in the outbox decides when the journal is behind it. A residual whose update never got
into the outbox is deleted: that update was never sent.

A refused update goes back: what it said is added to the residual that holds by then, in one write that also names the
update, so that a refusal heard twice counts once. Only refusals that blame the time (`contract.pipeline.RETURNED`) are
treated so; the content of a malformed or too long update would be refused again, and is dropped with a log line.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from contract.codecs import buffer_view, decode_tensors, encode_tensors
from contract.messages import TensorRecord, Update, unpack
from contract.task import RoundPlan
from edge_client.spool import Spool, SpoolItem

log = logging.getLogger(__name__)

Parameters = dict[str, NDArray[np.float32]]


class ResidualNote(msgspec.Struct, frozen=True, kw_only=True):
    """What a residual belongs to.

    Attributes:
        task_hash: Its task; another one begins with nothing.
        algorithm: Its updates' units: gradients or weights. A change begins with nothing.
        returned: Refused updates that are in it already and still lie in the outbox.
        tensors: Where its values are in the blob (fp32).
    """

    task_hash: str
    algorithm: str
    returned: tuple[str, ...]
    tensors: tuple[TensorRecord, ...]


class Residuals:
    """The residual of one device.

    Args:
        spool: The device's durable memory.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def load(self, task_hash: str, plan: RoundPlan) -> Parameters | None:
        """What the last update with error feedback left; `None` is zero.

        Raises:
            WireError: The file holds something else than it says.
        """
        item, note = self._held()
        if item is None or note is None or (note.task_hash, note.algorithm) != (task_hash, plan.algorithm):
            return None
        return _values(item, note)

    def prepare(self, uid: str, round_: int, task_hash: str, plan: RoundPlan, values: Parameters) -> None:
        """Writes what an update leaves, before the update enters the outbox. It holds from then on.

        Raises:
            EnvironmentFaultError: It cannot be written.
        """
        _, note = self._held()
        waiting = set(self._spool.outbox)
        returned = () if note is None else tuple(old for old in note.returned if old in waiting)
        place = SpoolItem(uid=uid, kind="residual", round=round_)
        self._write(place, task_hash=task_hash, algorithm=plan.algorithm, returned=returned, values=values)

    def settle(self) -> None:
        """Deletes every residual but the one that holds."""
        for uid in self._spool.residuals:
            if uid != self._spool.journal.residual:
                self._spool.residuals.delete(uid)

    def give_back(self, uid: str) -> None:
        """Adds a refused update of the outbox to the residual that holds; a second time changes nothing.

        Raises:
            EnvironmentFaultError: It cannot be written.
        """
        refused = self._spool.outbox.get(uid)
        if refused is None:
            return
        update, views = unpack(refused.blob, Update)
        if not update.plan.feeds_back:
            return
        item, note = self._held()
        if item is None or note is None:
            log.error("update %s was refused and its residual is lost: its content is lost with it", uid)
            return
        if (note.task_hash, note.algorithm) != (update.task_hash, update.plan.algorithm):
            log.warning("update %s was refused; it is of another task or algorithm than the residual: dropped", uid)
            return
        if uid in note.returned:
            return
        said, values = decode_tensors(update.tensors, views), _values(item, note)
        total = {name: value + said[name] for name, value in values.items()}
        returned = (*note.returned, uid)
        self._write(item, task_hash=note.task_hash, algorithm=note.algorithm, returned=returned, values=total)
        log.info("update %s was refused: its content goes into the next one", uid)

    def _held(self) -> tuple[SpoolItem | None, ResidualNote | None]:
        item = self._spool.residuals.get(self._spool.journal.residual)
        return item, None if item is None else msgspec.msgpack.decode(item.note, type=ResidualNote)

    def _write(
        self,
        place: SpoolItem,
        *,
        task_hash: str,
        algorithm: str,
        returned: tuple[str, ...],
        values: Mapping[str, NDArray[np.float32]],
    ) -> None:
        records, buffers = encode_tensors("fp32", values, np.random.default_rng(0))
        note = ResidualNote(task_hash=task_hash, algorithm=algorithm, returned=returned, tensors=records)
        blob = b"".join(buffer_view(buffer) for buffer in buffers)
        self._spool.residuals.put(msgspec.structs.replace(place, note=msgspec.msgpack.encode(note), blob=blob))


def _values(item: SpoolItem, note: ResidualNote) -> Parameters:
    views, offset = [], 0
    for record in note.tensors:
        views.append(memoryview(item.blob)[offset : offset + record.nbytes])
        offset += record.nbytes
    return decode_tensors(note.tensors, views)
