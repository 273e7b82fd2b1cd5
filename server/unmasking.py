"""The sum of masked updates, from the ledger alone: a function of the objects and messages that are in it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
import numpy as np

from contract import secret_sharing
from contract.errors import SpikeleakError
from contract.masking import Place, Ring, flat, pair_masks, public_key, read_masked, self_mask, shaped, signed
from contract.messages import KeyOffer, Message, NodeBytes, Reveal, ShareOffer, Update, decode, unpack
from contract.secure import SecureAggregation
from server.aggregation import Aggregate
from server.ledger import Ledger


class UnmaskingError(SpikeleakError):
    """Shares that do not give back what their devices committed to: the sum stays masked."""


class Transcript(msgspec.Struct, frozen=True, kw_only=True):
    """What devices said in one opening.

    Attributes:
        offers, shares: By device.
        reveals: In the order of the devices' names.
    """

    offers: Mapping[str, KeyOffer]
    shares: Mapping[str, ShareOffer]
    reveals: tuple[Reveal, ...]

    @property
    def places(self) -> dict[str, int]:
        """Place of each device's shares: they are dealt in the order of the roster's names."""
        return {name: place for place, name in enumerate(sorted(self.offers), start=1)}


def transcript(ledger: Ledger, round_: int, attempt: int) -> Transcript:
    """The messages of one opening."""

    def said(kind: type[Message]) -> Iterator[Message]:
        rows = ledger.rows(
            "SELECT object FROM masking_messages WHERE round = ? AND attempt = ? AND message = ? "
            "AND object IS NOT NULL ORDER BY node",
            round_,
            attempt,
            kind.__name__,
        )
        return (decode(row["object"], kind) for row in rows)

    return Transcript(
        offers={offer.node: offer for offer in said(KeyOffer) if isinstance(offer, KeyOffer)},
        shares={offer.node: offer for offer in said(ShareOffer) if isinstance(offer, ShareOffer)},
        reveals=tuple(reveal for reveal in said(Reveal) if isinstance(reveal, Reveal)),
    )


def unmasked(
    updates: Mapping[str, Mapping[str, Ring]], spoken: Transcript, place: Place, threshold: int
) -> dict[str, Ring]:
    """The sum of the devices' integers modulo 2^32.

    Args:
        updates: Masked tensors by device, of those that delivered.
        spoken: What all devices said.
        place: The opening.
        threshold: Shares that give a secret back.

    Raises:
        UnmaskingError: Too few shares, or shares that give other secrets than their devices committed to.
    """
    if len(spoken.reveals) < threshold:
        raise UnmaskingError(f"shares of {len(spoken.reveals)} devices, {threshold} are needed")
    rows = [flat(tensors) for tensors in updates.values()]
    count = len(rows[0])
    total = np.zeros(count, dtype=np.uint32)
    for row in rows:
        total += row
    for node in sorted(updates):
        seed = _secret(spoken, threshold, node, lambda reveal: reveal.seeds)
        if hashlib.sha256(seed).digest() != spoken.shares[node].commitment:
            raise UnmaskingError(f"the shares of {node}'s own mask are damaged")
        total -= self_mask(seed, place, node, count)
    for node in sorted(spoken.shares.keys() - updates.keys()):
        seed = _secret(spoken, threshold, node, lambda reveal: reveal.keys)
        if public_key(seed) != spoken.offers[node].keys.mask_key:
            raise UnmaskingError(f"the shares of {node}'s mask key are damaged")
        keys = {name: spoken.offers[name].keys.mask_key for name in updates}
        total += pair_masks(seed, place, node, keys, count)  # of each pair the survivor wears the negative
    first = next(iter(updates.values()))
    return shaped(total, {name: tensor.shape for name, tensor in first.items()})


def _secret(spoken: Transcript, threshold: int, node: str, part: Callable[[Reveal], Sequence[NodeBytes]]) -> bytes:
    places = spoken.places
    shares: dict[int, bytes] = {}
    for reveal in spoken.reveals:
        for share in part(reveal):
            if share.node == node:
                shares[places[reveal.node]] = share.data
    if len(shares) < threshold:
        raise UnmaskingError(f"{len(shares)} shares of {node}'s secret, {threshold} are needed")
    return secret_sharing.combine(shares, threshold)


def settle(ledger: Ledger, place: Place, secure: SecureAggregation, threshold: int, uids: Sequence[str]) -> None:
    """Unmasks the sum of these updates and writes it down, once.

    Raises:
        UnmaskingError: See `unmasked`.
    """
    began_s = time.monotonic()
    updates: dict[str, Mapping[str, Ring]] = {}
    for uid in sorted(uids):
        row = ledger.row("SELECT node, object FROM updates WHERE uid = ? AND status = 'admitted'", uid)
        assert row is not None, f"update {uid} was counted as admitted and is not in the ledger"
        update, views = unpack(row["object"], Update)
        updates[row["node"]] = read_masked(update.tensors, views)
    spoken = transcript(ledger, place.round, place.attempt)
    total = unmasked(updates, spoken, place, threshold)
    shapes = {name: tensor.shape for name, tensor in total.items()}
    with ledger.transaction():
        ledger.insert(
            "masked_sums",
            {
                "round": place.round,
                "attempt": place.attempt,
                "threshold": threshold,
                "asked": len(spoken.offers),
                "members": msgspec.json.encode(sorted(spoken.shares)).decode(),
                "survivors": msgspec.json.encode(sorted(updates)).decode(),
                "uids": msgspec.json.encode(sorted(uids)).decode(),
                "step": secure.step,
                "shapes": msgspec.json.encode(shapes).decode(),
                "total": flat(total).astype("<u4").tobytes(),
                "unmask_s": time.monotonic() - began_s,
            },
        )


def summed(ledger: Ledger, round_: int) -> tuple[dict[str, np.ndarray], float, tuple[str, ...]]:
    """The integers that a round's updates sum up to, as int32 by parameter name; the step of one; their uids."""
    row = ledger.row("SELECT * FROM masked_sums WHERE round = ? ORDER BY attempt DESC LIMIT 1", round_)
    assert row is not None, f"round {round_} has no sum in the ledger"
    shapes = msgspec.json.decode(row["shapes"], type=dict[str, tuple[int, ...]])
    total = shaped(np.frombuffer(row["total"], dtype="<u4").astype(np.uint32), shapes)
    uids = msgspec.json.decode(row["uids"], type=tuple[str, ...])
    return {name: signed(tensor) for name, tensor in total.items()}, float(row["step"]), uids


def aggregate(ledger: Ledger, round_: int, uids: Sequence[str]) -> Aggregate:
    """What the updates of a round come to on average, each device counting alike."""
    total, step, names = summed(ledger, round_)
    assert names == tuple(sorted(uids)), "the sum is of the round's updates"
    value = {name: integers.astype(np.float64) * (step / len(names)) for name, integers in total.items()}
    return Aggregate(value=value, weights=dict.fromkeys(names, 1.0))
