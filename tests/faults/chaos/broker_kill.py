"""The broker killed and started again on its port while updates are under way, and how soon they flow again.

Half of the kills strike mosquitto with persistence as it is by default (saved every half hour, so that a kill loses
everything that is retained), half strike amqtt, which keeps nothing. What is lost the parties must publish again.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from msgspec.structs import replace

from contract.link import LinkSettings
from deploy.broker import LOOPBACK, free_port, mosquitto_path
from server.ledger import Ledger
from tests.faults.chaos import Outcome
from tests.faults.chaos.history import History
from tests.faults.chaos.parties import DEVICES, ROUND, SERVER, Federation, federation
from tests.faults.chaos.proof import figures, prove
from tests.faults.chaos.zygote import Zygote, wait_for_port

LONGEST_MEDIAN_S = 5.0
"""The claim: from the port's accepting to the first update that is newly admitted, half of the times."""
_PATIENCE_S = 60.0
_DEADLINE_S = 15.0
_ROUNDS_A_KILL = 8
_MOSQUITTO = """listener {port} {host}
allow_anonymous true
persistence true
persistence_location {folder}/
log_dest stderr
log_type error
"""


class Broker:
    """A broker that can be killed and comes back on its port.

    Args:
        kind: `mosquitto` or `amqtt`.
        folder: For its configuration, its log and what it persists.
        zygote: Forks it.
    """

    def __init__(self, kind: str, folder: Path, zygote: Zygote) -> None:
        self._zygote, self._log, self.port = zygote, folder / "broker.log", free_port()
        if kind == "amqtt":
            self._main, self._arguments = "tests.faults.chaos.zygote:serve_amqtt", [str(self.port)]
        else:
            program, settings = mosquitto_path(), folder / "mosquitto.conf"
            assert program is not None, "mosquitto is not on PATH"
            user = "user root\n" if os.geteuid() == 0 else ""
            settings.write_text(user + _MOSQUITTO.format(port=self.port, host=LOOPBACK, folder=folder))
            self._main, self._arguments = "tests.faults.chaos.zygote:become", [program, "-c", str(settings)]
        self._pid = self._fork()
        wait_for_port(self.port, _PATIENCE_S)
        self.link = LinkSettings(port=self.port, protocol="3.1.1" if kind == "amqtt" else "auto")

    def _fork(self) -> int:
        return self._zygote.fork(self._main, self._arguments, self._log)

    def kill(self) -> None:
        """Ends it, and waits until its sockets are closed."""
        os.kill(self._pid, signal.SIGKILL)
        while Path(f"/proc/{self._pid}").exists():
            time.sleep(0.002)

    def strike(self) -> float:
        """Kills it and starts it again; when its port accepted again, on the monotonic clock."""
        self.kill()
        self._pid = self._fork()
        return wait_for_port(self.port, _PATIENCE_S)


@contextmanager
def _served(kind: str, folder: Path, zygote: Zygote) -> Iterator[Broker]:
    folder.mkdir()
    broker = Broker(kind, folder, zygote)
    try:
        yield broker
    finally:
        broker.kill()


def run(count: int, folder: Path) -> Outcome:
    """See `tests.faults.chaos.Run`."""
    waits: dict[str, list[float]] = {}
    told: dict[str, History] = {}
    with closing(Zygote(folder / "zygote.log")) as zygote:
        for kind, share in (("mosquitto", (count + 1) // 2), ("amqtt", count // 2 or 1)):
            waits[kind], told[kind] = _struck(kind, share, folder / kind, zygote)
    said = [
        f"{kind}: {len(times)} kills, first update after {statistics.median(times):.2f} s in the median, "
        f"{max(times):.2f} s at most; {figures(told[kind])}"
        for kind, times in waits.items()
    ]
    for kind, times in waits.items():
        median_s = statistics.median(times)
        assert median_s < LONGEST_MEDIAN_S, f"{kind}: median {median_s:.2f} s; {'; '.join(said)}"
    return Outcome(injected=sum(map(len, waits.values())), figures="; ".join(said))


def _struck(kind: str, count: int, folder: Path, zygote: Zygote) -> tuple[list[float], History]:
    """So many kills of one kind of broker in one run."""
    plan = (replace(ROUND, rounds=4 + _ROUNDS_A_KILL * count, deadline_s=_DEADLINE_S),)
    moment = random.Random(count)
    with _served(kind, folder, zygote) as broker, federation(folder, broker.link, plan, zygote) as parties:
        for name in (SERVER, *DEVICES):
            parties.start(name)
        with Ledger.open_read(parties.ledger) as ledger:
            _next_admitted(parties, ledger)
            waits = []
            for _ in range(count):
                _tended(parties, moment.uniform(0.0, 0.2))
                back_s = broker.strike()
                waits.append(_next_admitted(parties, ledger) - back_s)
        parties.finish(timeout_s=_PATIENCE_S + count)
        return waits, prove(parties)


def _next_admitted(parties: Federation, ledger: Ledger) -> float:
    """When the next update is admitted, on the monotonic clock.

    Raises:
        AssertionError: The run was over first, or none is admitted in time.
    """
    began_s, sql = time.monotonic(), "SELECT COUNT(*) FROM updates WHERE status = 'admitted'"
    before = ledger.value(sql)
    while ledger.value(sql) == before:
        parties.tend(lambda _name: None, 0.01)
        assert ledger.meta("outcome") != "finished", "the run was over before the last kill: give it more rounds"
        assert time.monotonic() - began_s < _PATIENCE_S, (
            f"no update was admitted for {_PATIENCE_S:g} s: {parties.last_words(SERVER)}"
        )
    return time.monotonic()


def _tended(parties: Federation, seconds: float) -> None:
    end_s = time.monotonic() + seconds
    while (left_s := end_s - time.monotonic()) > 0:
        parties.tend(lambda _name: None, left_s)
