"""Objects on their way to the server: when each is sent, sent again, and cut smaller. Pure, a part of `client`.

A broker may drop what is too large for it and say that all is well (mosquitto's `message_size_limit` on MQTT 3.1.1).
Then the server never hears of the object, or hears of its last, short chunk alone and asks for the same others again
and again. An object that got no further after `TRIES` sendings is cut smaller, up to `CUTS` times.
"""

from __future__ import annotations

import msgspec

from contract.messages import Ack, ServerState
from edge_client.events import Action, CutSmaller, Send
from edge_client.spool import Kind

ACK_TIMEOUT_S = 5.0
"""First wait for an acknowledgement; doubled at each repetition."""
LONGEST_TIMEOUT_S = 60.0
WINDOW = 32
"""Objects that may await an acknowledgement at one time; brokers drop what piles up."""
TRIES = 2
"""Sendings that may pass without news of an object before it is cut smaller."""
CUTS = 3
"""Cuts in vain, after which size is not what is wrong."""

_replace = msgspec.structs.replace


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """An object that the server has not acknowledged.

    Attributes:
        due_s: When to send it again; `None` while it waits for its turn.
        sent_s: When it was first sent in this life; `None` before.
        tries: How often it was sent since the connection came up or its cut changed.
        fruitless: How many of these sendings brought nothing new to the server.
        cuts: How often it was cut smaller since the connection came up.
        missing: How many chunks the server missed when it last said so; `None` before.
        inherited: Whether an earlier life of this device made it.
    """

    uid: str
    kind: Kind
    round: int
    model_version: int = -1
    due_s: float | None = None
    sent_s: float | None = None
    tries: int = 0
    fruitless: int = 0
    cuts: int = 0
    missing: int | None = None
    inherited: bool = False


Items = tuple[Pending, ...]


def waiting(pending: Items) -> Items:
    """All wait for their turn: the connection came or went."""
    return tuple(_replace(p, due_s=None, tries=0, fruitless=0, cuts=0, missing=None) for p in pending)


def filled(pending: Items, now_s: float) -> tuple[Items, list[Action]]:
    """Sends what waits for its turn, oldest first, as far as the window allows."""
    room = WINDOW - sum(p.due_s is not None for p in pending)
    turn = {p.uid for p in [p for p in pending if p.due_s is None][: max(0, room)]}
    return tuple(_sent(p, now_s) if p.uid in turn else p for p in pending), [
        Send(uid=p.uid) for p in pending if p.uid in turn
    ]


def overdue(pending: Items, server: ServerState | None, now_s: float, *, sending: bool) -> tuple[Items, list[Action]]:
    """Sends again what nobody answered in time. Time begins when the network has handed it over.

    Args:
        pending: All objects.
        server: What the server said last: silence of one that is not there tells nothing.
        now_s: Time.
        sending: Whether the network still hands over.
    """
    if sending:
        later_s = now_s + ACK_TIMEOUT_S
        held = (p if p.due_s is None or p.due_s >= later_s else _replace(p, due_s=later_s) for p in pending)
        return tuple(held), []
    heard = server is not None and server.status != "offline"
    left, actions = list(pending), list[Action]()
    for index, item in enumerate(pending):
        if item.due_s is not None and item.due_s <= now_s:
            left[index], more = _again(item, now_s, fruitless=heard)
            actions += more or [Send(uid=item.uid)]
    return tuple(left), actions


def missing(item: Pending, ack: Ack, now_s: float, *, sending: bool) -> tuple[Pending, list[Action]]:
    """The server lacks chunks: they are sent again, unless they are on their way."""
    if sending:
        return item, []
    fewer = item.missing is None or len(ack.missing) < item.missing
    item = _replace(item, missing=len(ack.missing), fruitless=0 if fewer else item.fruitless)
    item, actions = _again(item, now_s, fruitless=not fewer)
    return item, actions or [Send(uid=item.uid, chunks=ack.missing or None)]


def _again(item: Pending, now_s: float, *, fruitless: bool) -> tuple[Pending, list[Action]]:
    """One more sending; a new cut and all of it, when too many were in vain."""
    item = _replace(item, fruitless=item.fruitless + fruitless)
    if item.fruitless < TRIES or item.cuts >= CUTS:
        return _sent(item, now_s), []
    fresh = _replace(item, tries=0, fruitless=0, cuts=item.cuts + 1, missing=None)
    return _sent(fresh, now_s), [CutSmaller(uid=item.uid), Send(uid=item.uid)]


def _sent(item: Pending, now_s: float) -> Pending:
    wait_s = min(ACK_TIMEOUT_S * 2**item.tries, LONGEST_TIMEOUT_S)
    first_s = now_s if item.sent_s is None else item.sent_s
    return _replace(item, due_s=now_s + wait_s, sent_s=first_s, tries=min(item.tries + 1, 16))
