"""A small federation of real processes to do harm to: mosquitto, a server, devices, and a proxy before each device.

What happened is told by witnesses that the parties do not know of: a listener at the broker, and the files that they
leave. `Federation.account` holds them against each other.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from attack.settings import AttackSettings
from contract.link import LinkSettings
from contract.task import EncodingSpec, ModelSpec, TaskSpec
from deploy.broker import Broker, BrokerSection, serve
from deploy.shaping.proxy import Conditions, Direction, Proxy
from deploy.study import to_toml
from edge_client.settings import ClientSettings
from server.accounting import count_updates
from server.ledger import FILE_NAME, Ledger
from server.settings import ScheduleEntry, ServerSettings
from tests.faults.chaos.member import PATIENCE_S, Member, wait_until
from tests.faults.chaos.observer import RUN, Witness

TASK = TaskSpec(dataset="digits", encoding=EncodingSpec(steps=2), model=ModelSpec(hidden=(8,)))


class Federation:
    """Parties and links, as files and processes in one folder.

    Args:
        folder: Of its own.
        broker: A running one.
        schedule: What the server asks for.
        devices: How many.
        weather: Each device's link when no fault is on.
        environment: Added to each party's.
        keepalive_s: Of the devices' links.
        server: Fields of `ServerSettings` in place of the row's usual ones.
        device: Fields of `ClientSettings`, likewise.
        attack: Fields of `AttackSettings`; `None` for no attacker.
    """

    def __init__(
        self,
        folder: Path,
        broker: Broker,
        schedule: tuple[ScheduleEntry, ...],
        *,
        devices: int,
        weather: Direction | None = None,
        environment: Mapping[str, str] | None = None,
        keepalive_s: int = 15,
        server: Mapping[str, object] | None = None,
        device: Mapping[str, object] | None = None,
        attack: Mapping[str, object] | None = None,
    ) -> None:
        self.folder, self._environment = folder, dict(environment or {})
        self.weather = Conditions.both(weather or Direction())
        self.names = [f"device-{index:02d}" for index in range(devices)]
        self.proxies = {
            name: Proxy(broker.link.port, conditions=self.weather, seed=index) for index, name in enumerate(self.names)
        }
        self.witness = Witness(broker.link)
        self.directory = folder / "server"
        self.server_settings = ServerSettings(
            **{
                "run": RUN,
                "link": broker.link,
                "directory": self.directory,
                "task": TASK,
                "schedule": schedule,
                "clients": devices,
                "drain_s": 1.0,
                "evaluate": False,
                "max_attempts": 100,
                **(server or {}),
            }
        )
        self.server = self._member("server", ["deploy.cli", "server"], self.server_settings)
        for proxy in self.proxies.values():
            proxy.start()
        self.devices = {
            name: self._device(name, index, keepalive_s, device or {}) for index, name in enumerate(self.names)
        }
        self.attacker = None
        if attack is not None:
            settings = AttackSettings(**{"run": RUN, "link": broker.link, "directory": folder / "attack", **attack})
            self.attacker = self._member("attack", ["deploy.cli", "attack"], settings)

    def _device(self, name: str, index: int, keepalive_s: int, more: Mapping[str, object]) -> Member:
        settings = ClientSettings(
            **{
                "run": RUN,
                "node": name,
                "link": LinkSettings(port=self.proxies[name].port, keepalive_s=keepalive_s),
                "directory": self.spool(name),
                "shard": index,
                "shards": len(self.names),
                **more,
            }
        )
        return self._member(name, ["edge_client"], settings)

    def _member(self, name: str, module: list[str], settings: msgspec.Struct) -> Member:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}.toml"
        path.write_text(to_toml(settings), encoding="utf-8")
        return Member(name, [*module, str(path)], self.folder / f"{name}.log", self._environment)

    def spool(self, name: str) -> Path:
        """A device's folder."""
        return self.folder / "devices" / name

    @property
    def members(self) -> list[Member]:
        """All parties."""
        return [self.server, *self.devices.values(), *([self.attacker] if self.attacker else [])]

    def start(self) -> None:
        """Starts everyone and waits for the first round."""
        for member in self.members:
            member.start()
        self.until_round(1)

    def until_round(self, round_: int, timeout_s: float = PATIENCE_S) -> None:
        """Waits until a round was announced."""

        def reached() -> bool:
            dead = [member.name for member in self.members if member.ended() not in {None, 0}]
            assert not dead, f"{dead[0]} ended: {next(m for m in self.members if m.name == dead[0]).tail()}"
            return self.witness.round >= round_

        wait_until(reached, f"round {round_}; reached {self.witness.round}; server: {self.server.tail(3)}", timeout_s)

    def ledger(self) -> Ledger:
        """The ledger, for reading."""
        return Ledger.open_read(self.directory / FILE_NAME)

    def in_aggregate(self, node: str, after_round: int) -> bool:
        """Whether an update of that device for a later round is in an aggregate."""
        with self.ledger() as ledger:
            return bool(
                ledger.value(
                    "SELECT COUNT(*) FROM aggregated a JOIN updates u ON u.uid = a.uid WHERE node = ? AND a.round > ?",
                    node,
                    after_round,
                )
            )

    def settle(self, timeout_s: float = PATIENCE_S) -> None:
        """Ends the server, then the devices, in order: what is not acknowledged then lies in a spool."""
        if self.server.ended() is None:
            self.server.end(timeout_s=timeout_s)
        for device in self.devices.values():
            device.end(timeout_s=timeout_s)

    def stop(self) -> None:
        """Leaves nothing behind."""
        for member in self.members:
            with contextlib.suppress(ProcessLookupError, AssertionError):
                member.send(signal.SIGCONT)
            member.kill()
        for proxy in self.proxies.values():
            proxy.stop()
        self.witness.stop()

    # --- what must hold -------------------------------------------------------------------------------------------

    def waiting(self) -> set[str]:
        """Names of the updates that lie in the devices' outboxes."""
        boxes = [self.spool(name) / "outbox" for name in self.names]
        return {path.name.split(".")[3] for box in boxes for path in box.glob("*.update.*") if path.suffix != ".tmp"}

    def account(self) -> dict[str, int]:
        """Holds the listener's record, the ledger and the spools against each other, once all have ended.

        Raises:
            AssertionError: An update is lost or was counted twice, or an acknowledgement was false.
        """
        with self.ledger() as ledger:
            status = {row["uid"]: row["status"] for row in ledger.rows("SELECT uid, status FROM updates")}
            twice = [row["uid"] for row in ledger.rows("SELECT uid FROM aggregated GROUP BY uid HAVING COUNT(*) > 1")]
            foreign = [row["uid"] for row in ledger.rows("SELECT uid FROM aggregated") if row["uid"] not in status]
            counted = count_updates(ledger)
        assert not twice, f"{len(twice)} updates are in more than one aggregate: {twice[:3]}"
        assert not foreign, f"{len(foreign)} updates are in an aggregate and not in the ledger: {foreign[:3]}"
        lost = sorted(self.witness.sent.keys() - status.keys() - self.waiting())
        assert not lost, f"{len(lost)} updates were sent and lie neither in the ledger nor in a spool: {lost[:3]}"
        told = {uid for uid, said in self.witness.verdicts.items() if "admitted" in said and uid in self.witness.sent}
        false = sorted(uid for uid in told if status.get(uid) != "admitted")
        assert not false, f"{len(false)} updates were acknowledged as admitted and are not in the ledger: {false[:3]}"
        assert (counted["lost"], counted["duplicated"]) == (0, 0), f"the run's own account says {counted}"
        return {**{key: value for key, value in counted.items() if isinstance(value, int)}, "acknowledged": len(told)}


@contextlib.contextmanager
def federation(
    folder: Path, schedule: tuple[ScheduleEntry, ...], *, start: bool = True, **settings: object
) -> Iterator[Federation]:
    """A federation for the time of a `with` block, on a mosquitto of its own."""
    (folder / "broker").mkdir(parents=True)
    with serve(BrokerSection(kind="mosquitto"), folder / "broker") as broker:
        made = Federation(folder, broker, schedule, **settings)  # type: ignore[arg-type] - as its constructor takes them
        try:
            if start:
                made.start()
            yield made
        finally:
            made.stop()
