"""Taking a found sample out of a batch's gradient: with the known network its share can be computed and subtracted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from attack.clock import spend
from attack.costs import calls, product, singular
from attack.images.row_space import row_space

Array64 = npt.NDArray[np.float64]
Adjoints = Callable[[Array64], Array64]
"""From images `[N, inputs]` to the first layer's adjoints `[N, classes, outputs]`, scaled as in the mean loss."""

STRANGE = 0.01
"""Largest share of a simulated adjoint outside the observed column space: float32 leaves 1e-6 to 1e-5."""
SURE = 1e-4
"""The same where nothing else speaks for a sample: the first one of a clipped update."""
DROP = 0.02
"""The smallest singular value must fall to this fraction of itself."""
ABOVE_ONE = 1.01
"""Clipping makes a gradient no longer, up to rounding."""


class Deflation:
    """A first-layer gradient ``sum_b delta_b x_b^T`` from which known samples are subtracted one by one.

    A sample that really is in the batch lowers the rank by exactly one when ``delta(x, y) x^T`` is subtracted with the
    right label y; any other leaves it or raises it (with two classes the labels' adjoints differ in length and sign
    alone, so that both lie in the column space and only the rank tells). That is the certificate; it tells the label.

    Clipping scales the whole gradient by one factor that is not known. Some factor always lowers the rank, so the first
    sample of a clipped gradient gives the factor, and is told by its adjoint alone; all others have to fit the factor.

    Args:
        gradient: `[outputs, inputs]`, further columns (bias) allowed.
        limit: Most samples that there can be.
        adjoints: The known network.
        clipped: Whether the gradient may be shorter than the network says.
    """

    def __init__(self, gradient: Array64, limit: int, adjoints: Adjoints, *, clipped: bool = False) -> None:
        self._adjoints = adjoints
        self.scale: float | None = None if clipped else 1.0
        """Factor that clipping put on the gradient; `None` while no sample has shown it."""
        self.residual = gradient.copy()
        space = row_space(gradient, limit)
        self._span = space.left
        self.left = space.rank

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
        spend(singular(*self.residual.shape))
        left, values, right = left[:, : self.left], values[: self.left], right[: self.left]
        deltas = self._adjoints(inputs[None])[0]
        spanned = (deltas @ self._span) @ self._span.T
        strange = np.linalg.norm(deltas - spanned, axis=1) / (np.linalg.norm(deltas, axis=1) + 1e-300)
        for label in np.argsort(strange):
            if strange[label] > (STRANGE if self.scale is not None else SURE):
                return None
            spend(calls(15) + product(*left.shape, 1) + product(*right.shape, 1) + singular(self.left, self.left))
            across, along = spanned[label] @ left, right @ image
            scale = self.scale or 1 / max(along @ (across / values), np.finfo(np.float64).tiny)
            core = np.diag(values) - scale * np.outer(across, along)
            if scale <= ABOVE_ONE and np.linalg.svd(core, compute_uv=False)[-1] < DROP * values[-1]:
                self.residual -= scale * np.outer(spanned[label], image)
                self.left -= 1
                self.scale = scale
                return int(label)
        return None
