"""Files of constants: what one operation or one sent byte costs, with unit, technology node and source."""

from __future__ import annotations

import math

import msgspec

from hardware.errors import MeterError

OPERATIONS: tuple[str, ...] = ("mac", "ac", "membrane_update", "backward_mac", "memory_byte")

JOULES_PER: dict[str, float] = {"pJ": 1e-12, "nJ": 1e-9, "uJ": 1e-6}
POWER_UNIT = "W"
SLOPE_UNIT = "W/(Mbit/s)"


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


class Radio(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One radio's file: upload power ``offset + slope · rate``, both named among its constants."""

    name: str
    title: str
    offset: str
    slope: str
    constants: tuple[Constant, ...]
    notes: dict[str, str] = {}


class Interval(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Between what a fitted figure lies in 95 % of cases, in its constant's unit."""

    low: float
    high: float


class Fit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a calibrated profile came about; `hardware.calibration` makes it.

    Attributes:
        date: Day of the fit, ISO 8601.
        meter: Source and scope of the measured power.
        windows: Measured stretches of work behind it.
        baseline_w: Fitted power without work, which no operation is charged with.
        residual_w: Root mean square of what the fit leaves over of the mean power of a window.
        r2: Share of the power's variance that it explains.
        intervals: 95 % interval of each fitted constant.
    """

    date: str
    meter: str
    windows: int
    baseline_w: float
    residual_w: float
    r2: float
    intervals: dict[str, Interval]


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One board's or chip's file.

    Attributes:
        name: The file's name without its ending.
        title: The profile in words.
        radio: Name of the radio's file here, or a file beside the profile that ends in ``.toml``; empty without one.
        no_radio: Why there is no radio model, where `radio` is empty.
        inherits: Profile here whose constants and operations stand for this board too: figures of a class of
            processors, not of the board. This file then has none of its own.
        constants: Figures, each with its source.
        operations: For each operation that the profile prices, the constants that one takes and how often.
        absent: The other operations, and why there is no figure.
        notes: Assumptions, things left out, and how the figures were checked.
        fit: Where the constants were fitted on measurements of the board itself.
    """

    name: str
    title: str
    radio: str = ""
    no_radio: str = ""
    inherits: str = ""
    constants: tuple[Constant, ...] = ()
    operations: dict[str, dict[str, float]] = {}
    absent: dict[str, str] = {}
    notes: dict[str, str] = {}
    fit: Fit | None = None

    def __post_init__(self) -> None:
        if bool(self.radio) == bool(self.no_radio):
            raise ValueError(
                f"radio = {self.radio!r}, no_radio = {self.no_radio!r}: set one, a radio or why there is none"
            )
        if self.inherits and (self.constants or self.operations or self.absent):
            raise ValueError(
                f"inherits = {self.inherits!r} with constants, operations or absent of its own: choose one"
            )
        if any(not reason.strip() for reason in self.absent.values()):
            raise ValueError("absent: every operation without a figure needs a reason")


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


def prices_j(profile: Profile) -> dict[str, float]:
    """Joules of one operation, for each that the profile prices.

    Raises:
        MeterError: An operation is neither priced nor absent or is both, a constant is unknown, unused, named twice or
            no energy.
    """
    constants = {constant.name: constant for constant in profile.constants}
    if len(constants) < len(profile.constants):
        raise MeterError(f"profile {profile.name!r} names a constant twice")
    stated = [*profile.operations, *profile.absent]
    if sorted(stated) != sorted(OPERATIONS):
        raise MeterError(
            f"profile {profile.name!r} prices or declares absent {sorted(stated)}: "
            f"expected each of {sorted(OPERATIONS)} once"
        )
    prices = {operation: _price_j(terms, constants, operation) for operation, terms in profile.operations.items()}
    unused = set(constants) - {name for terms in profile.operations.values() for name in terms}
    if unused:
        raise MeterError(f"profile {profile.name!r} has constants that no operation takes: {sorted(unused)}")
    return prices


def radio_value(radio: Radio, name: str, unit: str) -> float:
    """The constant `name` of a radio, which must be in `unit`.

    Raises:
        MeterError: There is none.
    """
    for constant in radio.constants:
        if constant.name == name and constant.unit == unit:
            return constant.value
    raise MeterError(f"radio {radio.name!r} has no constant {name!r} in {unit}")
