"""A device's part in secure aggregation: when it speaks, what it says again, and that it trains with masks only."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from contract import messages, topics
from contract.errors import WireError
from contract.messages import KeyOffer, Reveal, ServerState, ShareBundle, ShareOffer, Survivors
from contract.secure import SecureAggregation
from contract.task import RoundPlan
from edge_client import client, events, masking
from edge_client.account import Account
from edge_client.energy import PhaseMeter, UpdateWindows
from edge_client.exchange import MaskExchange
from edge_client.settings import ClientSettings
from edge_client.sleep import has_work
from hardware.energy_model import EnergyModel
from hardware.meter import open_meter
from tests.secure_party import Party

HASH = "0" * 64
SECURE = SecureAggregation()
NAMES = ("device-0", "device-1", "device-2")
STATE = ServerState(
    run="run",
    status="open",
    epoch=1,
    round=3,
    rounds=4,
    attempt=2,
    plan=RoundPlan(secure=SECURE),
    model_version=5,
    model_sha256="ab" * 32,
    task_hash=HASH,
    selected=NAMES,
)


class Network:
    frame_bytes = 4096

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []

    def publish(self, topic: str, payload: bytes, **_retain: bool) -> bool:
        self.sent.append((topic, payload))
        return True


class World:
    """One device with a clock of its own, and two peers with the server's part in memory."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.network = Network()
        self.account = Account(PhaseMeter((open_meter("none"),), lambda: self.now_s), lambda: self.now_s)
        settings = ClientSettings(run="run", node=NAMES[0], directory=Path("unused"), shard=0, shards=3)
        self.exchange = MaskExchange(
            settings,
            self.network,
            self.account,
            model=EnergyModel.load("horowitz-45nm"),
            clock=lambda: self.now_s,
        )
        self.party = Party(NAMES, SECURE)

    def tend(self, state: ServerState = STATE, made=None) -> None:
        self.exchange.tend(state, HASH, made, 1)

    def said(self, kind):
        found = [messages.decode_one_of(payload, *_KINDS) for _, payload in self.network.sent]
        return [message for message in found if isinstance(message, kind)]

    def agree(self):
        """Through roster and bundle; gives what the device made of the latter."""
        self.tend()
        (offer,) = self.said(KeyOffer)
        self.party.offer(lost=[NAMES[0]])
        self.party._add("shares", "offers", [offer, *self.party.exchange.offers])
        assert self.exchange.receive(messages.encode(self.party.exchange.told(NAMES[0], 3, 2))) is None
        (share,) = self.said(ShareOffer)
        peers = [masking_dealt(self.party, name) for name in NAMES[1:]]
        self.party._add("updates", "shares", [share, *peers])
        return self.exchange.receive(messages.encode(self.party.exchange.told(NAMES[0], 3, 2)))


_KINDS = (KeyOffer, ShareOffer, Reveal)


def masking_dealt(party: Party, name: str) -> ShareOffer:

    party.sessions[name], offer = masking.dealt(party.sessions[name], party.exchange.told(name, 3, 2))
    return offer


def test_keys_are_said_again_until_they_are_answered():
    world = World()
    world.tend()
    world.tend()
    assert world.network.sent[0][0] == topics.secure("run", NAMES[0], 3)
    assert len(world.said(KeyOffer)) == 1
    for now_s, count in [(1.9, 1), (2.1, 2), (4.2, 2), (6.2, 3)]:
        world.now_s = now_s
        world.tend()
        assert len(world.said(KeyOffer)) == count
    assert len({p for _, p in world.network.sent}) == 1


@pytest.mark.parametrize(
    ("state", "made"),
    [
        (ServerState(run="run", status="waiting", epoch=1), None),
        (replace(STATE, selected=NAMES[1:]), None),
        (replace(STATE, plan=RoundPlan()), None),
        (replace(STATE, task_hash="1" * 64), None),
        (STATE, (HASH, 3, 2)),
    ],
)
def test_a_round_that_does_not_ask_this_device_hears_nothing(state, made):
    world = World()
    world.tend(state, made)
    assert world.network.sent == []


def test_agreed_masks_are_an_event_and_survivors_are_answered_once_for_one_list():
    world = World()
    assert world.agree() == events.MasksReady(key=(HASH, 3, 2))
    world.now_s = 60.0
    before = len(world.network.sent)
    world.tend()
    assert len(world.network.sent) == before, "nothing is left unanswered"
    asked = Survivors(round=3, attempt=2, nodes=NAMES[:2])
    world.exchange.receive(messages.encode(asked))
    (reveal,) = world.said(Reveal)
    assert [share.node for share in reveal.keys] == [NAMES[2]]
    assert reveal.cost.bytes_up == len(world.network.sent[-1][1])
    assert reveal.cost.bytes_down == len(messages.encode(asked))
    assert reveal.cost.sending.provenance == "unavailable"
    with pytest.raises(WireError, match="both secrets"):
        world.exchange.receive(messages.encode(Survivors(round=3, attempt=2, nodes=NAMES)))
    assert len(world.said(Reveal)) == 1


def test_bytes_of_both_directions_are_counted_until_the_update():
    world = World()
    world.agree()
    up, down = world.exchange.traffic()
    assert up == sum(len(payload) for _, payload in world.network.sent)
    assert down > up / 2
    windows = world.account.overheads()
    made = UpdateWindows(windows=(), operations=None, masking=windows, masking_up=up, masking_down=down)
    cost = world.exchange.cost(made, 1000, 0.5)
    assert (cost.bytes_up, cost.bytes_down) == (up, down)
    assert cost.sending.energy_j == pytest.approx(world.exchange._model.radio(up, 0.5 * up / 1000).energy_j)
    assert world.exchange.cost(UpdateWindows(windows=(), operations=None), 1000, 0.5) is None


def test_a_device_stays_awake_while_others_wait_for_its_answers():
    ready = client.ClientState(node=NAMES[0], connected=True, task_hash=HASH, made=(HASH, 3, 2))
    assert has_work(replace(ready, server=STATE))
    assert not has_work(replace(ready, server=replace(STATE, status="closed")))
    assert not has_work(replace(ready, server=replace(STATE, plan=RoundPlan())))


def test_a_bundle_without_a_session_is_refused():
    with pytest.raises(WireError, match="takes no part"):
        World().exchange.receive(messages.encode(ShareBundle(round=3, attempt=2, shares=())))


def test_no_model_is_fetched_and_nothing_trained_before_masks_are_agreed_upon():
    state = client.ClientState(node=NAMES[0], connected=True, task_hash=HASH)
    state, actions = client.step(state, events.StateArrived(state=STATE), 0.0)
    assert client.wanted(state) is None
    assert actions == ()
    state, _ = client.step(state, events.MasksReady(key=(HASH, 3, 1)), 0.0)
    assert client.wanted(state) is None, "masks of an earlier opening"
    state, actions = client.step(state, events.MasksReady(key=(HASH, 3, 2)), 0.0)
    assert actions == (events.FetchModel(version=5),)
    state, _ = client.step(state, events.ModelArrived(version=5, sha256="ab" * 32), 0.0)
    state, actions = client.step(state, events.Idle(), 0.0)
    assert events.Train(round=3, attempt=2, plan=STATE.plan, model_version=5) in actions
    assert client.wanted(state) is None
