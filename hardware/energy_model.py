"""Energy from counted operations and bytes, by published constants.

Operations: ``E = Σ_op count_op · price_op``, where the price of an operation is the sum of the profile's constants
that it takes. In the default profile (fp32 at 45 nm) a multiply-accumulate is one multiply and one add (4.6 pJ),
an accumulate caused by a spike is one add (0.9 pJ), a membrane update is one multiply and one add (the comparison with
the threshold and the reset are not counted), and each byte moved costs an eighth of a 64-bit access to 1 MB of SRAM.
The backward pass is dense and has a price of its own.

Radio: ``E = (offset + slope · r) · t`` with ``r = 8 · bytes / (10⁶ · t)`` in Mbit/s: the power that uploading adds
to an idle interface, for as long as it lasts.

Profiles are the files in ``boards/``. A profile that has no figure for an operation that was counted gives no
energy: the sum would silently lack a part.
"""

from __future__ import annotations

import difflib
import math
import operator
from pathlib import Path
from typing import SupportsIndex

import msgspec

from hardware.energy import EnergyReading, unavailable
from hardware.errors import MeterError

DEFAULT_PROFILE = "horowitz-45nm"
OPERATIONS: tuple[str, ...] = ("mac", "ac", "membrane_update", "backward_mac", "memory_byte")
ROOM = Path(__file__).parent
BOARDS = ROOM / "boards"

JOULES_PER: dict[str, float] = {"pJ": 1e-12, "nJ": 1e-9, "uJ": 1e-6}
POWER_UNIT = "W"
SLOPE_UNIT = "W/(Mbit/s)"
LARGEST_COUNT = 2**63 - 1


class Constant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One published figure.

    Attributes:
        name: What it is the figure of.
        value: Finite and above 0, in `unit`.
        unit: ``pJ``, ``nJ``, ``uJ``, ``W`` or ``W/(Mbit/s)``.
        node: Technology node, or the device it was taken on.
        source: Publication.
    """

    name: str
    value: float
    unit: str
    node: str
    source: str

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value > 0):
            raise ValueError(f"constant {self.name!r} is {self.value}: must be finite and above 0")
        if self.unit not in (*JOULES_PER, POWER_UNIT, SLOPE_UNIT):
            raise ValueError(f"constant {self.name!r} has the unit {self.unit!r}: expected one of {[*JOULES_PER]}, W")
        if not (self.name.strip() and self.node.strip() and self.source.strip()):
            raise ValueError(f"constant {self.name!r}: name, node and source must not be empty")


class _Radio(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    title: str
    offset: str
    slope: str
    constants: tuple[Constant, ...]
    notes: dict[str, str] = {}


class _Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    title: str
    radio: str
    constants: tuple[Constant, ...]
    operations: dict[str, dict[str, float]]
    absent: dict[str, str] = {}
    notes: dict[str, str] = {}


def profiles() -> tuple[str, ...]:
    """Names of the profiles there are."""
    return tuple(sorted(path.stem for path in BOARDS.glob("*.toml")))


def _price_j(terms: dict[str, float], constants: dict[str, Constant], operation: str) -> float:
    price_j = 0.0
    for name, times in terms.items():
        constant = constants.get(name)
        if constant is None:
            raise MeterError(f"operation {operation!r} takes {name!r}: the profile has {sorted(constants)}")
        if constant.unit not in JOULES_PER:
            raise MeterError(f"operation {operation!r} takes {name!r} in {constant.unit}: expected an energy")
        if not (math.isfinite(times) and times > 0):
            raise MeterError(f"operation {operation!r} takes {name!r} {times} times: must be finite and above 0")
        price_j += times * constant.value * JOULES_PER[constant.unit]
    return price_j


def _prices(profile: _Profile) -> dict[str, float]:
    constants = {constant.name: constant for constant in profile.constants}
    if len(constants) < len(profile.constants):
        raise MeterError(f"profile {profile.name!r} names a constant twice")
    stated = [*profile.operations, *profile.absent]
    if sorted(stated) != sorted(OPERATIONS):
        raise MeterError(
            f"profile {profile.name!r} prices or declares absent {sorted(stated)}: "
            f"expected each of {sorted(OPERATIONS)} once"
        )
    unused = set(constants) - {name for terms in profile.operations.values() for name in terms}
    if unused:
        raise MeterError(f"profile {profile.name!r} has constants that no operation takes: {sorted(unused)}")
    return {operation: _price_j(terms, constants, operation) for operation, terms in profile.operations.items()}


def _radio_value(radio: _Radio, name: str, unit: str) -> float:
    for constant in radio.constants:
        if constant.name == name and constant.unit == unit:
            return constant.value
    raise MeterError(f"radio {radio.name!r} has no constant {name!r} in {unit}")


class EnergyModel:
    """Joules of counted work under one profile.

    Every reading has the provenance `modelled`, or `unavailable` with its reason; it is never 0 J.

    Attributes:
        name: The profile.
        title: The profile in words.
        constants: Every constant that a figure of this model rests on, the radio's included.
        prices_j: Joules of one operation, for those of `OPERATIONS` that the profile covers.
        absent: Operations without a figure, and why.
        notes: What the profile assumes or leaves out.
    """

    def __init__(self, profile: _Profile, radio: _Radio) -> None:
        self.name = profile.name
        self.title = profile.title
        self.constants: tuple[Constant, ...] = profile.constants + radio.constants
        self.prices_j = _prices(profile)
        self.absent = dict(profile.absent)
        self.notes = {**profile.notes, **radio.notes}
        self._radio_source = f"model:{radio.name}"
        self._offset_w = _radio_value(radio, radio.offset, POWER_UNIT)
        self._slope_w_per_mbps = _radio_value(radio, radio.slope, SLOPE_UNIT)

    @classmethod
    def load(cls, profile: str = DEFAULT_PROFILE) -> EnergyModel:
        """Read a profile from ``boards/``.

        Args:
            profile: One of `profiles()`.

        Raises:
            MeterError: No such profile, or its file does not follow the format.
        """
        known = profiles()
        if profile not in known:
            near = difflib.get_close_matches(profile, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise MeterError(f"no energy profile is called {profile!r}: {hint}Known: {', '.join(known)}")
        board = decode_profile((BOARDS / f"{profile}.toml").read_bytes(), profile)
        return cls(board, _decode_radio((ROOM / f"{board.radio}.toml").read_bytes(), board.radio))

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
            A modelled reading; `unavailable` if nothing was sent or no duration is known.

        Raises:
            MeterError: `payload_bytes` is no count, or `duration_s` is negative or not finite.
        """
        payload_bytes = _count("payload_bytes", payload_bytes)
        if not (math.isfinite(duration_s) and duration_s >= 0):
            raise MeterError(f"duration_s={duration_s} of a transmission: must be finite and not negative")
        source, scope = self._radio_source, "radio"
        if payload_bytes == 0:
            return unavailable(source, scope, "nothing was sent", duration_s=duration_s)
        if duration_s == 0.0:
            return unavailable(source, scope, "sending took no measurable time: its rate is unknown")
        rate_mbps = 8e-6 * payload_bytes / duration_s
        energy_j = (self._offset_w + self._slope_w_per_mbps * rate_mbps) * duration_s
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


def decode_profile(data: bytes, name: str) -> _Profile:
    """Decode one file of ``boards/``.

    Raises:
        MeterError: It is not TOML, has unknown or missing keys, or is called otherwise inside.
    """
    try:
        profile = msgspec.toml.decode(data, type=_Profile)
    except msgspec.DecodeError as error:
        raise MeterError(f"energy profile {name!r}: {error}") from error
    if profile.name != name:
        raise MeterError(f"energy profile {name!r} calls itself {profile.name!r}")
    return profile


def _decode_radio(data: bytes, name: str) -> _Radio:
    try:
        return msgspec.toml.decode(data, type=_Radio)
    except msgspec.DecodeError as error:
        raise MeterError(f"radio model {name!r}: {error}") from error
