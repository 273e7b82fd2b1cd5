"""What the attacker is told: one TOML file. Brings no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from attack.clock import Clock
from attack.threat import ThreatModel
from contract.link import LinkSettings
from contract.messages import Name


class AttackSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the attack process.

    Attributes:
        run: Run whose mirror is read.
        link: The broker.
        directory: Folder of the journal `attack.jsonl`: one line per attacked update.
        attacks: Names of the attacks to run; `None` runs the whole ladder.
        budget_s: Seconds per update, shared by the attacks of the ladder.
        clock: What these seconds are: `processor` time, so that what is found depends on the machine and what else it
            does, or nominal seconds of `work`: the same iterations on any machine, and on one of its kind, with the
            same `threads`, the same findings bit for bit, however busy it is. A nominal second is about one of a
            stated core (`attack.costs`); an attack whose work takes ten times as much processor time is given up, and
            says so.
        threat: What the attacker knows.
        queue: Mirrored updates that may wait; beyond it the oldest of a training round is given up.
        seed: Of the attacks' random draws, with each update's uid.
        threads: Threads of torch.
        exhaustive: Run every permitted attack, even after one is certified exact, so that each has a figure.
        noise_controls: The first audit updates, so many, are attacked a second time with noise in their place: what is
            certified there is a false certificate. 0 leaves the control out.
        noise_on: `[round, device]` of these updates, so that a repeated run has the same; empty: those that come first.
        candidates: `.npz` file with samples `x` `[N, *shape]` in [0, 1] that the attacker suspects to be in updates.
            Needs `threat.candidates = true`.
        workers: Attack processes that share the mirror, each with settings of its own; more than 1 need a server with
            `mirror = "first"`.
        worker: Which of them this is, from 0.
        model: `FILE.py:FACTORY` of the task's network where it is a user's own: this machine's copy of the server's
            file. Without it such a network cannot be simulated and first-layer attacks alone apply.
    """

    run: Name
    link: LinkSettings = LinkSettings()
    directory: Path
    attacks: tuple[str, ...] | None = None
    budget_s: Annotated[float, Meta(gt=0)] = 10.0
    clock: Clock = "processor"
    threat: ThreatModel = ThreatModel()
    queue: Annotated[int, Meta(ge=1)] = 256
    seed: Annotated[int, Meta(ge=0)] = 1
    threads: Annotated[int, Meta(ge=1, le=64)] = 1
    exhaustive: bool = True
    noise_controls: Annotated[int, Meta(ge=0)] = 2
    noise_on: tuple[tuple[int, Name], ...] = ()
    candidates: Path | None = None
    workers: Annotated[int, Meta(ge=1, le=1000)] = 1
    worker: Annotated[int, Meta(ge=0)] = 0
    model: str | None = None

    def __post_init__(self) -> None:
        if self.worker >= self.workers:
            raise ValueError(f"worker = {self.worker} with workers = {self.workers}: they are counted from 0")
        if (self.candidates is not None) != self.threat.candidates:
            raise ValueError(
                f"candidates = {str(self.candidates)!r} with threat.candidates = {self.threat.candidates}: "
                "give a file and set threat.candidates = true, or neither"
            )
