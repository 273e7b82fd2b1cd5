"""What a server is told: the run, its schedule, how many devices, what it admits."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from contract.link import LinkSettings
from contract.pipeline import pipeline
from contract.secure import LEAST_DEVICES
from contract.task import RoundPlan, TaskSpec
from server.aggregation import AGGREGATORS, ALGORITHMS, OPTIMISERS, Aggregation, FedBuff, Optimisation, Recipe
from server.aggregation.mean import MOMENTUM_CITED, Mean
from server.aggregation.multi_krum import MultiKrum

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
Vantage = Literal["server", "fellow"]


class ScheduleEntry(RoundPlan, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[schedule]]` table: how updates are made (`RoundPlan`), how often, and when a round is over.

    Attributes:
        rounds: How many rounds of this kind follow each other.
        clients: Devices drawn for each round out of those online; `None` takes all. In asynchronous rounds:
            devices that train at one time; when one has delivered, another is drawn.
        min_updates: Updates that close the round at once (k of n); `None` waits for all that were drawn. Never
            more than were drawn.
        deadline_s: Seconds after which the round closes with what it has.
        aggregator: One of `server.aggregation.AGGREGATORS`, by name (`aggregator = "median"`) or with its settings
            (`aggregator = {kind = "trimmed-mean", share = 0.1}`).
        server_optimiser: One of `server.aggregation.OPTIMISERS`, likewise; `None`: `server_momentum`.
        fedbuff: Makes the round asynchronous, with these settings (`fedbuff = {buffer = 4, versions = 20}`).
    """

    rounds: Positive = 1
    clients: Positive | None = None
    min_updates: Positive | None = None
    deadline_s: Seconds = 30.0
    aggregator: Aggregation | str = Mean()
    server_optimiser: Optimisation | str | None = None
    fedbuff: FedBuff | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        aggregator = _named("aggregator", self.aggregator, AGGREGATORS)
        optimiser = self.server_optimiser and _named("server_optimiser", self.server_optimiser, OPTIMISERS)
        fedbuff = self.fedbuff or (FedBuff() if self.mode == "asynchronous" else None)
        given = {"aggregator": aggregator, "server_optimiser": optimiser or None, "fedbuff": fedbuff}
        for name, value in {**given, "mode": "asynchronous" if fedbuff else "synchronous"}.items():
            msgspec.structs.force_setattr(self, name, value)
        self._check_optimiser()
        if fedbuff is not None:
            self._check_asynchronous(fedbuff)
        self._check_aggregator()
        self.require_updates(fedbuff.buffer if fedbuff else self.min_updates or self.clients)

    def _check_optimiser(self) -> None:
        if self.server_optimiser is None:
            return
        if self.server_momentum:
            raise ValueError(
                f"server_momentum = {self.server_momentum} with server_optimiser: it has moments of its own; set 0"
            )
        if self.server_learning_rate >= 1:
            raise ValueError(
                f"server_learning_rate = {self.server_learning_rate} with server_optimiser: each weight moves by about "
                "so much at each step; set one below 1, 0.01 to begin with"
            )

    def _check_asynchronous(self, fedbuff: FedBuff) -> None:
        if self.kind == "audit" or not self.plan.applied:
            raise ValueError(
                f"fedbuff with kind = {self.kind!r}, apply = {self.apply}: every buffer makes a model; leave it out"
            )
        if self.min_updates is not None:
            raise ValueError(
                f"min_updates = {self.min_updates} with fedbuff: its buffer = {fedbuff.buffer} says when there is a "
                "version; leave min_updates out"
            )

    def _check_aggregator(self) -> None:
        if self.secure is not None and not isinstance(self.aggregator, Mean):
            raise ValueError(
                f"aggregator = {type(self.aggregator).__name__} with secure: it needs single updates, and only their "
                "sum can be read; leave aggregator out"
            )

    def require_devices(self, key: str, count: int | None) -> None:
        """Checks that secure aggregation can do with so many devices; `None` is not known.

        Raises:
            ValueError: Too few, or so many that a sum may not fit into 32 bits.
        """
        if self.secure is None or count is None:
            return
        if count < LEAST_DEVICES:
            raise ValueError(
                f"{key} = {count} with secure: in a sum of two each knows the other's update; ask for {LEAST_DEVICES}"
            )
        if count > self.secure.most_devices:
            raise ValueError(
                f"{key} = {count} with secure.bits = {self.secure.bits}: sums of {self.secure.most_devices} at most "
                "fit into 32 bits; lower bits"
            )

    def require_updates(self, count: int | None) -> None:
        """Checks that the aggregator can do with so many updates; `None` is not known.

        Raises:
            ValueError: It cannot.
        """
        rule = self.aggregator
        if isinstance(rule, MultiKrum) and count is not None and count < rule.least:
            raise ValueError(
                f"aggregator multi-krum with byzantine = {rule.byzantine} needs {rule.least} updates "
                f"(2 byzantine + 3), a version is made of {count}: ask for more, or lower byzantine"
            )

    def require_buffer(self, clients: int) -> None:
        """Checks that so many devices can fill a buffer that takes one update of each.

        Raises:
            ValueError: They cannot.
        """
        if self.fedbuff is not None and self.fedbuff.waits and self.fedbuff.buffer > clients:
            raise ValueError(
                f"fedbuff with waits and buffer = {self.fedbuff.buffer}: a version takes one update of each device, "
                f"and the run has clients = {clients}; lower buffer to as many as are not slow"
            )

    @property
    def plan(self) -> RoundPlan:
        """The part that devices follow."""
        return RoundPlan(**{name: getattr(self, name) for name in RoundPlan.__struct_fields__})

    @property
    def recipe(self) -> Recipe:
        """The part that makes models out of updates."""
        assert not isinstance(self.aggregator, str)
        assert not isinstance(self.server_optimiser, str)
        return Recipe(aggregator=self.aggregator, optimiser=self.server_optimiser, fedbuff=self.fedbuff)

    @property
    def cited(self) -> tuple[str, ...]:
        """Keys of the works that it follows, in `server.aggregation.citations` and `contract.citations`."""
        keys: list[str] = []
        if self.applied:
            keys += [*self.recipe.cited, ALGORITHMS[self.algorithm].citation]
            keys += MOMENTUM_CITED if self.server_momentum else ()
        keys += ["li2020federated"] if self.proximal else []
        keys += pipeline(self).cited
        keys += [] if self.secure is None else self.secure.cited
        return tuple(dict.fromkeys(keys))


Part = TypeVar("Part")


def _named(key: str, value: Part | str, known: Mapping[str, type[Part]]) -> Part:
    """A member of a family by its name, with its defaults; one with settings as it is.

    Raises:
        ValueError: An unknown name, with the nearest known one.
    """
    if not isinstance(value, str):
        return value
    if value not in known:
        near = difflib.get_close_matches(value, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"{key} = {value!r}: {hint}known are {', '.join(known)}")
    return known[value]()


class AdmissionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an update may be.

    Attributes:
        max_norm: Largest Euclidean norm over all tensors of an update together. A bound on the absolute norm: it
            stops absurd and overflowing updates, not a careful poisoner. The default is generous: a trained
            network of 200,000 parameters has a norm of about 20, its gradients are below that.
    """

    max_norm: Seconds = 1e4


class PrivacySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the privacy of rounds with noise is stated.

    Attributes:
        delta: At which ε is given: well below 1 / number of devices.
    """

    delta: Annotated[float, Meta(gt=0, lt=1)] = 1e-5


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one server; a TOML of their own, or a section of a study.

    Attributes:
        run: Name of the run; part of every topic.
        directory: Where `ledger.sqlite` and `model.safetensors` lie. An existing ledger is resumed.
        clients: Devices that are expected; the first round waits for them.
        start_with: With this many devices online for `grace_s`, the first round starts without the rest.
            `None` waits for all.
        grace_s: See `start_with`.
        drain_s: After the last round, seconds without any news after which outstanding energy reports and scores
            are given up.
        max_attempts: Openings of one round that may end without any update before the run fails.
        keep_images: Reconstructions kept per attack and update (audit rounds only), for the report.
        export: Whether the task's ONNX graphs are made and published (needs torch): devices with engine `onnx` cannot
            train without.
        mirror: What of each admitted update goes to `mirror/` at once: `whole`, or its `first` chunk, for several
            attack workers that share them out (`workers` in an attacker's settings) and claim the rest.
        model: `FILE.py:FACTORY` of a network of the user's own, which then stands in `task.model`'s place. The factory
            takes nothing and returns an `nn.Module` that maps frames `[T, B, *shape]` to logits `[B, classes]`. The
            file is executed here; devices get graphs. Needs `export = true`.
        vantages: From where updates are looked at. `server`: what it reads itself, under secure aggregation the masked
            updates and their sum. `fellow`: also what the first device by name reads off successive models.
        attacked: Whether there is an attacker: without one nothing is mirrored and no score is waited for.
        evaluate: Whether accuracy on held-out samples is computed (needs torch and the data set).
        held_out: For a task with `dataset = "own"`: an `.npz` file with samples `x` `[N, *shape]` in [0, 1] and labels
            `y` `[N]`, to evaluate on. Without it such a run has no accuracy, and says why.
    """

    run: str
    directory: Path
    link: LinkSettings = LinkSettings()
    task: TaskSpec = TaskSpec()
    schedule: Annotated[tuple[ScheduleEntry, ...], Meta(min_length=1)] = (ScheduleEntry(),)
    clients: Positive = 1
    start_with: Positive | None = None
    grace_s: Annotated[float, Meta(ge=0)] = 30.0
    drain_s: Annotated[float, Meta(ge=0)] = 60.0
    max_attempts: Positive = 5
    keep_images: Annotated[int, Meta(ge=0)] = 64
    export: bool = True
    mirror: Literal["whole", "first"] = "whole"
    model: str | None = None
    vantages: tuple[Vantage, ...] = ("server",)
    attacked: bool = True
    evaluate: bool = True
    held_out: Path | None = None
    admission: AdmissionSettings = AdmissionSettings()
    privacy: PrivacySettings = PrivacySettings()

    def __post_init__(self) -> None:
        if "server" not in self.vantages:
            raise ValueError(f"vantages = {list(self.vantages)}: the server mirrors what it sees; add 'server'")
        for entry in self.schedule:
            entry.require_updates(self.clients if entry.fedbuff is None else None)
            entry.require_buffer(self.clients)
            for key, count in (("clients", self.clients), ("start_with", self.start_with), ("clients", entry.clients)):
                entry.require_devices(key, count)

    @property
    def unevaluated(self) -> str:
        """Why no accuracy is computed; empty when it is."""
        if not self.evaluate:
            return "the server was told not to evaluate (evaluate = false)"
        if self.task.own_data is not None and self.held_out is None:
            return "the data exists on devices alone (dataset = 'own'), and the server has no held_out samples"
        return ""

    @property
    def rounds(self) -> int:
        """Rounds of the whole schedule."""
        return sum(entry.rounds for entry in self.schedule)

    def entry(self, round_: int) -> ScheduleEntry:
        """The schedule's entry for a round, counted from 1."""
        last = 0
        for entry in self.schedule:
            last += entry.rounds
            if round_ <= last:
                return entry
        raise IndexError(f"round {round_} of {last}")

    def identity(self) -> dict[str, Any]:
        """What must agree for a ledger to be resumed: everything that decides the run's result."""
        names = ("run", "task", "schedule", "clients", "admission")
        return {name: msgspec.to_builtins(getattr(self, name)) for name in names}
