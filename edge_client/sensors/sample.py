"""One sample as a reader hands it on: not yet checked."""

from __future__ import annotations

from typing import Any

import msgspec


class Sample(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A sample of the user's.

    Attributes:
        values: An array, or what numpy makes one of.
        label: Class number, or a name of `sensor.labels`.
        place: Where it comes from, for errors: a file, a file and line, or a factory and number.
        scaled: Whether the values should lie in [0, 1] already, so that `low` and `high` do not apply.
    """

    values: Any
    label: Any
    place: str
    scaled: bool = False
