"""Which devices are asked."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def draw(
    nodes: Iterable[str], count: int, *, seed: int, round_: int, attempt: int, turn: tuple[int, ...] = ()
) -> tuple[str, ...]:
    """Devices drawn without repetition, in sorted order; the same for the same arguments.

    Args:
        nodes: Candidates in any order.
        count: How many; all when there are fewer.
        seed: Seed of the run.
        round_: Round.
        attempt: Opening of that round.
        turn: Tells the draws within one opening of an asynchronous round apart.
    """
    names = sorted(nodes)
    if count >= len(names):
        return tuple(names)
    chosen = np.random.default_rng([seed, round_, attempt, *turn]).choice(len(names), size=count, replace=False)
    return tuple(names[i] for i in sorted(chosen.tolist()))
