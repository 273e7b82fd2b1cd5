"""Rounds with secure aggregation on a real ledger: devices are lost in each phase, the server restarts in each."""

from __future__ import annotations

import secrets

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract import messages, topics
from contract.errors import EnvironmentFaultError
from contract.masking import Place, records_of
from contract.messages import Roster, ShareBundle, Survivors, Update, pack
from contract.secure import SecureAggregation
from edge_client import masking
from server.model import parameters_of
from server.settings import ScheduleEntry, ServerSettings
from server.unmasking import summed
from tests.secure_party import integers, plain_sum
from tests.unit.server_world import HASH, INITIAL, RUN, World, name_of
from tests.unit.server_world import settings as settings_of

SECURE = SecureAggregation(patience_s=10.0, bits=20)
ENTRY = ScheduleEntry(algorithm="fedavg", secure=SECURE, deadline_s=60.0)
SHAPES = {name: value.shape for name, value in INITIAL.items()}
NAMES = tuple(f"n{number}" for number in range(7))


class SecureWorld(World):
    """A server, and the sessions of its devices."""

    sessions: dict[str, masking.Session]

    def join(self, names=NAMES) -> None:
        self.sessions = {}
        for name in names:
            self.node(name)

    def say(self, said, node: str = "") -> None:
        node = node or said.node
        self.server.message(topics.secure(RUN, node, said.round), messages.encode(said), self.at_s)

    def told(self, kind, node: str):
        """The last message of a kind that a device was told in this opening."""
        topic = topics.relay(RUN, node)
        found = [messages.decode_one_of(p, Roster, ShareBundle, Survivors) for t, p, _ in self.wire.sent if t == topic]
        return [m for m in found if isinstance(m, kind) and m.attempt == self.state.attempt][-1]

    def offers(self, names) -> None:
        place = Place(run=RUN, task_hash=HASH, round=self.state.round, attempt=self.state.attempt)
        for name in names:
            self.sessions[name] = masking.opened(name, 1, place, SECURE, secrets.token_bytes)
            self.say(masking.offer(self.sessions[name]))

    def deals(self, names) -> None:
        for name in names:
            self.sessions[name], offer = masking.dealt(self.sessions[name], self.told(Roster, name))
            self.say(offer)

    def gathers(self, names) -> None:
        for name in names:
            self.sessions[name] = masking.gathered(self.sessions[name], self.told(ShareBundle, name))

    def updates(self, names, plain, **changes) -> list[str]:
        uids = []
        for name in names:
            records, buffers = records_of(masking.masked(self.sessions[name], plain[name]), SECURE)
            uid = name_of(name, self.state.round, self.state.attempt)
            fields = {
                "uid": uid,
                "node": name,
                "epoch": 1,
                "round": self.state.round,
                "model_version": self.model.version,
                "task_hash": HASH,
                "plan": ENTRY.plan,
                "samples": 3,
                "loss": None,
                "tensors": records,
                "masks": self.state.attempt,
            }
            self.send("up", name, self.state.round, uid, pack(Update(**{**fields, **changes}), buffers))
            uids.append(uid)
        return uids

    def reveals(self, names) -> None:
        for name in names:
            if self.state.exchange is not None and self.state.exchange.stage == "reveals":
                self.sessions[name], answer = masking.revealed(self.sessions[name], self.told(Survivors, name))
                self.say(answer)

    def play(self, plain, lost: dict[str, int], until: int = 6) -> None:
        """One opening, in which devices are lost before a phase, up to a phase that is left out."""

        def there(phase: int) -> list[str]:
            return [name for name in NAMES if lost.get(name, 9) > phase]

        attempt = self.state.attempt
        steps = [
            lambda: self.offers(there(1)),
            lambda: self.deals(there(2)),
            lambda: self.gathers(sorted(self.state.exchange.members)),
            lambda: self.updates(there(3), plain),
            lambda: self.reveals(there(4)),
        ]
        for phase, (step, wait_s) in enumerate(zip(steps, (11.0, 11.0, 0.0, 61.0, 0.0), strict=True), start=1):
            if phase >= until or self.state.attempt != attempt or self.state.phase != "open":
                return
            step()
            if (
                self.state.exchange is not None
                and self.state.exchange.stage in {"keys", "shares", "updates"}
                and wait_s
            ):
                stage = ("keys", "shares", "", "updates")[phase - 1]
                if self.state.exchange.stage == stage:
                    self.wait(wait_s)


def world(folder, *entries, **changes) -> SecureWorld:
    made = SecureWorld(settings_of(folder, *(entries or (ENTRY,)), clients=7, max_attempts=3, **changes))
    made.join()
    return made


def require_sum(w: SecureWorld, plain, nodes, round_: int = 1) -> None:
    total, step, uids = summed(w.ledger, round_)
    assert step == SECURE.step
    assert len(uids) == len(nodes)
    expected = plain_sum(plain, nodes)
    for name in SHAPES:
        np.testing.assert_array_equal(total[name], expected[name])
    after = parameters_of(w.ledger.value("SELECT object FROM models WHERE version = 1"))
    for name, value in INITIAL.items():
        mean = expected[name].astype(np.float64) * (step / len(nodes))
        np.testing.assert_array_equal(after[name], (value.astype(np.float64) - mean).astype(np.float32))


@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_the_sum_is_exact_whoever_is_lost_and_whenever(data, tmp_path_factory):
    lost = data.draw(st.dictionaries(st.sampled_from(NAMES), st.integers(1, 4), max_size=2))
    plain = integers(NAMES, SHAPES, data.draw(st.integers(0, 99)), SECURE.largest)
    w = world(tmp_path_factory.mktemp("world"))
    w.play(plain, lost)
    assert w.state.round == 2, w.state
    require_sum(w, plain, [name for name in NAMES if lost.get(name, 9) > 3])
    assert w.ledger.value("SELECT COUNT(*) FROM updates WHERE norm IS NOT NULL OR status = 'refused'") == 0
    w.ledger.close()


@pytest.mark.parametrize(
    ("phase", "what"), [(1, "keys of 4"), (2, "shares of 4"), (3, "updates of 4"), (4, "shares from 4 survivors")]
)
def test_below_the_threshold_the_round_is_opened_again_and_given_up_in_the_end(tmp_path, phase, what):
    plain = integers(NAMES, SHAPES, 2, SECURE.largest)
    w = world(tmp_path)
    for _ in range(3):
        w.play(plain, dict.fromkeys(NAMES[:3], phase))
        if phase == 4:
            w.wait(11.0)
    texts = w.column("SELECT text FROM events WHERE level = 'warning'")
    assert len(texts) == 2
    assert all(f"{what} devices, 5 are needed" in t or f"{what}, 5 are needed" in t for t in texts), texts
    assert w.column("SELECT closed FROM rounds") == ["empty"] * 3
    assert "failed in 3 openings" in w.server.failure
    assert "lower secure.threshold" in w.server.failure
    assert w.model.version == 0
    w.ledger.close()


@pytest.mark.parametrize("until", [1, 2, 3, 4, 5])
def test_a_server_that_restarts_in_a_phase_opens_the_round_anew_and_finishes_it(tmp_path, until):
    first = integers(NAMES, SHAPES, 3, SECURE.largest)
    second = integers(NAMES, SHAPES, 4, SECURE.largest)
    w = world(tmp_path)
    w.play(first, {"n1": 3}, until)
    w.restart()
    w.join()
    assert (w.state.phase, w.state.attempt, w.state.delivered) == ("open", 2, ())
    late = w.sessions.get("n0")
    assert late is None or not late.ready
    w.play(second, {"n2": 3})
    assert w.state.round == 2
    require_sum(w, second, [name for name in NAMES if name != "n2"])
    assert w.column("SELECT closed FROM rounds ORDER BY attempt") == ["interrupted", "deadline"]
    w.ledger.close()


def test_an_update_of_an_earlier_opening_is_refused_and_one_after_the_survivors_too(tmp_path):
    plain = integers(NAMES, SHAPES, 5, SECURE.largest)
    w = world(tmp_path)
    w.play(plain, {}, 4)
    (old,) = w.updates(["n0"], plain, masks=7)
    assert w.wire.verdicts(old) == [("refused", "masks")]
    w.updates(NAMES[1:6], plain)
    w.wait(61.0)
    assert w.state.exchange.survivors == NAMES[1:6]
    (late,) = w.updates(["n6"], plain)
    assert w.wire.verdicts(late) == [("refused", "closed")]
    w.reveals(NAMES[1:6])
    require_sum(w, plain, NAMES[1:6])
    w.ledger.close()


def test_damaged_shares_open_the_round_again(tmp_path):
    plain = integers(NAMES, SHAPES, 6, SECURE.largest)
    w = world(tmp_path)
    w.play(plain, {}, 5)
    for name in NAMES[:5]:
        _, answer = masking.revealed(w.sessions[name], w.told(Survivors, name))
        spoiled = tuple(msgspec.structs.replace(share, data=bytes(16)) for share in answer.seeds)
        w.say(msgspec.structs.replace(answer, seeds=spoiled))
    assert "own mask are damaged" in w.column("SELECT text FROM events")[0]
    assert (w.state.phase, w.state.attempt) == ("open", 2)
    w.ledger.close()


def test_a_device_that_heard_nothing_is_told_again(tmp_path):
    w = world(tmp_path)
    w.offers(NAMES)
    offer = masking.offer(w.sessions["n0"])
    before = len([t for t, _, _ in w.wire.sent if t == topics.relay(RUN, "n0")])
    w.say(offer)
    assert len([t for t, _, _ in w.wire.sent if t == topics.relay(RUN, "n0")]) == before + 1
    row = w.ledger.row("SELECT * FROM masking_messages WHERE node = 'n0' AND message = 'KeyOffer'")
    assert row["times"] == 2
    assert row["bytes"] == 2 * len(messages.encode(offer))
    w.ledger.close()


def test_nobody_speaks_for_another_and_no_former_life_is_heard(tmp_path):
    w = world(tmp_path)
    place = Place(run=RUN, task_hash=HASH, round=1, attempt=1)
    offer = masking.offer(masking.opened("n0", 1, place, SECURE, secrets.token_bytes))
    w.say(offer, node="n1")
    w.say(msgspec.structs.replace(offer, epoch=0))
    w.say(msgspec.structs.replace(offer, attempt=2))
    w.say(msgspec.structs.replace(offer, keys=msgspec.structs.replace(offer.keys, node="n1")))
    assert not w.state.exchange.offers
    w.say(offer)
    assert w.state.exchange.roster == {"n0"}
    w.ledger.close()


def test_two_devices_are_too_few(tmp_path):
    w = SecureWorld(settings_of(tmp_path, ENTRY, clients=7, start_with=3, grace_s=0.0))
    w.join(["n0", "n1"])
    w.wait(100.0)
    assert w.state.phase == "waiting"
    w.node("n2")
    assert w.state.phase == "open"
    w.ledger.close()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"clients": 2}, "each knows the other's update"),
        ({"clients": 70_000}, "sums of 65538 at most"),
        ({"entry": {"aggregator": "median"}}, "needs single updates"),
        ({"entry": {"clients": 2}}, "clients = 2 with secure"),
        ({"start_with": 2}, "start_with = 2 with secure"),
    ],
)
def test_settings_that_cannot_be(tmp_path, changes, match):
    with pytest.raises(ValueError, match=match):
        ServerSettings(
            run=RUN,
            directory=tmp_path,
            schedule=(ScheduleEntry(secure=SecureAggregation(), **changes.pop("entry", {})),),
            **{"clients": 7, **changes},
        )


def test_a_server_without_the_packages_says_so_at_its_start(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(EnvironmentFaultError, match="secagg"):
        world(tmp_path)
