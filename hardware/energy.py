"""One energy figure and how it came to be.

Every joule in the ledger and in the report is an `EnergyReading`. A reading without a figure carries the
reason instead: it is never 0 J. Readings of different provenance are never added up.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

Provenance = Literal["measured", "modelled", "emulated", "unavailable"]

PHASES: tuple[str, ...] = ("idle", "load", "encode", "train", "compress", "transmit", "sleep")
"""Phases of one update, in the order in which a device passes through them."""

WAITING: frozenset[str] = frozenset({"idle", "sleep"})
"""Phases in which a device waits for its next round: no cost of making or sending an update."""


class EnergyReading(msgspec.Struct, frozen=True, kw_only=True):
    """Energy spent in one window, with its origin.

    Attributes:
        energy_j: Joules in the window; `None` exactly when `provenance` is `unavailable`.
        duration_s: Length of the window on the monotonic clock.
        source: What gave the figure, for example `rapl:package-0`, `replay:trace.csv`, `model:horowitz-45nm`.
        scope: What the figure covers, for example `package`, `soc`, `board`, `wall`, `operations`, `radio`.
        provenance: `measured`, `modelled`, `emulated` or `unavailable`.
        reason: Why there is no figure; empty otherwise.
        resolution_j: Smallest step of the source, `None` where it has none (a model).
        samples: Number of readings behind the figure; 0 for a model.
        uncertainty_j: Half width of the interval that holds the true figure in 95 % of cases, from resolution, sampling
            interval and variance of the baseline; `None` where it is not known.
        overhead_s: Processor seconds that measuring took in the window; `None` where it takes nothing but the readings
            at its ends, or is not measured.

    Raises:
        ValueError: A figure without provenance, a missing figure without a reason, or a negative or
            non-finite figure.
    """

    energy_j: float | None
    duration_s: float
    source: str
    scope: str
    provenance: Provenance
    reason: str = ""
    resolution_j: float | None = None
    samples: int = 0
    uncertainty_j: float | None = None
    overhead_s: float | None = None

    def __post_init__(self) -> None:
        if (self.energy_j is None) != (self.provenance == "unavailable"):
            raise ValueError(
                f"energy_j={self.energy_j} with provenance={self.provenance!r}: "
                "energy_j is None exactly when the provenance is 'unavailable'"
            )
        if self.energy_j is None and not self.reason:
            raise ValueError(f"reading of {self.source!r} is unavailable without a reason: say why")
        if self.energy_j is not None and not (math.isfinite(self.energy_j) and self.energy_j >= 0):
            raise ValueError(f"energy_j={self.energy_j} of {self.source!r}: must be finite and not negative")
        if not (math.isfinite(self.duration_s) and self.duration_s >= 0):
            raise ValueError(f"duration_s={self.duration_s} of {self.source!r}: must be finite and not negative")
        for name, value in (("uncertainty_j", self.uncertainty_j), ("overhead_s", self.overhead_s)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}={value} of {self.source!r}: must be finite and not negative")


def unavailable(source: str, scope: str, reason: str, *, duration_s: float = 0.0) -> EnergyReading:
    """A reading that says why there is no figure."""
    return EnergyReading(
        energy_j=None, duration_s=duration_s, source=source, scope=scope, provenance="unavailable", reason=reason
    )
