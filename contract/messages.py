"""Everything that is said on the wire, as frozen records.

An *object* is one message with its tensors: ``pack`` writes it as

    u32 little-endian length of the head | head: MessagePack of the record | tensors, raw little-endian, back to back

Records are tagged with their name, so that a reader always knows what it holds. No pickle anywhere.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from contract.errors import WireError
from contract.task import RoundPlan, TaskSpec
from hardware.baseline import Baseline
from hardware.energy import EnergyReading

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z")]
Uid = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Count = Annotated[int, Meta(ge=0)]
Text = Annotated[str, Meta(max_length=1000)]
Verdict = Literal["exact", "recovered", "partial", "failed", "refused"]
Seen = Literal["update", "aggregate", "models"]
"""What was attacked: a device's own update (masked, under secure aggregation), the sum that secure aggregation opens,
or the difference of two global models."""
MAX_HEAD_BYTES = 1 << 20
"""Longest record, bare or as an object's head."""
MAX_REPORT_BYTES = 1 << 20
"""Largest object of an `EnergyReport` or a `Score`."""
MAX_IMAGES_BYTES = 16 << 20
"""Largest object of a `Reconstruction` or a `Truth`."""
MAX_CANDIDATES = 8192
"""Samples that one membership attack may test."""
_LENGTH = struct.Struct("<I")


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Base of all records on the wire."""


class TensorRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tensor of an object: where its bytes are and how they decode.

    Attributes:
        name: Parameter name.
        shape: Logical shape after decoding.
        codec: Codec that packed it.
        nbytes: Length of its bytes in the object.
        scale: Step of a uniform quantiser; 1 for float codecs.
        inflated: 0, or the length of what the codec packed when the bytes in the object are a zlib stream of it.
    """

    name: Annotated[str, Meta(max_length=128)]
    shape: Annotated[tuple[Count, ...], Meta(max_length=8)]
    codec: Annotated[str, Meta(max_length=32)]
    nbytes: Count
    scale: float = 1.0
    inflated: Count = 0


class NodeState(Message, frozen=True, kw_only=True):
    """Birth, heartbeat of counters, and death of a device. Retained; the last will has `status="offline"`.

    `epoch` counts the device's starts, so that a will of an earlier life is ignored.
    """

    node: Name
    epoch: Count
    status: Literal["online", "offline"]
    board: Text = ""
    engine: Text = ""
    meter: Text = ""
    samples: Count = 0
    published: Count = 0
    acknowledged: Count = 0
    pending: Count = 0


class GraphRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ONNX graph of the task: what its file must be.

    Attributes:
        name: `training` or `inference`; a level of its topic.
        sha256: Of the file. Bytes with another are never run.
        nbytes: Length of the file.
    """

    name: Name
    sha256: Sha256
    nbytes: Count


class TaskManifest(Message, frozen=True, kw_only=True):
    """The task of the run. Retained.

    Attributes:
        graphs: What the server publishes under `task/{name}/`; empty when it exports none.
    """

    run: Name
    task: TaskSpec
    task_hash: Sha256
    graphs: Annotated[tuple[GraphRecord, ...], Meta(max_length=16)] = ()


class ServerState(Message, frozen=True, kw_only=True):
    """What the server is doing. Retained; the last will has `status="offline"`.

    Attributes:
        status: `waiting` for devices, a round is `open` or `closed`, the run is `finished`, the server `offline`.
        epoch: Counts the server's starts.
        round: Current round, from 1; 0 before the first.
        rounds: Rounds of the whole schedule.
        attempt: How often this round has been opened (again after a round without updates or a restart).
        plan: How updates of this round are made.
        model_version: Version of the model that the updates start from.
        model_sha256: SHA-256 of that model's object.
        task_hash: The task.
        selected: Devices asked for an update.
        deadline_s: Seconds from opening to closing.
    """

    run: Name
    status: Literal["waiting", "open", "closed", "finished", "offline"]
    epoch: Count
    round: Count = 0
    rounds: Count = 0
    attempt: Count = 0
    plan: RoundPlan = RoundPlan()
    model_version: Count = 0
    model_sha256: str = ""
    task_hash: str = ""
    selected: tuple[Name, ...] = ()
    deadline_s: float = 0.0


class Model(Message, frozen=True, kw_only=True):
    """A model: its parameters follow as fp32 tensors."""

    version: Count
    task_hash: Sha256
    tensors: tuple[TensorRecord, ...]


class Update(Message, frozen=True, kw_only=True):
    """A client update: its tensors follow.

    Attributes:
        uid: Names this update for ever; 128 random bits as hex.
        epoch: The device's life in which it was made.
        samples: Number of samples drawn (with repetition) for it: the aggregation weight.
        loss: Mean training loss over the local steps; `None` under a plan with noise, which does not cover it.
        masks: Opening of its round whose masks it wears (`contract.masking`); 0 without masks.
    """

    uid: Uid
    node: Name
    epoch: Count
    round: Count
    model_version: Count
    task_hash: Sha256
    plan: RoundPlan
    samples: Annotated[int, Meta(ge=1)]
    loss: float | None
    tensors: tuple[TensorRecord, ...]
    masks: Count = 0


class AggregatePart(msgspec.Struct, frozen=True, array_like=True):
    """An update that an `Aggregate` holds: its device, its uid, its samples."""

    node: Name
    uid: Uid
    samples: Annotated[int, Meta(ge=1)]


class Aggregate(Message, frozen=True, kw_only=True):
    """What several devices' updates come to, as somebody sees it who sees no single one: their tensors' mean follows.

    Attributes:
        uid: Names it for ever.
        seen: How it came to be known.
        plan: Of the devices' updates.
        parts: The updates in it; each counts as `plan.secure` or their samples say.
        errors: Largest absolute error of an element, per tensor: of the devices' rounding, or of the models'. What a
            device cut off at its `plan.secure.clip` is beyond it, and nobody else sees that.
        note: What else must be known of it.
    """

    uid: Uid
    seen: Literal["aggregate", "models"]
    round: Count
    model_version: Count
    task_hash: Sha256
    plan: RoundPlan
    parts: Annotated[tuple[AggregatePart, ...], Meta(min_length=1)]
    errors: tuple[Annotated[float, Meta(ge=0)], ...]
    tensors: tuple[TensorRecord, ...]
    note: Text = ""


class Ack(Message, frozen=True, kw_only=True):
    """The server's verdict on one object of a device.

    Attributes:
        status: `admitted` (now or earlier: it is in the ledger), `refused` with a reason, or `missing` with the
            chunks to send again.
    """

    uid: Uid
    status: Literal["admitted", "refused", "missing"]
    reason: str = ""
    missing: tuple[Count, ...] = ()


class Operations(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Operations counted for one update, forward and backward, over all local steps.

    Attributes:
        macs: Multiply-accumulates of the forward pass (those with an input that is no spike).
        effective_macs: Of these, those whose input was not 0.
        acs: Accumulates caused by spikes: counted from the spikes that really occurred.
        dense_macs: Products of the forward pass at every step, whatever the input.
        membrane_updates: Neuron state updates.
        backward_macs: Multiply-accumulates of the backward pass.
        memory_bytes: Bytes of weights and state moved.
        backward_bytes: Of these, those of the backward pass.
        spikes: Spikes emitted by hidden neurons.
        spike_sites: Places where a spike could have occurred (neurons × steps × samples).
        active: Per layer, entries of its input that were not 0, over all steps and samples: the frames first.
        sites: Per layer, entries of its input.
    """

    macs: Count = 0
    effective_macs: Count = 0
    acs: Count = 0
    dense_macs: Count = 0
    membrane_updates: Count = 0
    backward_macs: Count = 0
    memory_bytes: Count = 0
    backward_bytes: Count = 0
    spikes: Count = 0
    spike_sites: Count = 0
    active: tuple[Count, ...] = ()
    sites: tuple[Count, ...] = ()


class PhaseEnergy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All readings of one phase: measured beside modelled, never added up."""

    phase: str
    readings: tuple[EnergyReading, ...]


class MaskingCost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What secure aggregation added to one update.

    Attributes:
        bytes_up: Payload bytes of the messages that the device sent for it, repetitions included.
        bytes_down: Of those that it received.
        computing: Each meter's reading of the work on keys, shares and masks; a part of phase `compress`, or all of it.
        sending: The radio's model for `bytes_up`.
    """

    bytes_up: Count
    bytes_down: Count
    computing: tuple[EnergyReading, ...]
    sending: EnergyReading


class EnergyReport(Message, frozen=True, kw_only=True):
    """What one update cost. Sent after its acknowledgement; the attacker may not read it.

    `operations` is `None` where they could not be counted: the layers of a network of the user's own are not known.
    `masking` is what secure aggregation cost up to the update; what came after it says `Reveal`.
    `baselines` are the device's idle powers, one for each meter, as measured before the work that is reported here.
    """

    uid: Uid
    update_uid: Uid
    node: Name
    round: Count
    operations: Operations | None
    payload_bytes: Count
    phases: tuple[PhaseEnergy, ...]
    masking: MaskingCost | None = None
    baselines: tuple[Baseline, ...] = ()


class MembershipTest(msgspec.Struct, frozen=True, array_like=True):
    """One sample that the attacker suspects to be in the update.

    Attributes:
        digest: First 16 bytes of the SHA-256 of the sample in [0, 1] as bytes ``round(255 x)``, row by row.
        score: The smaller, the surer the attacker is that it is in.
    """

    digest: Annotated[bytes, Meta(min_length=16, max_length=16)]
    score: float


class AttackResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one attack made of one update. Its images follow as one float32 tensor of the object, if it has any.

    Attributes:
        attack: Name of the attack.
        verdict: `exact` (certified), `recovered` (uncertified), `partial`, `failed`, or `refused` by the threat model.
        reason: Why it failed or was refused; or what the certificate is.
        seconds: Processor time of the attack.
        objective: Value of what the attack minimised; `None` for closed forms.
        labels: Labels found, one per image; empty when it has none.
        images: Index into `Reconstruction.tensors`, -1 when there is no image.
        frames: Index into `Reconstruction.tensors` of spike frames `[N, T, *shape]` (codec `bits`), -1 without.
        membership: Of an attack that tests samples of the attacker's own: its score of each.
    """

    attack: str
    verdict: Verdict
    reason: str = ""
    seconds: float = 0.0
    objective: float | None = None
    labels: tuple[int, ...] = ()
    images: int = -1
    frames: int = -1
    membership: Annotated[tuple[MembershipTest, ...], Meta(max_length=MAX_CANDIDATES)] = ()


class Reconstruction(Message, frozen=True, kw_only=True):
    """The attacker's answer to one mirrored update; it goes to the device that owns the truth.

    Attributes:
        results: One per attack, in ladder order.
        noise: The same attacks on an update of Gaussian noise with this one's shapes and norms: what is found there is
            not in the data. With images, without frames; empty where the control was not run.
        seen: What was attacked. Of what holds several updates each of their devices gets the same answer, with its own
            update's uid: it can tell its own samples alone.
    """

    uid: Uid
    update_uid: Uid
    node: Name
    round: Count
    results: tuple[AttackResult, ...]
    noise: tuple[AttackResult, ...] = ()
    tensors: tuple[TensorRecord, ...] = ()
    seen: Seen = "update"


class AttackScore(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One attack's result, held against the truth on the device.

    Attributes:
        psnr_db: Best PSNR over all pairs of a reconstruction and a true sample; `None` without a usable image.
        ssim: SSIM of that pair; `None` for samples that are not images.
        sample: Index of the true sample of that pair within the update; -1 without.
        candidate: Index of the reconstruction of that pair; -1 without.
        wrong_sample_db: Negative control: the same reconstructions against as many other samples of the device.
        mean_image_db: Negative control: the mean of the device's samples against the true samples.
        labels_right: Labels that agree with the truth (as multisets), `None` when the attack names none.
        matched_psnr_db: Mean PSNR over all true samples, each with the reconstruction that the best assignment gives
            it; a sample without one counts as a black image.
        unmatched: True samples without a reconstruction.
        identified: Share of the true samples whose reconstruction is nearer to them than to any other sample of the
            device.
        frames_exact: Share of the true frames that are found, order aside; frames without a spike are left out.
        frames_placed: Share of the same frames that are found at their step of their sample.
        spike_precision: Share of the claimed spikes that are true, each sample held against its match.
        spike_recall: Share of the true spikes that are claimed.
        rate_psnr_db: As `matched_psnr_db`, of the images that the found frames stand for.
        rate_bound_db: The same of the true frames: no attack on the frames can do better.
        lpips: LPIPS of the pair of `psnr_db`; `None` where the device has no weight file for it.
        membership_auc: Area under the ROC curve of a membership attack's scores: the chance that a sample of the update
            scores surer than one that is not in it. `None` without such scores, or when none, or all, are in it.
    """

    attack: str
    verdict: Verdict
    reason: str = ""
    seconds: float = 0.0
    objective: float | None = None
    psnr_db: float | None = None
    ssim: float | None = None
    sample: int = -1
    candidate: int = -1
    wrong_sample_db: float | None = None
    mean_image_db: float | None = None
    labels_right: int | None = None
    matched_psnr_db: float | None = None
    unmatched: int | None = None
    identified: float | None = None
    frames_exact: float | None = None
    frames_placed: float | None = None
    spike_precision: float | None = None
    spike_recall: float | None = None
    rate_psnr_db: float | None = None
    rate_bound_db: float | None = None
    lpips: float | None = None
    membership_auc: float | None = None


class Score(Message, frozen=True, kw_only=True):
    """All attacks on one update, scored by the device that owns the truth; `seen` as in its `Reconstruction`.

    Attributes:
        noise: The attacks on its noise control, held against the same truth: what the ladder reaches where there is
            nothing to find. Empty where it was not run, or where only its verdicts were told.
    """

    uid: Uid
    update_uid: Uid
    node: Name
    round: Count
    samples: Count
    attacks: tuple[AttackScore, ...]
    seen: Seen = "update"
    noise: tuple[AttackScore, ...] = ()


class Truth(Message, frozen=True, kw_only=True):
    """True inputs of one update, in lab mode only: the samples that `Score` names, as one float32 tensor.

    Attributes:
        indices: Index within the update of each sample in the tensor.
        labels: Their labels.
    """

    uid: Uid
    update_uid: Uid
    node: Name
    round: Count
    indices: tuple[Count, ...]
    labels: tuple[int, ...]
    tensors: tuple[TensorRecord, ...]


# --- secure aggregation: bare records on `secure/` (devices) and `relay/` (the server) ------------------------------

PublicKey = Annotated[bytes, Meta(min_length=32, max_length=32)]
Members = Annotated[tuple[Name, ...], Meta(max_length=4096)]


class KeyPair(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The public keys of one device in one opening of a round: one for what peers send it, one for its masks."""

    node: Name
    cipher_key: PublicKey
    mask_key: PublicKey


class NodeBytes(msgspec.Struct, frozen=True, array_like=True):
    """Bytes that belong to a device: a sealed pair of shares, or one opened share."""

    node: Name
    data: Annotated[bytes, Meta(max_length=64)]


Shares = Annotated[tuple[NodeBytes, ...], Meta(max_length=4096)]


class KeyOffer(Message, frozen=True, kw_only=True):
    """A device takes part in the secure aggregation of an opened round."""

    node: Name
    epoch: Count
    round: Count
    attempt: Count
    keys: KeyPair


class Roster(Message, frozen=True, kw_only=True):
    """All who take part, and how many shares give a secret back. Answered by a `ShareOffer`."""

    round: Count
    attempt: Count
    threshold: Annotated[int, Meta(ge=2)]
    keys: Annotated[tuple[KeyPair, ...], Meta(max_length=4096)]


class ShareOffer(Message, frozen=True, kw_only=True):
    """Shares of a device's two secrets, sealed for each other device of the roster.

    Attributes:
        commitment: SHA-256 of the seed of its own mask, so that a damaged share is noticed.
    """

    node: Name
    epoch: Count
    round: Count
    attempt: Count
    commitment: PublicKey
    shares: Shares


class ShareBundle(Message, frozen=True, kw_only=True):
    """The shares that other devices sealed for one device; their devices, and it, are those whose masks cancel."""

    round: Count
    attempt: Count
    shares: Shares


class Survivors(Message, frozen=True, kw_only=True):
    """The devices whose updates are in the ledger. Answered by a `Reveal`."""

    round: Count
    attempt: Count
    nodes: Members


class Reveal(Message, frozen=True, kw_only=True):
    """What unmasks the sum: one share of a secret of each device, never of both secrets of one.

    Attributes:
        seeds: Shares of the survivors' own seeds.
        keys: Shares of the mask keys of those that are lost.
        cost: What it cost to make this.
    """

    node: Name
    epoch: Count
    round: Count
    attempt: Count
    seeds: Shares
    keys: Shares
    cost: MaskingCost | None = None


AnyMessage = (
    NodeState
    | TaskManifest
    | ServerState
    | Model
    | Update
    | Aggregate
    | Ack
    | EnergyReport
    | Reconstruction
    | Score
    | Truth
    | KeyOffer
    | Roster
    | ShareOffer
    | ShareBundle
    | Survivors
    | Reveal
)
MESSAGES: tuple[type[Message], ...] = (
    NodeState,
    TaskManifest,
    ServerState,
    Model,
    Update,
    Aggregate,
    Ack,
    EnergyReport,
    Reconstruction,
    Score,
    Truth,
    KeyOffer,
    Roster,
    ShareOffer,
    ShareBundle,
    Survivors,
    Reveal,
)

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: Message) -> bytes:
    """A message without tensors as MessagePack (topics `node/`, `server/`, `task/`, `ack/`)."""
    return _ENCODER.encode(message)


M = TypeVar("M", bound=Message)


def decode(payload: bytes | memoryview, expected: type[M]) -> M:
    """Reads a message without tensors.

    Raises:
        WireError: Too long, not MessagePack, not of the schema, or another message than `expected`.
    """
    if len(payload) > MAX_HEAD_BYTES:
        raise WireError(f"a {expected.__name__} of {len(payload)} bytes: at most {MAX_HEAD_BYTES}")
    try:
        message = _DECODER.decode(payload)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise WireError(f"not a {expected.__name__}: {error}") from error
    if type(message) is not expected:
        raise WireError(f"expected a {expected.__name__}, found a {type(message).__name__}")
    return message


def decode_one_of(payload: bytes | memoryview, *expected: type[M]) -> M:
    """As `decode`, of one of several messages.

    Raises:
        WireError: As `decode`; it is none of these.
    """
    for kind in expected[:-1]:
        with contextlib.suppress(WireError):
            return decode(payload, kind)
    return decode(payload, expected[-1])


def unpack_one_of(blob: bytes | memoryview, *expected: type[M]) -> tuple[M, tuple[memoryview, ...]]:
    """As `unpack`, of one of several messages.

    Raises:
        WireError: As `unpack`; it is none of these.
    """
    for kind in expected[:-1]:
        with contextlib.suppress(WireError):
            return unpack(blob, kind)
    return unpack(blob, expected[-1])


def pack(message: Message, tensors: Sequence[npt.NDArray[Any] | bytes | memoryview] = ()) -> bytes:
    """A message and the bytes of its tensors as one object.

    Args:
        message: The head; its `tensors` field must list the buffers in this order.
        tensors: Contiguous buffers, little-endian.
    """
    head = _ENCODER.encode(message)
    parts: list[Any] = [_LENGTH.pack(len(head)), head]
    parts += [_bytes_of(t) if isinstance(t, np.ndarray) else t for t in tensors]
    return b"".join(parts)


def _bytes_of(tensor: npt.NDArray[Any]) -> memoryview:
    # Through uint8: memoryview.cast takes no view with a zero in its shape.
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data


def unpack(blob: bytes | memoryview, expected: type[M]) -> tuple[M, tuple[memoryview, ...]]:
    """The message of an object and a view of each of its tensors; nothing is copied.

    Raises:
        WireError: Truncated, too long, of another schema, or lengths that do not add up.
    """
    view = memoryview(blob)
    if len(view) < _LENGTH.size:
        raise WireError(f"object of {len(view)} bytes is shorter than its {_LENGTH.size}-byte length field")
    (head_bytes,) = _LENGTH.unpack_from(view)
    if head_bytes > min(MAX_HEAD_BYTES, len(view) - _LENGTH.size):
        raise WireError(
            f"head of {head_bytes} bytes: at most {MAX_HEAD_BYTES}, and {len(view) - _LENGTH.size} bytes are there"
        )
    offset = _LENGTH.size + head_bytes
    message = decode(view[_LENGTH.size : offset], expected)
    views: list[memoryview] = []
    for record in getattr(message, "tensors", ()):
        if record.nbytes > len(view) - offset:
            raise WireError(f"tensor {record.name!r} of {record.nbytes} bytes: {len(view) - offset} bytes are left")
        views.append(view[offset : offset + record.nbytes])
        offset += record.nbytes
    if offset != len(view):
        raise WireError(f"{len(view) - offset} bytes follow the last tensor")
    return message, tuple(views)
