"""The global model once in a process of many devices: one of them fetches it, the others are told that it has come.

A thousand devices would otherwise fetch, assemble and hold a thousand copies of the same bytes. Each still asks for the
model by its version and SHA-256, and none gets another one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from contract import topics
from edge_client.events import ModelArrived
from edge_client.models import Models, decoded
from edge_client.preparation import Network
from edge_client.training import Parameters

Key = tuple[int, str]
_KEPT = 2


class ModelShelf:
    """The newest models of a run, for all devices of a process. Everything happens on the thread of the work."""

    def __init__(self) -> None:
        self._blobs: dict[Key, bytearray] = {}
        self._parameters: dict[Key, Parameters] = {}
        self._kept: deque[Key] = deque()
        self._asked: dict[Key, list[SharedModels]] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._blobs or key in self._parameters

    def ask(self, seat: SharedModels, key: Key) -> bool:
        """A device wants a model that is not here; whether it is the one to fetch it."""
        waiting = self._asked.setdefault(key, [])
        waiting.append(seat)
        return waiting[0] is seat

    def leave(self, seat: SharedModels, key: Key) -> None:
        """A device wants it no longer; if it was to fetch it, the next one does."""
        waiting = self._asked.get(key, [])
        if seat not in waiting:
            return
        fetched = waiting[0] is seat
        waiting.remove(seat)
        if not waiting:
            del self._asked[key]
        elif fetched:
            waiting[0].subscribe(key)

    def put(self, key: Key, blob: bytearray) -> None:
        """A model has come: all who wait for it hear of it."""
        if key not in self:
            self._blobs[key] = blob
            self._kept.append(key)
        while len(self._kept) > _KEPT:
            old = self._kept.popleft()
            self._blobs.pop(old, None)
            self._parameters.pop(old, None)
        for seat in self._asked.pop(key, []):
            seat.tell(ModelArrived(version=key[0], sha256=key[1]))

    def parameters(self, key: Key) -> Parameters:
        """The parameters; nobody changes them.

        Raises:
            WireError: The object is of another version than its topic said.
        """
        if key not in self._parameters:
            self._parameters[key] = decoded(self._blobs.pop(key), key[0])
        return self._parameters[key]


class SharedModels(Models):
    """One device's view of the shelf.

    Args:
        run: The run.
        network: The device's own link.
        shelf: Of the process.
        tell: Posts an event to the device.
    """

    def __init__(self, run: str, network: Network, shelf: ModelShelf, tell: Callable[[ModelArrived], None]) -> None:
        super().__init__(run, network)
        self._shelf, self.tell = shelf, tell
        self._wanted: Key = (-1, "")
        self._held: tuple[Key, Parameters] | None = None

    def fetch(self, version: int, sha256: str) -> None:
        """Asks the shelf, and the network if nobody has yet."""
        self._wanted = (version, sha256)
        if self._wanted in self._shelf:
            self.tell(ModelArrived(version=version, sha256=sha256))
        elif self._shelf.ask(self, self._wanted):
            self.subscribe(self._wanted)

    def subscribe(self, key: Key) -> None:
        """Really fetches it."""
        super().fetch(*key)

    def leave(self, version: int) -> None:
        """Wants it no longer, or has it."""
        self._shelf.leave(self, self._wanted)
        super().leave(version)

    def chunk(self, topic: topics.Topic, payload: bytes) -> tuple[ModelArrived, bytearray] | None:
        """Takes a chunk; what is complete and what was asked for goes to all who asked."""
        whole = super().chunk(topic, payload)
        if whole is None:
            return None
        arrived, blob = whole
        key = (arrived.version, arrived.sha256)
        if key == self._wanted:
            self._shelf.put(key, blob)
            return None  # heard of it through the shelf, as all others
        return whole

    def parameters(self, version: int) -> Parameters:
        """The parameters of the model that was asked for last."""
        assert version == self._wanted[0], "a device trains from the model that it asked for last"
        if self._held is None or self._held[0] != self._wanted:
            self._held = (self._wanted, self._shelf.parameters(self._wanted))
        return self._held[1]
