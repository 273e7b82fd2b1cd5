r"""Spike trains as smooth functions of a constant current, for descent through a staircase.

Under direct coding a first-layer neuron's current ``I`` is constant, so its train ``s_t(I)`` is a table of one number,
piecewise constant. Convolved with a Gaussian, ``E s_t(I + width z)`` with z standard normal, it has a true derivative
everywhere, and tends to the train as the width falls: graduated smoothing (Blake and Zisserman 1987; Nesterov and
Spokoiny 2017). The same table holds what the layer's weight gradient needs: with ``a_t = dL/ds_t``, summed over time,

    sum_t dL/dI_t = sum_t a_t G_t(I),     G_t = surrogate(m_t - threshold) sum_{j <= t} prod_{i=j}^{t-1} beta k_i

with ``k_i`` 0 where the neuron forgets its membrane (reset to zero) and 1 otherwise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from contract.models.neurons import Leaky, scan
from contract.task import NeuronSpec

STEP = 1e-3
"""Distance of the tabulated currents, in units of a threshold of 1."""
CITED = ("blake1987visual", "nesterov2017random")
"""Keys of the works that the smoothing follows (`attack.citations`)."""
_REACH = 3.0
"""Standard deviations at which the Gaussian is cut."""


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, current: Tensor, table: Tensor, low: float, step: float) -> Tensor:
        place = ((current - low) / step).clamp(0, len(table) - 2)
        index = place.long()
        below, above = table[index], table[index + 1]
        ctx.save_for_backward((above - below) / step)
        return below + (place - index).unsqueeze(-1) * (above - below)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (slope,) = ctx.saved_tensors
        return (gradients[0] * slope).sum(-1), None, None, None


class SmoothedTrains:
    """The tables of one kind of neuron.

    Args:
        neuron: The neuron.
        membrane_bits: Bits of its fixed-point membrane, `None` for float.
        steps: T.
        low: Smallest current that occurs.
        high: Largest.
    """

    def __init__(self, neuron: NeuronSpec, membrane_bits: int | None, steps: int, low: float, high: float) -> None:
        leaky = Leaky(neuron, membrane_bits)
        self.steps, self._step = steps, STEP * neuron.threshold
        self._low = low - neuron.threshold
        count = int((high + neuron.threshold - self._low) / self._step) + 2
        currents = self._low + self._step * torch.arange(count, dtype=torch.float64)
        membranes, spikes = leaky.integrate(currents.expand(steps, -1).contiguous())
        kept = scan(torch.ones_like(membranes), leaky.beta, (1 - spikes) if leaky.forgets else None)
        factors = leaky.derivative(membranes - leaky.threshold) * kept
        self._rows = torch.cat([spikes, factors])

    def table(self, width: float) -> Tensor:
        """Trains and factors `[currents, 2T]` smoothed by a Gaussian of that standard deviation; 0 smooths nothing."""
        if width <= 0:
            return self._rows.T.float().contiguous()
        reach = max(1, round(_REACH * width / self._step))
        offsets = self._step * torch.arange(-reach, reach + 1, dtype=torch.float64)
        kernel = torch.exp(-0.5 * (offsets / width) ** 2)
        kernel /= kernel.sum()
        rows = pad(self._rows[:, None], (reach, reach), mode="replicate")[:, 0]
        length = rows.shape[1] + len(kernel) - 1
        product = torch.fft.rfft(rows, length) * torch.fft.rfft(kernel, length)
        smooth: Tensor = torch.fft.irfft(product, length)[:, 2 * reach : 2 * reach + self._rows.shape[1]]
        return smooth.T.float().contiguous()

    def __call__(self, currents: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """Trains and factors, each `[T, *]`, of currents `[*]`, with the derivative of `table` by the current."""
        found: Tensor = _Interpolate.apply(currents, table, self._low, self._step)  # type: ignore[no-untyped-call]
        both = found.movedim(-1, 0)
        return both[: self.steps], both[self.steps :]
