"""FedAdam: the server's step by adaptive moments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from contract.task import RoundPlan
from server.aggregation.contribution import Array, Parameters

Decay = Annotated[float, Meta(ge=0, lt=1)]
FIRST, SECOND = "first:", "second:"
"""What stands before a parameter's name in the names of its moments."""


class FedAdam(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="adam"):
    """FedAdam (Reddi et al. 2021, arXiv 2003.00295, algorithm 2), in place of the server's momentum.

    ``m <- b1 m + (1 - b1) d; v <- b2 v + (1 - b2) d^2; w <- w - eta m / (sqrt(v) + tau)`` for each coordinate, with d
    what an aggregate would have been subtracted as, and eta the plan's `server_learning_rate`. As there, m begins at 0,
    v at tau^2, and neither is corrected for its beginning.

    Attributes:
        beta1: Decay of the first moment.
        beta2: Decay of the second.
        tau: Degree of adaptivity: the smaller, the less the size of d counts.
    """

    citation: ClassVar[str] = "reddi2021adaptive"
    beta1: Decay = 0.9
    beta2: Decay = 0.99
    tau: Annotated[float, Meta(gt=0)] = 1e-3

    def descend(
        self, parameters: Parameters, moments: Mapping[str, Array] | None, step: Mapping[str, Array], plan: RoundPlan
    ) -> tuple[Parameters, dict[str, Array]]:
        """One step.

        Args:
            parameters: float32, by name.
            moments: What the last step gave; `None`, or another optimiser's velocity, begins anew.
            step: What would be subtracted, by name.
            plan: Its `server_learning_rate` is eta.

        Returns:
            New parameters and moments, float64.
        """
        held = moments if moments is not None and is_moments(moments) else None
        new: Parameters = {}
        after: dict[str, Array] = {}
        for name, value in parameters.items():
            first = np.zeros(value.shape) if held is None else held[FIRST + name]
            second = np.full(value.shape, self.tau**2) if held is None else held[SECOND + name]
            first = self.beta1 * first + (1 - self.beta1) * step[name]
            second = self.beta2 * second + (1 - self.beta2) * np.square(step[name])
            moved = value.astype(np.float64) - plan.server_learning_rate * first / (np.sqrt(second) + self.tau)
            new[name], after[FIRST + name], after[SECOND + name] = moved.astype(np.float32), first, second
        return new, after


def is_moments(state: Mapping[str, Array]) -> bool:
    """Whether an optimiser's state is FedAdam's."""
    return any(name.startswith(FIRST) for name in state)
