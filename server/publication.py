"""The task's graphs: exported once in a run's life, kept in its ledger, retained on the broker.

A resumed run publishes the bytes that it published before, whatever a newer exporter would make of the task: devices
keep graphs by their SHA-256.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from contract import frames, topics
from contract.messages import GraphRecord
from server.ledger import Ledger
from server.model import Wire

if TYPE_CHECKING:
    from server.export import Export

log = logging.getLogger(__name__)


def ensure_exported(ledger: Ledger, export: Callable[[], Iterable[Export]]) -> None:
    """Exports the graphs and keeps them, unless the ledger has them.

    Args:
        ledger: The run's ledger.
        export: Makes and checks the graphs of the run's task; raises if one is wrong.
    """
    if ledger.row("SELECT 1 FROM graphs LIMIT 1"):
        return
    log.info("exporting the task's graphs")
    found = tuple(export())
    with ledger.transaction():
        for graph in found:
            ledger.insert(
                "graphs",
                {
                    "name": graph.name,
                    "sha256": graph.sha256,
                    "bytes": graph.nbytes,
                    "object": graph.blob,
                    "error": graph.error,
                    "export_s": graph.seconds,
                },
            )
    for graph in found:
        text = "graph %s: %.1f kB in %.1f s, within %.1e of snntorch"
        log.info(text, graph.name, graph.nbytes / 1e3, graph.seconds, graph.error)


class PublishedGraphs:
    """The graphs of a run, as devices find them.

    Args:
        ledger: Holds them.
        wanted: Whether they are published; otherwise what an earlier life published is cleared.
    """

    def __init__(self, ledger: Ledger, *, wanted: bool) -> None:
        self._ledger, self._wanted = ledger, wanted

    @property
    def records(self) -> tuple[GraphRecord, ...]:
        """What the manifest says of them."""
        rows = self._ledger.rows("SELECT name, sha256, bytes FROM graphs ORDER BY name") if self._wanted else ()
        return tuple(GraphRecord(name=row["name"], sha256=row["sha256"], nbytes=row["bytes"]) for row in rows)

    def publish(self, run: str, wire: Wire) -> None:
        """Publishes all chunks (retained) and clears those of an earlier, finer cut."""
        for row in self._ledger.rows("SELECT * FROM graphs ORDER BY name"):
            name, parts = str(row["name"]), list[bytes]()
            if self._wanted:
                parts += frames.split(row["object"], row["sha256"][:32], frame_bytes=wire.frame_bytes)
            if len(parts) > row["chunks"]:  # noted first: what may be on the broker can then always be cleared
                self._note(name, len(parts))
            sent = [wire.publish(topics.graph_chunk(run, name, i), part, retain=True) for i, part in enumerate(parts)]
            surplus = range(len(parts), row["chunks"])
            sent += [wire.publish(topics.graph_chunk(run, name, i), b"", retain=True) for i in surplus]
            if all(sent) and surplus:
                self._note(name, len(parts))

    def _note(self, name: str, chunks: int) -> None:
        self._ledger.execute("UPDATE graphs SET chunks = ? WHERE name = ?", chunks, name)
