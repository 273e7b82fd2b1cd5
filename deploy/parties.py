"""Server, devices and attackers of a run as processes, each with its settings written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from attack.settings import AttackSettings
from deploy import broker, fleet
from deploy.limits import Limits
from deploy.output import write_atomically
from deploy.posted import Post, PostedAttacker, controlled
from deploy.study import Arm, Study, to_toml
from deploy.supervisor import Party
from deploy.suspects import write_candidates
from edge_client.engine import ENGINES
from edge_client.settings import ClientSettings
from server.settings import ScheduleEntry, ServerSettings

_PARTY_RESTARTS = 3


def synced(study: Study) -> bool:
    """Whether devices wait for the disk: those with a process of their own do, unless told."""
    return study.devices.per_process == 1 if study.devices.sync is None else study.devices.sync


class Ground:
    """What all arms of a run stand on: the broker, the shaped links before it, the limits of the devices, the post."""

    def __init__(
        self, study: Study, running: broker.Broker, limits: Limits, out: Path, post: Post | None = None
    ) -> None:
        self.broker, self.limits, self.post = running, limits, post
        boards = fleet.boards_of(study.devices.group, study.clients, study.devices.energy_profile)
        found = fleet.shaped_links(boards, running.link)
        self.ports = {} if found is None else {shaped.link: shaped.port for shaped in found.links}
        self.links: list[Party] = []
        if found is not None:
            path, log = out / "settings" / "links.toml", out / "logs" / "links.log"
            write_atomically(path, to_toml(found))
            arguments = ["deploy.shaped_links", str(path)]
            self.links = [Party("shaped links", arguments, log, max_restarts=_PARTY_RESTARTS)]

    def tend(self) -> None:
        """Looks after broker and links once."""
        self.broker.tend()
        for link in self.links:
            link.watch()


def parties(study: Study, arm: Arm, ground: Ground, run: str) -> tuple[Party, fleet.Fleet, list[Party]]:
    """Server, devices and attackers of one arm, with their settings written."""
    base = arm.directory.resolve()
    settings = base / "settings"
    settings.mkdir(parents=True, exist_ok=True)
    nodes = [f"device-{index:03d}" for index in range(study.clients)]
    server = ServerSettings(
        run=run,
        link=ground.broker.link,
        directory=base,
        task=arm.task,
        model=study.model,
        schedule=arm.schedule,
        clients=study.clients,
        drain_s=study.server.drain_s,
        held_out=study.server.held_out and study.server.held_out.resolve(),
        export=study.server.export and bool(ENGINES[study.devices.engine].needs),
        admission=study.server.admission,
        privacy=study.server.privacy,
        mirror="whole" if study.attack.workers == 1 else "first",
        evaluate=study.server.evaluate,
        attacked=study.attack.attacks != (),
        vantages=study.attack.vantages,
    )
    suspects = None
    if study.attack.candidates:
        suspects = write_candidates(base / "attack" / "candidates.npz", arm.task, study.attack.candidates)
    attack = AttackSettings(
        run=run,
        link=ground.broker.link,
        directory=base / "attack",
        attacks=study.attack.attacks,
        budget_s=study.attack.budget_s,
        clock=study.attack.clock,
        noise_controls=study.attack.noise_controls,
        noise_on=noise_places(study, arm.schedule, nodes),
        queue=study.attack.queue,
        threads=study.attack.threads,
        threat=msgspec.structs.replace(study.attack.threat, candidates=suspects is not None),
        candidates=suspects,
        model=study.model,
        seed=arm.task.seed,
        workers=study.attack.workers,
    )

    def write(name: str, content: msgspec.Struct) -> Path:
        path = settings / f"{name}.toml"
        write_atomically(path, to_toml(content))
        return path

    def party(name: str, content: msgspec.Struct, kind: str = "") -> Party:
        arguments = ["deploy.cli", kind or name, str(write(name, content))]
        return Party(name, arguments, base / "logs" / f"{name}.log", max_restarts=_PARTY_RESTARTS)

    devices = [
        ClientSettings(
            run=run,
            node=node,
            link=ground.broker.link,
            directory=base / "devices" / node,
            shard=0 if study.devices.sensor else index,
            shards=1 if study.devices.sensor else study.clients,
            sensor=study.devices.sensor_of(index),
            engine=study.devices.engine,
            meter=study.devices.meter,
            baseline_s=study.devices.baseline_s if study.devices.per_process == 1 else 0.0,
            energy_profile=study.devices.energy_profile,
            radio_mbit_s=study.devices.radio_mbit_s,
            threads=study.devices.threads,
            seed=study.devices.seed,
            lpips=study.devices.lpips,
            publish_truth=study.truth.publish,
            fellows="fellow" in study.attack.vantages,
            sync=synced(study),
            graphs=base / "devices" / "graphs" if study.devices.per_process > 1 else None,
        )
        for index, node in enumerate(nodes)
    ]
    boards = fleet.boards_of(study.devices.group, study.clients, study.devices.energy_profile)
    placed = fleet.Fleet(
        devices,
        boards,
        study.devices,
        ports=ground.ports,
        limits=ground.limits,
        label=arm.label,
        write=write,
        logs=base / "logs",
    )
    workers = [_worker(attack, index) for index in range(study.attack.workers if server.attacked else 0)]
    post, door = ground.post, ground.broker.door
    if post is None or door is None:
        attackers = [party(one.directory.name, one, "attack") for one in workers]
    else:
        attackers = [_posted(study, arm, msgspec.structs.replace(one, link=door), post) for one in workers]
    return party("server", server), placed, attackers


def _posted(study: Study, arm: Arm, settings: AttackSettings, post: Post) -> Party:
    name = f"{arm.label}-{settings.directory.name}"
    return PostedAttacker(name, settings, post, controlled=controlled(study), max_restarts=_PARTY_RESTARTS)


def noise_places(study: Study, schedule: Sequence[ScheduleEntry], nodes: Sequence[str]) -> tuple[tuple[int, str], ...]:
    """Round and device of the first audit updates; none where it is not known beforehand which these are."""
    places: list[tuple[int, str]] = []
    round_ = 0
    for entry in schedule:
        if entry.kind == "audit":
            if study.devices.churn is not None or entry.clients is not None or entry.min_updates is not None:
                return ()
            places += [(round_ + at, node) for at in range(1, entry.rounds + 1) for node in nodes]
        round_ += entry.rounds
        if len(places) >= study.attack.noise_controls:
            break
    return tuple(places[: study.attack.noise_controls])


def _worker(attack: AttackSettings, index: int) -> AttackSettings:
    """The settings of one attack worker: a folder of its own, and its part of the noise controls."""
    folder = attack.directory if index == 0 else attack.directory.with_name(f"attack-{index}")
    share, rest = divmod(attack.noise_controls, attack.workers)
    return msgspec.structs.replace(attack, directory=folder, worker=index, noise_controls=share + (index < rest))
