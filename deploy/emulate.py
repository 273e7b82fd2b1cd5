"""A whole fleet on one machine: broker, server, devices and attacker as processes, from one study file.

out/                    the study's SNN run, or its only run
config.toml  ledger.sqlite  summary.json  model.safetensors  report.html
settings/  logs/  devices/<id>/
twin/                 the same for the ANN twin
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from attack.settings import AttackSettings
from contract.configuration import decode_toml
from contract.datasets import load, share
from contract.errors import ConfigurationError, EnvironmentFaultError
from deploy import broker, environment, fleet
from deploy.interrupts import Interrupts
from deploy.kept_profile import with_kept_profile
from deploy.limits import Limits
from deploy.study import Arm, Study, arms, to_toml
from deploy.supervisor import Party, end
from deploy.suspects import write_candidates
from edge_client.engine import ENGINES
from edge_client.settings import ClientSettings
from server.progress import Progress, read_progress
from server.settings import ServerSettings

TICK_S = 0.1
_PROGRESS_EVERY_S = 0.5
_FAREWELL_S = 15.0
_PARTY_RESTARTS = 3

Show = Callable[[str, Progress], None]


def run_study(study: Study, out: Path, *, show: Show, interrupts: Interrupts | None = None) -> dict[str, Any]:
    """Runs a study to its end, or resumes it in `out`.

    Args:
        study: What to run.
        out: Output folder; a folder that holds the same study is resumed.
        show: Called with the arm's label and its progress about twice a second.
        interrupts: Looked at between steps; `None` lets the run go on to its end.

    Returns:
        The content of `summary.json`.

    Raises:
        ConfigurationError: The folder holds another study, the data set does not suffice, or a party refused its
            settings.
        EnvironmentFaultError: The folder cannot be written or is in use, no broker, or a party crashes again and again.
        KeyboardInterrupt: `interrupts` asked for the end.
    """
    interrupts = interrupts or Interrupts()
    _check_data(study)
    with _faults_of(out), _folder(study, out) as token:
        (out / "logs").mkdir(exist_ok=True)
        study = with_kept_profile(study, out)
        with broker.serve(study.broker, out / "logs") as running:
            waiting = [arm for arm in arms(study, out) if not _finished(arm)]
            with fleet.limits() as limits:
                ground = _Ground(study, running, limits, out)
                runs = [_ArmRun(study, arm, ground, f"{study.name}-{arm.label}-{token}") for arm in waiting]
                emulation = _emulation(study)
                environment.record(running, out / "settings", emulation=emulation)
                try:
                    _run_arms(runs, ground, show, interrupts)
                finally:
                    emulation["limits"] = msgspec.to_builtins(limits.used())
                    environment.record(running, out / "settings", emulation=emulation)
        return write_results(out)


def _emulation(study: Study) -> dict[str, Any]:
    """What the devices of a run stand in for, for its summary: parameters, no measurements."""
    devices = study.devices
    boards = fleet.boards_of(devices.group, study.clients, devices.energy_profile)
    kinds = dict.fromkeys(boards)
    return {
        "per_process": devices.per_process,
        "sync": _synced(study),
        "boards": [{**msgspec.to_builtins(kind), "devices": boards.count(kind)} for kind in kinds],
        "churn": msgspec.to_builtins(devices.churn),
        "limits": {},
    }


def _synced(study: Study) -> bool:
    return study.devices.per_process == 1 if study.devices.sync is None else study.devices.sync


class _Ground:
    """What all arms of a run stand on: the broker, the shaped links before it, the limits of the devices."""

    def __init__(self, study: Study, running: broker.Broker, limits: Limits, out: Path) -> None:
        self.broker, self.limits = running, limits
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


def _check_data(study: Study) -> None:
    """Loads the data set and deals it once, before every device does; also fills the cache for them.

    Raises:
        ConfigurationError: It is not to be had here, or is too small for so many devices.
    """
    if study.task.own_data is not None:
        return  # each device reads its own, and says what is wrong with it
    data = load(study.task.dataset)
    share(study.task, data.y, data.users, part=0, parts=study.clients)


@contextlib.contextmanager
def _faults_of(out: Path) -> Iterator[None]:
    """Faults of disk and ledger as one message.

    Raises:
        EnvironmentFaultError: In place of an OSError or an error of SQLite.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or out
        raise EnvironmentFaultError(
            f"{where}: {error.strerror or error}; once that is mended, run again with --out {out} to go on"
        ) from error
    except sqlite3.Error as error:
        raise EnvironmentFaultError(f"ledger in {out}: {error}") from error


def write_results(out: Path) -> dict[str, Any]:
    """Writes `summary.json` and `report.html` of a run from its ledgers.

    Raises:
        ConfigurationError: The folder holds no run.
        EnvironmentFaultError: Its ledger cannot be read, or the folder not written.
    """
    with _faults_of(out):
        return _write_results(out)


def _write_results(out: Path) -> dict[str, Any]:
    from server.report import write_report  # noqa: PLC0415 - matplotlib takes half a second
    from server.summary import summarise  # noqa: PLC0415

    if not (out / "ledger.sqlite").exists():
        raise ConfigurationError(f"{out}: holds no ledger.sqlite, so no run; name the --out folder of one")
    twin = out / "twin"
    summary = summarise(out, twin if (twin / "ledger.sqlite").exists() else None)
    summary |= environment.recorded(out / "settings")
    write_atomically(out / "summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    write_report(out)
    return summary


@contextlib.contextmanager
def _folder(study: Study, out: Path) -> Iterator[str]:
    """The output folder, ours alone: writable, locked, and holding this study and no other. Gives the run's token."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise EnvironmentFaultError(f"--out {out}: cannot be written ({error.strerror}); choose another") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise EnvironmentFaultError(
                f"--out {out}: another run is writing there; wait for it or choose another"
            ) from error
        _hold_study(study, out)
        token_path = out / "settings" / "token"
        token_path.parent.mkdir(exist_ok=True)
        if not token_path.exists():
            write_atomically(token_path, secrets.token_hex(4))
        yield token_path.read_text(encoding="ascii").strip()


def _hold_study(study: Study, out: Path) -> None:
    path = out / "config.toml"
    if not path.exists():
        if any(p.name != ".lock" for p in out.iterdir()):
            raise ConfigurationError(f"--out {out}: is not empty and holds no run to resume; choose another folder")
        write_atomically(path, to_toml(study))
        return
    held = decode_toml(path, Study)
    if _science(held) != _science(study):
        before, now = msgspec.to_builtins(_science(held)), msgspec.to_builtins(_science(study))
        differing = ", ".join(sorted(key for key in now if now[key] != before.get(key)))
        raise ConfigurationError(
            f"--out {out}: holds a run of another study (config.toml differs in: {differing}); "
            "choose another folder, or run the study that it holds"
        )


def _science(study: Study) -> Study:
    """What must agree for a run to be resumed: all but the broker and where the network's file lies."""
    return msgspec.structs.replace(study, broker=broker.BrokerSection(), model=None)


def write_atomically(path: Path, text: str) -> None:
    """Writes a file in one step, on disk when this returns."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _finished(arm: Arm) -> bool:
    progress = read_progress(arm.directory)
    return progress is not None and progress.status == "finished"


def _parties(study: Study, arm: Arm, ground: _Ground, run: str) -> tuple[Party, fleet.Fleet, list[Party]]:
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
        noise_controls=study.attack.noise_controls,
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
            sync=_synced(study),
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
    return party("server", server), placed, [party(one.directory.name, one, "attack") for one in workers]


def _worker(attack: AttackSettings, index: int) -> AttackSettings:
    """The settings of one attack worker: a folder of its own, and its part of the noise controls."""
    folder = attack.directory if index == 0 else attack.directory.with_name(f"attack-{index}")
    share, rest = divmod(attack.noise_controls, attack.workers)
    return msgspec.structs.replace(attack, directory=folder, worker=index, noise_controls=share + (index < rest))


class _ArmRun:
    """One arm while its parties live."""

    def __init__(self, study: Study, arm: Arm, ground: _Ground, run: str) -> None:
        self.arm = arm
        self._server, self._fleet, self._attackers = _parties(study, arm, ground, run)
        self._leave_until_s: float | None = None

    @property
    def parties(self) -> list[Party]:
        return [self._server, *self._attackers, *self._fleet.parties]

    def tick(self) -> bool:
        """Looks after all parties once; whether they have all left.

        Devices and attacker leave by themselves when they hear that the run is finished; they get some time for it.
        """
        self._fleet.attend(over=self._server.finished)
        for party in self.parties:
            party.watch()
        if not self._server.finished:
            return False
        self._leave_until_s = self._leave_until_s or time.monotonic() + _FAREWELL_S
        return all(party.finished for party in self.parties) or time.monotonic() > self._leave_until_s

    def progress(self) -> Progress | None:
        """How far it is."""
        return read_progress(self.arm.directory)

    def require_finished(self) -> None:
        """Checks the ledger's own word.

        Raises:
            EnvironmentFaultError: The server left without finishing the run.
        """
        if not _finished(self.arm):
            raise EnvironmentFaultError(f"the server left before the run was finished (log: {self._server.log_path})")


def _run_arms(runs: list[_ArmRun], ground: _Ground, show: Show, interrupts: Interrupts) -> None:
    """Runs all arms side by side: training is short and attacks are long, so that they share the cores well."""
    everyone = [*ground.links, *(party for run in runs for party in run.parties)]
    try:
        for party in everyone:
            interrupts.check()
            if not party.away:
                party.start()
        ground.limits.start()
        alive, next_look_s = list(runs), 0.0
        while alive:
            interrupts.check()
            ground.tend()
            alive = [run for run in alive if not run.tick()]
            if time.monotonic() >= next_look_s or not alive:
                next_look_s = time.monotonic() + _PROGRESS_EVERY_S
                for run in runs:
                    progress = run.progress()
                    if progress is not None:
                        show(run.arm.label, progress)
            time.sleep(TICK_S)
        for run in runs:
            run.require_finished()
    finally:
        ground.limits.release()
        end(everyone, hurry=lambda: interrupts.hurry)
