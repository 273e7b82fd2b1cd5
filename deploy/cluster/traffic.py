"""What one update costs on the wire, read from the ledger of a run."""

from __future__ import annotations

from pathlib import Path

import msgspec

from contract.errors import ConfigurationError
from contract.frames import CHUNK_BYTES
from contract.messages import Ack, ServerState, encode
from server.ledger import FILE_NAME, Ledger

FRAME_HEAD_BYTES = 84
"""Header of a frame, SPEC.md."""
NAME_BYTES = 12
"""A device's name on the wire: up to eleven characters, as `board-00001`."""
ACK_BYTES = len(encode(Ack(uid="0" * 32, status="admitted")))


class Traffic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Means over the admitted updates of a run.

    Attributes:
        updates: Updates that the means are over.
        update_bytes: Of an update's object.
        report_bytes: Of its energy report.
        score_bytes: Of its score; 0 when the run had no attacker.
        other_bytes: Of all else that the server heard per update: reconstructions, births, repeats.
        model_bytes: Of the model that a device fetches before it.
        task_bytes: Of the graphs that a device fetches once.
        attack_s: Processor seconds of the attacks on it; `None` when the run had no attacker.
    """

    updates: int
    update_bytes: float
    report_bytes: float
    score_bytes: float
    other_bytes: float
    model_bytes: float
    task_bytes: float
    attack_s: float | None

    def frames(self, nbytes: float) -> int:
        """Messages that an object of this size travels in."""
        return max(1, -int(-nbytes // (CHUNK_BYTES - FRAME_HEAD_BYTES)))


def state_bytes(asked: int) -> int:
    """Of a `ServerState` that asks so many devices: it names each."""
    return len(encode(ServerState(run="run", status="open", epoch=1, model_sha256="0" * 64, task_hash="0" * 64))) + (
        asked * NAME_BYTES
    )


def measured(folder: Path) -> Traffic:
    """The traffic of a run.

    Raises:
        ConfigurationError: The folder holds no ledger, or no update was admitted.
    """
    place = folder / FILE_NAME
    if not place.exists():
        raise ConfigurationError(f"{folder}: holds no {FILE_NAME}; name the folder of a run")
    with Ledger.open_read(place) as ledger:

        def value(text: str) -> float:
            return float(ledger.value(text) or 0)

        updates = int(value("SELECT COUNT(*) FROM updates WHERE status = 'admitted'"))
        if not updates:
            raise ConfigurationError(f"{place}: holds no admitted update, so nothing was measured; name a finished run")
        heard = value("SELECT SUM(bytes_in) FROM sessions")
        known = value("SELECT SUM(bytes) FROM updates") + value("SELECT SUM(bytes) FROM objects")
        scored = value("SELECT COUNT(DISTINCT update_uid) FROM reconstructions")
        # What holds several updates was attacked once, and is written down for each of them.
        shared = "SELECT DISTINCT round, seen, attack, seconds FROM reconstructions WHERE seen != 'update'"
        spent = value("SELECT SUM(seconds) FROM reconstructions WHERE seen = 'update'")
        spent += value(f"SELECT SUM(seconds) FROM ({shared})")  # noqa: S608 - a literal
        spent += value("SELECT SUM(seconds) FROM noise_controls")
        return Traffic(
            updates=updates,
            update_bytes=value("SELECT AVG(bytes) FROM updates WHERE status = 'admitted'"),
            report_bytes=value("SELECT AVG(bytes) FROM objects WHERE kind = 'energy'"),
            score_bytes=value("SELECT AVG(bytes) FROM objects WHERE kind = 'score'"),
            other_bytes=max(0.0, heard - known) / updates,
            model_bytes=value("SELECT AVG(bytes) FROM models"),
            task_bytes=value("SELECT SUM(bytes) FROM graphs WHERE name = 'training'"),
            attack_s=spent / scored if scored else None,
        )
