"""The objects that a device publishes, built from what it did: bytes for the wire and notes for itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from contract.codecs import encode_tensors
from contract.encodings import intensities
from contract.messages import (
    AttackScore,
    EnergyReport,
    MaskingCost,
    PhaseEnergy,
    Reconstruction,
    Score,
    Seen,
    Truth,
    Update,
    pack,
)
from contract.perceptual import Perceptual
from contract.pipeline import Tensors, pipeline
from contract.task import EncodingSpec, RoundPlan, TaskSpec
from edge_client import scoring
from edge_client.energy import UpdateWindows
from edge_client.engine import Engine
from edge_client.pipeline import Draws, Parameters, Pressed, press, transformed
from edge_client.spool import SpoolItem
from edge_client.training import LocalUpdate, Receipt, Shard, true_frames, update_stream


class Workshop(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A task made ready to be worked on by one device.

    Attributes:
        secret: Seeds all draws of this device; known to nobody else.
        perceptual: LPIPS for the scores, where the device has its weights.
    """

    node: str
    secret: int
    task: TaskSpec
    task_hash: str
    shard: Shard
    engine: Engine
    perceptual: Perceptual | None = None


class UpdateNote(msgspec.Struct, frozen=True, kw_only=True):
    """What a device remembers about an update in its outbox.

    Attributes:
        model_version: Model that it starts from.
        published: How many updates the device had made, this one included.
        made: Task hash, round and attempt.
        windows: What its making took.
        residual: The residual that holds with it (its own uid); empty when it left the residual alone.
    """

    model_version: int
    published: int
    made: tuple[str, int, int]
    windows: UpdateWindows
    residual: str = ""


def derived_uid(update_uid: str, purpose: str) -> str:
    """The name of what follows from an update: the same again after a crash, so that it is never counted twice."""
    return hashlib.sha256(f"{update_uid} {purpose}".encode()).hexdigest()[:32]


Masked = Callable[[Tensors, Draws], Pressed]
"""Quantises and masks an update that is clipped and noised."""


def update_blob(
    workshop: Workshop,
    made: LocalUpdate,
    plan: RoundPlan,
    *,
    epoch: int,
    model_version: int,
    residual: Parameters | None = None,
    attempt: int = 0,
    masked: Masked | None = None,
) -> tuple[bytes, Parameters | None]:
    """The update as published, and the residual that it leaves under error feedback.

    Noise and stochastic rounding draw from secret streams of this update alone. Under a plan with noise the loss, which
    no noise covers, stays at home. Under secure aggregation, which covers it no more, it does as well.

    Args:
        workshop: The device's.
        made: What training brought forth.
        plan: Of the round.
        epoch: This life of the device.
        model_version: What it was trained from.
        residual: See `edge_client.pipeline.press`.
        attempt: Opening of the round.
        masked: Masks the update, in a round with secure aggregation.
    """
    uid, round_ = made.receipt.uid, made.receipt.round

    def draws(purpose: str) -> np.random.Generator:
        return update_stream(workshop.secret, purpose, workshop.node, round_, uid)

    stages = pipeline(plan)
    if plan.secure is None:
        pressed = press(stages, made.tensors, residual, draws)
    else:
        assert masked is not None, "a round with secure aggregation hands in what masks"
        pressed = masked(transformed(stages, made.tensors, draws), draws)
    update = Update(
        uid=uid,
        node=workshop.node,
        epoch=epoch,
        round=round_,
        model_version=model_version,
        task_hash=workshop.task_hash,
        plan=plan,
        samples=made.samples,
        loss=None if plan.noise_multiplier or plan.secure else made.loss,
        tensors=pressed.records,
        masks=attempt if plan.secure else 0,
    )
    return pack(update, pressed.buffers), pressed.residual


def receipt_item(receipt: Receipt) -> SpoolItem:
    """The receipt at rest; it is never sent."""
    return SpoolItem(uid=receipt.uid, kind="receipt", round=receipt.round, note=msgspec.msgpack.encode(receipt))


def energy_item(
    note: UpdateNote,
    node: str,
    phases: tuple[PhaseEnergy, ...],
    masking: MaskingCost | None = None,
    *,
    uid: str,
    payload_bytes: int,
) -> SpoolItem:
    """What the update `uid` of so many bytes cost."""
    _, round_, _ = note.made
    report = EnergyReport(
        uid=derived_uid(uid, "energy"),
        update_uid=uid,
        node=node,
        round=round_,
        operations=note.windows.operations,
        payload_bytes=payload_bytes,
        phases=phases,
        masking=masking,
        baselines=note.windows.baselines,
    )
    return SpoolItem(uid=report.uid, kind="energy", round=round_, blob=pack(report))


def score_item(
    receipt: Receipt,
    node: str,
    scores: tuple[AttackScore, ...],
    seen: Seen = "update",
    *,
    noise: tuple[AttackScore, ...] = (),
) -> SpoolItem:
    """The scores of all attacks on one update, or on what holds it, and on noise in its place."""
    message = Score(
        uid=derived_uid(receipt.uid, "score" if seen == "update" else f"score {seen}"),
        update_uid=receipt.uid,
        node=node,
        round=receipt.round,
        samples=len(receipt.samples),
        attacks=scores,
        seen=seen,
        noise=noise,
    )
    return SpoolItem(uid=message.uid, kind="score", round=receipt.round, blob=pack(message))


def scored_items(
    workshop: Workshop,
    receipt: Receipt,
    recon: Reconstruction,
    views: Sequence[memoryview],
    *,
    publish_truth: bool,
) -> tuple[SpoolItem, ...]:
    """A reconstruction held against the truth: its score and, in lab mode, the true samples that the score names.

    The score comes last: while it is missing the server mirrors again, so that a crash in between heals. The truth goes
    with the reconstruction of the update itself.

    Raises:
        WireError: The reconstruction's tensors are not what its head says.
    """
    encoding, shard = workshop.task.encoding, workshop.shard
    spiking = encoding.kind != "direct" and any(result.frames >= 0 for result in recon.results)
    truth = scoring.Truth(
        x=intensities(encoding, shard.x),
        y=shard.y,
        samples=receipt.samples,
        encoding=encoding,
        frames=true_frames(receipt, shard, encoding) if spiking else None,
        perceptual=workshop.perceptual,
    )
    rng = update_stream(workshop.secret, "control", workshop.node, receipt.round, receipt.uid)
    scores = scoring.score(recon, views, truth, rng)
    noise = scoring.noise_score(recon, views, truth, rng)
    last = score_item(receipt, workshop.node, scores, recon.seen, noise=noise)
    indices = scoring.named_samples(scores, len(receipt.samples))
    if not (publish_truth and indices) or recon.seen != "update":
        return (last,)
    return (truth_item(receipt, workshop.node, shard, indices, encoding), last)


def truth_item(
    receipt: Receipt, node: str, shard: Shard, indices: tuple[int, ...], encoding: EncodingSpec
) -> SpoolItem:
    """True samples as images, by their index within the update (lab mode)."""
    positions = [receipt.samples[i] for i in indices]
    images = intensities(encoding, shard.x[positions])
    records, buffers = encode_tensors("fp32", {"truth": images}, np.random.default_rng(0))
    message = Truth(
        uid=derived_uid(receipt.uid, "truth"),
        update_uid=receipt.uid,
        node=node,
        round=receipt.round,
        indices=indices,
        labels=tuple(int(shard.y[p]) for p in positions),
        tensors=records,
    )
    return SpoolItem(uid=message.uid, kind="truth", round=receipt.round, blob=pack(message, buffers))
