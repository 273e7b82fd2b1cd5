"""Gradients of many candidates at once, as rows: what a layer saw and the adjoint of what it gave.

A layer ``z_n = W a_n + b``, applied to rows n (samples, steps, window positions), has the gradient ``Σ_n δ_n a_nᵀ``
with ``δ_n = ∂L/∂z_n``. Distances between gradients need inner products alone, and those follow from the rows,

    ⟨g, G⟩ = Σ_n δ_n · G a_n,      ⟨g, h⟩ = Σ_nm (δ_n · ε_m)(a_n · c_m),

so that no restart's weight gradient is ever formed: R restarts are one batch of samples with weights in common, and
their gradients stay apart. δ is read as the derivative by a zero that is added to z.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from attack.optimisation.windows import windows
from contract.models.layout import LayerSpec
from contract.models.network import Network


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """One layer's gradients, one per restart.

    Attributes:
        name: The layer's.
        seen: `[R, n, inputs]`.
        adjoint: `[R, n, outputs]`.
        bias_factor: The bias enters z so many times.
        bias_rows: So many rows at the front count for the bias; all of them for `None`.
    """

    name: str
    seen: Tensor
    adjoint: Tensor
    bias_factor: float
    bias_rows: int | None = None

    @property
    def weight(self) -> Tensor:
        """The gradients themselves, `[R, outputs, inputs]`."""
        return self.adjoint.transpose(1, 2) @ self.seen

    @property
    def bias(self) -> Tensor:
        """`[R, outputs]`."""
        return self.bias_factor * self.adjoint[:, : self.bias_rows].sum(1)

    @property
    def _dense(self) -> bool:
        """Whether forming the gradient is cheaper than its rows' products."""
        _, n, inputs = self.seen.shape
        outputs = self.adjoint.shape[2]
        return inputs * outputs <= n * (inputs + outputs)

    def inner(self, other: Rows, *, weight: bool, bias: bool) -> Tensor:
        """Inner product with gradients of the same layer, per restart `[R]`."""
        total = self.seen.new_zeros(len(self.seen))
        if weight and self._dense:
            total = total + (self.weight * other.weight).sum((1, 2))
        elif weight:
            likeness = self.seen @ other.seen.transpose(1, 2)
            total = total + (likeness * (self.adjoint @ other.adjoint.transpose(1, 2))).sum((1, 2))
        return total + (self.bias * other.bias).sum(1) if bias else total

    def inner_with(self, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Inner product with one gradient `[outputs, inputs]`, `[outputs]`, per restart `[R]`."""
        total = self.seen.new_zeros(len(self.seen))
        if weight is not None and self._dense:
            total = total + (self.weight * weight).sum((1, 2))
        elif weight is not None:
            total = total + (linear(self.seen, weight) * self.adjoint).sum((1, 2))
        return total if bias is None else total + self.bias @ bias

    def distance(self, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Squared distance from one gradient `[outputs, inputs]`, `[outputs]`, per restart `[R]`."""
        total = self.seen.new_zeros(len(self.seen))
        if weight is not None:
            total = total + torch.baddbmm(-weight, self.adjoint.transpose(1, 2), self.seen).square().sum((1, 2))
        return total if bias is None else total + (self.bias - bias).square().sum(1)


class RowNetwork(Network):
    """The task's network, which keeps the rows of a forward and backward pass. Weight quantisation is the caller's."""

    _kept: list[tuple[LayerSpec, Tensor, Tensor, float]]

    def rows(self, params: Mapping[str, Tensor], candidates: Tensor, labels: Tensor) -> list[Rows]:
        """Each layer's rows, differentiable by candidates and labels.

        Args:
            params: Tensors by name, constant.
            candidates: `[R, T or 1, B, *shape]`.
            labels: Classes `[B]`, or probabilities `[R, B, classes]`.
        """
        restarts, _, batch = candidates.shape[:3]
        self._kept = []
        logits = self(params, candidates.transpose(0, 1).flatten(1, 2))
        known = labels.repeat(restarts) if labels.ndim == 1 else labels.flatten(0, 1)
        loss = cross_entropy(logits, known, reduction="sum") / batch
        kept, self._kept = self._kept, []
        adjoints = torch.autograd.grad(loss, [probe for _, _, probe, _ in kept], create_graph=True)
        return [
            Rows(
                name=layer.name,
                seen=_by_restart(seen, restarts, batch),
                adjoint=_by_restart(adjoint, restarts, batch),
                bias_factor=factor,
            )
            for (layer, seen, _, factor), adjoint in zip(kept, adjoints, strict=True)
        ]

    def _keep(self, layer: LayerSpec, seen: Tensor, z: Tensor, factor: float = 1.0) -> Tensor:
        probe = torch.zeros_like(z).requires_grad_()
        self._kept.append((layer, seen, probe, factor))
        return z + probe

    def _affine(self, layer: LayerSpec, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        weight, bias = params[f"{layer.name}.weight"], params[f"{layer.name}.bias"]
        seen = windows(x, layer) if layer.kind == "conv" else x.flatten(1)
        z = self._keep(layer, seen, linear(seen, weight.flatten(1), bias))
        return z.transpose(1, 2).reshape(len(x), *layer.outputs) if layer.kind == "conv" else z

    def _read_membrane(self, params: Mapping[str, Tensor], spikes: Tensor) -> Tensor:
        layer, factor = self.layers[-1], self._readout_bias_factor
        weighed = (self._readout_weights @ spikes.flatten(1)).view(spikes.shape[1], -1)
        bias = params[f"{layer.name}.bias"] * factor
        return self._keep(layer, weighed, linear(weighed, params[f"{layer.name}.weight"], bias), factor)


def _by_restart(x: Tensor, restarts: int, batch: int) -> Tensor:
    """`[F R B, *rows, width]` to `[R, F B rows, width]`."""
    steps = len(x) // (restarts * batch)
    apart = x.reshape(steps, restarts, -1, x.shape[-1])
    return apart.transpose(0, 1).reshape(restarts, -1, x.shape[-1])
