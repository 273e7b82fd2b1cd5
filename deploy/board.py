"""Board profiles for emulation: how much slower, smaller and farther away a device is than this machine.

A profile's numbers are parameters of an emulation that a user may change. None is a measurement of a board, and no
figure of a run under one is: its energy is `emulated` or `modelled`.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from contract.configuration import decode_toml
from contract.errors import ConfigurationError

BOARDS = Path(__file__).parent / "boards"
Positive = Annotated[float, Meta(gt=0)]
CpuShare = Annotated[float, Meta(gt=0, le=1)]


class LinkProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[link]` of a board profile, the same both ways.

    Attributes:
        rate_kbit_s: Bandwidth in kbit/s; `None`: no limit.
        latency_ms: Time that each byte is under way, one way.
        source: Where the numbers come from.
    """

    rate_kbit_s: Positive | None = None
    latency_ms: Annotated[float, Meta(ge=0)] = 0.0
    source: str = ""

    def transmit_s(self, up_bytes: int, down_bytes: int = 0) -> float:
        """Seconds until an answer of `down_bytes` to `up_bytes` has come: two ways, and both through the bandwidth."""
        seconds = 2 * self.latency_ms / 1e3
        if self.rate_kbit_s is not None:
            seconds += 8 * (up_bytes + down_bytes) / (1e3 * self.rate_kbit_s)
        return seconds


class BoardProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One board.

    Attributes:
        name: Its name in `[[devices.group]] board`.
        title: In words.
        cpu_share: Of one core of the machine that emulates it; `None`: no limit.
        cpu_source: Where that number comes from.
        memory_mb: Its memory, in 10⁶ bytes; `None`: no limit.
        memory_source: Where that number comes from.
        energy_profile: Energy table of its modelled readings.
        link: Its link to the broker; `None`: as fast as this machine's.
    """

    name: str
    title: str
    cpu_share: CpuShare | None = None
    cpu_source: str = ""
    memory_mb: Annotated[float, Meta(ge=64)] | None = None
    memory_source: str = ""
    energy_profile: str = "cortex-a"
    link: LinkProfile | None = None


def boards() -> tuple[str, ...]:
    """Names of the profiles that ship."""
    return tuple(sorted(path.stem for path in BOARDS.glob("*.toml")))


def load_board(named: str) -> BoardProfile:
    """A profile that ships, by its name, or a file of the user's own.

    Args:
        named: A name of `boards()`, or a path that ends in `.toml`.

    Raises:
        ConfigurationError: No such profile (names the nearest), or one that cannot be read.
    """
    if named.endswith(".toml"):
        return decode_toml(Path(named), BoardProfile)
    if named not in boards():
        near = difflib.get_close_matches(named, boards(), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigurationError(
            f"board = {named!r}: {hint}known boards: {', '.join(boards())}; a profile of your own is a path to a .toml"
        )
    return decode_toml(BOARDS / f"{named}.toml", BoardProfile)
