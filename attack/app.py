"""The attack process: MQTT in, MQTT out, a journal on disk. Everything it knows comes from its four subscriptions."""

from __future__ import annotations

import difflib
import errno
import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import msgspec
import torch

from attack.candidates import read_candidates
from attack.clock import OVERRUN
from attack.desk import Desk
from attack.method import Method
from attack.methods import KNOWN, METHODS
from attack.own.view import OwnViews
from attack.settings import AttackSettings
from attack.share import GROUP, Share
from attack.signs import Signs
from attack.worker import Answer, UpdateQueue, Worker
from contract import topics
from contract.errors import ConfigurationError, EnvironmentFaultError
from contract.frames import split
from contract.link import Link
from contract.messages import Update
from contract.models.own import source_of

__all__ = ["AttackSettings", "run_attack"]

log = logging.getLogger(__name__)

_POLL_S = 0.1
_CONNECT_S = 10.0
_OVERRUN = 3.0
"""Budgets that an update may take before its attack counts as hung; signs of work end then."""


def chosen_methods(names: tuple[str, ...] | None) -> Mapping[str, Method]:
    """The methods of that names, in ladder order and then the variants; the whole ladder, without these, for `None`.

    Raises:
        ConfigurationError: An unknown name, with the nearest known one.
    """
    if names is None:
        return METHODS
    for name in names:
        if name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigurationError(f"attacks: unknown attack {name!r}; {hint}known attacks: {', '.join(KNOWN)}")
    return {name: method for name, method in KNOWN.items() if name in names}


def _open_journal(directory: Path) -> IO[bytes]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return (directory / "attack.jsonl").open("ab", buffering=0)
    except OSError as error:
        raise _unwritable(directory, error) from error


def _write(journal: IO[bytes], line: bytes) -> None:
    """All of a line; unbuffered, so that closing the file has nothing left to fail with."""
    if journal.write(line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _unwritable(directory: Path, error: OSError) -> EnvironmentFaultError:
    return EnvironmentFaultError(
        f"directory {directory} cannot be written: {error}; make room there, or name another one in 'directory'"
    )


class _Process:
    """The loop around a desk: inbox, journal, outbox."""

    def __init__(self, settings: AttackSettings, desk: Desk, journal: IO[bytes], stop: threading.Event) -> None:
        self.settings, self.desk, self.journal, self.stop = settings, desk, journal, stop
        self.inbox: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self.outbox: deque[Answer] = deque()
        self.faults: list[EnvironmentFaultError] = []
        self.answered = 0
        self._mirror = ""
        self.link = Link(
            settings.link,
            f"{settings.run}-attack" + (f"-{settings.worker}" if desk.share else ""),
            on_message=lambda topic, payload: self.inbox.put((topic, payload)),
            on_down=lambda reason: log.warning("broker lost: %s", reason),
            on_fault=self.faults.append,
            seed=settings.seed,
        )
        overrun = max(_OVERRUN, OVERRUN if settings.clock == "work" else 0.0)
        limit_s = 60.0 + 2 * overrun * settings.budget_s  # the noise control takes a budget of its own
        self.signs = Signs(self._sign, limit_s)
        desk.at_work = self.signs.at_work

    def _sign(self, update: Update) -> None:
        if self.link.connected:
            self.link.publish(topics.working(self.settings.run, update.round, update.node, update.uid), b"\1")

    def run(self) -> None:
        """Until the server has finished and nothing waits, or until stopped."""
        party = "worker" if self.desk.share else "attack"
        self.link.subscribe(*topics.subscriptions(party, self.settings.run))
        self.link.start(timeout_s=_CONNECT_S)
        try:
            with self.signs.running():
                self._work()
        finally:
            self.link.stop()
        log.info("ends: %d updates answered, %d given up", self.answered, self.desk.queue.dropped)

    def _work(self) -> None:
        found = None
        while not self.stop.is_set():
            if self.faults:
                raise self.faults[0]
            self._receive(wait=found is None)
            self._send()
            if self.desk.share is not None and self.link.connected:
                self._tend_share(self.desk.share)
            if self.desk.finished and self.desk.idle and not self.outbox and self.inbox.empty():
                break
            found = self.desk.next_answer(time.monotonic())
            if found is not None:
                self._answer(found)

    def _tend_share(self, share: Share) -> None:
        """Subscribes to this worker's part of the mirror as this broker can, and asks for what is missing of it."""
        run = self.settings.run
        share.by_broker = self.link.shares
        mirror = topics.first_chunks(run, GROUP if share.by_broker else "")
        if mirror != self._mirror:
            self.link.unsubscribe(self._mirror)
            self.link.subscribe(mirror)
            self._mirror = mirror
            log.info("worker %d of %d: subscribed to %s", self.settings.worker, self.settings.workers, mirror)
        for claim in share.due(time.monotonic()):
            self.link.subscribe(topics.mirrored(run, claim.round, claim.node, claim.uid))
            self.link.publish(topics.claim(run, claim.round, claim.node, claim.uid), b"\1")
        for claim in share.left():
            self.link.unsubscribe(topics.mirrored(run, claim.round, claim.node, claim.uid))

    def _receive(self, *, wait: bool) -> None:
        """All that has arrived; waits a moment when there is nothing else to do."""
        try:
            message = self.inbox.get(timeout=_POLL_S) if wait else self.inbox.get_nowait()
            while True:
                self.desk.take(*message)
                message = self.inbox.get_nowait()
        except queue.Empty:
            return

    def _send(self) -> None:
        while self.outbox and self._publish(self.outbox[0]):
            self.outbox.popleft()

    def _publish(self, found: Answer) -> bool:
        """Whether all of an answer was handed over, to each device; cut as small as the broker wants it now."""
        message = found.message
        frames = split(found.blob, message.uid, frame_bytes=self.link.frame_bytes)
        run, node, round_ = self.settings.run, message.node, message.round
        sent = all(self.link.publish(topics.recon_chunk(run, node, round_, i), f) for i, f in enumerate(frames))
        return sent and all(self._publish(copy) for copy in found.copies)

    def _answer(self, found: Answer) -> None:
        message = found.message
        self.outbox.append(found)
        self._send()
        self.answered += 1
        try:
            _write(self.journal, msgspec.json.encode(message) + b"\n")
        except OSError as error:
            raise _unwritable(self.settings.directory, error) from error
        verdicts = ", ".join(f"{r.attack} {r.verdict} {r.seconds:.2f} s" for r in message.results)
        whose = message.node if message.seen == "update" else f"{message.seen} of {1 + len(found.copies)}"
        log.info("round %d, %s: %s; %d wait", message.round, whose, verdicts, len(self.desk.queue))


def run_attack(settings: AttackSettings, stop: threading.Event | None = None) -> int:
    """Attacks every mirrored update of a run and publishes the reconstructions.

    Args:
        settings: What to attack and how.
        stop: Ends the process early when set.

    Returns:
        0 when the server's run is finished and every update has been answered, or when stopped.

    Raises:
        ConfigurationError: An unknown attack, or no file of the task's own network where one is named.
        EnvironmentFaultError: No broker, or one that takes no useful frames, or a directory that cannot be written.
    """
    torch.set_num_threads(settings.threads)
    if settings.model is not None:
        source_of(settings.model, named=f"model = {settings.model!r}")
    methods = chosen_methods(settings.attacks)
    worker = Worker(
        methods,
        settings.threat,
        budget_s=settings.budget_s,
        clock=settings.clock,
        exhaustive=settings.exhaustive,
        seed=settings.seed,
        noise_controls=settings.noise_controls,
        noise_on=settings.noise_on,
        own=OwnViews(settings.model),
        candidates=None if settings.candidates is None else read_candidates(settings.candidates),
    )
    with _open_journal(settings.directory) as journal:
        share = Share(settings.workers, settings.worker) if settings.workers > 1 else None
        desk = Desk(worker, UpdateQueue(settings.queue), share)
        _Process(settings, desk, journal, stop or threading.Event()).run()
    return 0
