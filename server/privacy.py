"""Local differential privacy of what a device published, from the public parameters of its updates alone.

What is protected is the whole update of a round: any data of the device against any other, so that a clipped update may
move by ``2 C``, and noise of standard deviation ``z C`` has the multiplier ``z / 2``. All updates of a device that came
here compose, admitted or refused, as does what its choice of one may owe to earlier ones; k Gaussian mechanisms with
multipliers z_i are one with ``(Σ z_i^-2)^-½`` (Dong, Roth and Su 2019, arXiv 1905.02383, corollary 3.3). Nothing is
claimed for sampling: who watches the broker sees who takes part.

Covered: the update objects. Not covered: energy reports (their spike counts are exact), scores, truths and timing,
which are this laboratory's own measurements.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np

from contract.task import RoundPlan
from server.ledger import Ledger

CITED = ("dong2022gaussian", "balle2018improving", "dpaccounting")
"""Keys of the works that an ε follows (`aggregation.citations`): composition, and one mechanism's ε by the package."""
LARGEST_INVERSE = 1e4
"""Composed multipliers below its inverse (ε of 5·10⁷ and more) are stated as no guarantee."""


class Guarantee(msgspec.Struct, frozen=True, kw_only=True):
    """What holds of one device after one update.

    Attributes:
        epsilon: At `delta`; `None` without a guarantee.
        delta: The probability that is given away.
        reason: Why there is none; empty with one.
    """

    epsilon: float | None
    delta: float
    reason: str = ""


def guarantee(multipliers: Iterable[float | None], delta: float) -> Guarantee:
    """The guarantee of a series of updates.

    Args:
        multipliers: `noise_multiplier` of each; `None` where it is not known.
        delta: In (0, 1).
    """
    known = list(multipliers)
    if any(z is None for z in known):
        return Guarantee(epsilon=None, delta=delta, reason="the plan of one of its updates could not be read")
    bare = sum(not z for z in known)
    if bare:
        return Guarantee(epsilon=None, delta=delta, reason=f"{bare} of its {len(known)} updates carried no noise")
    if not known:
        return Guarantee(epsilon=0.0, delta=delta)
    try:
        from dp_accounting import get_epsilon_gaussian  # noqa: PLC0415 - takes seconds, and only noise needs it
    except ImportError:
        return Guarantee(epsilon=None, delta=delta, reason="dp-accounting is not installed here")
    inverse = math.hypot(*(2.0 / z for z in known if z))  # of the composed multiplier; squares would overflow
    if inverse > LARGEST_INVERSE:
        return Guarantee(epsilon=None, delta=delta, reason="the noise of its updates is next to nothing")
    with np.errstate(divide="ignore", invalid="ignore"):  # of a multiplier beyond measure, whose ε is 0
        return Guarantee(epsilon=float(get_epsilon_gaussian(1.0 / inverse, delta)), delta=delta)


def columns(ledger: Ledger, node: str, plan: RoundPlan | None, delta: float) -> dict[str, Any]:
    """Values of the privacy columns of table `updates` for a device's next row, which is not there yet."""
    noise = None if plan is None else plan.noise_multiplier
    if noise:
        rows = ledger.rows("SELECT noise FROM updates WHERE node = ?", node)
        found = guarantee([*(row["noise"] for row in rows), noise], delta)
    else:
        reason = "its object could not be read" if plan is None else "it carried no noise"
        found = Guarantee(epsilon=None, delta=delta, reason=reason)
    return {"noise": noise, "epsilon": found.epsilon, "delta": delta, "epsilon_reason": found.reason}


def privacy(ledger: Ledger, published: int | None = None) -> dict[str, Any]:
    """What `summary.json` says: per device after its last update, and the worst of all.

    Args:
        ledger: Open for reading.
        published: Updates that devices say they published; those that never came here are in no ε.
    """
    rows = ledger.rows(
        "SELECT node, noise, epsilon, delta, epsilon_reason FROM updates ORDER BY node, received_wall, rowid"
    )
    last = {row["node"]: row for row in rows}
    bare = not any(row["noise"] for row in rows)
    drawn: dict[str, list[float | None]] = {node: [] for node in last}
    for row in rows:
        drawn[row["node"]].append(row["noise"])
    reasons = {
        node: guarantee(drawn[node], row["delta"]).reason for node, row in last.items() if row["epsilon"] is None
    }
    worst = None if reasons else max((row["epsilon"] for row in last.values()), default=None)
    return {
        "epsilon": worst,
        "delta": max((row["delta"] for row in last.values() if row["delta"] is not None), default=None),
        "protects": "a device's whole update of a round, exchanged for any other",
        "reason": "no update carried noise" if bare else next(iter(reasons.values()), ""),
        "by_device": {} if bare else {node: row["epsilon"] for node, row in last.items()},
        "reasons": {} if bare else reasons,
        "updates_counted": len(rows),
        "updates_not_seen": None if published is None else max(0, published - len(rows)),
    }
