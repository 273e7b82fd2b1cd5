"""One device's side of secure aggregation in one opening of a round (`contract.masking`). Pure: no I/O, no clock.

    offered --roster--> dealt --bundle--> ready --(update masked)--> ready --survivors--> revealed

The session lives in memory alone: a device that restarts drops out of the round, and its peers open what it left. So
nobody can make it open both secrets of one device, not even by killing it in between.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import msgspec

from contract import secret_sharing
from contract.errors import WireError
from contract.masking import (
    SEED_BYTES,
    Place,
    Ring,
    agreed,
    derived,
    flat,
    pair_masks,
    public_key,
    self_mask,
    shaped,
)
from contract.messages import KeyOffer, KeyPair, NodeBytes, Reveal, Roster, ShareBundle, ShareOffer, Survivors
from contract.secure import SecureAggregation

Entropy = Callable[[int], bytes]
"""So many bytes that nobody can guess."""


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """What a device knows of one opening.

    Attributes:
        cipher_seed: Of the key under which peers seal shares for it.
        mask_seed: Of the key of its pair masks; shared out.
        self_seed: Of its own mask; shared out.
        roster: All who offered keys, by name; empty before the roster came.
        threshold: Shares that give a secret back.
        kept: Its own shares of its own two seeds.
        shares: Shares of each member's two seeds that this device holds; empty before its bundle came.
        revealed: The survivors that it answered for; `None` before.
    """

    node: str
    epoch: int
    place: Place
    settings: SecureAggregation
    cipher_seed: bytes
    mask_seed: bytes
    self_seed: bytes
    roster: Mapping[str, KeyPair] = {}
    threshold: int = 0
    kept: tuple[bytes, bytes] = (b"", b"")
    shares: Mapping[str, tuple[bytes, bytes]] = {}
    revealed: tuple[str, ...] | None = None

    @property
    def ready(self) -> bool:
        """Whether an update can be masked."""
        return bool(self.shares)

    @property
    def keys(self) -> KeyPair:
        """Its public keys."""
        return KeyPair(node=self.node, cipher_key=public_key(self.cipher_seed), mask_key=public_key(self.mask_seed))


_replace = msgspec.structs.replace


def opened(node: str, epoch: int, place: Place, settings: SecureAggregation, entropy: Entropy) -> Session:
    """A session with fresh secrets."""
    cipher_seed, mask_seed, self_seed = (entropy(SEED_BYTES) for _ in range(3))
    return Session(
        node=node,
        epoch=epoch,
        place=place,
        settings=settings,
        cipher_seed=cipher_seed,
        mask_seed=mask_seed,
        self_seed=self_seed,
    )


def offer(session: Session) -> KeyOffer:
    """Phase 1: its public keys."""
    return KeyOffer(
        node=session.node,
        epoch=session.epoch,
        round=session.place.round,
        attempt=session.place.attempt,
        keys=session.keys,
    )


def dealt(session: Session, roster: Roster) -> tuple[Session, ShareOffer]:
    """Phase 2: shares of both seeds, sealed for each other device of the roster.

    Raises:
        WireError: The roster is not of this opening, came before with other content, has too few devices or too low a
            threshold, or holds other keys of this device than its own.
    """
    _require_place(session, roster.round, roster.attempt)
    known = {pair.node: pair for pair in roster.keys}
    if session.roster:
        raise WireError("a second roster of one opening: refused")
    if known.get(session.node) != session.keys:
        raise WireError("the roster holds no keys, or others, of this device: it sits this opening out")
    if len(known) != len(roster.keys) or len({pair.mask_key for pair in roster.keys}) != len(roster.keys):
        raise WireError("a device or a key comes twice in the roster")
    least = session.settings.needed(len(known))
    if roster.threshold < least or roster.threshold > len(known):
        raise WireError(f"threshold {roster.threshold} with {len(known)} devices: the plan says {least} at least")
    places = {name: place for place, name in enumerate(sorted(known), start=1)}
    both = [secret_sharing.split(seed, roster.threshold, len(known)) for seed in (session.mask_seed, session.self_seed)]
    sealed = tuple(
        NodeBytes(name, _seal(session, pair, both[0][places[name]] + both[1][places[name]]))
        for name, pair in sorted(known.items())
        if name != session.node
    )
    own = places[session.node]
    message = ShareOffer(
        node=session.node,
        epoch=session.epoch,
        round=session.place.round,
        attempt=session.place.attempt,
        commitment=hashlib.sha256(session.self_seed).digest(),
        shares=sealed,
    )
    kept = (both[0][own], both[1][own])
    return _replace(session, roster=known, threshold=roster.threshold, kept=kept), message


def gathered(session: Session, bundle: ShareBundle) -> Session:
    """The session with the shares that its peers sealed for it: their senders, and it, are the members.

    Raises:
        WireError: The bundle is not of this opening, came before, names too few devices or strangers, or holds a share
            that does not open.
    """
    _require_place(session, bundle.round, bundle.attempt)
    if session.shares or not session.roster:
        raise WireError("shares that no roster asked for, or a second time: refused")
    senders = {sealed.node for sealed in bundle.shares}
    if len(senders) != len(bundle.shares) or session.node in senders or not senders <= session.roster.keys():
        raise WireError(f"shares of {sorted(senders)}: a device comes twice, or is not of the roster")
    if len(senders) + 1 < session.threshold:
        raise WireError(
            f"shares of {len(senders) + 1} devices, {session.threshold} are needed: it sits this opening out"
        )
    shares = {sealed.node: _opened(session, session.roster[sealed.node], sealed.data) for sealed in bundle.shares}
    return _replace(session, shares={**shares, session.node: session.kept})


def masked(session: Session, integers: Mapping[str, Ring]) -> dict[str, Ring]:
    """Phase 3: the update under its own mask and those of all pairs."""
    assert session.ready, "asked for with a complete session only"
    row = flat(integers)
    others = {name: session.roster[name].mask_key for name in session.shares if name != session.node}
    row = row + self_mask(session.self_seed, session.place, session.node, len(row))
    row = row + pair_masks(session.mask_seed, session.place, session.node, others, len(row))
    return shaped(row, {name: tensor.shape for name, tensor in integers.items()})


def revealed(session: Session, survivors: Survivors) -> tuple[Session, Reveal]:
    """Phase 4: shares of the own seeds of those that delivered, and of the mask keys of the others.

    Raises:
        WireError: The survivors are not of this opening, not members, too few, without this device, or others than
            those that it answered for: with two answers the server would hold both secrets of a device.
    """
    _require_place(session, survivors.round, survivors.attempt)
    nodes = tuple(sorted(survivors.nodes))
    if session.revealed is not None and session.revealed != nodes:
        raise WireError(f"survivors {list(nodes)} after {list(session.revealed)}: both secrets of a device, refused")
    if len(set(nodes)) != len(nodes) or not set(nodes) <= session.shares.keys():
        raise WireError(f"survivors {list(nodes)}: a device comes twice, or dealt no shares")
    if len(nodes) < session.threshold or session.node not in nodes:
        raise WireError(f"survivors {list(nodes)}: {session.threshold} are needed, this device among them")
    message = Reveal(
        node=session.node,
        epoch=session.epoch,
        round=session.place.round,
        attempt=session.place.attempt,
        seeds=tuple(NodeBytes(name, session.shares[name][1]) for name in nodes),
        keys=tuple(NodeBytes(name, both[0]) for name, both in sorted(session.shares.items()) if name not in nodes),
    )
    return _replace(session, revealed=nodes), message


def _require_place(session: Session, round_: int, attempt: int) -> None:
    here = (session.place.round, session.place.attempt)
    if here != (round_, attempt):
        raise WireError(f"round {round_}, opening {attempt}: this device is in {here[0]}, opening {here[1]}")


def _sealing_key(session: Session, peer: KeyPair, sender: str, receiver: str) -> bytes:
    shared = agreed(session.cipher_seed, peer.cipher_key)
    return derived(shared, session.place.label("share", sender, receiver))


def _seal(session: Session, peer: KeyPair, plain: bytes) -> bytes:
    """Two shares under a key that is used for this once (ChaCha20-Poly1305, RFC 8439)."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305  # noqa: PLC0415 - extra `secagg`

    return ChaCha20Poly1305(_sealing_key(session, peer, session.node, peer.node)).encrypt(bytes(12), plain, None)


def _opened(session: Session, peer: KeyPair, sealed: bytes) -> tuple[bytes, bytes]:
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - extra `secagg`
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305  # noqa: PLC0415

    try:
        plain = ChaCha20Poly1305(_sealing_key(session, peer, peer.node, session.node)).decrypt(bytes(12), sealed, None)
    except InvalidTag:
        raise WireError(f"the shares of {peer.node} do not open: damaged, or sealed for another") from None
    if len(plain) != 2 * SEED_BYTES:
        raise WireError(f"the shares of {peer.node} have {len(plain)} bytes, {2 * SEED_BYTES} are due")
    return plain[:SEED_BYTES], plain[SEED_BYTES:]
