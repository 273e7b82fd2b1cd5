"""The device's process: broker, clock, files, signals. Everything runs on the main thread; callbacks only enqueue."""

from __future__ import annotations

import argparse
import contextlib
import logging
import queue
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.configuration import decode_toml
from contract.datasets import load_part, share, task_info
from contract.encodings import input_shape
from contract.errors import ConfigurationError, EnvironmentFaultError, SpikeleakError
from contract.link import Link
from contract.perceptual import Perceptual
from contract.task import TaskSpec
from edge_client.device import Device
from edge_client.engine import Engine, Graphs, check_engine, open_engine
from edge_client.sensors import read_shard
from edge_client.session import Message, Session
from edge_client.settings import ClientSettings
from edge_client.supervision import Supervision
from edge_client.training import Shard

__all__ = ["ClientSettings", "main", "run_client"]

log = logging.getLogger(__name__)

TICK_S = 0.25
"""Longest wait for a message before timers are looked at."""
INTERRUPTED = 130


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
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    faults: list[EnvironmentFaultError] = []
    supervision = Supervision()
    session = Session(
        settings,
        inbox.put,
        on_fault=faults.append,
        prepare=lambda task, graphs: _watched(supervision, *prepare(settings, task, graphs)),
        link_type=link_type,
        perceptual=None if settings.lpips is None else Perceptual(settings.lpips),
        wait=supervision.patient(stop.wait, lambda: _status(session.device)),
    )
    with contextlib.closing(session):
        session.link.start()
        supervision.ready()
        try:
            return _work(session, inbox, faults, stop, supervision=supervision)
        finally:
            supervision.stopping()


def _work(
    session: Session,
    inbox: queue.SimpleQueue[Message],
    faults: list[EnvironmentFaultError],
    stop: threading.Event,
    *,
    supervision: Supervision,
) -> int:
    while not session.device.finished:
        supervision.beat(lambda: _status(session.device))
        if stop.is_set():
            return INTERRUPTED
        if faults:
            raise faults[0]
        try:
            message = inbox.get_nowait()
        except queue.Empty:
            if session.idle() or session.rest():
                continue
            try:
                message = inbox.get(timeout=TICK_S)
            except queue.Empty:
                continue
        session.take(message)
    return 0


def _status(device: Device) -> str:
    """What the device is doing as `key=value` words; `spikeleak deploy status` reads them off systemd."""
    state, server = device.state, device.state.server
    words = {
        "run": device.settings.run,
        "broker": "connected" if state.connected else "lost",
        "round": "-" if server is None else f"{server.round}/{server.rounds}",
        "server": "unknown" if server is None else server.status,
        "published": device.spool.journal.published,
        "pending": sum(item.kind == "update" for item in state.pending),
        "meter": device.settings.meter,
    }
    return " ".join(f"{key}={value}" for key, value in words.items())


def _watched(supervision: Supervision, shard: Shard, engine: Engine) -> tuple[Shard, Engine]:
    return shard, supervision.watched(engine)


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
    parser = argparse.ArgumentParser(
        prog="spikeleak-client",
        description="One device of a spikeleak run.",
        epilog="Example: spikeleak-client /opt/spikeleak/current/device.toml --log-level debug",
    )
    parser.add_argument("config", type=Path, help="TOML file with the device's settings (see edge_client/README.md)")
    parser.add_argument("--check", action="store_true", help="only read the settings; exit status 2 when they are bad")
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
        settings = decode_toml(chosen.config, ClientSettings)
        status = 0 if chosen.check else run_client(settings, stop)
    except SpikeleakError as error:
        print(f"spikeleak-client: {error}", file=sys.stderr)  # noqa: T201 - the one line that a user gets
        return error.exit_status
    return 0 if caught and caught[0] == signal.SIGTERM else status
