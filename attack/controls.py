"""Which audit updates get a noise control."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from contract.messages import Seen


class Controls:
    """The updates that were named, otherwise those that come first; of views always those that come first.

    Args:
        count: Updates that get a control; as many aggregates, and as many differences of models.
        places: Round and device of the updates that get one, so that a repeated run has the same, whichever arrives
            first; empty: not known beforehand.
    """

    def __init__(self, count: int, places: Iterable[tuple[int, str]] = ()) -> None:
        self._left: dict[Seen, int] = dict.fromkeys(get_args(Seen), count)
        self._places = frozenset(places)

    def takes(self, seen: Seen, round_: int, node: str) -> bool:
        """Whether an audit update gets a control; counts it when it does."""
        if self._places and seen == "update":
            return (round_, node) in self._places
        if self._left[seen] < 1:
            return False
        self._left[seen] -= 1
        return True
