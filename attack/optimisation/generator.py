"""A small generator whose weights are the unknowns: from fixed noise to frames in [0, 1] and soft labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

LATENT = 128
HIDDEN = 128
_SPREAD = 0.02


@dataclass(frozen=True, kw_only=True, eq=False)
class Generator:
    """Two dense layers to the frames and one to the labels, as functions of one vector of weights.

    Attributes:
        latent: Fixed noise, one row per sample `[B, LATENT]`.
        steps: Frames per sample.
        shape: Of one frame.
        classes: Number of labels.
    """

    latent: Tensor
    steps: int
    shape: tuple[int, ...]
    classes: int

    @property
    def _shapes(self) -> tuple[tuple[int, int], ...]:
        return ((LATENT + 1, HIDDEN), (HIDDEN + 1, self.steps * int(np.prod(self.shape))), (LATENT + 1, self.classes))

    def start(self, rng: np.random.Generator) -> Tensor:
        """Weights of standard deviation 0.02, so that every pixel begins near grey."""
        size = sum(rows * columns for rows, columns in self._shapes)
        return torch.as_tensor(_SPREAD * rng.standard_normal(size), dtype=self.latent.dtype)

    def __call__(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Frames `[steps, B, *shape]` in [0, 1] and label probabilities `[B, classes]`."""
        sizes = [rows * columns for rows, columns in self._shapes]
        body, head, label = (
            part.reshape(shape) for part, shape in zip(torch.split(weights, sizes), self._shapes, strict=True)
        )
        hidden = functional.leaky_relu(_affine(self.latent, body), 0.2)
        frames = torch.sigmoid(_affine(hidden, head)).reshape(len(self.latent), self.steps, *self.shape)
        return frames.transpose(0, 1), torch.softmax(_affine(self.latent, label), dim=1)


def _affine(x: Tensor, weights: Tensor) -> Tensor:
    return x @ weights[:-1] + weights[-1]
