"""Gradients of all restarts' candidates against the observed one: their inner products, batched where that is possible.

A network that a task describes is run once over all restarts, as rows (`attack.optimisation.rows`). Somebody's own
module is run restart by restart, since nothing is known of its inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attack.optimisation.objectives import Comparison, dot
from attack.optimisation.rows import RowNetwork, Rows
from attack.simulation import Simulator
from attack.threat import Observation
from contract.models.network import Network


class Candidates:
    """Compares candidates with one observation.

    Args:
        observation: What was seen.
        dtype: Precision of the simulation.
    """

    def __init__(self, observation: Observation, *, dtype: torch.dtype) -> None:
        self.simulator = Simulator(observation, dtype=dtype)
        self.target = dict(zip(self.simulator.names, self.simulator.target, strict=True))
        self.norm = dot(self.simulator.target, self.simulator.target)
        self._parameters = {name: value.detach() for name, value in self.simulator.parameters.items()}
        network = self.simulator.network
        self._rows: RowNetwork | None = None
        if isinstance(network, Network):
            self._rows = RowNetwork(network.task, network.shape, observation.classes, dtype=dtype)

    @property
    def batched(self) -> bool:
        """Whether all restarts are evaluated at once."""
        return self._rows is not None

    def rows(self, frames: Tensor, labels: Tensor) -> list[Rows]:
        """Each layer's gradients as rows; for batched networks only."""
        assert self._rows is not None
        return self._rows.rows(self._parameters, frames, labels)

    def inner(self, first: list[Rows], second: list[Rows]) -> Tensor:
        """Inner product of two gradients per restart, over the parameters that the update has."""
        parts = [
            a.inner(b, weight=f"{a.name}.weight" in self.target, bias=f"{a.name}.bias" in self.target)
            for a, b in zip(first, second, strict=True)
        ]
        return torch.stack(parts).sum(0)

    def cross(self, rows: list[Rows]) -> Tensor:
        """Inner product with the observed gradient per restart."""
        parts = []
        for layer in rows:
            weight, bias = self.target.get(f"{layer.name}.weight"), self.target.get(f"{layer.name}.bias")
            parts.append(layer.inner_with(None if weight is None else weight.flatten(1), bias))
        return torch.stack(parts).sum(0)

    def distance(self, rows: list[Rows]) -> Tensor:
        """Squared distance from the observed gradient per restart."""
        parts = []
        for layer in rows:
            weight, bias = self.target.get(f"{layer.name}.weight"), self.target.get(f"{layer.name}.bias")
            parts.append(layer.distance(None if weight is None else weight.flatten(1), bias))
        return torch.stack(parts).sum(0)

    def compare(self, frames: Tensor, labels: Tensor) -> Comparison:
        """The candidates' gradients beside the observed one, differentiable.

        Args:
            frames: `[R, F, B, *shape]`.
            labels: Classes `[B]`, or probabilities `[R, B, classes]`.
        """
        if self._rows is not None:
            return _OfRows(candidates=self, rows=self.rows(frames, labels))
        gradients = [
            self.simulator.gradients(x, labels if labels.ndim == 1 else labels[restart], create_graph=True)
            for restart, x in enumerate(frames)
        ]
        return _OfGradients(candidates=self, gradients=gradients)


@dataclass(frozen=True, kw_only=True, eq=False)
class _OfRows:
    """A comparison of gradients that are rows."""

    candidates: Candidates
    rows: list[Rows]

    @property
    def found(self) -> Tensor:
        return self.candidates.inner(self.rows, self.rows)

    @property
    def cross(self) -> Tensor:
        return self.candidates.cross(self.rows)

    @property
    def distance(self) -> Tensor:
        return self.candidates.distance(self.rows)

    @property
    def target(self) -> Tensor:
        return self.candidates.norm


@dataclass(frozen=True, kw_only=True, eq=False)
class _OfGradients:
    """A comparison of gradients that are formed, one list per restart."""

    candidates: Candidates
    gradients: list[Sequence[Tensor]]

    @property
    def found(self) -> Tensor:
        return torch.stack([dot(g, g) for g in self.gradients])

    @property
    def cross(self) -> Tensor:
        return torch.stack([dot(g, self.candidates.simulator.target) for g in self.gradients])

    @property
    def distance(self) -> Tensor:
        errors = [[a - b for a, b in zip(g, self.candidates.simulator.target, strict=True)] for g in self.gradients]
        return torch.stack([dot(error, error) for error in errors])

    @property
    def target(self) -> Tensor:
        return self.candidates.norm
