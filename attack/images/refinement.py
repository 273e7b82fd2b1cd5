"""Images and adjoints from a stochastically rounded gradient, each given the other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attack.clock import spend
from attack.costs import calls, product, solution

Array64 = npt.NDArray[np.float64]

LEAST_VARIANCE = 0.02
"""Floor on an entry's variance in squared steps, so that an entry next to a grid point does not decide alone."""


def rounding_weights(prediction: Array64) -> Array64:
    """Inverse variance of stochastic rounding, given what is rounded, in steps.

    ``z`` becomes ``floor(z) + 1`` with probability ``f = z - floor(z)``: variance ``f (1 - f)``, at most 1/4, and near
    0 for the many entries near 0. The floor keeps it finite.
    """
    fraction = prediction - np.floor(prediction)
    weights: Array64 = 1 / (fraction * (1 - fraction) + LEAST_VARIANCE)
    return weights


def weighted_columns(
    design: Array64, observed: Array64, weights: Array64, zero: npt.NDArray[np.bool_] | None = None
) -> tuple[Array64, Array64]:
    """``argmin_X sum_ij w_ij (observed - design X)_ij^2``, column by column; a small ridge keeps it solvable.

    Args:
        design: `[rows, n]`.
        observed: `[rows, columns]`.
        weights: `[rows, columns]`, positive.
        zero: `[n, columns]`, unknowns held at 0.

    Returns:
        The solution `[n, columns]`, and its standard errors when the weights are inverse variances.
    """
    (rows, n), columns = design.shape, observed.shape[1]
    spend(
        calls(25, 3 * observed.size + 4 * columns * n * n) + product(columns, rows, n * (n + 1)) + solution(n, columns)
    )
    products = (design[:, :, None] * design[:, None, :]).reshape(len(design), n * n)
    normal = (weights.T @ products).reshape(-1, n, n)
    right = (weights * observed).T @ design
    scale = np.trace(normal, axis1=1, axis2=2)[:, None] / n + 1e-300
    ridge = np.full_like(right, 1e-12)
    if zero is not None:
        ridge = ridge + 1e12 * zero.T
    inverse = np.linalg.inv(normal + (scale * ridge)[..., None] * np.eye(n))
    solved = np.einsum("cij,cj->ci", inverse, right)
    return solved.T, np.sqrt(np.einsum("cii->ci", inverse)).T


def blend(simulated: Array64, fitted: Array64) -> Array64:
    """Simulated adjoints where they agree with the fitted ones, the fitted ones where a spike has flipped.

    A slightly wrong image gives the right adjoint except for the few neurons whose train it changes; there the two
    differ by far more than the median neuron's difference.

    Args:
        simulated: `[outputs, n]`.
        fitted: `[outputs, n]`, from the gradient and the images alone.
    """
    difference = np.abs(simulated - fitted)
    spend(calls(8, 15 * difference.size))
    usual = np.median(difference, axis=0, keepdims=True) + 1e-300
    blended: Array64 = np.where(difference < 5 * usual, simulated, fitted)
    return blended
