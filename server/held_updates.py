"""Updates as they were decoded at their admission, kept for their aggregation: a round's close need not do it again.

What is not held is decoded from the ledger, to the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from contract.messages import Update

HELD_BYTES = 32 * 1024 * 1024
"""Of all that are held; the oldest give way."""

Tensors = Mapping[str, npt.NDArray[np.float32]]


class HeldUpdates:
    """The latest ones by uid.

    Args:
        most_bytes: See `HELD_BYTES`.
    """

    def __init__(self, most_bytes: int = HELD_BYTES) -> None:
        self._most, self._held_bytes = most_bytes, 0
        self._held: dict[str, tuple[Update, Tensors]] = {}

    def put(self, update: Update, tensors: Tensors) -> None:
        """Holds one that is in the ledger."""
        self.take(update.uid)
        self._held[update.uid] = (update, tensors)
        self._held_bytes += _size(tensors)
        while self._held_bytes > self._most:
            self.take(next(iter(self._held)))

    def take(self, uid: str) -> tuple[Update, Tensors] | None:
        """One that is held no longer from now on; `None` if it was not."""
        found = self._held.pop(uid, None)
        if found is not None:
            self._held_bytes -= _size(found[1])
        return found


def _size(tensors: Tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())
