"""One small federation of real processes, of which some are killed and started again at once.

Digits, 64-32-10 spiking network, two steps of time, codec `topk` under error feedback, updates and models in several
chunks, seeds set: small enough for a round of some tens of milliseconds, and nothing in it is left out.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec.structs import replace

from contract import datasets
from contract.link import LinkSettings
from contract.task import EncodingSpec, ModelSpec, TaskSpec
from deploy.study import to_toml
from edge_client.settings import ClientSettings
from server.export import Export, exported
from server.ledger import FILE_NAME, Ledger
from server.publication import ensure_exported
from server.settings import ScheduleEntry, ServerSettings
from tests.faults.chaos.witness import witness
from tests.faults.chaos.zygote import Zygote

RUN = "chaos"
TASK = TaskSpec(dataset="digits", encoding=EncodingSpec(kind="rate", steps=2), model=ModelSpec(hidden=(32,)))
ROUND = ScheduleEntry(
    algorithm="fedavg",
    local_steps=2,
    batch_size=8,
    learning_rate=0.1,
    server_momentum=0.9,
    codec="topk",
    share=0.3,
    deadline_s=60.0,
)
DEVICES = ("device-0", "device-1", "device-2")
SERVER = "server"
_FRAME_BYTES = 1024
_KILLED = -signal.SIGKILL
_MAIN = "tests.faults.chaos.party:main"

KillAt = Callable[[str], str | None]
"""Given a party's name, the `POINT:N` of its next life; `None` lets it live."""


@functools.cache
def graphs() -> tuple[Export, ...]:
    """The task's graphs, exported and checked once in a process."""
    info = datasets.dataset_info(TASK.dataset)
    datasets.load(TASK.dataset)  # decoded and cached before many devices look for it at one time
    return tuple(exported(TASK, tuple(info.shape), info.classes))


class Federation:
    """The parties of one run.

    Args:
        folder: For everything that they leave.
        link: The broker.
        schedule: Of the run.
        zygote: Forks them.
        options: Further arguments of a device's `party`.
    """

    def __init__(
        self,
        folder: Path,
        link: LinkSettings,
        schedule: tuple[ScheduleEntry, ...],
        zygote: Zygote,
        options: tuple[str, ...] = (),
    ) -> None:
        self.folder, self._zygote, self._options = folder, zygote, options
        link = replace(link, max_frame_bytes=_FRAME_BYTES, keepalive_s=5)
        self.link = link
        self.server = ServerSettings(
            run=RUN,
            directory=folder / SERVER,
            link=link,
            task=TASK,
            schedule=schedule,
            clients=len(DEVICES),
            drain_s=1.0,
            evaluate=False,
        )
        self.devices = {
            name: ClientSettings(
                run=RUN,
                node=name,
                link=link,
                directory=folder / name,
                shard=index,
                shards=len(DEVICES),
                seed=7 + index,
                receipts_kept=1_000_000,
            )
            for index, name in enumerate(DEVICES)
        }
        self.kills = Counter[str]()
        self._alive: dict[int, tuple[str, str | None]] = {}
        for name, settings in {SERVER: self.server, **self.devices}.items():
            (folder / f"{name}.toml").write_text(to_toml(settings), encoding="utf-8")
        with Ledger(self.ledger) as ledger:
            ensure_exported(ledger, graphs)

    @property
    def ledger(self) -> Path:
        """The server's ledger."""
        return self.server.directory / FILE_NAME

    def start(self, name: str, kill_at: str | None = None, passed: Path | None = None) -> None:
        """Forks a party."""
        kind = "server" if name == SERVER else "client"
        arguments = [kind, str(self.folder / f"{name}.toml"), *(self._options if kind == "client" else ())]
        arguments += ["--kill-at", kill_at] if kill_at else []
        arguments += ["--passed", str(passed)] if passed else []
        self._alive[self._zygote.fork(_MAIN, arguments, self.folder / f"{name}.log")] = (name, kill_at)

    def tend(self, kill_at: KillAt, timeout_s: float) -> None:
        """Waits a while for a party to end; one that was killed is counted and started again at once.

        Raises:
            AssertionError: One ended by itself with a failure; says its last words.
        """
        ended = self._zygote.ended(timeout_s)
        if ended is None or ended[0] not in self._alive:
            return
        name, at = self._alive.pop(ended[0])
        if ended[1] == _KILLED and at is not None:
            self.kills[at.partition(":")[0]] += 1
            self.start(name, kill_at(name))
            return
        assert ended[1] == 0, f"{name} ended with status {ended[1]}: {self.last_words(name)}"

    def last_words(self, name: str) -> str:
        """The end of a party's log."""
        return " | ".join((self.folder / f"{name}.log").read_text(errors="replace").splitlines()[-6:])

    def run(self, kill_at: KillAt = lambda _name: None, *, timeout_s: float, passed: Path | None = None) -> None:
        """Starts everybody and tends them until all have left.

        Raises:
            AssertionError: A party failed, or the run is not over in time.
        """
        for name in (SERVER, *self.devices):
            self.start(name, kill_at(name), passed)
        self.finish(kill_at, timeout_s=timeout_s)

    def finish(self, kill_at: KillAt = lambda _name: None, *, timeout_s: float) -> None:
        """Tends all parties until they have left."""
        deadline_s = time.monotonic() + timeout_s
        while self._alive:
            assert time.monotonic() < deadline_s, (
                f"not over after {timeout_s:g} s: {sorted(name for name, _ in self._alive.values())} still run, "
                f"{sum(self.kills.values())} kills; {self.last_words(SERVER)}"
            )
            self.tend(kill_at, 0.5)


@contextlib.contextmanager
def federation(
    folder: Path,
    link: LinkSettings,
    schedule: tuple[ScheduleEntry, ...],
    zygote: Zygote,
    options: tuple[str, ...] = (),
) -> Iterator[Federation]:
    """A federation with a witness who listened first; nobody has been started yet."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Federation(folder, link, schedule, zygote, options)
    with witness(link, RUN, folder / "witness.jsonl"):
        yield made
