"""The models that the attacker has seen: put together from retained chunks, the newest few kept. No I/O."""

from __future__ import annotations

from collections.abc import Mapping

from attack.threat import Array32
from contract.codecs import decode_tensors
from contract.frames import Assembler
from contract.messages import Model, unpack

KEPT = 8
"""Versions kept. A server clears old versions from the broker; updates may still start from them for a while."""


class ModelStore:
    """Parameters by model version.

    Args:
        kept: Versions to keep.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self.kept = kept
        self._assembler = Assembler()
        self._models: dict[int, Mapping[str, Array32]] = {}

    def take(self, payload: bytes) -> int | None:
        """One retained chunk; empty ones mean that a version was cleared from the broker, and are ignored here.

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
        self._models[model.version] = decode_tensors(model.tensors, views)
        for version in sorted(self._models)[: -self.kept]:
            del self._models[version]
        return model.version

    def get(self, version: int) -> Mapping[str, Array32] | None:
        """The parameters of a version, or `None` when it is not held."""
        return self._models.get(version)
