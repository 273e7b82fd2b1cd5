"""Which audit updates get a noise control: the same ones each time a run is made, whichever update arrives first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from contract.messages import Seen


class Controls:
    """The first places of the run's audit rounds, by round and then by the device's name.

    Where an update of these never comes, one of a later round takes its place. Where no round was announced, those that
    come first are taken. Of views, which come round by round, the first.

    Args:
        count: Updates that get a control; as many aggregates, and as many differences of models.
    """

    def __init__(self, count: int) -> None:
        self._left: dict[Seen, int] = dict.fromkeys(get_args(Seen), count)
        self._count = count
        self._chosen: set[tuple[int, str]] = set()
        self._rounds: set[int] = set()

    def announced(self, round_: int, nodes: Iterable[str]) -> None:
        """An audit round is open to these devices; a repetition, or another opening, changes nothing."""
        if round_ not in self._rounds:
            self._rounds.add(round_)
            self._chosen.update((round_, node) for node in sorted(nodes)[: self._count - len(self._chosen)])

    def takes(self, seen: Seen, round_: int, node: str) -> bool:
        """Whether an audit update gets a control; counts it when it does."""
        if self._left[seen] < 1 or (seen == "update" and self._waits(round_, node)):
            return False
        self._left[seen] -= 1
        return True

    def _waits(self, round_: int, node: str) -> bool:
        """Whether the control is kept for another update, which may still come."""
        return (round_, node) not in self._chosen and any(round_ <= other for other, _ in self._chosen)
