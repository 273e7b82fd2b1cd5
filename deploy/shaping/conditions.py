"""What a link may be like, per direction, and what a proxy has done to it."""

from __future__ import annotations

import asyncio
import math
from typing import Literal

import msgspec

Way = Literal["up", "down"]


class Direction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one direction of a link behaves.

    Attributes:
        latency_s: Time that each byte is under way.
        bytes_s: Bandwidth in bytes a second; `None` for no limit.
        burst_bytes: Bytes that may pass at once after a rest.
        reset_probability: That a chunk makes both sides see a reset in its place.
        flip_probability: Of each byte, that one of its bits arrives flipped.
    """

    latency_s: float = 0.0
    bytes_s: float | None = None
    burst_bytes: float = 0.0
    reset_probability: float = 0.0
    flip_probability: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.latency_s < math.inf and 0 <= self.burst_bytes < math.inf):
            raise ValueError(f"latency_s = {self.latency_s}, burst_bytes = {self.burst_bytes}: finite, 0 or more")
        if self.bytes_s is not None and not 0 < self.bytes_s < math.inf:
            raise ValueError(f"bytes_s = {self.bytes_s}: above 0, or None for no limit; 'stall' stops a link")
        for name in ("reset_probability", "flip_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}: a probability, from 0 to 1")


class Conditions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A link: `up` from the client to the server behind the proxy, `down` back."""

    up: Direction = Direction()
    down: Direction = Direction()

    @classmethod
    def both(cls, direction: Direction) -> Conditions:
        """The same both ways."""
        return cls(up=direction, down=direction)


class Tally(msgspec.Struct, kw_only=True):
    """What a proxy has done so far."""

    connections: int = 0
    open: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    resets: int = 0
    half_opened: int = 0
    flipped_bits: int = 0


class Bucket:
    """One direction's bandwidth."""

    def __init__(self) -> None:
        self._filled_s = 0.0

    def passes_s(self, count: int, now_s: float, direction: Direction) -> float:
        """When the last of `count` bytes has passed."""
        if direction.bytes_s is None:
            return now_s
        burst_s = direction.burst_bytes / direction.bytes_s
        self._filled_s = max(self._filled_s, now_s) + count / direction.bytes_s
        return max(now_s, self._filled_s - burst_s)


class Link:
    """A link as all of its connections see it. Belongs to one event loop.

    Args:
        conditions: At first.
        seed: Of all draws.
        shared: Whether its connections share the bandwidth; otherwise each has all of it, as boards of their own have.

    Attributes:
        flowing: Cleared while everything is held back.
        tally: What has happened.
    """

    def __init__(self, conditions: Conditions, seed: int, *, shared: bool = True) -> None:
        self.conditions, self.seed, self._shared = conditions, seed, shared
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.tally = Tally()
        self._buckets: dict[tuple[Way, int], Bucket] = {}

    def direction(self, way: Way) -> Direction:
        """How a direction behaves now."""
        return self.conditions.up if way == "up" else self.conditions.down

    def due_s(self, way: Way, count: int, now_s: float, connection: int = 0) -> float:
        """When `count` bytes that were read now from a connection arrive at the other end."""
        direction = self.direction(way)
        bucket = self._buckets.setdefault((way, 0 if self._shared else connection), Bucket())
        return bucket.passes_s(count, now_s, direction) + direction.latency_s

    def closed(self, connection: int) -> None:
        """A connection has ended."""
        for way in ("up", "down"):
            self._buckets.pop((way, connection), None)

    def forwarded(self, way: Way, count: int) -> None:
        """Counts bytes that were handed on."""
        if way == "up":
            self.tally.bytes_up += count
        else:
            self.tally.bytes_down += count
