"""Masks cancel in the sum exactly, whoever is lost when; and no device opens both secrets of another."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract import masking as ring
from contract import messages
from contract.errors import EnvironmentFaultError, WireError
from contract.messages import NodeBytes, Roster, ShareBundle, Survivors, Update
from contract.secure import SecureAggregation
from contract.task import RoundPlan
from edge_client import masking
from server.unmasking import UnmaskingError
from tests.secure_party import PLACE, Party, integers, plain_sum

SHAPES = {"layers.1.weight": (3, 4), "layers.0.bias": (2,), "layers.0.weight": (5, 1)}
NAMES = tuple(f"device-{number}" for number in range(7))
SECURE = SecureAggregation()


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_sum_is_exact_whichever_devices_are_lost_in_whichever_phase(data):
    count = data.draw(st.integers(3, 8))
    secure = SecureAggregation(threshold=data.draw(st.sampled_from([0.51, 0.66, 1.0])), bits=24)
    names = [f"d{number}" for number in range(count)]
    spare = count - secure.needed(count)
    lost = data.draw(st.lists(st.sampled_from(names), max_size=spare, unique=True))
    when = {name: data.draw(st.integers(1, 4)) for name in lost}
    gone = {phase: [name for name in lost if when[name] <= phase] for phase in range(1, 5)}
    party = Party(names, secure)
    plain = integers(names, SHAPES, data.draw(st.integers(0, 1000)), secure.largest)
    party.offer(gone[1])
    party.deal(gone[2])
    updates = party.mask(plain, gone[3])
    party.reveal(updates, gone[4])
    found = party.sum(updates)
    expected = plain_sum(plain, updates)
    assert set(updates) == set(names) - set(gone[3])
    for name, value in expected.items():
        np.testing.assert_array_equal(ring.signed(found[name]), value)
    for node, masked in updates.items():
        assert all(not np.array_equal(masked[name], plain[node][name]) for name in SHAPES)


def test_thirty_percent_dropouts_of_ten_leave_the_sum_exact():
    names = [f"d{number}" for number in range(10)]
    party = Party(names, SECURE)
    plain = integers(names, SHAPES, 1, SECURE.largest)
    party.offer()
    party.deal(["d1"])
    updates = party.mask(plain, ["d1", "d2"])
    party.reveal(updates, ["d3"])
    for name, value in plain_sum(plain, updates).items():
        np.testing.assert_array_equal(ring.signed(party.sum(updates)[name]), value)


def ready(count: int = 5) -> Party:
    party = Party(NAMES[:count], SECURE)
    party.offer()
    party.deal()
    return party


def test_device_refuses_a_second_list_of_survivors():
    party = ready()
    session, first = masking.revealed(party.sessions["device-0"], Survivors(round=3, attempt=2, nodes=NAMES[:5]))
    again, second = masking.revealed(session, Survivors(round=3, attempt=2, nodes=NAMES[:5]))
    assert second == first
    assert again.revealed == NAMES[:5]
    with pytest.raises(WireError, match="both secrets of a device"):
        masking.revealed(session, Survivors(round=3, attempt=2, nodes=NAMES[:4]))
    opened = {share.node for share in first.seeds} & {share.node for share in first.keys}
    assert not opened


@pytest.mark.parametrize(
    ("nodes", "attempt", "match"),
    [
        (NAMES[:3], 2, "4 are needed"),
        (NAMES[1:5], 2, "this device among them"),
        ((*NAMES[:4], "stranger"), 2, "dealt no shares"),
        ((*NAMES[:4], NAMES[0]), 2, "comes twice"),
        (NAMES[:5], 1, "opening 1"),
    ],
)
def test_device_refuses_survivors_that_cannot_be(nodes, attempt, match):
    session = ready().sessions["device-0"]
    with pytest.raises(WireError, match=match):
        masking.revealed(session, Survivors(round=3, attempt=attempt, nodes=nodes))


def roster_of(party: Party, **changes) -> Roster:
    told = party.exchange.told("device-0", 3, 2)
    return msgspec.structs.replace(told, **changes)


def test_device_refuses_a_roster_that_cannot_be():
    party = Party(NAMES[:5], SECURE)
    party.offer()
    keys = roster_of(party).keys
    forged = msgspec.structs.replace(keys[0], mask_key=keys[1].mask_key)
    for changes, match in [
        ({"threshold": 3}, "the plan says 4"),
        ({"threshold": 6}, "threshold 6 with 5"),
        ({"keys": keys[1:]}, "no keys, or others"),
        ({"keys": (forged, *keys[1:])}, "no keys, or others"),
        ({"keys": (*keys, keys[4])}, "twice"),
        ({"attempt": 3}, "opening 3"),
    ]:
        with pytest.raises(WireError, match=match):
            masking.dealt(party.sessions["device-0"], roster_of(party, **changes))
    session, _ = masking.dealt(party.sessions["device-0"], roster_of(party))
    with pytest.raises(WireError, match="second roster"):
        masking.dealt(session, roster_of(party))


def test_device_refuses_shares_that_do_not_open():
    party = Party(NAMES[:5], SECURE)
    party.offer()
    dealt = {name: masking.dealt(session, roster_of(party)) for name, session in party.sessions.items()}
    session = dealt["device-0"][0]
    sealed = tuple(
        NodeBytes(name, share.data)
        for name, (_, offer) in dealt.items()
        for share in offer.shares
        if share.node == "device-0"
    )
    assert len(masking.gathered(session, ShareBundle(round=3, attempt=2, shares=sealed)).shares) == 5
    swapped = (NodeBytes(sealed[0].node, sealed[1].data), *sealed[1:])
    for shares, match in [
        (swapped, "do not open"),
        (sealed[:2], "4 are needed"),
        ((*sealed, sealed[0]), "twice"),
        ((*sealed, NodeBytes("stranger", b"")), "not of the roster"),
    ]:
        with pytest.raises(WireError, match=match):
            masking.gathered(session, ShareBundle(round=3, attempt=2, shares=shares))


def test_damaged_shares_are_noticed_and_leave_the_sum_masked():
    party = ready()
    plain = integers(NAMES[:5], SHAPES, 3, SECURE.largest)
    updates = party.mask(plain, ["device-4"])
    party.reveal(updates)
    first = party.exchange.reveals[0]
    bad = bytes(16)
    seeds = (NodeBytes(first.seeds[0].node, bad), *first.seeds[1:])
    for changed, match in [
        (msgspec.structs.replace(first, seeds=seeds), "own mask"),
        (msgspec.structs.replace(first, keys=(NodeBytes("device-4", bad),)), "mask key"),
    ]:
        spoiled = Party.__new__(Party)
        spoiled.place = PLACE
        spoiled.exchange = msgspec.structs.replace(party.exchange, reveals=(changed, *party.exchange.reveals[1:]))
        with pytest.raises(UnmaskingError, match=match):
            spoiled.sum(updates)
    spoiled.exchange = msgspec.structs.replace(party.exchange, reveals=party.exchange.reveals[1:])
    with pytest.raises(UnmaskingError, match="3 devices, 4 are needed"):
        spoiled.sum(updates)


def test_server_takes_each_word_once_and_in_its_stage_only():
    party = ready()
    offers, shares = party.exchange.offers, party.exchange.shares
    assert not party.exchange.awaits(offers[0])
    assert not party.exchange.awaits(shares[0])
    party.reveal(NAMES[:4])
    answer = party.exchange.reveals[0]
    open_ = msgspec.structs.replace(party.exchange, stage="reveals", reveals=())
    assert open_.awaits(answer)
    assert not open_.awaits(msgspec.structs.replace(answer, keys=()))
    assert not open_.awaits(msgspec.structs.replace(answer, node="device-4"))
    assert not msgspec.structs.replace(open_, reveals=(answer,)).awaits(answer)


def test_quantising_is_unbiased_within_a_step_and_clips():
    rng = np.random.default_rng(1)
    secure = SecureAggregation(bits=8, clip=0.5)
    value = np.float32(0.1234)
    drawn = ring.signed(ring.quantised({"x": np.full(200_000, value)}, secure, rng)["x"]) * secure.step
    assert np.abs(drawn - value).max() <= secure.step
    assert abs(drawn.mean() - value) < 4 * secure.step / np.sqrt(12 * 200_000) * 2
    ends = ring.signed(ring.quantised({"x": np.array([9, -9, 0], dtype=np.float32)}, secure, rng)["x"])
    assert ends.tolist() == [127, -127, 0]
    with pytest.raises(WireError, match="not finite"):
        ring.quantised({"x": np.array([np.nan], dtype=np.float32)}, secure, rng)


def test_masked_values_are_uniform_whatever_the_update():
    party = ready()
    plain = {name: {"x": np.zeros(65_536, dtype=np.uint32)} for name in NAMES[:5]}
    masked = party.mask(plain)["device-0"]["x"]
    counts = np.bincount(masked >> 24, minlength=256)
    chi_square = float(((counts - 256) ** 2 / 256).sum())
    assert 150 < chi_square < 400, "255 degrees of freedom: mean 255, standard deviation 22.6"


def test_masked_objects_survive_the_wire_and_others_are_refused():
    tensors = integers(["a"], SHAPES, 5, 1000)["a"]
    records, buffers = ring.records_of(tensors, SECURE)
    blob = messages.pack(
        Update(
            uid="0" * 32,
            node="a",
            epoch=1,
            round=1,
            model_version=0,
            task_hash="0" * 64,
            plan=RoundPlan(secure=SECURE),
            samples=1,
            loss=None,
            tensors=records,
            masks=1,
        ),
        buffers,
    )
    update, views = messages.unpack(blob, Update)
    for name, tensor in ring.read_masked(update.tensors, views).items():
        np.testing.assert_array_equal(tensor, tensors[name])
    with pytest.raises(WireError, match="masked updates have"):
        ring.read_masked([msgspec.structs.replace(records[0], codec="fp32")], views[:1])
    with pytest.raises(WireError, match="needs"):
        ring.read_masked([msgspec.structs.replace(records[0], shape=(2, 2))], views[:1])


def test_missing_package_names_the_extra(monkeypatch):
    ring.require_packages()
    monkeypatch.setattr(ring.importlib.util, "find_spec", lambda name: None if name == "Crypto" else object())
    with pytest.raises(EnvironmentFaultError, match=r"pycryptodome.*spikeleak\[secagg\]"):
        ring.require_packages()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"codec": "int8"}, "codec = 'int8' with secure"),
        ({"compression": "zlib"}, "compression"),
        ({"mode": "asynchronous"}, "mode"),
        ({"error_feedback": True}, "error_feedback"),
    ],
)
def test_plan_refuses_what_masks_rule_out(changes, match):
    with pytest.raises(ValueError, match=match):
        RoundPlan(secure=SECURE, **changes)


@pytest.mark.parametrize("bits", [2, 8, 16, 24])
def test_largest_sum_fits_into_32_bits(bits):
    secure = SecureAggregation(bits=bits)
    assert secure.most_devices * secure.largest < 2**31 <= (secure.most_devices + 1) * secure.largest
