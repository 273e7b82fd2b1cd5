"""The two factors of a noisy first-layer gradient, some of whose images are known roughly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attack.clock import spend
from attack.costs import calls, product, singular
from attack.images.deflation import Adjoints
from attack.images.refinement import blend, rounding_weights, weighted_columns

Array64 = npt.NDArray[np.float64]

REFINEMENTS = 12
SIGNIFICANT = 3.0
"""An intensity below this many standard errors is taken for 0."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Factors:
    """``dW = adjoints @ inputs`` up to noise: first the known samples, then directions of no meaning.

    Attributes:
        adjoints: `[outputs, rank]`.
        inputs: `[rank, inputs]`, in the units that the first layer saw.
    """

    adjoints: Array64
    inputs: Array64


class Refinement:
    """Alternates simulated adjoints and least-squares images; what no image explains yet is a free factor beside them.

    With D simulated from the images, the images are the least-squares solution of ``dW = D X``, which averages the
    error over all neurons, and D follows the better images. Directions of the gradient that belong to samples not yet
    found enter as further columns of D and rows of X without any constraint: they keep those samples out of the known
    ones' images, although they cannot be told apart themselves.

    Args:
        weight: First-layer gradient `[outputs, inputs]`.
        rank: Samples in it.
        gain: Factor that the encoding put on the images.
        step: Step of the stochastic rounding; `None` for other errors.
        adjoints: The known network.
    """

    def __init__(self, weight: Array64, rank: int, *, gain: float, step: float | None, adjoints: Adjoints) -> None:
        self._weight = weight
        self._live = np.abs(weight).sum(0) > 0
        self._rank = rank
        self._gain = gain
        self._step = step
        self._simulate = adjoints

    def run(self, images: Array64, labels: list[int]) -> Array64:
        """Better images `[N, inputs]` in [0, 1] from known ones with their labels, N at most the rank."""
        factors = self._started(images, labels)
        known = len(images)
        for _ in range(REFINEMENTS if known else 0):
            adjoints = self._adjoints(factors, labels)
            inputs = self._inputs(Factors(adjoints=adjoints, inputs=factors.inputs), known)
            change = np.abs(inputs[:known] - factors.inputs[:known]).max()
            factors = Factors(adjoints=adjoints, inputs=inputs)
            if change < 1e-4 * self._gain:
                break
        refined: Array64 = factors.inputs[:known] / self._gain
        return refined

    def simulated(self, images: Array64, labels: list[int]) -> Array64:
        """Adjoints `[outputs, N]` of images with their labels."""
        if not len(images):
            return np.zeros((len(self._weight), 0))
        return self._simulate(images)[np.arange(len(images)), labels].T

    def _started(self, images: Array64, labels: list[int]) -> Factors:
        adjoints = self.simulated(images, labels)
        rest = self._weight - adjoints @ (images * self._gain)
        left, values, right = np.linalg.svd(rest, full_matrices=False)
        spend(singular(*rest.shape))
        free = self._rank - len(images)
        return Factors(
            adjoints=np.column_stack([adjoints, left[:, :free] * values[:free]]),
            inputs=np.vstack([images * self._gain, right[:free]]),
        )

    def _weights(self, factors: Factors) -> Array64:
        prediction = factors.adjoints @ factors.inputs
        spend(calls(8, 6 * prediction.size) + product(*factors.adjoints.shape, prediction.shape[1]))
        return np.ones_like(prediction) if self._step is None else rounding_weights(prediction / self._step)

    def _adjoints(self, factors: Factors, labels: list[int]) -> Array64:
        known = len(labels)
        simulated = self.simulated(factors.inputs[:known] / self._gain, labels)
        current = Factors(adjoints=np.column_stack([simulated, factors.adjoints[:, known:]]), inputs=factors.inputs)
        fitted = weighted_columns(factors.inputs.T, self._weight.T, self._weights(current).T)[0].T
        return np.column_stack([blend(simulated, fitted[:, :known]), fitted[:, known:]])

    def _inputs(self, factors: Factors, known: int) -> Array64:
        live = self._live
        weights = self._weights(factors)[:, live]
        observed = self._weight[:, live]
        free, error = weighted_columns(factors.adjoints, observed, weights)
        zero = free < SIGNIFICANT * error * (self._step or 0.0)
        zero[known:] = False
        found = np.zeros_like(factors.inputs)
        found[:, live] = weighted_columns(factors.adjoints, observed, weights, zero=zero)[0]
        found[:known] = np.clip(found[:known], 0.0, self._gain)
        return found
