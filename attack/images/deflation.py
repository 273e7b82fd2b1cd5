"""Taking a found sample out of a batch's gradient: with the known network its share can be computed and subtracted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from attack.images.row_space import row_space

Array64 = npt.NDArray[np.float64]
Adjoints = Callable[[Array64], Array64]
"""From images `[N, inputs]` to the first layer's adjoints `[N, classes, outputs]`, scaled as in the mean loss."""


class Deflation:
    """A first-layer gradient ``sum_b delta_b x_b^T`` from which known samples are subtracted one by one.

    A sample that really is in the batch lowers the rank by exactly one when ``delta(x, y) x^T`` is subtracted with the
    right label y; any other leaves it or raises it. That is the certificate, and it tells the label.

    Args:
        gradient: `[outputs, inputs]`, further columns (bias) allowed.
        limit: Most samples that there can be.
        adjoints: The known network.
    """

    def __init__(self, gradient: Array64, limit: int, adjoints: Adjoints) -> None:
        self._adjoints = adjoints
        self.residual = gradient.copy()
        values = np.linalg.svd(gradient, compute_uv=False)
        self.left = row_space(gradient, limit).rank
        rest = values[self.left] if self.left < len(values) else 0.0
        self._floor = max(5e-7 * values[0], 4 * rest)

    def take(self, image: Array64, inputs: Array64) -> int | None:
        """Subtracts one sample when the rank then drops by one.

        Args:
            image: The first layer's input as columns of the gradient see it (with a 1 for the bias column).
            inputs: The same as the network takes it.

        Returns:
            Its label, or `None` (and nothing is changed) when the rank does not drop.
        """
        if self.left == 0:
            return None
        left, values, right = np.linalg.svd(self.residual, full_matrices=False)
        left, values, right = left[:, : self.left], values[: self.left], right[: self.left]
        deltas = self._adjoints(inputs[None])[0]
        inside = deltas @ left
        strange = np.linalg.norm(deltas - inside @ left.T, axis=1) / (np.linalg.norm(deltas, axis=1) + 1e-300)
        for label in np.argsort(strange)[:2]:
            core = np.diag(values) - np.outer(inside[label], right @ image)
            if np.linalg.svd(core, compute_uv=False)[-1] < self._floor and strange[label] < 0.01:
                self.residual -= np.outer(deltas[label], image)
                self.left -= 1
                return int(label)
        return None
