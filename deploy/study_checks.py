"""What the types of a study alone cannot say: values that do not go with each other, or with this machine."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from contract.datasets import check_encoding, check_partition, task_info
from contract.errors import ConfigurationError
from contract.perceptual import Perceptual
from contract.topics import valid_name
from deploy.arms import arms
from deploy.fleet import boards_of
from edge_client.engine import ENGINES, check_engine
from hardware.energy_model import EnergyModel
from hardware.errors import MeterError
from hardware.meter import open_meters

if TYPE_CHECKING:
    from deploy.study import Study

LONGEST_NAME = 48
"""Of a study: its runs' names add the arm and a token, and a name on the wire has at most 63 characters."""


def check(origin: str, key: str, test: Callable[[], object]) -> None:
    """Runs a room's own check of one value and names the key in its error."""
    try:
        test()
    except (ConfigurationError, MeterError, ValueError) as error:
        raise ConfigurationError(f"{origin}: {key}: {error}") from error


def _check_attacks(names: tuple[str, ...]) -> None:
    if not names:
        return
    from attack.methods import KNOWN  # noqa: PLC0415 - brings torch

    for name in names:
        if name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigurationError(f"{name!r}: {hint}known attacks: {', '.join(KNOWN)}")


def check_study(study: Study, *, origin: str) -> Study:
    """What a type alone cannot say.

    Raises:
        ConfigurationError: As `load_study`.
    """
    if not valid_name(study.name) or len(study.name) > LONGEST_NAME:
        raise ConfigurationError(f"{origin}: name = {study.name!r}: 1 to {LONGEST_NAME} letters, digits, '_', '.', '-'")
    check(origin, "task.dataset", lambda: task_info(study.task))
    check(origin, "task.encoding", lambda: check_encoding(study.task.encoding, task_info(study.task)))
    check(origin, "task.partition", lambda: check_partition(study.task.partition, task_info(study.task)))
    _check_own_data(study, origin)
    for arm in arms(study, Path()):
        check(origin, "devices.engine", partial(check_engine, study.devices.engine, arm.task))
    if ENGINES[study.devices.engine].needs and not study.server.export:
        raise ConfigurationError(
            f"{origin}: server.export = false: devices.engine = {study.devices.engine!r} needs the graphs; "
            "leave it out, or set devices.engine = 'torch'"
        )
    check(origin, "devices.meter", lambda: _open_and_close(study.devices.meter))
    check(origin, "devices.energy_profile", lambda: EnergyModel.load(study.devices.energy_profile))
    check(origin, "devices.lpips", lambda: study.devices.lpips and Perceptual(study.devices.lpips))
    check(origin, "attack.attacks", lambda: _check_attacks(study.attack.attacks or ()))
    _check_fleet(study, origin)
    if study.task.model.own is not None:
        _check_own_network(study, origin)
    if study.twin is not None and study.task.model.family != "snn":
        raise ConfigurationError(f"{origin}: [twin] asks for the ANN twin, but task.model.family is already 'ann'")
    for number, entry in enumerate(study.schedule):
        for key in ("clients", "min_updates"):
            value = getattr(entry, key)
            if value is not None and value > study.clients:
                raise ConfigurationError(
                    f"{origin}: schedule[{number}].{key} = {value}: the run has clients = {study.clients}"
                )
        check(origin, f"schedule[{number}]", lambda entry=entry: entry.require_updates(study.clients))  # type: ignore[misc]
        check(origin, f"schedule[{number}]", lambda entry=entry: entry.require_buffer(study.clients))  # type: ignore[misc]
        for count in (study.clients, entry.clients):
            check(origin, f"schedule[{number}]", lambda e=entry, n=count: e.require_devices("clients", n))  # type: ignore[misc]
    return study


def _open_and_close(meters: str) -> None:
    for meter in open_meters(meters):
        meter.close()


def _check_fleet(study: Study, origin: str) -> None:
    """What does not go with emulated boards."""
    devices = study.devices
    check(origin, "devices", lambda: boards_of(devices.group, study.clients, devices.energy_profile))
    boards = boards_of(devices.group, study.clients, devices.energy_profile)
    for board in dict.fromkeys(boards):
        named = f"devices.group board {board.name!r}: energy_profile"
        check(origin, named, lambda board=board: EnergyModel.load(board.energy_profile))  # type: ignore[misc]
    if devices.per_process > 1 and devices.meter.partition(":")[0] not in {"none", "replay"}:
        raise ConfigurationError(
            f"{origin}: devices.meter = {devices.meter!r} with per_process = {devices.per_process}: devices of one "
            "process cannot be told apart by a meter; set meter = 'none', or per_process = 1"
        )


def _check_own_data(study: Study, origin: str) -> None:
    """What goes with data of the devices' own, and only with it."""
    own = study.task.own_data is not None
    for key, value in (("devices.sensor", study.devices.sensor), ("server.held_out", study.server.held_out)):
        if value is not None and not own:
            raise ConfigurationError(
                f"{origin}: {key} is set, but task.dataset = {study.task.dataset!r}: it goes with dataset = 'own' alone"
            )
    if own and study.devices.sensor is None:
        raise ConfigurationError(f"{origin}: task.dataset = 'own' without [devices.sensor]: nobody would have a sample")
    if own and study.attack.candidates:
        raise ConfigurationError(
            f"{origin}: attack.candidates = {study.attack.candidates}: they are drawn from a data set, and "
            "task.dataset = 'own' has none; set 0"
        )


def _check_own_network(study: Study, origin: str) -> None:
    """What does not go with a network of the user's own."""
    if not ENGINES[study.devices.engine].needs:
        raise ConfigurationError(
            f"{origin}: devices.engine = {study.devices.engine!r} with model: devices get the network's graph, never "
            "its code; set devices.engine = 'onnx'"
        )
    if study.twin is not None:
        raise ConfigurationError(f"{origin}: [twin] with model: your own network has no known twin; leave [twin] out")
