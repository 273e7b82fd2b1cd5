"""From a mirrored update to a reconstruction: the queue with its back-pressure, and the work itself. No I/O."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from attack.aggregate import addressed_messages, errors_of
from attack.clock import Clock
from attack.controls import Controls
from attack.ladder import Rung, climb
from attack.method import Finding, Method
from attack.noise import noise_observation
from attack.own.view import OwnViews
from attack.threat import Array32, Observation, ThreatModel
from contract.codecs import decode_tensors
from contract.codecs.bits import encode_frames
from contract.datasets import task_info
from contract.encodings import image_shape, input_shape
from contract.errors import SpikeleakError
from contract.masking import read_masked, signed
from contract.messages import (
    MAX_HEAD_BYTES,
    MAX_IMAGES_BYTES,
    Aggregate,
    AttackResult,
    MembershipTest,
    Reconstruction,
    Seen,
    TensorRecord,
    Update,
    pack,
    unpack,
)
from contract.metrics import sample_digest
from contract.models.layout import parameter_shapes
from contract.task import TaskSpec

_NOISE_STREAM = 1
"""Sets the control's draws apart from the attacks'."""
NOISE_PREFIX = "noise."
"""Begins the names of a noise control's tensors."""
Packed = list[tuple[TensorRecord, Array32 | npt.NDArray[np.uint8]]]
"""Tensors of an object: their records and their bytes."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A mirrored update that waits: its head and the bytes of its tensors.

    Attributes:
        aggregate: What it stands for where it is no device's own (`attack.aggregate`).
    """

    update: Update
    views: tuple[memoryview, ...]
    aggregate: Aggregate | None = None

    @property
    def seen(self) -> Seen:
        """What is attacked."""
        return "update" if self.aggregate is None else self.aggregate.seen


class UpdateQueue:
    """Updates that wait for the attacker, oldest first, each once.

    When full it gives up the oldest update of a training round; only when there is none, the oldest of all.

    Args:
        limit: Updates that may wait.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.dropped = 0
        self._waiting: OrderedDict[str, Job] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, uid: str) -> bool:
        return uid in self._waiting

    def put(self, job: Job) -> Job | None:
        """Takes a job; a duplicate of one that waits is ignored.

        Returns:
            The job that was given up for it, if any.
        """
        if job.update.uid in self._waiting:
            return None
        self._waiting[job.update.uid] = job
        if len(self._waiting) <= self.limit:
            return None
        training = (uid for uid, waiting in self._waiting.items() if waiting.update.plan.kind == "train")
        victim = next(training, next(iter(self._waiting)))
        self.dropped += 1
        return self._waiting.pop(victim)

    def versions(self) -> set[int]:
        """Model versions that the waiting updates started from."""
        return {job.update.model_version for job in self._waiting.values()}

    def pop(self, ready: Callable[[Job], bool] = lambda _job: True) -> Job | None:
        """The oldest job that is ready; `None` when there is none."""
        uid = next((uid for uid, job in self._waiting.items() if ready(job)), None)
        return None if uid is None else self._waiting.pop(uid)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A reconstruction and the object that carries it.

    Attributes:
        job: Uid of what was mirrored.
        copies: The same for the other devices of an aggregate.
    """

    message: Reconstruction
    blob: bytes
    job: str
    copies: tuple[Answer, ...] = ()

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return len(self.blob) + sum(copy.nbytes for copy in self.copies)


class Worker:
    """Attacks updates, one at a time.

    Args:
        methods: The ladder.
        threat: What may be known.
        budget_s: Seconds per update.
        clock: What these are, see `attack.clock`.
        exhaustive: Run every attack even after an exact one.
        seed: Of all draws; each update's are its own.
        noise_controls: Audit updates whose noise control is run as well, the first to come; and as many aggregates.
        noise_on: Round and device of these updates, where they are to be the same each time.
        candidates: Samples `[N, *shape]` in [0, 1] of the attacker's own, if it has any.
        own: How a network that no task describes is looked at; `None`: without its file.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        threat: ThreatModel,
        *,
        budget_s: float,
        exhaustive: bool,
        seed: int,
        clock: Clock = "processor",
        noise_controls: int = 0,
        noise_on: Sequence[tuple[int, str]] = (),
        candidates: Array32 | None = None,
        own: OwnViews | None = None,
    ) -> None:
        self.methods, self.threat = methods, threat
        self.budget_s, self.exhaustive, self.seed, self.clock = budget_s, exhaustive, seed, clock
        self._controls = Controls(noise_controls, noise_on)
        self._candidates = candidates
        self._own = own or OwnViews(None)
        self._digests = () if candidates is None else tuple(sample_digest(sample) for sample in candidates)

    def attack(self, job: Job, task: TaskSpec, parameters: Mapping[str, Array32] | None) -> Answer:
        """The ladder's answer to one update.

        Args:
            job: The update.
            task: The run's task.
            parameters: The model that the update started from; `None` when this attacker does not hold it.
        """
        update = job.update
        if self.threat.vantage == "client" and job.seen != "models":
            return self.without(job, "refused", "a fellow client sees successive models, not a single device's update")
        if parameters is None and self.threat.weights:
            return self.without(job, "failed", f"model version {update.model_version} is not at hand")
        try:
            observation = self.observe(job, task, parameters or {})
        except SpikeleakError as error:
            return self.without(job, "failed", f"the update cannot be read: {error}")
        rungs = self._climb(observation, exhaustive=self.exhaustive)
        noise = self._noise_control(job, observation)
        return self._addressed(job, answer(update, rungs, self._uid(update), noise=noise, digests=self._digests))

    def _addressed(self, job: Job, found: Answer) -> Answer:
        return found if job.aggregate is None else addressed(found, job.aggregate)

    def _noise_control(self, job: Job, observation: Observation) -> Sequence[Rung]:
        """The ladder on noise of this update's shapes and norms, with the same budget."""
        update = job.update
        if update.plan.kind != "audit" or not self._controls.takes(job.seen, update.round, update.node):
            return ()
        noise = noise_observation(observation, np.random.default_rng([observation.seed, _NOISE_STREAM]))
        return self._climb(noise, exhaustive=True)

    def _climb(self, observation: Observation, *, exhaustive: bool) -> Sequence[Rung]:
        return climb(observation, self.methods, budget_s=self.budget_s, exhaustive=exhaustive, clock=self.clock)

    def observe(self, job: Job, task: TaskSpec, parameters: Mapping[str, Array32]) -> Observation:
        """What the threat model lets be seen of an update.

        Raises:
            WireError: Tensors that do not decode.
            ConfigurationError: Tensors or parameters that do not fit the task's network.
        """
        update = job.update
        info = task_info(task)
        shape, images = (of(task.encoding, info.shape) for of in (input_shape, image_shape))
        shapes = parameter_shapes(task, shape, info.classes)
        if self._candidates is not None and self._candidates.shape[1:] != images:
            raise SpikeleakError(f"candidates of shape {self._candidates.shape[1:]}: samples have {images}")
        tensors, records = _read(update, job.views)
        _require_shapes(shapes, tensors, "update")
        if parameters:
            _require_shapes(shapes, parameters, f"model version {update.model_version}")
        view = self._own.of(task, shape, info.classes)
        names = {name: name for name in shapes} if view is None else view.names
        held = {alias: parameters[name] for alias, name in names.items()} if parameters else {}
        if held and view is not None and view.first_bias is not None:
            held[view.first_bias] = np.zeros(len(next(iter(held.values()))), dtype=np.float32)
        knows = self.threat.knowledge
        return Observation(
            threat=self.threat,
            shape=shape,
            classes=info.classes,
            samples=update.samples,
            update={alias: tensors[name] for alias, name in names.items()},
            seed=int.from_bytes(hashlib.sha256(f"{self.seed}/{update.uid}".encode()).digest()[:4], "little"),
            _task=task,
            _plan=update.plan,
            _parameters=held if "weights" in knows else {},
            _records={alias: records[name] for alias, name in names.items()} if "codec" in knows else {},
            _candidates=self._candidates if "candidates" in knows else None,
            _network=None if view is None else view.network,
            _errors={} if job.aggregate is None else errors_of(job.aggregate, names),
            masked=bool(update.masks),
            _unknown="" if view is None else view.unknown,
        )

    def without(self, job: Job, verdict: str, reason: str) -> Answer:
        """The answer when no attack was run: each says so, none is missing."""
        finding = Finding(verdict="refused" if verdict == "refused" else "failed", reason=reason)
        rungs = [Rung(attack=name, finding=finding, seconds=0.0) for name in self.methods]
        return self._addressed(job, answer(job.update, rungs, self._uid(job.update)))

    def _uid(self, update: Update) -> str:
        return hashlib.sha256(f"reconstruction/{self.seed}/{update.uid}".encode()).hexdigest()[:32]


def _read(update: Update, views: Sequence[memoryview]) -> tuple[dict[str, Array32], dict[str, TensorRecord]]:
    """Tensors and their records; masked ones are read as if they wore no masks: alone, nobody can do better."""
    records = {record.name: record for record in update.tensors}
    if not update.masks:
        return decode_tensors(update.tensors, views), records
    tensors = {
        name: (signed(tensor).astype(np.float64) * records[name].scale).astype(np.float32)
        for name, tensor in read_masked(update.tensors, views).items()
    }
    plain = {name: msgspec.structs.replace(record, codec="fp32", scale=1.0) for name, record in records.items()}
    return tensors, plain


def _require_shapes(shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Array32], what: str) -> None:
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if found != dict(shapes):
        odd = sorted(set(found.items()) ^ set(shapes.items()))
        raise SpikeleakError(f"{what} does not fit the task's network: {odd[:4]}")


def _membership(finding: Finding, digests: Sequence[bytes]) -> tuple[MembershipTest, ...]:
    if finding.membership is None:
        return ()
    return tuple(MembershipTest(d, float(s)) for d, s in zip(digests, finding.membership, strict=True))


def answer(
    update: Update, rungs: Sequence[Rung], uid: str, *, noise: Sequence[Rung] = (), digests: Sequence[bytes] = ()
) -> Answer:
    """Packs what the ladder found.

    Args:
        update: The update that was attacked.
        rungs: The ladder's findings.
        uid: Names the reconstruction: 32 hex digits.
        noise: Its findings on the update's noise control, whose images go behind the others. Where the object would be
            too large with them, their verdicts are told alone.
        digests: Of the attacker's own samples, in their order.
    """
    tensors: Packed = []
    results = tuple(_result(rung, tensors, digests) for rung in rungs)
    of_noise = list(tensors)
    controls = tuple(_result(rung, of_noise, digests, prefix=NOISE_PREFIX) for rung in noise)
    if sum(record.nbytes for record, _ in of_noise) > MAX_IMAGES_BYTES - MAX_HEAD_BYTES:
        controls = tuple(msgspec.structs.replace(one, images=-1, labels=(), membership=()) for one in controls)
    else:
        tensors = of_noise
    message = Reconstruction(
        uid=uid,
        update_uid=update.uid,
        node=update.node,
        round=update.round,
        results=results,
        noise=controls,
        tensors=tuple(record for record, _ in tensors),
    )
    return Answer(message=message, blob=pack(message, [buffer for _, buffer in tensors]), job=update.uid)


def _result(rung: Rung, tensors: Packed, digests: Sequence[bytes], *, prefix: str = "") -> AttackResult:
    """One attack's result; its images, and its frames if they are no control's, are added to the tensors."""
    finding = rung.finding
    index = at = -1
    if finding.images is not None:
        index = len(tensors)
        images = np.ascontiguousarray(finding.images, dtype="<f4")
        name = prefix + rung.attack
        tensors.append((TensorRecord(name=name, shape=images.shape, codec="fp32", nbytes=images.nbytes), images))
    if finding.frames is not None and not prefix:
        at = len(tensors)
        tensors.append(encode_frames(f"{rung.attack}.frames", finding.frames))
    return AttackResult(
        attack=rung.attack,
        verdict=finding.verdict,
        reason=finding.reason,
        seconds=rung.seconds,
        objective=finding.objective,
        labels=finding.labels,
        images=index,
        frames=at,
        membership=_membership(finding, digests),
    )


def addressed(found: Answer, aggregate: Aggregate) -> Answer:
    """The answer to an aggregate, for the device of each of its parts; the noise control is told once."""
    _, views = unpack(found.blob, Reconstruction)
    first, *others = (
        Answer(message=message, blob=pack(message, views[: len(message.tensors)]), job=found.job)
        for message in addressed_messages(found.message, aggregate)
    )
    return msgspec.structs.replace(first, copies=tuple(others))
