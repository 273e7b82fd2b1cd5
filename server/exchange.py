"""Where the secure aggregation of an open round stands: what devices said so far. Its rules: `secure_rounds`."""

from __future__ import annotations

from typing import Literal

import msgspec

from contract.messages import KeyOffer, Reveal, Roster, ShareBundle, ShareOffer, Survivors

Stage = Literal["keys", "shares", "updates", "reveals", "unmasking"]
Spoken = KeyOffer | ShareOffer | Reveal


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """One opening.

    Attributes:
        threshold: Shares that give a secret back.
        offers, shares, reveals: Of the devices, in the order in which they came.
        survivors: Whose updates are summed; empty before that is decided.
        gone: Devices that left while keys and shares were exchanged: nobody waits for them.
        reason: `complete` or `deadline`: why no more updates are taken.
        fault: Why the sum could not be unmasked; empty: it was. `None` before.
        since_s: When the present stage began.
    """

    threshold: int
    since_s: float
    stage: Stage = "keys"
    offers: tuple[KeyOffer, ...] = ()
    shares: tuple[ShareOffer, ...] = ()
    reveals: tuple[Reveal, ...] = ()
    survivors: tuple[str, ...] = ()
    gone: frozenset[str] = frozenset()
    reason: str = "complete"
    fault: str | None = None

    @property
    def roster(self) -> frozenset[str]:
        """Who offered keys."""
        return frozenset(said.node for said in self.offers)

    @property
    def members(self) -> frozenset[str]:
        """Who dealt shares: their masks cancel, and nobody else's update fits."""
        return frozenset(said.node for said in self.shares)

    def awaits(self, said: Spoken) -> bool:
        """Whether this stage takes the message: the first of its kind of a device that is asked for it."""
        if isinstance(said, KeyOffer):
            return self.stage == "keys" and said.node not in self.roster
        if isinstance(said, ShareOffer):
            named = {sealed.node for sealed in said.shares}
            return (
                self.stage == "shares"
                and said.node in self.roster - self.members
                and named == self.roster - {said.node}
                and len(said.shares) == len(named)
            )
        revealed = {opened.node for opened in said.seeds}, {opened.node for opened in said.keys}
        due = set(self.survivors), set(self.members - set(self.survivors))
        return (
            self.stage == "reveals"
            and said.node in due[0]
            and said.node not in {other.node for other in self.reveals}
            and revealed == due
        )

    def told(self, node: str, round_: int, attempt: int) -> Roster | ShareBundle | Survivors | None:
        """What a device is to hear in this stage; `None` when nothing is."""
        if self.stage == "shares" and node in self.roster:
            keys = tuple(said.keys for said in sorted(self.offers, key=lambda said: said.node))
            return Roster(round=round_, attempt=attempt, threshold=self.threshold, keys=keys)
        if self.stage == "updates" and node in self.members:
            sealed = tuple(
                msgspec.structs.replace(pair, node=said.node)
                for said in sorted(self.shares, key=lambda said: said.node)
                for pair in said.shares
                if pair.node == node
            )
            return ShareBundle(round=round_, attempt=attempt, shares=sealed)
        if self.stage == "reveals" and node in self.survivors:
            return Survivors(round=round_, attempt=attempt, nodes=self.survivors)
        return None
