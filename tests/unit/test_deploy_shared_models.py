"""One copy of the model for a process of many devices, and never another model than was asked for."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from contract import topics
from contract.codecs import encode_tensors
from contract.frames import split
from contract.messages import Model, pack
from deploy.shared_models import ModelShelf, SharedModels
from edge_client.events import ModelArrived

RUN = "trial"


class Network:
    frame_bytes = 100

    def __init__(self) -> None:
        self.filters: list[str] = []

    def cut_smaller(self) -> bool:
        return False

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:  # noqa: ARG002
        return True

    def subscribe(self, *filters: str) -> None:
        self.filters += filters

    def unsubscribe(self, *filters: str) -> None:
        self.filters = [f for f in self.filters if f not in filters]


class Seat:
    def __init__(self, shelf: ModelShelf) -> None:
        self.network, self.told = Network(), list[ModelArrived]()
        self.models = SharedModels(RUN, self.network, shelf, self.told.append)

    def receive(self, version: int, blob: bytes) -> list[object]:
        frames = split(blob, f"{version:032x}", frame_bytes=100)
        topic = topics.parse(topics.model_chunk(RUN, version, 0))
        return [whole for frame in frames if (whole := self.models.chunk(topic, frame)) is not None]


def model(version: int, value: float) -> tuple[bytes, str]:
    tensors = {"w": np.full((4, 4), value, dtype=np.float32)}
    records, buffers = encode_tensors("fp32", tensors, np.random.default_rng(0))
    blob = pack(Model(version=version, task_hash="0" * 64, tensors=records), buffers)
    return blob, hashlib.sha256(blob).hexdigest()


@pytest.fixture
def seats() -> list[Seat]:
    shelf = ModelShelf()
    return [Seat(shelf) for _ in range(3)]


def test_one_fetches_all_are_told_and_share_the_values(seats: list[Seat]) -> None:
    blob, sha256 = model(1, 0.5)
    for seat in seats[:2]:
        seat.models.fetch(1, sha256)
    assert [seat.network.filters for seat in seats[:2]] == [[topics.model_filter(RUN, 1)], []]
    assert seats[0].receive(1, blob) == []
    seats[2].models.fetch(1, sha256)  # it is here by now
    assert [seat.told for seat in seats] == [[ModelArrived(version=1, sha256=sha256)]] * 3
    assert seats[2].network.filters == []
    for seat in seats:
        seat.models.leave(1)
    first, second, third = (seat.models.parameters(1) for seat in seats)
    assert first is second is third
    assert (first["w"] == 0.5).all()


def test_when_the_one_who_fetches_leaves_the_next_one_does(seats: list[Seat]) -> None:
    blob, sha256 = model(1, 0.5)
    for seat in seats:
        seat.models.fetch(1, sha256)
    seats[0].models.leave(1)
    assert [bool(seat.network.filters) for seat in seats] == [False, True, False]
    seats[1].receive(1, blob)
    assert [len(seat.told) for seat in seats] == [0, 1, 1]


def test_another_model_than_was_asked_for_goes_to_nobody(seats: list[Seat]) -> None:
    right, sha256 = model(1, 0.5)
    wrong, other = model(1, 9.0)
    for seat in seats[:2]:
        seat.models.fetch(1, sha256)
    whole = seats[0].receive(1, wrong)
    assert [arrived.sha256 for arrived, _ in whole] == [other], "the state machine hears of it and refuses it"
    assert not any(seat.told for seat in seats)
    seats[0].receive(1, right)
    assert (seats[1].models.parameters(1)["w"] == 0.5).all()


def test_old_models_are_let_go_and_who_trains_keeps_his(seats: list[Seat]) -> None:
    kept = {}
    for version in range(5):
        blob, sha256 = model(version, version)
        seats[0].models.fetch(version, sha256)
        seats[0].receive(version, blob)
        kept[version] = (version, sha256)
        assert (seats[0].models.parameters(version)["w"] == version).all()
    shelf = seats[0].models._shelf
    assert [kept[version] in shelf for version in range(5)] == [False, False, False, True, True]
    assert (seats[0].models.parameters(4)["w"] == 4).all()
