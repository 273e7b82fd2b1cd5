"""The global model on a device: its chunks fetched from the broker, its parameters decoded once."""

from __future__ import annotations

import numpy as np

from contract import topics
from contract.codecs import decode_plain
from contract.errors import WireError
from contract.frames import Assembler
from contract.messages import Model, unpack
from edge_client.events import ModelArrived
from edge_client.preparation import Network
from edge_client.training import Parameters


class Models:
    """The model of one device.

    Args:
        run: Its run.
        network: Where it comes from.
    """

    def __init__(self, run: str, network: Network) -> None:
        self._run, self._network = run, network
        self._inbox = Assembler()
        self._blob = ("", bytearray())
        self._decoded: tuple[str, Parameters] = ("", {})

    def fetch(self, version: int, sha256: str) -> None:  # noqa: ARG002 - for devices that share one copy
        """Subscribes to a version.

        Args:
            version: The model.
            sha256: What the server says that it is.
        """
        self._network.subscribe(topics.model_filter(self._run, version))

    def leave(self, version: int) -> None:
        """Ends that subscription; what came of it so far is of no more use."""
        self._network.unsubscribe(topics.model_filter(self._run, version))
        self._inbox = Assembler()

    def chunk(self, topic: topics.Topic, payload: bytes) -> tuple[ModelArrived, bytearray] | None:
        """Takes a chunk.

        Returns:
            What the state machine must hear when a model is complete, and its bytes: for `keep`, if it is wanted.

        Raises:
            WireError: Not a frame as SPEC.md has it.
        """
        whole = self._inbox.add(payload)
        return None if whole is None else (ModelArrived(version=topic.version, sha256=whole.sha256), whole.blob)

    def keep(self, arrived: ModelArrived, blob: bytearray) -> None:
        """The model is the one that is held from now on."""
        self._blob = (arrived.sha256, blob)

    def parameters(self, version: int) -> Parameters:
        """The parameters of the model that is held.

        Raises:
            WireError: The object is of another version than its topic said.
        """
        sha256, blob = self._blob
        if self._decoded[0] != sha256:
            self._decoded = (sha256, decoded(blob, version))
            self._blob = (sha256, bytearray())
        return self._decoded[1]


def decoded(blob: bytes | bytearray, version: int) -> Parameters:
    """The parameters in a model's object.

    Raises:
        WireError: It is of another version.
    """
    model, views = unpack(memoryview(blob), Model)
    if model.version != version:
        raise WireError(f"model object is of version {model.version}, expected {version}")
    return {name: np.array(value) for name, value in decode_plain(model.tensors, views).items()}
