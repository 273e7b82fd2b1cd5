"""Settings of secure aggregation, a part of a round's plan: both sides must agree on them."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

LEAST_DEVICES = 3
"""With two devices each would know the other's update from the sum."""
RING_BITS = 32
"""Masked values are integers modulo 2^32."""


class SecureAggregation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Masks that cancel in the sum (Bonawitz et al. 2017, CCS, doi 10.1145/3133956.3133982, semi-honest variant).

    Every device counts alike: the aggregate is the sum over those that delivered, divided by their number.

    Attributes:
        threshold: Share of the devices asked that must stay to the end: so many shares unmask, fewer tell nothing.
            Above one half, so that no two groups of devices can unmask two different sums of one round.
        bits: Bits of a quantised value; ``bits`` and the number of devices together fill at most 32.
        clip: Largest absolute value of an element; larger ones are cut off. One step is ``clip / (2^(bits-1) - 1)``,
            rounded to at random, without bias.
        patience_s: Longest wait for the devices' keys, for their shares, and for what unmasks. The updates themselves
            have the round's `deadline_s`, from the moment that the shares are dealt.
    """

    cited: ClassVar[tuple[str, ...]] = ("bonawitz2017practical", "shamir1979share")

    threshold: Annotated[float, Meta(gt=0.5, le=1)] = 0.66
    bits: Annotated[int, Meta(ge=2, le=24)] = 16
    clip: Annotated[float, Meta(gt=0, le=1e30)] = 1.0
    patience_s: Annotated[float, Meta(gt=0, le=86400)] = 20.0

    @property
    def largest(self) -> int:
        """Largest integer that a value becomes."""
        return int(2 ** (self.bits - 1)) - 1

    @property
    def step(self) -> float:
        """What one unit of the integers is worth."""
        return self.clip / self.largest

    @property
    def most_devices(self) -> int:
        """Devices whose sum certainly stays within 32 bits, sign included."""
        return int((2 ** (RING_BITS - 1) - 1) // self.largest)

    def needed(self, devices: int) -> int:
        """Devices out of so many that must stay to the end."""
        return max(2, math.ceil(self.threshold * devices - 1e-9))
