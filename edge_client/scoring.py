"""Holds an attacker's reconstructions against the true samples, on the device that owns them. numpy only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from contract.assignment import best_assignment
from contract.codecs import decode_plain
from contract.codecs.bits import decode_frames
from contract.errors import WireError
from contract.messages import AttackResult, AttackScore, Reconstruction
from contract.metrics import area_under_roc, psnr_matrix, sample_digest, ssim
from contract.perceptual import Perceptual
from contract.task import EncodingSpec
from edge_client.spike_scoring import matched_mean_db, spike_scores

BLOCK = 256
"""Samples of the shard that are compared at once."""
ROUNDING = 1e-9
"""Squared distance within which two samples are as near."""
SMALLEST_IMAGE = 7
"""Side of SSIM's window: smaller samples have none."""


class Truth(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The true samples of one update and what the negative controls need.

    Attributes:
        x: The shard's samples in [0, 1], `[N, *shape]`.
        y: Their labels `[N]`.
        samples: Positions in the shard of the samples of the update, in order, with repetition.
        encoding: How the samples became frames.
        frames: The frames `[M, T, *shape]` of zeros and ones, one sample for each of `samples`; `None` where there are
            none or nobody asks.
        perceptual: LPIPS, where the device has its weights.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    samples: tuple[int, ...]
    encoding: EncodingSpec = EncodingSpec()
    frames: NDArray[np.uint8] | None = None
    perceptual: Perceptual | None = None


class _Reference(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What all attacks on one update are held against."""

    true: NDArray[np.float32]
    """`[M, *shape]`: each true sample once."""
    index: NDArray[np.int64]
    """Index within the update of each."""
    position: NDArray[np.int64]
    """Position in the shard of each."""
    wrong: NDArray[np.float32] | None
    """As many other samples of the shard, where it has so many."""
    mean_image_db: float
    labels: Counter[int]


def score(
    reconstruction: Reconstruction, views: Sequence[memoryview], truth: Truth, rng: np.random.Generator
) -> tuple[AttackScore, ...]:
    """Scores every attack's result.

    Args:
        reconstruction: The attacker's answer.
        views: Bytes of its tensors.
        truth: The samples that the update was made from.
        rng: Draws the samples of the wrong-sample control.

    Returns:
        One score per result, in order. A result whose images are missing, non-finite or of a wrong shape is `failed`
        with the reason, and has no figure.
    """
    reference = _reference(truth, rng)
    return tuple(_score_one(result, reconstruction, views, reference, truth) for result in reconstruction.results)


def noise_score(
    reconstruction: Reconstruction, views: Sequence[memoryview], truth: Truth, rng: np.random.Generator
) -> tuple[AttackScore, ...]:
    """The same of the attacks on noise in the update's place; nothing where only their verdicts were told.

    Args, returns: As of `score`.
    """
    if not reconstruction.noise or any(_told_alone(result) for result in reconstruction.noise):
        return ()
    reference = _reference(truth, rng)
    return tuple(_score_one(result, reconstruction, views, reference, truth) for result in reconstruction.noise)


def _told_alone(result: AttackResult) -> bool:
    """Whether an attack claims to have found something, and what it is does not follow."""
    claims = result.verdict in {"exact", "recovered", "partial"}
    return claims and result.images < 0 and not result.labels and not result.membership


def _reference(truth: Truth, rng: np.random.Generator) -> _Reference:
    unique, first = np.unique(np.asarray(truth.samples, dtype=np.int64), return_index=True)
    others = np.setdiff1d(np.arange(len(truth.x)), unique)
    enough = len(others) >= len(unique)
    wrong = truth.x[rng.choice(others, size=len(unique), replace=False)] if enough else None
    true = np.clip(truth.x[unique], 0.0, 1.0)
    mean = truth.x.mean(axis=0, dtype=np.float64).astype(np.float32)[None]
    return _Reference(
        true=true,
        index=first.astype(np.int64),
        position=unique,
        wrong=wrong,
        mean_image_db=float(_pairs(mean, true).max()),
        labels=Counter(int(truth.y[i]) for i in truth.samples),
    )


def _pairs(images: NDArray[np.float32], samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """PSNR of each image against each sample, both clipped to [0, 1]."""
    flat = [np.clip(a, 0.0, 1.0).reshape(len(a), -1) for a in (images, samples)]
    return np.asarray(psnr_matrix(flat[0], flat[1]), dtype=np.float64)


def _score_one(
    result: AttackResult,
    reconstruction: Reconstruction,
    views: Sequence[memoryview],
    reference: _Reference,
    truth: Truth,
) -> AttackScore:
    base = AttackScore(
        attack=result.attack,
        verdict=result.verdict,
        reason=result.reason,
        seconds=result.seconds,
        objective=result.objective,
        membership_auc=_membership_auc(result, truth),
        labels_right=(Counter(result.labels) & reference.labels).total() if result.labels else None,
    )
    try:
        images = None if result.images < 0 else _images(result, reconstruction, views, reference.true.shape[1:])
        frames = None if result.frames < 0 else _frames(result, reconstruction, views, truth)
    except WireError as error:
        return msgspec.structs.replace(base, verdict="failed", reason=str(error))
    if frames is not None:
        assert truth.frames is not None
        images_true = np.clip(truth.x[list(truth.samples)], 0.0, 1.0)
        figures = spike_scores(frames, truth.frames, images_true, truth.encoding)
        base = msgspec.structs.replace(base, **msgspec.structs.asdict(figures))
    return base if images is None else _with_images(base, images, reference, truth)


def _with_images(base: AttackScore, images: NDArray[np.float32], reference: _Reference, truth: Truth) -> AttackScore:
    matrix = _pairs(images, reference.true)
    candidate, sample = np.unravel_index(int(matrix.argmax()), matrix.shape)
    pairs = best_assignment(matrix)
    return msgspec.structs.replace(
        base,
        psnr_db=float(matrix[candidate, sample]),
        ssim=_ssim(images[candidate], reference.true[sample]),
        lpips=None if truth.perceptual is None else truth.perceptual(images[candidate], reference.true[sample]),
        sample=int(reference.index[sample]),
        candidate=int(candidate),
        wrong_sample_db=None if reference.wrong is None else float(_pairs(images, reference.wrong).max()),
        mean_image_db=reference.mean_image_db,
        matched_psnr_db=matched_mean_db(matrix, pairs, reference.true),
        unmatched=len(reference.true) - len(pairs),
        identified=_identified(images, pairs, reference, truth.x),
    )


def _identified(
    images: NDArray[np.float32], pairs: Sequence[tuple[int, int]], reference: _Reference, shard: NDArray[np.float32]
) -> float:
    """Share of the true samples whose reconstruction has no nearer neighbour in the shard."""
    owners = reference.position[[sample for _, sample in pairs]]
    flat = np.clip(images[[candidate for candidate, _ in pairs]], 0.0, 1.0).astype(np.float64).reshape(len(pairs), -1)
    nearest = np.full(len(pairs), np.inf)
    own = np.empty(len(pairs))
    for start in range(0, len(shard), BLOCK):
        block = np.clip(shard[start : start + BLOCK], 0.0, 1.0).astype(np.float64).reshape(-1, flat.shape[1])
        squares = (block**2).sum(axis=1) - 2 * flat @ block.T
        nearest = np.minimum(nearest, squares.min(axis=1))
        here = np.flatnonzero((owners >= start) & (owners < start + len(block)))
        own[here] = squares[here, owners[here] - start]
    return int((own <= nearest + ROUNDING).sum()) / len(reference.true)


def _images(
    result: AttackResult, reconstruction: Reconstruction, views: Sequence[memoryview], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """The images of a result, `[N, *shape]`, finite.

    Raises:
        WireError: There are none, or not such ones.
    """
    if result.images >= len(reconstruction.tensors):
        raise WireError(f"images = {result.images}: the reconstruction has {len(reconstruction.tensors)} tensors")
    record = reconstruction.tensors[result.images]
    if record.shape[1:] != shape or record.shape[0] < 1:
        raise WireError(f"reconstruction of shape {list(record.shape)}: expected [N, {', '.join(map(str, shape))}]")
    (images,) = decode_plain((record,), (views[result.images],)).values()
    if not np.isfinite(images).all():
        raise WireError(f"reconstruction has {int((~np.isfinite(images)).sum())} values that are not finite")
    return images


def _frames(
    result: AttackResult, reconstruction: Reconstruction, views: Sequence[memoryview], truth: Truth
) -> NDArray[np.uint8]:
    """The frames of a result, `[N, T, *shape]`.

    Raises:
        WireError: There are none, or not such ones.
    """
    if result.frames >= len(reconstruction.tensors):
        raise WireError(f"frames = {result.frames}: the reconstruction has {len(reconstruction.tensors)} tensors")
    if truth.frames is None:
        raise WireError("frames: this update was not made from spikes")
    record = reconstruction.tensors[result.frames]
    if record.shape[1:] != truth.frames.shape[1:] or not record.shape[0]:
        expected = ", ".join(map(str, truth.frames.shape[1:]))
        raise WireError(f"frames of shape {list(record.shape)}: expected [N, {expected}]")
    return decode_frames(record, views[result.frames])


def _membership_auc(result: AttackResult, truth: Truth) -> float | None:
    if not result.membership:
        return None
    inside = {sample_digest(truth.x[position]) for position in truth.samples}
    members = np.array([test.digest in inside for test in result.membership])
    return area_under_roc(np.array([test.score for test in result.membership]), members)


def _ssim(image: NDArray[np.float32], sample: NDArray[np.float32]) -> float | None:
    if sample.ndim != 3 or min(sample.shape[1:]) < SMALLEST_IMAGE:
        return None
    return float(ssim(np.clip(image, 0.0, 1.0), sample))


def named_samples(scores: Sequence[AttackScore], samples: int, *, all_up_to: int = 16) -> tuple[int, ...]:
    """Indices within the update whose truth is worth showing: all of few, otherwise those that a score names."""
    if samples <= all_up_to:
        return tuple(range(samples))
    return tuple(sorted({s.sample for s in scores if s.sample >= 0}))
