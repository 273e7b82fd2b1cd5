from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.codecs import encode_tensors
from contract.masking import records_of
from contract.messages import Update, pack, unpack
from contract.pipeline import euclidean_norm
from contract.secure import SecureAggregation
from contract.task import RoundPlan
from contract.topics import Topic
from server.admission import CODES, LARGEST_COUNT, Admission, Expected, Refusal, examine
from server.settings import AdmissionSettings
from tests.unit.server_world import HASH, INITIAL, difference, make_update

PLAN = RoundPlan(batch_size=16)
EXPECTED = Expected(
    task_hash=HASH,
    shapes={name: value.shape for name, value in INITIAL.items()},
    settings=AdmissionSettings(max_norm=100.0),
    round=3,
    open=True,
    plan=PLAN,
    model_version=2,
    invited=frozenset({"a", "b"}),
    births={"a": 1},
)


BUFFERED = msgspec.structs.replace(
    EXPECTED, plan=RoundPlan(batch_size=16, mode="asynchronous"), model_version=6, max_staleness=3
)


def judge(expected: Expected = EXPECTED, topic: dict | None = None, **changes):
    blob, uid = make_update("a", changes.pop("round_", 3), **{"plan": PLAN, "model_version": 2, **changes})
    place = Topic(run="run", kind="up", node="a", round=changes.get("round", 3), uid=uid, index=0)
    return examine(msgspec.structs.replace(place, **(topic or {})), blob, expected)


def test_a_good_update_is_admitted_with_its_norm():
    verdict = judge(tensors={"layers.0.weight": np.full((2, 3), 2.0), "layers.0.bias": np.array([0.0, 5.0])})
    assert isinstance(verdict, Admission)
    assert verdict.norm == pytest.approx(7.0)
    assert verdict.update.node == "a"


def test_an_asynchronous_round_takes_what_is_not_too_old():
    for version in (3, 4, 5, 6):
        assert isinstance(judge(BUFFERED, plan=BUFFERED.plan, model_version=version), Admission)


SECURE = SecureAggregation()
MASKED = msgspec.structs.replace(
    EXPECTED, plan=RoundPlan(batch_size=16, secure=SECURE), attempt=2, members=frozenset({"a", "c"})
)


def judge_masked(expected: Expected = MASKED, codec: str = "", **changes):
    ring = {name: np.arange(value.size, dtype=np.uint32).reshape(value.shape) for name, value in INITIAL.items()}
    records, buffers = records_of(ring, SECURE)
    if codec:
        records = tuple(msgspec.structs.replace(record, codec=codec) for record in records)
    blob, uid = make_update("a", 3, plan=MASKED.plan, model_version=2)
    update = msgspec.structs.replace(unpack(blob, Update)[0], tensors=records, loss=None, **{"masks": 2, **changes})
    return examine(Topic(run="run", kind="up", node="a", round=3, uid=uid, index=0), pack(update, buffers), expected)


def test_a_masked_update_is_admitted_by_shape_and_opening_and_has_no_norm():
    verdict = judge_masked()
    assert isinstance(verdict, Admission)
    assert verdict.norm is None
    stranger = msgspec.structs.replace(MASKED, members=frozenset({"b", "c"}))
    for refused, code in [
        (judge_masked(masks=1), "masks"),
        (judge_masked(masks=0), "masks"),
        (judge_masked(stranger), "masks"),
        (judge_masked(codec="fp32"), "tensors"),
        (judge_masked(msgspec.structs.replace(MASKED, open=False)), "closed"),
    ]:
        assert isinstance(refused, Refusal)
        assert refused.code == code


def tensors(**changes):
    found = difference("x")
    return {**found, **{name.replace("_", ".", 2): value for name, value in changes.items()}}


def poisoned(value: float):
    found = difference("x")
    found["layers.0.bias"] = np.array([0.0, value], dtype=np.float32)
    return found


BAD = {
    "node: other node in the topic": ("node", {"topic": {"node": "b"}}),
    "node: other uid in the topic": ("node", {"topic": {"uid": "f" * 32}}),
    "node: other round in the topic": ("node", {"topic": {"round": 2}}),
    "task": ("task", {"task_hash": "0" * 64}),
    "future": ("future", {"round_": 4, "topic": {"round": 4}}),
    "closed": ("closed", {"round_": 2, "topic": {"round": 2}}),
    "uninvited": ("uninvited", {"expected": msgspec.structs.replace(EXPECTED, invited=frozenset({"b"}))}),
    "not open": ("closed", {"expected": msgspec.structs.replace(EXPECTED, open=False)}),
    "plan": ("plan", {"plan": RoundPlan(batch_size=16, local_steps=2)}),
    "model": ("model", {"model_version": 1}),
    "model of the future": ("model", {"model_version": 3}),
    "model of the future, asynchronous": ("model", {"expected": BUFFERED, "plan": BUFFERED.plan, "model_version": 7}),
    "stale": ("stale", {"expected": BUFFERED, "plan": BUFFERED.plan, "model_version": 2}),
    "epoch": ("epoch", {"expected": msgspec.structs.replace(EXPECTED, births={"a": 2})}),
    "second": ("second", {"expected": msgspec.structs.replace(EXPECTED, delivered=frozenset({"a"}))}),
    "samples": ("samples", {"samples": 17}),
    "loss": ("finite", {"loss": float("nan")}),
    "names": ("tensors", {"tensors": {**difference("x"), "more": np.zeros(1, np.float32)}}),
    "missing tensor": ("tensors", {"tensors": {"layers.0.bias": np.zeros(2, np.float32)}}),
    "shape": ("tensors", {"tensors": {**difference("x"), "layers.0.bias": np.zeros((2, 1), np.float32)}}),
    "codec": ("tensors", {"codec": "fp16"}),
    "nan": ("finite", {"tensors": poisoned(np.nan)}),
    "inf": ("finite", {"tensors": poisoned(np.inf)}),
    "norm": ("norm", {"tensors": poisoned(100.5)}),
    "masks": ("masks", {"masks": 1}),
    "count": ("schema", {"epoch": LARGEST_COUNT + 1}),
}


@pytest.mark.parametrize("case", BAD)
def test_each_bad_update_is_refused_with_its_code(case):
    code, changes = BAD[case]
    verdict = judge(**changes)
    assert isinstance(verdict, Refusal)
    assert verdict.code == code, verdict.reason
    assert verdict.reason.startswith(f"{code}: ")
    assert len(verdict.text) > 5


def test_every_code_is_reached_by_a_test():
    assert {code for code, _ in BAD.values()} | {"size"} == set(CODES)


def test_a_tensor_whose_bytes_do_not_fit_its_shape_is_refused():
    blob, uid = make_update("a", 3, plan=PLAN, model_version=2)
    topic = Topic(run="run", kind="up", node="a", round=3, uid=uid, index=0)
    fewer = examine(topic, blob[:-4], EXPECTED)
    assert isinstance(fewer, Refusal)
    assert fewer.code == "schema"


@given(at=st.integers(0, 10_000), to=st.integers(0, 255), cut=st.integers(0, 300))
def test_damaged_objects_never_raise(at, to, cut):
    blob, uid = make_update("a", 3, plan=PLAN, model_version=2)
    data = bytearray(blob)
    data[at % len(data)] = to
    topic = Topic(run="run", kind="up", node="a", round=3, uid=uid, index=0)
    verdict = examine(topic, data[: len(data) - cut], EXPECTED)
    assert isinstance(verdict, Admission | Refusal)
    if isinstance(verdict, Refusal):
        assert verdict.code in CODES


def test_the_norm_does_not_overflow_in_float32():
    big = np.full(4, 3e38, dtype=np.float32)
    assert euclidean_norm({"w": big}) == pytest.approx(2 * 3e38, rel=1e-6)


def test_deflated_tensors_enter_only_where_the_plan_says_so():
    zeros = {name: np.zeros(value.shape, dtype=np.float32) for name, value in INITIAL.items()}
    zeros["layers.0.weight"] = np.zeros((2, 3), dtype=np.float32)
    (uid, plan) = "0" * 31 + "1", RoundPlan(batch_size=16, compression="zlib")
    records, buffers = encode_tensors("fp32", zeros, np.random.default_rng(0), compression="zlib")
    assert any(record.inflated for record in records)
    fields = {"uid": uid, "node": "a", "epoch": 1, "round": 3, "model_version": 2, "task_hash": HASH, "samples": 3}
    place = Topic(run="run", kind="up", node="a", round=3, uid=uid, index=0)

    def said(plan: RoundPlan) -> Admission | Refusal:
        blob = pack(Update(**fields, plan=plan, loss=None, tensors=records), buffers)
        return examine(place, blob, msgspec.structs.replace(EXPECTED, plan=plan))

    assert isinstance(said(plan), Admission)
    refused = said(PLAN)
    assert (refused.code, "deflated" in refused.text) == ("tensors", True)
