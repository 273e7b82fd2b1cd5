"""Energy from counted operations and bytes, by published constants.

Operations: ``E = Σ_op count_op · price_op``, where the price of an operation is the sum of the profile's constants
that it takes. In the default profile (fp32 at 45 nm) a multiply-accumulate is one multiply and one add (4.6 pJ),
an accumulate caused by a spike is one add (0.9 pJ), a membrane update is one multiply and one add (the comparison with
the threshold and the reset are not counted), and each byte moved costs an eighth of a 64-bit access to 1 MB of SRAM.
The backward pass is dense and has a price of its own.

Radio: ``E = (offset + slope · r) · t`` with ``r = 8 · bytes / (10⁶ · t)`` in Mbit/s: the power that uploading adds
to an idle interface, for as long as it lasts.

Profiles are the files in ``boards/``, and files of the user's own. A profile that has no figure for an operation that
was counted gives no energy: the sum would silently lack a part.
"""

from __future__ import annotations

import math
import operator
from typing import SupportsIndex

from hardware.energy import EnergyReading, unavailable
from hardware.errors import MeterError
from hardware.profile import (
    OPERATIONS,
    POWER_UNIT,
    SLOPE_UNIT,
    Constant,
    Profile,
    Radio,
    prices_j,
    radio_value,
)
from hardware.profile_files import load_profile, profiles

__all__ = ["DEFAULT_PROFILE", "Constant", "EnergyModel", "profiles"]

DEFAULT_PROFILE = "horowitz-45nm"
LARGEST_COUNT = 2**63 - 1


class EnergyModel:
    """Joules of counted work under one profile.

    Every reading has the provenance `modelled`, or `unavailable` with its reason; it is never 0 J.

    Attributes:
        name: The profile.
        title: The profile in words.
        constants: Every constant that a figure of this model rests on, the radio's included.
        rests_on: The constants by the source of the readings that rest on them: the profile's and the radio's apart.
        prices_j: Joules of one operation, for those of `OPERATIONS` that the profile covers.
        absent: Operations without a figure, and why.
        notes: What the profile assumes or leaves out.
        fit: How its constants were fitted, where they were.
        radio_name: The radio's; empty without one.
        no_radio: Why there is none.
    """

    def __init__(self, profile: Profile, radio: Radio | None) -> None:
        self.name = profile.name
        self.title = profile.title
        self.constants: tuple[Constant, ...] = profile.constants
        self.rests_on = {f"model:{profile.name}": profile.constants}
        self.prices_j = prices_j(profile)
        self.absent = dict(profile.absent)
        self.notes = dict(profile.notes)
        self.fit = profile.fit
        self.no_radio = profile.no_radio
        self.radio_name = "" if radio is None else radio.name
        self._radio: tuple[str, float, float] | None = None
        if radio is not None:
            self.constants += radio.constants
            self.notes |= {f"{radio.name}: {key}": note for key, note in radio.notes.items()}
            offset_w = radio_value(radio, radio.offset, POWER_UNIT)
            self.rests_on[f"model:{radio.name}"] = radio.constants
            self._radio = (f"model:{radio.name}", offset_w, radio_value(radio, radio.slope, SLOPE_UNIT))

    @classmethod
    def load(cls, profile: str = DEFAULT_PROFILE) -> EnergyModel:
        """Read a profile.

        Args:
            profile: One of `profiles()`, or the path of a file of the user's own that ends in ``.toml``.

        Raises:
            MeterError: No such profile, or its file does not follow the format.
        """
        return cls(*load_profile(profile))

    def compute(
        self,
        *,
        macs: int,
        acs: int,
        membrane_updates: int,
        backward_macs: int,
        memory_bytes: int,
        duration_s: float,
    ) -> EnergyReading:
        """Energy of counted operations, scope ``operations``.

        Args:
            macs: Multiply-accumulates of the forward pass.
            acs: Accumulates caused by spikes.
            membrane_updates: Neuron state updates.
            backward_macs: Multiply-accumulates of the backward pass.
            memory_bytes: Bytes of weights and state moved.
            duration_s: How long the work took; it does not change the energy.

        Returns:
            A modelled reading; `unavailable` if nothing was counted, or the profile has no figure for an
            operation that was.

        Raises:
            MeterError: A count is negative, not whole, or above 2⁶³ − 1.
        """
        counts = dict(zip(OPERATIONS, (macs, acs, membrane_updates, backward_macs, memory_bytes), strict=True))
        counts = {operation: _count(operation, count) for operation, count in counts.items()}
        source, scope = f"model:{self.name}", "operations"
        missing = [f"{op} ({self.absent[op]})" for op, count in counts.items() if count and op in self.absent]
        if missing:
            reason = f"profile {self.name} has no figure for {'; '.join(missing)}"
            return unavailable(source, scope, reason, duration_s=duration_s)
        energy_j = math.fsum(count * self.prices_j[op] for op, count in counts.items() if count)
        if energy_j == 0.0:
            return unavailable(source, scope, "no operation with a price was counted", duration_s=duration_s)
        return EnergyReading(
            energy_j=energy_j, duration_s=duration_s, source=source, scope=scope, provenance="modelled"
        )

    def radio(self, payload_bytes: int, duration_s: float) -> EnergyReading:
        """Energy that sending adds to an idle interface, scope ``radio``.

        ``(offset + slope · 8 · bytes / (10⁶ · t)) · t``. Over a loopback `duration_s` is far shorter than on
        any radio, and what is left is the slope's share, 38.5 nJ a byte with the default radio: a lower bound.
        Time spent waiting for an acknowledgement, if it is in `duration_s`, is charged with the offset: an upper bound.

        Args:
            payload_bytes: Bytes sent.
            duration_s: How long sending took, above 0: the rate follows from it.

        Returns:
            A modelled reading; `unavailable` if nothing was sent, no duration is known or the profile has no radio.

        Raises:
            MeterError: `payload_bytes` is no count, or `duration_s` is negative or not finite.
        """
        payload_bytes = _count("payload_bytes", payload_bytes)
        if not (math.isfinite(duration_s) and duration_s >= 0):
            raise MeterError(f"duration_s={duration_s} of a transmission: must be finite and not negative")
        if self._radio is None:
            return unavailable(f"model:{self.name}", "radio", f"no radio model: {self.no_radio}", duration_s=duration_s)
        (source, offset_w, slope_w_per_mbps), scope = self._radio, "radio"
        if payload_bytes == 0:
            return unavailable(source, scope, "nothing was sent", duration_s=duration_s)
        if duration_s == 0.0:
            return unavailable(source, scope, "sending took no measurable time: its rate is unknown")
        rate_mbps = 8e-6 * payload_bytes / duration_s
        energy_j = (offset_w + slope_w_per_mbps * rate_mbps) * duration_s
        return EnergyReading(
            energy_j=energy_j, duration_s=duration_s, source=source, scope=scope, provenance="modelled"
        )


def _count(name: str, value: SupportsIndex) -> int:
    try:
        count = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = -1
    if not 0 <= count <= LARGEST_COUNT:
        raise MeterError(f"{name}={value!r}: expected a whole number from 0 to {LARGEST_COUNT}")
    return count
