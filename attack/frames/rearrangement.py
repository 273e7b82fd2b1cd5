r"""Order, samples and labels of known frames in a network of which only the simulation is known.

With all frames X known, ``Delta = dW X^+`` gives each frame's adjoint, hence ``W^T delta_k``: what the loss's
derivative by the input must be at the step where frame k came. Steps that spike alike have like adjoints, so that a
wrong arrangement is told which frames it has nearly right: simulate an arrangement, assign the frames to samples and
steps by least squares between simulated and wanted derivatives (linear assignment, Jonker and Volgenant 1987), simulate
again. It ends where nothing moves; there the difference is rounding if the arrangement is right. Whatever lies above
the first layer, nothing else is used of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import cross_entropy

from attack.clock import now_s, spend
from attack.costs import ELEMENT_S, calls, product
from attack.counting import Repeated
from attack.frames.spectrum import Array64
from attack.simulation import Simulator

Order = npt.NDArray[np.intp]
_ASSIGNMENTS = 30


@dataclass(frozen=True, kw_only=True, eq=False)
class Arrangement:
    """Which frame came when.

    Attributes:
        order: Index of the frame of each sample and step `[B, T]`.
        labels: Of the samples `[B]`.
        residual: Relative difference between simulated and wanted derivatives.
    """

    order: Order
    labels: tuple[int, ...]
    residual: float


class Rearrangement:
    """Arranges frames.

    Args:
        simulator: The network at the weights that the gradient was taken at; it must tell samples apart.
        frames: All frames, empty ones included `[B·T, n]`.
        wanted: ``W^T delta_k`` of each frame `[B·T, n]`, of the mean loss.
        labels: Labels that may be.
        counts: Frames whose derivative is known: those that came once `[B·T]`.
    """

    def __init__(
        self,
        simulator: Simulator,
        frames: Array64,
        wanted: Array64,
        labels: Sequence[int],
        *,
        counts: npt.NDArray[np.bool_],
    ) -> None:
        self._simulator, self._labels = simulator, np.unique(labels)
        self._frames = torch.as_tensor(frames, dtype=torch.float32)
        self._wanted, self._counts = wanted, counts
        self._sizes = (wanted**2).sum(-1)
        self._cost = Repeated()

    def improve(self, order: Order, end_s: float) -> Arrangement:
        """The best arrangement on the way from a given one.

        Args:
            order: To begin with `[B, T]`.
            end_s: On `attack.clock`.
        """
        best = Arrangement(order=order, labels=(), residual=np.inf)
        norm = max(float(self._sizes[self._counts].sum()), 1e-300)
        for _ in range(_ASSIGNMENTS):
            distances, labels = self._distances(order)
            steps = np.arange(order.size)
            residual = float(np.sqrt(distances[steps, order.ravel()].sum() / norm))
            if residual < best.residual:
                best = Arrangement(order=order, labels=labels, residual=residual)
            spend(len(distances) ** 3 * ELEMENT_S)
            following = linear_sum_assignment(distances)[1].reshape(order.shape)
            if (following == order).all() or now_s() > end_s:
                break
            order = following
        return best

    def _distances(self, order: Order) -> tuple[Array64, tuple[int, ...]]:
        """Squared difference of each step's derivative to each frame's `[B·T, B·T]`, at each sample's best label."""
        batch, steps = order.shape
        with self._cost.once_more():
            found = self._derivatives(order)
        spend(calls(20, 4 * found.size) + product(found.size / found.shape[-1], *self._wanted.T.shape))
        squares = (found**2).sum(-1)[..., None] + self._sizes - 2 * found @ self._wanted.T
        squares = np.where(self._counts, np.maximum(squares, 0.0), 0.0)
        own = np.take_along_axis(squares, order[None, :, :, None], axis=-1)[..., 0].sum(-1)
        chosen = own.argmin(axis=0)
        picked = squares[chosen, np.arange(batch)].reshape(batch * steps, -1)
        return picked, tuple(int(self._labels[k]) for k in chosen)

    def _derivatives(self, order: Order) -> Array64:
        """Derivative of each sample's share of the mean loss by its inputs, for each label `[labels, B, T, n]`."""
        batch, steps = order.shape
        once = self._frames[torch.as_tensor(order)].transpose(0, 1)
        inputs = once.repeat(1, len(self._labels), 1).reshape(steps, -1, *self._simulator.shape).requires_grad_()
        labels = torch.as_tensor(np.repeat(self._labels, batch))
        logits = self._simulator.network(self._simulator.parameters, inputs)
        (found,) = torch.autograd.grad(cross_entropy(logits, labels, reduction="sum") / batch, inputs)
        shaped = found.reshape(steps, len(self._labels), batch, -1).permute(1, 2, 0, 3)
        return np.asarray(shaped.double().numpy())
