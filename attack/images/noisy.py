"""Images of a batch from a quantised gradient: rays, confirmed and then refined with the known network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attack.clock import now_s
from attack.images.deflation import Adjoints
from attack.images.rays import RayHunter
from attack.images.refinement import blend, rounding_weights, weighted_columns
from attack.images.row_space import row_space

Array64 = npt.NDArray[np.float64]

STRANGE = 0.15
"""Share of a simulated adjoint outside the observed column space above which a candidate is no sample: true ones stay
below 0.05 with int8 updates, the right image under a wrong label is near 0.6."""
PATIENCE = 4
"""Misses in a row, beyond the images found in a sweep, after which those are subtracted."""
SWEEP_S = 5.0
"""Longest time without a new image before the search gives up."""
REFINEMENTS = 12
SIGNIFICANT = 3.0
"""An intensity below this many standard errors is taken for 0."""


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
    observed column space: 1 - rank/outputs of a random vector's energy lies outside. Once all are known, the images are
    the least-squares solution of ``dW = D X`` with D simulated, which averages the error over all neurons, and D
    follows the better images.

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
        self._step = step
        self._adjoints = adjoints
        space = row_space(self._gradient, limit)
        self._rank, self._left = space.rank, space.left
        self._images: list[Array64] = []
        self._labels: list[int] = []

    def run(self, deadline: float, rng: np.random.Generator) -> NoisyBatch:
        """Searches until every direction is explained, nothing more is found, or `deadline` (on `attack.clock`)."""
        residual = self._gradient.copy()
        while len(self._images) < self._rank and now_s() < deadline:
            found = self._sweep(residual, min(deadline, now_s() + SWEEP_S), rng)
            if not found:
                break
            images, adjoints = self._refined()
            residual = self._gradient - adjoints @ np.column_stack([images * self._gain, np.ones(len(images))])
        images, adjoints = self._refined()
        error = self._weight - adjoints @ (images * self._gain)
        return NoisyBatch(
            images=images,
            labels=tuple(self._labels),
            rank=self._rank,
            residual=float(np.sqrt(np.mean(error**2))),
        )

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
        self._images.append(image)
        self._labels.append(label)
        return True

    def _refined(self) -> tuple[Array64, Array64]:
        """Alternates adjoints and least-squares images; images `[N, inputs]`, adjoints `[outputs, N]`."""
        images = np.asarray(self._images).reshape(len(self._images), self._weight.shape[1])
        adjoints = self._simulated(images)
        if not len(images) or len(images) < self._rank:
            return images, adjoints
        for _ in range(REFINEMENTS):
            adjoints = self._adjoints_given(images * self._gain)
            last, images = images, self._images_given(adjoints, images * self._gain) / self._gain
            if np.abs(images - last).max() < 1e-4:
                break
        self._images = list(images)
        return images, self._simulated(images)

    def _weights(self, prediction: Array64) -> Array64:
        return np.ones_like(prediction) if self._step is None else rounding_weights(prediction / self._step)

    def _adjoints_given(self, inputs: Array64) -> Array64:
        simulated = self._simulated(inputs / self._gain)
        weights = self._weights(simulated @ inputs)
        fitted = weighted_columns(inputs.T, self._weight.T, weights.T)[0].T
        return blend(simulated, fitted)

    def _images_given(self, adjoints: Array64, inputs: Array64) -> Array64:
        live = np.abs(self._weight).sum(0) > 0
        seen = np.zeros_like(inputs)
        weights = self._weights(adjoints @ inputs[:, live])
        observed = self._weight[:, live]
        free, error = weighted_columns(adjoints, observed, weights)
        zero = free < SIGNIFICANT * error * (self._step or 0.0)
        seen[:, live] = weighted_columns(adjoints, observed, weights, zero=zero)[0]
        clipped: Array64 = np.clip(seen, 0.0, self._gain)
        return clipped

    def _simulated(self, images: Array64) -> Array64:
        if not len(images):
            return np.zeros((len(self._weight), 0))
        deltas = self._adjoints(images)
        return deltas[np.arange(len(images)), self._labels].T
