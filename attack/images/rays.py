"""Extreme rays of the cone of non-negative vectors in a row space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.ndimage

from attack.clock import spend
from attack.costs import calls, product, solution
from attack.images.cone import ConeProgram
from attack.images.row_space import RowSpace

Array64 = npt.NDArray[np.float64]

REWEIGHTINGS = 4
SMOOTHING = 0.03
"""Offset of the reweighted l1 norm, relative to the largest entry (Candès, Wakin and Boyd 2008)."""
COARSENESS = 0.1
"""Correlation length of the costs' logarithm, as a share of the picture's shorter side."""
CONTRAST = 1.5
"""Standard deviation of the costs' logarithm."""
SMALLEST = 4
"""Shortest side of a picture that has neighbourhoods."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Ray:
    """A ray that vanishes on more columns than a generic extreme ray does.

    Attributes:
        vector: Over the live columns, largest entry 1.
        zeros: Number of its zeros.
    """

    vector: Array64
    zeros: int


class RayHunter:
    """Draws sparse extreme rays one by one; knows those found so that it looks elsewhere.

    A generic extreme ray of the cone has ``rank - 1`` zeros. An image with an empty background has many more, so a
    vertex that minimises a random positive cost, sharpened by reweighting the cost with ``1 / (v + eps)``, that has at
    least `surplus` zeros beyond this is an image and no accident.

    What makes starts land on images: an anchor that few images cover, which has a high leverage ``|V_p|^2`` (V the
    basis), since its column of the gradient is unlike the others; and, where inputs are pixels, a cost that varies
    smoothly over the picture, since images are dark in regions and not in scattered pixels.

    Args:
        space: The row space.
        rng: Source of anchors and costs.
        shape: Of one sample; the last two axes are the picture's when they are long enough.
    """

    def __init__(self, space: RowSpace, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
        self._basis = space.basis
        self._live = space.live
        self._shape = shape
        self._rank, self._columns = space.basis.shape
        self._rng = rng
        noise = space.noise + 1e-9
        self._zero = float(np.clip(20 * noise, 1e-4, 0.05))
        self._surplus = max(8, int(0.08 * self._columns))
        self._program = ConeProgram(space.basis, slack=float(np.clip(3 * noise, 1e-5, 0.02)))
        self._found: list[Array64] = []

    def remember(self, vector: Array64) -> None:
        """Makes later draws look away from this ray (over the live columns, largest entry 1)."""
        self._found.append(vector)

    def draw(self) -> Ray | None:
        """One anchored start with its reweightings; `None` for a miss or a ray known already."""
        if self._rank == 1:
            spend(calls(5, 3 * self._columns))
            only = self._basis[0] / self._basis[0][np.argmax(np.abs(self._basis[0]))]
            return None if self._known(only) else Ray(vector=only, zeros=int((np.abs(only) < self._zero).sum()))
        self._anchor()
        spend(calls(40, 40 * len(self._live) + 2 * len(self._found) * self._columns))
        cost = self._cost()
        last = None
        for _ in range(1 + REWEIGHTINGS):
            spend(calls(15, 8 * self._columns) + self._rank * calls(1) + product(2 * self._rank, self._columns, 1))
            vector = self._program.minimise(cost)
            if vector is None or vector.max() <= 0:
                return None
            vector = vector / vector.max()
            ray = self._polish(vector)
            if ray is not None:
                return None if self._known(ray.vector) else ray
            if last is not None and np.abs(vector - last).max() < 1e-7:
                return None
            last = vector
            cost = 1 / (np.clip(vector, 0, None) + SMOOTHING)
        return None

    def _cost(self) -> Array64:
        """Random positive costs of the live columns."""
        if len(self._shape) < 2 or min(self._shape[-2:]) < SMALLEST:
            scattered: Array64 = self._rng.exponential(size=(self._columns,)) + 0.05
            return scattered
        reach = COARSENESS * min(self._shape[-2:])
        sigma = [0.0] * (len(self._shape) - 2) + [reach, reach]
        smooth = scipy.ndimage.gaussian_filter(self._rng.normal(size=self._shape), sigma).ravel()
        cost = np.ones(len(self._live))
        cost[: smooth.size] = np.exp(CONTRAST * smooth / smooth.std())
        return cost[self._live]

    def _anchor(self) -> None:
        """Pins a rarely covered pixel to 1 and, every other time, a bright one of the found rays through it to 0."""
        self._program.release()
        cover = np.sum(self._found, axis=0) if self._found else np.zeros(self._columns)
        weight = (self._basis**2).sum(0) / (0.05 + np.clip(cover, 0, None))
        anchor = int(self._rng.choice(self._columns, p=weight / weight.sum()))
        self._program.pin(anchor, 1.0)
        through = [ray for ray in self._found if ray[anchor] > 0.05]
        if not through or self._rng.random() < 0.5:
            return
        bright = np.clip(np.sum(through, axis=0), 1e-9, None)
        other = int(self._rng.choice(self._columns, p=bright / bright.sum()))
        if other != anchor:
            self._program.pin(other, 0.0)

    def _polish(self, vector: Array64) -> Ray | None:
        """The vector of the row space that is smallest in norm on the zeros of `vector`: free of the slack."""
        zeros = np.abs(vector) < self._zero
        count = int(zeros.sum())
        if count < self._rank - 1 + self._surplus:
            return None
        spend(product(self._rank, count, self._rank) + calls(10, 4 * self._columns) + 10 * solution(self._rank))
        gram = self._basis[:, zeros] @ self._basis[:, zeros].T
        exact = np.linalg.eigh(gram)[1][:, 0] @ self._basis
        exact = exact / exact[np.argmax(np.abs(exact))]
        return Ray(vector=exact, zeros=count) if exact.min() > -50 * self._zero else None

    def _known(self, vector: Array64) -> bool:
        return any(np.abs(vector - ray).max() < 20 * self._zero for ray in self._found)
