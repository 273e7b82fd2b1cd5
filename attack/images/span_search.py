"""All samples of a batch from the two spans of its gradient, whatever the images look like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attack.clock import now_s, spend
from attack.costs import calls, product, triangular
from attack.images.consistency import Consistency, Point
from attack.images.deflation import Adjoints, Deflation
from attack.images.plane import ImagePlane, image_plane, vertices
from attack.images.refinement import blend
from attack.images.row_space import row_space

Array64 = npt.NDArray[np.float64]

ARRIVED = 5e-3
"""Misfit below which a descent has arrived; wrong minima stay above 0.02."""
SETTLED = 1e-6
"""Misfit at which the polish ends: float32's rounding leaves about 2e-7."""
JITTERS = (0.0, 0.03, 0.1, 0.3, 0.03, 0.1, 0.3)
"""Distances, in image norm, from which the polish is tried again when it has stuck behind a flipping spike."""
REFINEMENTS = 10
SHRINKS = (0.4, 0.7, 1.0)
"""Starts lie on the way from the centre to each vertex."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Images `[N, inputs]` in [0, 1] with their labels; `rank` of the gradient, and its unexplained share."""

    images: Array64
    labels: tuple[int, ...]
    rank: int
    residual: float


class SpanSearch:
    """Draws starts in the plane of images, descends, subtracts what is found, goes on in one dimension fewer.

    Args:
        weight: First-layer gradient `[outputs, inputs]`.
        bias: Its bias gradient `[outputs]`.
        limit: Most samples that there can be.
        gain: Factor that the encoding put on the images.
        adjoints: The known network.
        rng: Source of starts.
        clipped: Whether the gradient was clipped.
    """

    def __init__(
        self,
        weight: Array64,
        bias: Array64,
        limit: int,
        *,
        gain: float,
        adjoints: Adjoints,
        rng: np.random.Generator,
        clipped: bool = False,
    ) -> None:
        self._weight = weight
        self._rng = rng
        self._gain = gain
        self._adjoints = adjoints
        gradient = np.column_stack([weight, bias])
        self._deflation = Deflation(gradient, limit, adjoints, clipped=clipped)
        space = row_space(gradient, limit)
        self._plane = image_plane(space)
        self._whole = Consistency(self._plane, space.left, gain=gain, adjoints=adjoints)
        self._rank = self._deflation.left
        self._images: list[Array64] = []
        self._labels: list[int] = []

    def run(self, deadline: float) -> Samples:
        """Searches until every sample is found or `deadline` (on `attack.clock`)."""
        while self._deflation.left and now_s() < deadline:
            left = self._deflation.left
            space = row_space(self._deflation.residual, left, rank=left)
            plane = image_plane(space)
            consistency = Consistency(plane, space.left, gain=self._gain, adjoints=self._adjoints)
            if plane.dimension:
                self._descend(plane, consistency, deadline)
            elif not self._take(plane.origin, int(consistency.misfits(np.zeros((1, 0)))[1][0])):
                break
        return self._samples()

    def _descend(self, plane: ImagePlane, consistency: Consistency, deadline: float) -> None:
        """Descends from the best starts in turn, until one arrives at a sample."""
        starts = self._starts(plane)
        misfits, labels = consistency.misfits(starts)
        for index in np.argsort(misfits)[: max(4, len(starts) // 4)]:
            point = consistency.descend(starts[index], int(labels[index]), ARRIVED)
            arrived = point.misfit < ARRIVED
            if (arrived and self._take(plane.inputs(point.z), point.label)) or now_s() > deadline:
                return

    def _starts(self, plane: ImagePlane) -> Array64:
        corners = vertices(plane, self._gain, 8 + 4 * plane.dimension, self._rng)
        if not len(corners):
            spread = np.sqrt(plane.axes.shape[1]) * 0.2 * self._gain
            anywhere: Array64 = self._rng.normal(size=(16, plane.dimension)) * spread / np.sqrt(plane.dimension)
            return anywhere
        centre = corners.mean(0)
        starts: Array64 = np.concatenate([centre + shrink * (corners - centre) for shrink in SHRINKS])
        return starts

    def _take(self, inputs: Array64, label: int) -> bool:
        """Polishes in the plane of the whole batch, where no earlier subtraction has left errors, and subtracts."""
        point = self._polished(self._plane.coordinates(inputs), label)
        inputs = self._plane.inputs(point.z)
        image = inputs / self._gain
        taken = self._deflation.take(np.append(inputs, 1.0), image) if point.misfit < ARRIVED else None
        if taken is None:
            return False
        self._images.append(np.clip(image, 0.0, 1.0))
        self._labels.append(taken)
        return True

    def _polished(self, z: Array64, label: int) -> Point:
        """The best of several descents from around `z`."""
        best = Point(z=z, label=label, misfit=float("inf"))
        for jitter in JITTERS:
            kick = jitter * self._rng.normal(size=z.shape) / np.sqrt(max(1, len(z)))
            point = self._whole.descend(z + kick, label, SETTLED)
            if point.misfit < best.misfit:
                best, z = point, point.z
            if best.misfit < SETTLED:
                break
        return best

    def _samples(self) -> Samples:
        """With every adjoint known, the images are the least-squares solution of ``dW = D X``, and D follows them."""
        images = np.asarray(self._images).reshape(len(self._images), self._weight.shape[1])
        best = Samples(images=images, labels=tuple(self._labels), rank=self._rank, residual=self._unexplained(images))
        if len(images) < self._rank:
            return best
        for _ in range(REFINEMENTS):
            spend(triangular(*images.T.shape) + triangular(len(self._weight), len(images)))
            spend(calls(10) + 3 * product(*self._weight.shape, len(images)))
            fitted: Array64 = np.asarray(np.linalg.lstsq(images.T * self._gain, self._weight.T, rcond=None)[0].T)
            adjoints = blend(self._simulated(images), fitted)
            images = np.clip(np.linalg.lstsq(adjoints, self._weight, rcond=None)[0] / self._gain, 0.0, 1.0)
            residual = self._unexplained(images)
            if residual < best.residual:
                best = Samples(images=images, labels=best.labels, rank=self._rank, residual=residual)
        return best

    def _simulated(self, images: Array64) -> Array64:
        """Adjoints `[outputs, N]` of images with their labels."""
        deltas: Array64 = self._adjoints(images)[np.arange(len(images)), self._labels].T
        return deltas * (self._deflation.scale or 1.0)

    def _unexplained(self, images: Array64) -> float:
        explained = self._simulated(images) @ images * self._gain if len(images) else 0.0
        return float(np.linalg.norm(self._weight - explained) / np.linalg.norm(self._weight))
