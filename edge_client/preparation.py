"""Makes a task ready: its graphs from the network or the disk, its data, its engine. Device's hand for `graphs`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from contract import topics
from contract.errors import ConfigurationError
from contract.frames import Assembler
from contract.messages import GraphRecord, TaskManifest
from contract.task import TaskSpec
from edge_client.engine import Engine, Graphs, lacking
from edge_client.events import FetchGraph, GraphArrived, KeepGraph, LeaveGraph, TaskArrived
from edge_client.graphs import GraphCache
from edge_client.settings import ClientSettings
from edge_client.training import Shard

log = logging.getLogger(__name__)

Prepare = Callable[[TaskSpec, Graphs], tuple[Shard, Engine]]


class Network(Protocol):
    """What a device needs of a link."""

    @property
    def frame_bytes(self) -> int:
        """See `contract.link.Link`."""
        ...

    def cut_smaller(self) -> bool:
        """See `contract.link.Link`."""
        ...

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """See `contract.link.Link`."""
        ...

    def subscribe(self, *filters: str) -> None:
        """See `contract.link.Link`."""
        ...

    def unsubscribe(self, *filters: str) -> None:
        """See `contract.link.Link`."""
        ...


class Preparation:
    """The task that the server named last, until it is ready.

    Args:
        settings: The device's settings.
        network: Where graphs come from.
        prepare: Loads the data and opens the engine of a task, given the graphs that it needs.
        needs: Names of these graphs.
    """

    def __init__(
        self, settings: ClientSettings, network: Network, prepare: Prepare, needs: tuple[str, ...] = ()
    ) -> None:
        self._settings, self._network, self._prepare, self._needs = settings, network, prepare, needs
        self._cache = GraphCache(settings.graphs or settings.directory / "graphs")
        self._inbox = Assembler()
        self._manifest: TaskManifest | None = None
        self._graphs: dict[str, bytes] = {}
        self._arrived = b""

    def named(self, manifest: TaskManifest) -> TaskArrived:
        """The server named a task.

        Returns:
            What the state machine must hear: which graphs are not on the disk.

        Raises:
            ConfigurationError: The server does not publish a graph that the engine needs.
        """
        records = {record.name: record for record in manifest.graphs if record.name in self._needs}
        if absent := [name for name in self._needs if name not in records]:
            raise ConfigurationError(lacking(self._settings.engine, absent))
        self._manifest, self._graphs = manifest, {}
        missing: list[GraphRecord] = []
        for name, record in records.items():
            blob = self._cache.get(record)
            if blob is None:
                missing.append(record)
            else:
                self._graphs[name] = blob
        return TaskArrived(task_hash=manifest.task_hash, missing=tuple(missing))

    def chunk(self, topic: topics.Topic, payload: bytes) -> GraphArrived | None:
        """Takes a chunk of a graph.

        Returns:
            What the state machine must hear when the graph is complete.

        Raises:
            WireError: Not a frame as SPEC.md has it.
        """
        whole = self._inbox.add(payload)
        if whole is None:
            return None
        self._arrived = bytes(whole.blob)
        return GraphArrived(name=topic.graph, sha256=whole.sha256)

    def fetch(self, action: FetchGraph) -> None:
        """Subscribes to a graph."""
        self._network.subscribe(topics.graph_filter(self._settings.run, action.name))

    def leave(self, action: LeaveGraph) -> None:
        """Ends that subscription."""
        self._network.unsubscribe(topics.graph_filter(self._settings.run, action.name))

    def keep(self, action: KeepGraph) -> None:
        """Stores the graph that arrived last.

        Raises:
            EnvironmentFaultError: The disk is full, read-only or broken.
        """
        self._cache.keep(action.record, self._arrived)
        self._graphs[action.record.name], self._arrived = self._arrived, b""
        log.info("graph %s: %d bytes, SHA-256 as announced", action.record.name, action.record.nbytes)

    def ready(self) -> tuple[TaskSpec, Shard, Engine]:
        """Data and engine of the task; what was held of its graphs is let go.

        Raises:
            ConfigurationError: The data set or the engine is not to be had here.
        """
        manifest, graphs = self._manifest, self._graphs
        assert manifest is not None, "the machine asks for a task that was named"
        self._inbox, self._graphs, self._arrived = Assembler(), {}, b""
        return manifest.task, *self._prepare(manifest.task, graphs)
