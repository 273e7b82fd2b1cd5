"""Attackers of a run on other machines: asked for, and answered for, through a folder.

A run does not know what carries its attackers out (`deploy.sweep`: tasks of a cluster). It writes each one's settings
as `NAME.LIFE.toml`; whoever looks into the folder starts it and writes `NAME.LIFE.json` when it has ended. One that was
lost with its machine is asked for again: what it took with it has no score, and the server mirrors that again.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from pathlib import Path

import msgspec

from attack.settings import AttackSettings
from contract.configuration import decode_toml
from contract.errors import ConfigurationError, EnvironmentFaultError, SpikeleakError
from contract.messages import Seen
from deploy.output import write_atomically
from deploy.study import Study, to_toml
from deploy.supervisor import Party
from server.ledger import FILE_NAME, Ledger

log = logging.getLogger(__name__)

MOST_LOSSES = 10
_RESTART_DELAY_S = 1.0


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """An attacker that a run asks for.

    Attributes:
        name: Which of the run's.
        life: How often it was asked for before.
        settings: Its settings; folder and files in them are the run's.
    """

    name: str
    life: int
    settings: AttackSettings


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How an attacker ended.

    Attributes:
        status: Its exit status; `None` where it was lost with its machine.
        fault: Why, where it is not 0.
    """

    status: int | None
    fault: str = ""


class Post:
    """The folder between a run and whoever carries its attackers out.

    Args:
        folder: The folder.
        host: Address of this machine at which they reach it.
    """

    def __init__(self, folder: Path, host: str) -> None:
        self.folder, self.host = folder, host
        folder.mkdir(parents=True, exist_ok=True)

    def ask(self, name: str, life: int, settings: AttackSettings) -> None:
        """The run asks for an attacker."""
        write_atomically(self.folder / f"{name}.{life}.toml", to_toml(settings))

    def asked(self) -> list[Asked]:
        """All that was asked for and has no answer."""
        found = []
        for path in sorted(self.folder.glob("*.toml")):
            if not path.with_suffix(".json").exists():
                name, _, life = path.stem.rpartition(".")
                found.append(Asked(name=name, life=int(life), settings=decode_toml(path, AttackSettings)))
        return found

    def answer(self, asked: Asked, ended: Ended) -> None:
        """Tells the run how one ended."""
        path = self.folder / f"{asked.name}.{asked.life}.json"
        write_atomically(path, msgspec.json.encode(ended).decode())

    def ended(self, name: str, life: int) -> Ended | None:
        """How one ended; `None` while it is at work."""
        path = self.folder / f"{name}.{life}.json"
        return msgspec.json.decode(path.read_bytes(), type=Ended) if path.exists() else None


class PostedAttacker(Party):
    """An attacker that is asked for, seen by its run as one of its processes.

    Args:
        name: Which of the run's.
        settings: Its settings.
        post: Where it is asked for.
        controlled: Kinds of sights that get noise controls.
        max_restarts: Crashes that are forgiven; of losses there may be `MOST_LOSSES`.
    """

    def __init__(
        self, name: str, settings: AttackSettings, post: Post, *, controlled: tuple[Seen, ...], max_restarts: int
    ) -> None:
        base = settings.directory.parent
        super().__init__(name, [], base / "logs" / f"{settings.directory.name}.log", max_restarts=max_restarts)
        self._settings, self._post, self._controlled = settings, post, controlled
        self._ledger = base / FILE_NAME
        self._life = self._losses = 0

    def start(self) -> None:
        """Asks for it."""
        done = controls_made(self._ledger, self._controlled) if self._life else 0
        left = max(0, self._settings.noise_controls - done)
        settings = msgspec.structs.replace(self._settings, noise_controls=left)
        self._post.ask(self.name, self._life, settings)

    def watch(self) -> None:
        """Looks after it once.

        Raises:
            ConfigurationError: It ended with status 2.
            EnvironmentFaultError: It crashed or was lost more often than is forgiven.
        """
        if self._start_at_s:
            if time.monotonic() >= self._start_at_s:
                self._start_at_s = 0.0
                self.start()
            return
        ended = None if self.finished else self._post.ended(self.name, self._life)
        if ended is None:
            return
        self.finished = ended.status == 0
        if not self.finished:
            self._again(ended)

    def _again(self, ended: Ended) -> None:
        if ended.status == ConfigurationError.exit_status:
            raise ConfigurationError(f"{self.name}: {ended.fault}")
        self._losses += ended.status is None
        self.restarts += ended.status is not None
        if self.restarts > self.max_restarts or self._losses > MOST_LOSSES:
            raise EnvironmentFaultError(
                f"{self.name} ended {self.restarts} times and was lost {self._losses} times, the last time with "
                f"status {ended.status}: {ended.fault}"
            )
        log.warning("%s ended with status %s (%s); asking for it again", self.name, ended.status, ended.fault)
        self._life += 1
        self._start_at_s = time.monotonic() + _RESTART_DELAY_S


def controlled(study: Study) -> tuple[Seen, ...]:
    """Kinds of sights of a study that get noise controls: those of its audit rounds."""
    audits = [entry for entry in study.schedule if entry.kind == "audit"]
    secure: tuple[Seen, ...] = ("aggregate",) if any(entry.secure is not None for entry in audits) else ()
    fellow: tuple[Seen, ...] = ("models",) if audits and "fellow" in study.attack.vantages else ()
    return ("update", *secure, *fellow)


def controls_made(ledger: Path, kinds: tuple[Seen, ...]) -> int:
    """How many noise controls of each kind are in a run's ledger: what an attacker's next life need not do again."""
    with contextlib.suppress(sqlite3.OperationalError, SpikeleakError), Ledger.open_read(ledger) as found:
        counts = found.rows("SELECT seen, COUNT(DISTINCT update_uid) AS n FROM noise_controls GROUP BY seen")
        made = {row["seen"]: int(row["n"]) for row in counts}
        return min(made.get(kind, 0) for kind in kinds)
    return 0
