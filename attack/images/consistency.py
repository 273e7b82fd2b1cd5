"""Robust Gauss-Newton towards an image whose simulated adjoint the gradient's column space holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attack.clock import spend
from attack.costs import calls, product, solution
from attack.images.deflation import Adjoints
from attack.images.plane import ImagePlane

Array64 = npt.NDArray[np.float64]

STEPS = 30
REWEIGHTINGS = 10
DIFFERENCES = (1e-2, 1e-6)
"""Finite differences, in image norm: first across the jumps of flipping spikes, then on the smooth piece between."""
FRACTIONS = np.array([1.0, 0.5, 0.25, 0.1, 0.03])
REGION = 0.09
"""Longest step, in root-mean-square intensity."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Point:
    """Where a descent ended: coordinates, label, and `misfit`, the share of the adjoint (l1) outside the span."""

    z: Array64
    label: int
    misfit: float


class Consistency:
    """How far the adjoint of the image at z lies outside the observed column space, and how to get closer.

    ``dW = sum_b delta_b x_b^T`` of rank B bounds both sides: the true images lie in its row space, a plane of B - 1
    dimensions, *and* their adjoints, which the known network computes, lie in its column space. That is
    ``outputs - B`` equations in B - 1 unknowns for each sample alone. An adjoint is smooth in z except where a neuron's
    train flips; close to a solution only few neurons are on the wrong piece, so the fit is in the l1 norm
    (iteratively reweighted), which ignores them.

    Args:
        plane: The images.
        span: `[outputs, rank]`, orthonormal: the column space.
        gain: Factor that the encoding puts on images.
        adjoints: The known network.
    """

    def __init__(self, plane: ImagePlane, span: Array64, *, gain: float, adjoints: Adjoints) -> None:
        self._plane = plane
        self._span = span
        self._gain = gain
        self._simulate = adjoints
        self._region = REGION * gain * np.sqrt(plane.axes.shape[1])

    def misfits(self, z: Array64) -> tuple[Array64, npt.NDArray[np.int64]]:
        """Least-squares misfit of each point `[N]` for its best label, and that label `[N]`."""
        deltas = self._directions(z)
        outside = np.linalg.norm(deltas - (deltas @ self._span) @ self._span.T, axis=2)
        return outside.min(1), outside.argmin(1)

    def descend(self, z: Array64, label: int, enough: float) -> Point:
        """Walks down from `z` until the misfit is below `enough` or no step lowers it."""
        point = Point(z=z, label=label, misfit=float(self._robust(self._directions(z[None])[:, label])[0]))
        for difference in DIFFERENCES:
            for _ in range(STEPS):
                step = self._step(point, difference)
                trials = point.z + FRACTIONS[:, None] * step
                misfits = self._robust(self._directions(trials)[:, label])
                best = int(np.argmin(misfits))
                if misfits[best] >= point.misfit:
                    break
                point = Point(z=trials[best], label=label, misfit=float(misfits[best]))
                if point.misfit < enough:
                    return point
        return point

    def _directions(self, z: Array64) -> Array64:
        """Adjoints `[N, classes, outputs]` of length 1."""
        deltas = self._simulate(self._plane.inputs(z) / self._gain)
        spend(calls(8, 4 * deltas.size) + product(*z.shape, self._plane.axes.shape[1]))
        unit: Array64 = deltas / (np.linalg.norm(deltas, axis=2, keepdims=True) + 1e-300)
        return unit

    def _step(self, point: Point, difference: float) -> Array64:
        """The l1 solution of ``delta + J dz - span a = 0``, at most `_region` long."""
        dimension = self._plane.dimension
        around = np.vstack([point.z, point.z + difference * np.eye(dimension)])
        deltas = self._directions(around)[:, point.label]
        design = np.column_stack([(deltas[1:] - deltas[0]).T / difference, -self._span])
        damping = np.concatenate([np.full(dimension, 1e-3), np.zeros(self._span.shape[1])])
        weights = np.ones(len(design))
        step = np.zeros(design.shape[1])
        one_s = calls(25, 12 * design.size) + product(*design.T.shape, design.shape[1]) + solution(design.shape[1])
        spend(REWEIGHTINGS * one_s)
        for _ in range(REWEIGHTINGS):
            weighted = design * weights[:, None]
            normal = weighted.T @ design
            ridge = damping * np.trace(normal) / len(damping) + 1e-14
            step = np.linalg.solve(normal + np.diag(ridge), -weighted.T @ deltas[0])
            weights = _l1_weights((deltas[0] + design @ step)[None])[0]
        length = float(np.linalg.norm(step[:dimension]))
        shortened: Array64 = step[:dimension] * min(1.0, self._region / max(length, 1e-300))
        return shortened

    def _robust(self, deltas: Array64) -> Array64:
        """``min_a |delta - span a|_1 / |delta|_1`` of directions `[N, outputs]`."""
        weights = np.ones_like(deltas)
        rest = deltas
        (count, outputs), rank = deltas.shape, self._span.shape[1]
        one_s = calls(40, 15 * deltas.size) + product(count, outputs, rank * (rank + 2)) + solution(rank, count)
        spend(REWEIGHTINGS * one_s)
        eye = 1e-12 * np.eye(self._span.shape[1])
        for _ in range(REWEIGHTINGS):
            normal = np.einsum("nh,hi,hj->nij", weights, self._span, self._span, optimize=True) + eye
            fit = np.linalg.solve(normal, ((weights * deltas) @ self._span)[..., None])[..., 0]
            rest = deltas - fit @ self._span.T
            weights = _l1_weights(rest)
        share: Array64 = np.abs(rest).sum(1) / (np.abs(deltas).sum(1) + 1e-300)
        return share


def _l1_weights(residual: Array64) -> Array64:
    """Weights of iterative reweighting, at most 1; flat below the median residual."""
    size = np.abs(residual)
    weights = 1 / np.maximum(size, np.median(size, axis=1, keepdims=True) + 1e-12)
    scaled: Array64 = weights / weights.max(axis=1, keepdims=True)
    return scaled
