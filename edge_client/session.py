"""One life of a device: its meter, spool, link and state machine, put together. Where its messages wait is not its own.

So a process may hold one (`app`), or very many that share a thread for the network and another for the work.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import time
from collections.abc import Callable
from typing import Any

from contract import topics
from contract.errors import ConfigurationError, EnvironmentFaultError
from contract.link import Link
from contract.messages import NodeState, encode
from contract.perceptual import Perceptual
from edge_client import client, events
from edge_client.account import Account
from edge_client.device import Device
from edge_client.energy import PhaseMeter
from edge_client.engine import ENGINES
from edge_client.models import Models
from edge_client.preparation import Network, Prepare
from edge_client.settings import ClientSettings
from edge_client.sleep import Sleeper, suspended_s
from edge_client.spool import Spool
from hardware.energy_model import EnergyModel
from hardware.errors import MeterError
from hardware.meter import Meter, open_meters
from hardware.meters.emulated import EmulatedMeter
from hardware.meters.plug import Listener

Message = tuple[str, bytes] | events.Event
Fault = Callable[[EnvironmentFaultError], None]


class Session:
    """A device from its start to its end.

    Args:
        settings: The device's settings.
        post: Takes what the network brings, on the network's thread: it must only enqueue.
        on_fault: Called when the link gives up.
        prepare: Loads the data and opens the engine of a task.
        clock: Monotonic seconds, of the device.
        link_type: How the broker is reached.
        perceptual: LPIPS for the scores.
        energy_model: Of the modelled readings; `None` loads the one that the settings name.
        models: Makes the place of its model, given its network; `None`: one of its own.
        wait: Does nothing for some seconds, or until the device is told to stop.

    Raises:
        ConfigurationError: A meter or an energy profile that cannot be, or a folder of another device.
        EnvironmentFaultError: The folder cannot be used.
    """

    def __init__(
        self,
        settings: ClientSettings,
        post: Callable[[Message], None],
        *,
        on_fault: Fault,
        prepare: Prepare,
        clock: Callable[[], float] = time.monotonic,
        link_type: Callable[..., Any] = Link,
        perceptual: Perceptual | None = None,
        energy_model: EnergyModel | None = None,
        models: Callable[[Network], Models] | None = None,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self.settings = settings
        self._state_topic = topics.node_state(settings.run, settings.node)
        with contextlib.ExitStack() as stack:
            meters = open_settings_meters(settings)
            for meter in meters:
                stack.enter_context(contextlib.closing(meter))
            plugs = [meter for meter in meters if isinstance(meter, Listener)]

            def on_message(topic: str, payload: bytes) -> None:
                # A plug's report is dated when it comes, so it does not wait in the queue while the device trains.
                if not any([plug.receive(topic, payload) for plug in plugs]):  # noqa: C419 - two may hear one topic
                    post((topic, payload))

            model = energy_model or load_energy_model(settings)
            kept, sync = settings.receipts_kept, settings.sync
            spool = Spool(settings.directory, settings.run, settings.node, receipts_kept=kept, sync=sync)
            stack.enter_context(contextlib.closing(spool))
            self.link = link_type(
                settings.link,
                f"spikeleak-{settings.run}-{settings.node}",
                will=(self._state_topic, _will(settings, spool)),
                on_message=on_message,
                on_up=lambda: post(events.Up()),
                on_down=lambda reason: post(events.Down(reason=reason)),
                on_fault=on_fault,
            )
            account = Account(PhaseMeter(labelled(meters, settings), clock, suspended_s), clock)
            self._sleeper = Sleeper(settings.sleep, account, clock, wait)
            self.device = Device(
                settings,
                spool,
                self.link,
                prepare=prepare,
                needs=ENGINES[settings.engine].needs,
                account=account,
                model=model,
                clock=clock,
                new_uid=uid_source(settings),
                secret=secrets.randbits(128) if settings.seed is None else settings.seed,
                perceptual=perceptual,
                wait=wait,
                models=None if models is None else models(self.link),
            )
            self.link.subscribe(*self.device.subscriptions(), *(place for plug in plugs for place in plug.filters))
            self._held = stack.pop_all()

    def take(self, message: Message) -> None:
        """Works on what was posted."""
        if isinstance(message, tuple):
            self.device.receive(*message)
        else:
            self.device.handle(message)

    def idle(self) -> bool:
        """Nothing waits to be taken: the device may train or score; whether it did anything."""
        return self.device.handle(events.Idle(sending=self.link.sending))

    def rest(self) -> bool:
        """Sleeps, if the device has a duty cycle and it is time to; whether it slept."""
        return self._sleeper.rest(self.device.state)

    @property
    def trains(self) -> bool:
        """Whether the next `idle` trains."""
        return client.ready(self.device.state) is not None

    def close(self, *, farewell: bool = True) -> None:
        """Says farewell and lets go of everything; without farewell as if the process had been killed."""
        with self._held:
            if farewell:
                self.link.stop(farewell=(self._state_topic, self.device.node_state("offline")))
            else:
                self.link.sever()


def open_settings_meters(settings: ClientSettings) -> tuple[Meter, ...]:
    """The meters that the settings name.

    Raises:
        ConfigurationError: No such meter.
    """
    try:
        return open_meters(settings.meter)
    except MeterError as error:
        raise ConfigurationError(f"meter = {settings.meter!r}: {error}") from error


def labelled(meters: tuple[Meter, ...], settings: ClientSettings) -> tuple[Meter, ...]:
    """What is measured for another board is labelled so."""
    if not settings.emulates:
        return meters
    return tuple(EmulatedMeter(meter, settings.emulates) for meter in meters)


def load_energy_model(settings: ClientSettings) -> EnergyModel:
    """The energy model that the settings name.

    Raises:
        ConfigurationError: No such profile.
    """
    try:
        return EnergyModel.load(settings.energy_profile)
    except MeterError as error:
        raise ConfigurationError(f"energy_profile = {settings.energy_profile!r}: {error}") from error


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


def uid_source(settings: ClientSettings) -> Callable[[str], str]:
    """Names updates: repeatable with a seed, else from the system."""
    if settings.seed is None:
        return lambda _text: secrets.token_hex(16)
    prefix = f"{settings.seed} {settings.node}"
    return lambda text: hashlib.sha256(f"{prefix} {text}".encode()).hexdigest()[:32]
