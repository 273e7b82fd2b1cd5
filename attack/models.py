"""The models that the attacker has seen, put together from retained chunks: the latest and the needed ones. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from attack.threat import Array32
from contract.codecs import decode_plain
from contract.frames import Assembler
from contract.messages import Model, unpack

KEPT = 8
"""Latest arrivals kept, beside those that waiting updates need."""


class ModelStore:
    """Parameters by model version.

    Args:
        kept: Latest arrivals to keep, at least 2.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self.kept = kept
        self._assembler = Assembler()
        self._models: dict[int, Mapping[str, Array32]] = {}
        self._latest: list[int] = []  # versions in the order of their arrival, the newest last

    def take(self, payload: bytes, *, needed: Collection[int] = ()) -> int | None:
        """One retained chunk; empty ones mean that a version was cleared from the broker, and are ignored here.

        Args:
            payload: The chunk.
            needed: Versions that updates in the queue started from: kept, however old.

        Returns:
            The version that this chunk completes, if any.

        Raises:
            WireError: Not a frame, or not a model.
        """
        if not payload:
            return None
        whole = self._assembler.add(payload)
        if whole is None:
            return None
        model, views = unpack(bytes(whole.blob), Model)
        self._models[model.version] = decode_plain(model.tensors, views)
        self._latest = [v for v in self._latest if v != model.version][-self.kept + 1 :]
        self._latest.append(model.version)
        for version in set(self._models) - {*self._latest, *needed}:
            del self._models[version]
        return model.version

    def get(self, version: int) -> Mapping[str, Array32] | None:
        """The parameters of a version, or `None` when it is not held."""
        return self._models.get(version)
