"""What an attack is: a Protocol, and what it hands back."""

from __future__ import annotations

from typing import Protocol

import msgspec
import numpy as np

from attack.threat import Array32, Array64, Knowledge, Observation
from contract.messages import Verdict
from hardware.bibliography import Citation

__all__ = ["MAX_IMAGES", "Citation", "Finding", "Method"]

MAX_IMAGES = 64
"""Largest number of candidates that one finding may hold."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one attack made of one observation.

    Attributes:
        verdict: `exact` only with a certificate; `recovered` when the method's own criterion, which `reason` names,
            was met; `partial` for an estimate; `failed` when it gives nothing usable.
        reason: The certificate, the criterion with its value, or why it failed.
        images: Candidates `[N, *shape]` in [0, 1], best first, at most `MAX_IMAGES`; `None` without one.
        labels: One label per image where it names them; a multiset for a method without images.
        objective: Value of what the attack minimised; `None` for closed forms.
        frames: Spike frames `[N, T, *shape]` of the candidates where they were recovered.
        membership: Score `[K]` of each of the attacker's own samples, in their order; smaller: surer that it is in.
    """

    verdict: Verdict
    reason: str = ""
    images: Array32 | None = None
    labels: tuple[int, ...] = ()
    objective: float | None = None
    frames: Array32 | None = None
    membership: Array64 | None = None


class Method(Protocol):
    """One attack. It holds no state between updates."""

    @property
    def name(self) -> str:
        """Name in reports and settings; names the mechanism."""

    @property
    def citation(self) -> Citation:
        """Where it comes from; one of `attack.citations`."""

    @property
    def also(self) -> tuple[Citation, ...]:
        """What else its computation rests on: its objective, prior, optimiser, labels. Not what it is compared with."""

    @property
    def requires(self) -> frozenset[Knowledge]:
        """What it cannot do without; the ladder refuses it when the threat model withholds any of it."""

    def applies(self, observation: Observation) -> str | None:
        """Why it cannot work on this observation, or `None` when it can. Cheap: no optimisation."""

    def run(self, observation: Observation, budget_s: float, rng: np.random.Generator) -> Finding:
        """Attacks.

        Args:
            observation: All that is known.
            budget_s: Processor time (`attack.clock`) to keep to, in seconds; what is best by then is returned.
            rng: The only source of randomness.
        """
