"""Secure aggregation in memory: real sessions of devices, the server's pure part, no network."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from contract.masking import Place, Ring
from contract.messages import Reveal, Roster, ShareOffer, Survivors
from contract.secure import SecureAggregation
from edge_client import masking
from edge_client.masking import Session
from server.exchange import Exchange
from server.unmasking import Transcript, unmasked

PLACE = Place(run="run", task_hash="0" * 64, round=3, attempt=2)


class Party:
    """Devices by name in one opening. Each phase leaves out those that are lost by then."""

    def __init__(self, names: Collection[str], settings: SecureAggregation, place: Place = PLACE) -> None:
        self.settings, self.place = settings, place
        self.sessions: dict[str, Session] = {
            name: masking.opened(name, 1, place, settings, secrets.token_bytes) for name in names
        }
        self.exchange = Exchange(threshold=settings.needed(len(names)), since_s=0.0)

    def _add(self, stage: str, field: str, said: list) -> None:
        self.exchange = Exchange(**{**_fields(self.exchange), field: tuple(said), "stage": stage})

    def offer(self, lost: Collection[str] = ()) -> None:
        self._add("shares", "offers", [masking.offer(s) for name, s in self.sessions.items() if name not in lost])

    def deal(self, lost: Collection[str] = ()) -> None:
        said: list[ShareOffer] = []
        for name in sorted(self.exchange.roster - set(lost)):
            roster = self.exchange.told(name, self.place.round, self.place.attempt)
            assert isinstance(roster, Roster)
            self.sessions[name], offer = masking.dealt(self.sessions[name], roster)
            said.append(offer)
        self._add("updates", "shares", said)
        for name in sorted(self.exchange.members):
            bundle = self.exchange.told(name, self.place.round, self.place.attempt)
            self.sessions[name] = masking.gathered(self.sessions[name], bundle)

    def mask(self, integers: Mapping[str, dict[str, Ring]], lost: Collection[str] = ()) -> dict[str, dict[str, Ring]]:
        there = sorted(self.exchange.members - set(lost))
        return {name: masking.masked(self.sessions[name], integers[name]) for name in there}

    def reveal(self, survivors: Collection[str], lost: Collection[str] = ()) -> None:
        said: list[Reveal] = []
        self._add("reveals", "survivors", sorted(survivors))
        for name in sorted(set(survivors) - set(lost)):
            asked = self.exchange.told(name, self.place.round, self.place.attempt)
            assert isinstance(asked, Survivors)
            self.sessions[name], answer = masking.revealed(self.sessions[name], asked)
            assert self.exchange.awaits(answer)
            said.append(answer)
        self._add("unmasking", "reveals", said)

    def sum(self, updates: Mapping[str, Mapping[str, Ring]]) -> dict[str, Ring]:
        return unmasked(updates, self.transcript, self.place, self.exchange.threshold)

    @property
    def transcript(self) -> Transcript:
        return Transcript(
            offers={offer.node: offer for offer in self.exchange.offers},
            shares={offer.node: offer for offer in self.exchange.shares},
            reveals=self.exchange.reveals,
        )


def _fields(exchange: Exchange) -> dict:
    return {name: getattr(exchange, name) for name in Exchange.__struct_fields__}


def integers(names: Collection[str], shapes: Mapping[str, tuple[int, ...]], seed: int, largest: int) -> dict:
    """Integers of devices modulo 2^32, as quantised updates are."""
    rng = np.random.default_rng(seed)
    return {
        node: {
            name: rng.integers(-largest, largest, size=shape, endpoint=True).astype(np.int64).astype(np.uint32)
            for name, shape in shapes.items()
        }
        for node in names
    }


def plain_sum(updates: Mapping[str, Mapping[str, Ring]], names: Collection[str]) -> dict[str, NDArray[np.int64]]:
    """The plain sum, in 64 bits."""
    chosen = [updates[name] for name in sorted(names)]
    return {
        key: np.sum([tensors[key].view(np.int32).astype(np.int64) for tensors in chosen], axis=0) for key in chosen[0]
    }
