"""A whole fleet on one machine: broker, server, devices and attacker as processes, from one study file.

out/                    the study's SNN run, or its only run
config.toml  ledger.sqlite  summary.json  model.safetensors  report.html
settings/  logs/  devices/<id>/
twin/                 the same for the ANN twin
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from contract.datasets import load, share
from contract.errors import EnvironmentFaultError
from deploy import broker, door, environment, fleet
from deploy.interrupts import Interrupts
from deploy.kept_profile import with_kept_profile
from deploy.output import faults_of, folder, write_atomically
from deploy.parties import Ground, parties, synced
from deploy.posted import Post
from deploy.results import write_results
from deploy.study import Arm, Study, arms
from deploy.supervisor import Party, end
from server.progress import Progress, read_progress

__all__ = ["Show", "run_study", "write_atomically", "write_results"]

TICK_S = 0.1
_PROGRESS_EVERY_S = 0.5
_FAREWELL_S = 15.0

Show = Callable[[str, Progress], None]


def run_study(
    study: Study, out: Path, *, show: Show, interrupts: Interrupts | None = None, post: Post | None = None
) -> dict[str, Any]:
    """Runs a study to its end, or resumes it in `out`.

    Args:
        study: What to run.
        out: Output folder; a folder that holds the same study is resumed.
        show: Called with the arm's label and its progress about twice a second.
        interrupts: Looked at between steps; `None` lets the run go on to its end.
        post: Asks for attackers on other machines, which need mosquitto; `None`: they are processes here.

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
    with faults_of(out), folder(study, out) as token:
        (out / "logs").mkdir(exist_ok=True)
        study = with_kept_profile(study, out)
        opened = door.make(post.host, (out / "settings" / "door").resolve()) if post else None
        with broker.serve(study.broker, out / "logs", opened) as running:
            waiting = [arm for arm in arms(study, out) if not _finished(arm)]
            with fleet.limits() as limits:
                ground = Ground(study, running, limits, out, post)
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
        "sync": synced(study),
        "boards": [{**msgspec.to_builtins(kind), "devices": boards.count(kind)} for kind in kinds],
        "churn": msgspec.to_builtins(devices.churn),
        "limits": {},
    }


def _check_data(study: Study) -> None:
    """Loads the data set and deals it once, before every device does; also fills the cache for them.

    Raises:
        ConfigurationError: It is not to be had here, or is too small for so many devices.
    """
    if study.task.own_data is not None:
        return  # each device reads its own, and says what is wrong with it
    data = load(study.task.dataset)
    share(study.task, data.y, data.users, part=0, parts=study.clients)


def _finished(arm: Arm) -> bool:
    progress = read_progress(arm.directory)
    return progress is not None and progress.status == "finished"


class _ArmRun:
    """One arm while its parties live."""

    def __init__(self, study: Study, arm: Arm, ground: Ground, run: str) -> None:
        self.arm = arm
        self._server, self._fleet, self._attackers = parties(study, arm, ground, run)
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


def _run_arms(runs: list[_ArmRun], ground: Ground, show: Show, interrupts: Interrupts) -> None:
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
