"""Images of a batch from a quantised gradient: rays, confirmed and then refined with the known network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attack.clock import now_s, spend
from attack.costs import calls, product, singular
from attack.images.deflation import Adjoints
from attack.images.factors import Refinement
from attack.images.rays import RayHunter
from attack.images.row_space import row_space

Array64 = npt.NDArray[np.float64]

STRANGE = 0.15
"""Share of a simulated adjoint outside the observed column space above which a candidate is no sample: true ones stay
below 0.05 with int8 updates, the right image under a wrong label is near 0.6."""
ABOVE = 1.3
"""A direction counts when its singular value is this many times the first that can only be noise: the spectrum of noise
has a sharp edge."""
PATIENCE = 4
"""Misses in a row, beyond the images found in a sweep, after which those are subtracted."""
SWEEP_S = 5.0
"""Longest time without a new image before the search gives up."""
RETRIES = 4
"""Times that the strangest image is given up when those found do not explain the gradient."""
EXPLAINED = 1.3
"""Root mean square left unexplained, in units of the noise beyond the rank, up to which nothing is missing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NoisyBatch:
    """Images found, with the label of each, and how far they explain the update.

    Attributes:
        images: `[N, inputs]` in [0, 1].
        labels: One per image.
        rank: Directions of the gradient above its noise.
        residual: Root mean square of what is left unexplained, in units of one entry of the gradient.
    """

    images: Array64
    labels: tuple[int, ...]
    rank: int
    residual: float


class NoisySearch:
    """The cone attack when every entry of the gradient carries a quantisation error.

    No vector sits on the grid then. A ray counts as an image when its *simulated* adjoint, for some label, lies in the
    observed column space: 1 - rank/outputs of a random vector's energy lies outside. The images found are refined
    (`attack.images.factors`) before they are subtracted, and the strangest is given up when those found do not explain
    the gradient down to its noise.

    Args:
        weight: First-layer gradient `[outputs, inputs]`.
        bias: Its bias gradient, which gives the images' scale.
        limit: Most samples that there can be.
        gain: Factor that the encoding put on the images.
        shape: Of one sample.
        step: Step of the stochastic rounding; `None` for other errors.
        adjoints: The known network.
    """

    def __init__(
        self,
        weight: Array64,
        bias: Array64,
        limit: int,
        *,
        gain: float,
        shape: tuple[int, ...],
        step: float | None,
        adjoints: Adjoints,
    ) -> None:
        self._weight = weight
        self._gradient = np.column_stack([weight, bias])
        self._gain = gain
        self._shape = shape
        self._adjoints = adjoints
        space = row_space(self._gradient, limit, above=ABOVE)
        self._rank, self._left = space.rank, space.left
        self._noise = _noise(self._gradient, space.rank)
        self._refinement = Refinement(weight, space.rank, gain=gain, step=step, adjoints=adjoints)
        self._images: Array64 = np.zeros((0, weight.shape[1]))
        self._labels: list[int] = []

    def run(self, deadline: float, rng: np.random.Generator) -> NoisyBatch:
        """Searches until every direction is explained, nothing more is found, or `deadline` (on `attack.clock`)."""
        best = self._complete(deadline, rng)
        for _ in range(RETRIES):
            if not self._labels or best.residual <= EXPLAINED * self._noise or now_s() >= deadline:
                break
            kept = np.arange(len(self._labels)) != int(np.argmax(self._strange()))
            self._images = self._images[kept]
            self._labels = [label for label, keep in zip(self._labels, kept, strict=True) if keep]
            batch = self._complete(deadline, rng)
            best = batch if batch.residual < best.residual else best
        return best

    def _complete(self, deadline: float, rng: np.random.Generator) -> NoisyBatch:
        """Goes on from the images found so far."""
        residual = self._refined()
        while len(self._labels) < self._rank and now_s() < deadline:
            if not self._sweep(residual, min(deadline, now_s() + SWEEP_S), rng):
                break
            residual = self._refined()
        return NoisyBatch(
            images=self._images,
            labels=tuple(self._labels),
            rank=self._rank,
            residual=float(np.sqrt(np.mean(residual[:, :-1] ** 2))),
        )

    def _refined(self) -> Array64:
        """Refines the images found so far; what they leave of the gradient `[outputs, inputs + 1]`."""
        self._images = self._refinement.run(self._images, self._labels)
        spend(
            calls(8, 2 * self._gradient.size) + product(len(self._gradient), len(self._images), self._gradient.shape[1])
        )
        adjoints = self._refinement.simulated(self._images, self._labels)
        rest: Array64 = self._gradient - adjoints @ np.column_stack(
            [self._images * self._gain, np.ones(len(self._images))]
        )
        return rest

    def _strange(self) -> Array64:
        """Share of each found image's adjoint outside the column space."""
        deltas = self._refinement.simulated(self._images, self._labels)
        outside = deltas - self._left @ (self._left.T @ deltas)
        share: Array64 = np.linalg.norm(outside, axis=0) / (np.linalg.norm(deltas, axis=0) + 1e-300)
        return share

    def _sweep(self, residual: Array64, deadline: float, rng: np.random.Generator) -> int:
        """Hunts in what is left until as many images as it has directions are found, or `deadline`."""
        space = row_space(residual, self._rank - len(self._images), rank=self._rank - len(self._images))
        hunter = RayHunter(space, rng, self._shape)
        hits, misses = 0, 0
        while hits < space.rank and now_s() < deadline and (not hits or misses <= PATIENCE + hits):
            misses += 1
            ray = hunter.draw()
            if ray is None:
                continue
            hunter.remember(ray.vector)
            full = space.expand(ray.vector[None])[0]
            if full[-1] > 0 and self._confirm(np.clip(full[:-1] / (full[-1] * self._gain), 0.0, 1.0)):
                hits, misses = hits + 1, 0
        return hits

    def _confirm(self, image: Array64) -> bool:
        deltas = self._adjoints(image[None])[0]
        outside = deltas - (deltas @ self._left) @ self._left.T
        strange = np.linalg.norm(outside, axis=1) / (np.linalg.norm(deltas, axis=1) + 1e-300)
        label = int(np.argmin(strange))
        if strange[label] > STRANGE:
            return False
        self._images = np.vstack([self._images, image])
        self._labels.append(label)
        return True


def _noise(gradient: Array64, rank: int) -> float:
    """Root mean square of an entry's noise, from the singular values beyond the rank."""
    rows, columns = gradient.shape
    spend(singular(rows, columns))
    beyond = np.linalg.svd(gradient, compute_uv=False)[rank:]
    return float(np.sqrt((beyond**2).sum() / max(1, (rows - rank) * (columns - rank))))
