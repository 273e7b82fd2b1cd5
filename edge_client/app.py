"""The device's process: broker, clock, files, signals. Everything runs on the main thread; callbacks only enqueue."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import logging
import queue
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract import topics
from contract.configuration import decode_toml
from contract.datasets import load_part, share, task_info
from contract.encodings import input_shape
from contract.errors import ConfigurationError, EnvironmentFaultError, SpikeleakError
from contract.link import Link
from contract.messages import NodeState, encode
from contract.perceptual import Perceptual
from contract.task import TaskSpec
from edge_client import events
from edge_client.account import Account
from edge_client.device import Device
from edge_client.energy import PhaseMeter
from edge_client.engine import ENGINES, Engine, Graphs, check_engine, open_engine
from edge_client.sensors import read_shard
from edge_client.settings import ClientSettings
from edge_client.spool import Spool
from edge_client.training import Shard
from hardware.energy_model import EnergyModel
from hardware.errors import MeterError
from hardware.meter import Meter, open_meter

__all__ = ["ClientSettings", "main", "run_client"]

log = logging.getLogger(__name__)

TICK_S = 0.25
"""Longest wait for a message before timers are looked at."""
INTERRUPTED = 130

Message = tuple[str, bytes] | events.Event


def run_client(
    settings: ClientSettings, stop: threading.Event | None = None, *, link_type: Callable[..., Link] = Link
) -> int:
    """Takes part in a run until the server says that it is finished.

    Args:
        settings: The device's settings.
        stop: Ends the device early and cleanly.
        link_type: How the broker is reached.

    Returns:
        0 when the run is finished; 130 when `stop` ended it before.

    Raises:
        ConfigurationError: A setting, or the run's task, cannot be used here.
        EnvironmentFaultError: The broker is not reached or takes no useful frames, or the folder cannot be written.
    """
    stop = stop or threading.Event()
    check_engine(settings.engine)
    perceptual = None if settings.lpips is None else Perceptual(settings.lpips)
    meter, model = _open_energy(settings)
    with contextlib.closing(meter):
        spool = Spool(settings.directory, settings.run, settings.node, receipts_kept=settings.receipts_kept)
        with contextlib.closing(spool):
            energy = (meter, model)
            return _live(settings, stop, spool=spool, energy=energy, perceptual=perceptual, link_type=link_type)


def _open_energy(settings: ClientSettings) -> tuple[Meter, EnergyModel]:
    try:
        return open_meter(settings.meter), EnergyModel.load(settings.energy_profile)
    except MeterError as error:
        raise ConfigurationError(
            f"meter = {settings.meter!r}, energy_profile = {settings.energy_profile!r}: {error}"
        ) from error


def _live(
    settings: ClientSettings,
    stop: threading.Event,
    *,
    spool: Spool,
    energy: tuple[Meter, EnergyModel],
    perceptual: Perceptual | None,
    link_type: Callable[..., Link],
) -> int:
    meter, model = energy
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    faults: list[EnvironmentFaultError] = []
    state_topic = topics.node_state(settings.run, settings.node)
    link = link_type(
        settings.link,
        f"spikeleak-{settings.run}-{settings.node}",
        will=(state_topic, _will(settings, spool)),
        on_message=lambda topic, payload: inbox.put((topic, payload)),
        on_up=lambda: inbox.put(events.Up()),
        on_down=lambda reason: inbox.put(events.Down(reason=reason)),
        on_fault=faults.append,
    )
    device = Device(
        settings,
        spool,
        link,
        prepare=lambda task, graphs: prepare(settings, task, graphs),
        needs=ENGINES[settings.engine].needs,
        account=Account(PhaseMeter(meter, time.monotonic), time.monotonic),
        model=model,
        clock=time.monotonic,
        new_uid=_uid_source(settings),
        secret=secrets.randbits(128) if settings.seed is None else settings.seed,
        perceptual=perceptual,
    )
    link.subscribe(*device.subscriptions())
    link.start()
    try:
        return _work(device, link, inbox, faults, stop)
    finally:
        link.stop(farewell=(state_topic, device.node_state("offline")))


def _will(settings: ClientSettings, spool: Spool) -> bytes:
    journal = spool.journal
    return encode(
        NodeState(
            node=settings.node,
            epoch=journal.epoch,
            status="offline",
            board=settings.board,
            engine=settings.engine,
            meter=settings.meter,
            published=journal.published,
        )
    )


def _uid_source(settings: ClientSettings) -> Callable[[str], str]:
    if settings.seed is None:
        return lambda _text: secrets.token_hex(16)
    prefix = f"{settings.seed} {settings.node}"
    return lambda text: hashlib.sha256(f"{prefix} {text}".encode()).hexdigest()[:32]


def _work(
    device: Device,
    link: Link,
    inbox: queue.SimpleQueue[Message],
    faults: list[EnvironmentFaultError],
    stop: threading.Event,
) -> int:
    while not device.finished:
        if stop.is_set():
            return INTERRUPTED
        if faults:
            raise faults[0]
        try:
            message = inbox.get_nowait()
        except queue.Empty:
            if device.handle(events.Idle(sending=link.sending)):
                continue
            try:
                message = inbox.get(timeout=TICK_S)
            except queue.Empty:
                continue
        if isinstance(message, tuple):
            device.receive(*message)
        else:
            device.handle(message)
    return 0


def prepare(settings: ClientSettings, task: TaskSpec, graphs: Graphs) -> tuple[Shard, Engine]:
    """The device's part of the data and the engine for a task.

    Raises:
        ConfigurationError: The data set or the engine is not to be had here.
    """
    info = task_info(task)
    shape, threads = input_shape(task.encoding, info.shape), settings.threads
    shard = _shard(settings, task)
    return shard, open_engine(settings.engine, task, shape, info.classes, threads=threads, graphs=graphs)


def _shard(settings: ClientSettings, task: TaskSpec) -> Shard:
    if task.own_data is not None:
        if settings.sensor is None:
            raise ConfigurationError(
                "the run's task takes data of the devices' own, and this device's settings name no sensor: add a table "
                "[sensor] (see edge_client/sensors/README.md)"
            )
        return read_shard(settings.sensor, task.own_data)
    if settings.sensor is not None:
        raise ConfigurationError(
            f"sensor is set, but the run's task is learnt from data set {task.dataset!r}: leave sensor out, or let the "
            "task have dataset = 'own'"
        )

    def mine(y: NDArray[np.int64], users: NDArray[np.int64] | None) -> NDArray[np.int64]:
        return share(task, y, users, part=settings.shard, parts=settings.shards)

    data = load_part(task.dataset, mine)
    return Shard(x=data.x, y=data.y, classes=data.info.classes)


def main(arguments: list[str] | None = None) -> int:
    """`spikeleak-client CONFIG.toml`: runs one device; returns the exit status."""
    parser = argparse.ArgumentParser(prog="spikeleak-client", description="One device of a spikeleak run.")
    parser.add_argument("config", type=Path, help="TOML file with the device's settings (see edge_client/README.md)")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    chosen = parser.parse_args(arguments)
    logging.basicConfig(
        level=chosen.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    stop = threading.Event()
    caught: list[int] = []

    def on_signal(number: int, _frame: object) -> None:
        caught.append(number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    try:
        status = run_client(decode_toml(chosen.config, ClientSettings), stop)
    except SpikeleakError as error:
        print(f"spikeleak-client: {error}", file=sys.stderr)  # noqa: T201 - the one line that a user gets
        return error.exit_status
    return 0 if caught and caught[0] == signal.SIGTERM else status
