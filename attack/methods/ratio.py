r"""The input as the ratio of weight and bias gradient of a fully connected first layer.

Let ``I_t = W x_t + b`` be the first layer and ``δ_t = ∂L/∂I_t`` the full adjoint through time. For any neuron,
surrogate, reset or depth above it ``dW = Σ_t δ_t x_tᵀ`` and ``db = Σ_t δ_t``. With direct coding ``x_t = x``, so ``dW
= db xᵀ`` and the least-squares solution over all hidden units is

    x = dWᵀ db / ‖db‖²

exactly, for one sample (Phong et al. 2018 for one neuron of an artificial network; Geiping et al. 2020, proposition
3.1). With several samples or rate coding the same ratio is a mean of the inputs weighted by ``δᵀdb``.
"""

from __future__ import annotations

import msgspec
import numpy as np

from attack.citations import CITATIONS, works
from attack.method import Citation, Finding
from attack.threat import Array64, Knowledge, LayerGradient, Observation
from contract.encodings import SERIES

RESIDUAL = 1e-4
"""Relative residual of ``dW − db xᵀ`` below which the gradient is taken to be of rank one."""


def fully_connected_first(observation: Observation) -> str | None:
    """Why a closed form on the first layer does not apply, or `None`."""
    layer = observation.first_layer
    if not layer.linear:
        return f"the first layer {layer.name!r} is a convolution: its weight gradient mixes all positions"
    if layer.weight.shape[1] != int(np.prod(observation.shape)):
        return f"the first layer takes {layer.weight.shape[1]} inputs, a sample has {int(np.prod(observation.shape))}"
    return None


def rows_are_images(observation: Observation) -> str | None:
    """Why a row of the first layer's gradient shows no sample, or `None`."""
    obstacle = fully_connected_first(observation)
    if obstacle is None and "encoding" in observation.known and observation.encoding.kind in SERIES:
        return (
            f"the encoding is {observation.encoding.kind!r}: rows of the gradient are moments of a series, no samples"
        )
    return obstacle


def ratio(layer: LayerGradient) -> Array64:
    """``dWᵀ db / ‖db‖²``; the layer must have a bias gradient that is not zero."""
    assert layer.bias is not None
    return np.asarray(layer.weight.T @ layer.bias / (layer.bias @ layer.bias), dtype=np.float64)


def _without_bias(layer: LayerGradient) -> str:
    found = "the first layer's bias gradient is zero"
    if not layer.weight.any():
        return f"{found}, as its weight gradient: no neuron was reached"
    return f"{found} and its weight gradient is not: a normalisation behind it takes off what samples have in common"


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """Closed form for one sample under direct coding; a weighted mean of the samples otherwise."""

    name: str = "ratio"
    citation: Citation = CITATIONS["phong2018privacy"]
    also: tuple[Citation, ...] = works("geiping2020inverting")
    requires: frozenset[Knowledge] = frozenset({"encoding"})

    def applies(self, observation: Observation) -> str | None:
        """Needs a fully connected first layer with a bias."""
        if observation.first_layer.bias is None:
            return "the first layer has no bias gradient"
        return rows_are_images(observation)

    def run(self, observation: Observation, budget_s: float, rng: np.random.Generator) -> Finding:  # noqa: ARG002
        """Divides; `recovered` when the gradient is of rank one, so that no other input explains it."""
        layer = observation.first_layer
        assert layer.bias is not None
        if not layer.bias.any():
            return Finding(verdict="failed", reason=_without_bias(layer))
        x = ratio(layer)
        norm = np.linalg.norm(layer.weight)
        residual = float(np.linalg.norm(layer.weight - np.outer(layer.bias, x)) / norm) if norm else 0.0
        image = np.clip(x / observation.encoding.gain, 0.0, 1.0).astype(np.float32).reshape(1, *observation.shape)
        one = residual < RESIDUAL
        reason = f"rank-one residual {residual:.1e}"
        if not one:
            reason += ": a weighted mean of several inputs, or the codec's error"
        return Finding(verdict="recovered" if one else "partial", reason=reason, images=image)
