"""What a report shows, as frozen records: the border between the ledger and the page.

`source.read_report_data` fills them from a run's folder; everything after that is a pure function of them. Whatever is
missing is `None` or an empty tuple with a reason beside it, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from contract.messages import AttackScore, Operations, Seen, Verdict
from contract.task import RoundPlan, TaskSpec
from hardware.energy import EnergyReading
from server.integer_inference import Int8Inference
from server.mirror import Reach
from server.report.waiting import Waiting

Image = npt.NDArray[np.float32]
RoundKind = Literal["train", "audit"]
KINDS: tuple[RoundKind, ...] = ("train", "audit")
KIND_TITLES: dict[RoundKind, str] = {"train": "training rounds", "audit": "audit rounds"}


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the report's records."""


class Device(Record, frozen=True):
    """What a device said of itself at its last birth.

    Attributes:
        privacy: Its ε after its last update, or why there is none; empty when no update carried noise.
    """

    node: str
    board: str = ""
    engine: str = ""
    meter: str = ""
    samples: int | None = None
    privacy: str = ""


class RoundRow(Record, frozen=True):
    """One closed round.

    Attributes:
        accuracy: Fraction of held-out samples labelled right after the round; `None` when it was not evaluated.
        loss: Cross-entropy on them.
        updates: Updates that were aggregated.
        selected: Devices that were asked.
    """

    round: int
    plan: RoundPlan
    accuracy: float | None = None
    loss: float | None = None
    updates: int | None = None
    selected: int | None = None
    closed_by: str = ""


class UpdateRow(Record, frozen=True):
    """One admitted update."""

    uid: str
    node: str
    round: int
    kind: RoundKind
    samples: int
    payload_bytes: int


class Refusal(Record, frozen=True):
    """One refused update and why."""

    node: str
    round: int | None
    reason: str


class Counts(Record, frozen=True):
    """Fate of the updates; `None` where nobody counted.

    Attributes:
        published: Updates that devices put on the wire.
        lost: Published, neither admitted nor refused.
        duplicated: Aggregated more than once.
    """

    published: int | None = None
    admitted: int | None = None
    refused: int | None = None
    lost: int | None = None
    duplicated: int | None = None


class EnergyRow(Record, frozen=True):
    """One reading of one phase of one update; `update` is its uid."""

    node: str
    round: int
    kind: RoundKind
    phase: str
    reading: EnergyReading
    update: str = ""


class OperationsRow(Record, frozen=True):
    """Operations counted for one update."""

    node: str
    round: int
    kind: RoundKind
    operations: Operations


class ScoreRow(Record, frozen=True):
    """One attack on one update, scored by the device that owns the truth.

    Attributes:
        update: Uid of the update.
        samples: Samples behind it.
        score: The device's verdict.
        seen: What was attacked: the update itself, or a view that holds it.
    """

    update: str
    node: str
    round: int
    kind: RoundKind
    samples: int
    score: AttackScore
    seen: Seen = "update"


class NoiseRow(Record, frozen=True):
    """One attack on the noise control of one update: noise of its shapes and norms.

    Attributes:
        update: Uid of the update whose place the noise took, or of one in the view whose place it took.
        scored: Whether its device held it against the truth.
        psnr_db: What it reached there; `None` without an image, and where it was not scored.
    """

    update: str
    attack: str
    verdict: Verdict
    reason: str = ""
    seen: Seen = "update"
    scored: bool = False
    psnr_db: float | None = None


class Candidate(Record, frozen=True):
    """One attack's best reconstruction of a pictured sample, with its score; `image` is `None` without one."""

    score: AttackScore
    image: Image | None = None


class Picture(Record, frozen=True):
    """One true sample beside what each attack made of it.

    Attributes:
        truth: `[C, H, W]`, `[H, W]` or `[N]` in [0, 1].
        sample: Index of the sample within its update.
    """

    update: str
    node: str
    round: int
    kind: RoundKind
    sample: int
    truth: Image
    label: int | None
    candidates: tuple[Candidate, ...]


class Histogram(Record, frozen=True):
    """Where the values of an update lie modulo 2^32.

    Attributes:
        shares: Share of the values in each of 64 equal parts.
        chi2_p: Chance that uniform values deviate at least as much (Pearson's chi-squared test).
        image: The same row of the first layer as of `Secure.mean_image`; `None` without one.
    """

    title: str
    shares: tuple[float, ...]
    chi2_p: float
    image: Image | None = None


class Secure(Record, frozen=True):
    """Secure aggregation in one network's run.

    Attributes:
        told: Its part of `summary.json` (`server.secure_summary`).
        values: Values of one update.
        seen: A device's masked update, and its control: as many integers at random.
        of: Whose update it is, in words.
        mean_image: Of the mean that the server opened, the row of the first layer with the largest values.
        bytes_up: Bytes of all updates of the run.
    """

    told: Mapping[str, Any]
    values: int = 0
    seen: tuple[Histogram, ...] = ()
    of: str = ""
    mean_image: Image | None = None
    bytes_up: int = 0


class View(Record, frozen=True):
    """What was to be seen of several devices of a round together (`server.vantages`).

    Attributes:
        samples: Of each of its updates; empty when nothing was to be seen.
        note: Why not, or what else must be known.
    """

    seen: Seen
    round: int
    samples: tuple[int, ...]
    note: str = ""


class Family(Record, frozen=True):
    """One network's run: the spiking one, or its ANN twin.

    Attributes:
        title: How the page calls it.
        status: `finished`, or what it was doing when it ended.
        scores: Of the curious server, which takes the better of what it sees of an update (`server.report.sights`).
        seen: Scores of all that was attacked, each for itself.
        views: What of several devices together was mirrored, or could not be.
        secure: Secure aggregation; `None` of a run without.
        bytes_up: Bytes of all admitted updates as published.
        initial_accuracy: Accuracy before the first round.
        evaluated_on: Number of held-out samples behind each accuracy.
        unevaluated: Why there is no accuracy, where that was settled from the start.
        reach: What of it the attacker got to; `None` where nobody counted.
        int8: True int8 inference of the final model, or why there is none.
        waiting: Idle time of the devices, by mode of the rounds.
        wall_s: Wall time of the run.
    """

    title: str
    status: str
    task: TaskSpec | None = None
    task_hash: str = ""
    rounds: tuple[RoundRow, ...] = ()
    rounds_planned: int | None = None
    initial_accuracy: float | None = None
    devices: tuple[Device, ...] = ()
    updates: tuple[UpdateRow, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    counts: Counts = Counts()
    bytes_up: int | None = None
    evaluated_on: int | None = None
    unevaluated: str = ""
    energy: tuple[EnergyRow, ...] = ()
    operations: tuple[OperationsRow, ...] = ()
    scores: tuple[ScoreRow, ...] = ()
    seen: tuple[ScoreRow, ...] = ()
    views: tuple[View, ...] = ()
    secure: Secure | None = None
    reach: Reach | None = None
    noise: tuple[NoiseRow, ...] = ()
    pictures: tuple[Picture, ...] = ()
    int8: Int8Inference = Int8Inference(reason="not recorded with this run")
    waiting: tuple[Waiting, ...] = ()
    wall_s: float | None = None

    @property
    def spiking(self) -> bool:
        """Whether this network spikes; a run without a task counts as spiking."""
        return self.task is None or self.task.model.family == "snn"


class ConstantRow(Record, frozen=True):
    """One constant of the energy model.

    Attributes:
        value: `None` where there is no figure; `source` says why then.
        between: The 95 % interval of a fitted one, in words.
    """

    name: str
    value: float | None
    unit: str
    node: str
    source: str
    between: str = ""


class ReportData(Record, frozen=True):
    """Everything on one report.

    Attributes:
        snn: The main run.
        twin: Its ANN twin.
        twin_missing: Why there is none.
        configuration: The run's TOML, as it was read.
        versions: Program and library versions.
        threat: What the attacker knew, by name.
        constants: The energy model's constants.
        prices: Joules of one operation of each kind, by the profiles that figures on this page rest on.
        without_figure: What the energy model assumes or leaves out.
        problems: What could not be read when the report was made.
    """

    name: str
    snn: Family
    twin: Family | None = None
    twin_missing: str = "this run has no twin"
    configuration: str = ""
    versions: tuple[tuple[str, str], ...] = ()
    broker: str = ""
    threat: tuple[tuple[str, str], ...] = ()
    constants: tuple[ConstantRow, ...] = ()
    prices: dict[str, dict[str, float]] = {}
    without_figure: tuple[tuple[str, str], ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def families(self) -> tuple[Family, ...]:
        """The networks that ran, the spiking one first."""
        return (self.snn,) if self.twin is None else (self.snn, self.twin)
