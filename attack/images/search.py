"""All images of a batch: hunt rays, put them on the grid, subtract them, go on with what is left."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from attack.clock import now_s
from attack.images.deflation import Adjoints, Deflation
from attack.images.grid import snap
from attack.images.rays import RayHunter
from attack.images.row_space import RowSpace, row_space

Array64 = npt.NDArray[np.float64]

GRID_TOLERANCE = 0.1
PATIENCE = 4
"""Misses in a row, beyond the images that the hunt has found, after which those are subtracted."""


@dataclass(kw_only=True, eq=False)
class Batch:
    """What the search has found.

    Attributes:
        rank: Number of distinct inputs in the gradient.
        images: Snapped images, each with a certificate.
        labels: Label of each where subtracting it gave one.
        bits: Strength of the weakest certificate.
    """

    rank: int
    images: list[Array64] = field(default_factory=list)
    labels: list[int | None] = field(default_factory=list)
    bits: float = float("inf")

    @property
    def complete(self) -> bool:
        """Whether every direction of the row space is explained by an image."""
        return len(self.images) >= self.rank

    def add(self, image: Array64, bits: float) -> None:
        """Notes a certified image whose label is not known yet."""
        self.images.append(image)
        self.labels.append(None)
        self.bits = min(self.bits, bits)

    def holds(self, image: Array64) -> bool:
        """Whether this image was found before."""
        return any(np.array_equal(image, known) for known in self.images)


class ImageSearch:
    """The cone attack on one gradient.

    Args:
        weight: First-layer gradient `[outputs, inputs]`.
        bias: Its bias gradient `[outputs]`: it appends a column that is 1 in every image, hence their scale.
        limit: Most samples that there can be.
        gain: Factor that the encoding put on the images.
        shape: Of one sample.
        adjoints: The known network, if it is known; without it nothing is subtracted.
        clipped: Whether the gradient was clipped.
    """

    def __init__(
        self,
        weight: Array64,
        bias: Array64 | None,
        limit: int,
        *,
        gain: float = 1.0,
        shape: tuple[int, ...] = (),
        adjoints: Adjoints | None = None,
        clipped: bool = False,
    ) -> None:
        self._gradient = weight if bias is None else np.column_stack([weight, bias])
        self._inputs = weight.shape[1]
        self._scaled = bias is not None
        self._gain = gain
        self._shape = shape
        self._limit = limit
        self._adjoints = adjoints
        self._clipped = clipped

    def run(self, deadline: float, rng: np.random.Generator) -> Batch:
        """Searches until all is found or `deadline` (on `attack.clock`)."""
        if self._adjoints is None:
            space = row_space(self._gradient, self._limit)
            batch = Batch(rank=space.rank)
            self._hunt(space, batch, deadline, rng, patience=None)
            return batch
        deflation = Deflation(self._gradient, self._limit, self._adjoints, clipped=self._clipped)
        batch = Batch(rank=deflation.left)
        taken = 0
        while deflation.left and not batch.complete and now_s() < deadline:
            space = row_space(deflation.residual, deflation.left, rank=deflation.left)
            self._hunt(space, batch, deadline, rng, patience=PATIENCE)
            for index in range(taken, len(batch.images)):
                batch.labels[index] = self._take(deflation, batch.images[index])
            taken = len(batch.images)
        return batch

    def _hunt(
        self, space: RowSpace, batch: Batch, deadline: float, rng: np.random.Generator, patience: int | None
    ) -> None:
        """Adds images to `batch` until it is complete, time is up, or too many starts in a row give nothing new."""
        hunter = RayHunter(space, rng, self._shape)
        for image, label in zip(batch.images, batch.labels, strict=True):
            if label is None:
                column = np.append(image * self._gain, 1.0) if self._scaled else image
                hunter.remember(column[space.live] / column.max())
        hits, misses = 0, 0
        while now_s() < deadline and not batch.complete:
            ray = hunter.draw()
            snapped = None if ray is None else self._snap(space, ray.vector)
            if ray is not None and snapped is not None and not batch.holds(snapped[0]):
                hunter.remember(ray.vector)
                batch.add(*snapped)
                hits, misses = hits + 1, 0
                continue
            misses += 1
            if patience is not None and hits and misses > patience + hits:
                return

    def _snap(self, space: RowSpace, vector: Array64) -> tuple[Array64, float] | None:
        full = space.expand(vector[None])[0]
        if not self._scaled:
            return snap(np.clip(full, 0, None), GRID_TOLERANCE, scaled=False)
        if full[-1] <= 0:
            return None
        return snap(full[:-1] / (full[-1] * self._gain), GRID_TOLERANCE, scaled=True)

    def _take(self, deflation: Deflation, image: Array64) -> int | None:
        seen = image * self._gain
        column = np.append(seen, 1.0) if self._scaled else seen
        return deflation.take(column, image)
