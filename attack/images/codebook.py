"""Spike trains of neurons under constant current, and how to read them out of a readout's gradient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from attack.clock import spend
from attack.costs import calls, product, triangular
from attack.counting import counted
from contract.models.neurons import Leaky, mean_membrane_weights
from contract.task import NeuronSpec

Array64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

GRID = 200_001
ALTERNATIONS = 60
SHAPES = (1.0, 0.0, 2.0, 3.0)
"""Powers of the membrane's temporal weights tried as the shape of a spiking readout's adjoint over time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Codebook:
    """All trains that some constant current gives.

    Attributes:
        trains: `[T, Q]` of 0 and 1.
        low: `[Q]`, smallest current that gives the train; minus infinity for silence.
        high: `[Q]`, largest; infinity for the last.
    """

    trains: Array64
    low: Array64
    high: Array64

    def indices(self, currents: Array64) -> Indices:
        """The train of each current."""
        found: Indices = np.searchsorted(self.low, currents, side="right").astype(np.int64) - 1
        return found


def codebook(neuron: NeuronSpec, steps: int, largest: float, membrane_bits: int | None = None) -> Codebook:
    """The trains of a neuron for currents from 0, where it is silent, up to `largest`.

    The train under constant current depends on that one number alone, and is constant between the currents where some
    spike moves: at most a few hundred trains, each with its interval.
    """
    with counted():
        currents = torch.linspace(0.0, largest, GRID, dtype=torch.float64)
        spikes = Leaky(neuron, membrane_bits).integrate(currents.expand(steps, -1).contiguous())[1].numpy()
    spend(calls(20, 8 * spikes.size))
    packed = np.packbits(spikes.astype(bool), axis=0)
    changes = np.flatnonzero((packed[:, 1:] != packed[:, :-1]).any(0)) + 1
    starts = np.concatenate([[0], changes])
    grid = currents.numpy()
    step = float(grid[1])
    low, high = grid[starts] - step, np.append(grid[changes], np.inf)
    low[0] = -np.inf
    return Codebook(trains=spikes[:, starts], low=low, high=high)


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """Interval of each neuron's current `[hidden]`, and the share of the readout gradient left unexplained."""

    low: Array64
    high: Array64
    residual: float


def decode_membrane(book: Codebook, weight: Array64, bias: Array64, beta: float, error: float) -> Decoded:
    """Trains behind a membrane readout's gradient: per neuron a subset sum with known weights.

    The mean membrane is linear in the spikes, so ``dW = (p - y) sum_t w_t s_t^T`` and ``db = (p - y) sum_t w_t`` with
    known w: the ratio is ``sum_t w_t s_t / sum_t w_t``.

    Args:
        book: The trains that can be.
        weight: Readout gradient `[classes, hidden]`.
        bias: Its bias gradient `[classes]`.
        beta: The membrane's decay.
        error: Largest absolute error of an entry of `weight`; every train within it counts.
    """
    weights = np.array(mean_membrane_weights(len(book.trains), beta))
    ratio = bias @ weight / (bias @ bias)
    spend(calls(30, 10 * book.trains.shape[1] * len(ratio) + 4 * weight.size))
    distance = np.abs((weights @ book.trains / weights.sum())[:, None] - ratio)
    allowed = distance <= distance.min(0) + error / np.linalg.norm(bias) + 1e-9
    low = np.where(allowed, book.low[:, None], np.inf).min(0)
    high = np.where(allowed, book.high[:, None], -np.inf).max(0)
    explained = np.outer(bias, weights @ book.trains[:, distance.argmin(0)] / weights.sum())
    return Decoded(low=low, high=high, residual=float(np.linalg.norm(weight - explained) / np.linalg.norm(weight)))


def decode_spiking(
    book: Codebook, weight: Array64, bias: Array64, beta: float, currents: Array64 | None = None
) -> Decoded:
    """Trains behind a spiking readout's gradient ``dW = A S``, with its adjoint A `[classes, T]` unknown.

    Alternates: every neuron takes the train of the codebook that fits best, then A is the least-squares solution, with
    ``db = sum_t A_t`` as one more column.

    Args:
        book: The trains that can be.
        weight: Readout gradient `[classes, hidden]`.
        bias: Its bias gradient `[classes]`.
        beta: The membrane's decay.
        currents: Estimates of the currents `[hidden]`, whose trains give one more start.
    """
    temporal = np.array(mean_membrane_weights(len(book.trains), beta))
    starts = [np.outer(bias, temporal**power / (temporal**power).sum()) for power in SHAPES]
    if currents is not None:
        starts = [_adjoint(book.trains[:, book.indices(currents)], weight, bias)]
    residual, chosen = min((_alternate(book, weight, bias, start) for start in starts), key=lambda pair: pair[0])
    return Decoded(low=book.low[chosen], high=book.high[chosen], residual=residual)


def _adjoint(trains: Array64, weight: Array64, bias: Array64) -> Array64:
    """``argmin_A |weight - A trains|^2 + |bias - A 1|^2``."""
    design = np.hstack([trains, np.ones((len(trains), 1))])
    observed = np.hstack([weight, bias[:, None]])
    adjoint: Array64 = np.linalg.lstsq(design.T, observed.T, rcond=1e-9)[0].T
    return adjoint


def _alternate(book: Codebook, weight: Array64, bias: Array64, adjoint: Array64) -> tuple[float, Indices]:
    chosen = np.zeros(weight.shape[1], dtype=np.int64)
    residual = float("inf")
    for _ in range(ALTERNATIONS):
        (classes, hidden), (steps, count) = weight.shape, book.trains.shape
        spend(calls(30, 4 * count * hidden) + product(count, classes, hidden) + triangular(hidden, steps))
        predicted = adjoint @ book.trains
        chosen = ((predicted**2).sum(0)[:, None] - 2 * predicted.T @ weight).argmin(0)
        trains = book.trains[:, chosen]
        adjoint = _adjoint(trains, weight, bias)
        last, residual = residual, float(np.linalg.norm(weight - adjoint @ trains) / np.linalg.norm(weight))
        if last - residual < 1e-12:
            break
    return residual, chosen
