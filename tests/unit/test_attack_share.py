"""What one of several attack workers takes, asks for and leaves to the others."""

from __future__ import annotations

from attack.desk import Desk
from attack.share import CLAIM_AGAIN_S, CLAIMS, Share
from attack.worker import UpdateQueue
from contract import topics
from contract.frames import split
from contract.messages import Update, unpack
from tests.attack_updates import audit_plan, manifest, model_blob, update_blob, worker
from tests.unit.test_attack_worker import CHEAP, TASK, samples


def desk(share: Share) -> Desk:
    found = Desk(worker(CHEAP), UpdateQueue(8), share)
    found.take(topics.task_manifest("test"), manifest(TASK))
    for index, frame in enumerate(split(model_blob(TASK), "0" * 32)):
        found.take(topics.model_chunk("test", 1, index), frame)
    return found


def mirrored(seed: int, frame_bytes: int = 512) -> tuple[str, list[bytes]]:
    blob = update_blob(TASK, *samples(), audit_plan(), seed=seed)
    uid = unpack(blob, Update)[0].uid
    return uid, list(split(blob, uid, frame_bytes=frame_bytes))


def take(found: Desk, uid: str, frames: list[bytes], *indices: int) -> None:
    for index in indices:
        found.take(topics.mirror_chunk("test", 3, "device-1", uid, index), frames[index])


def test_without_a_broker_that_shares_each_update_belongs_to_one_worker():
    shares = [Share(3, index) for index in range(3)]
    for seed in range(30):
        uid, _ = mirrored(seed)
        assert sum(share.takes(uid) for share in shares) == 1
    assert len({next(i for i, s in enumerate(shares) if s.takes(mirrored(seed)[0])) for seed in range(30)}) == 3
    shares[0].by_broker = True
    assert all(shares[0].takes(mirrored(seed)[0]) for seed in range(30)), "what came here was given to this one"


def test_the_rest_of_a_first_chunk_is_claimed_and_then_attacked():
    share = Share(3, 0)
    share.by_broker = True
    found, (uid, frames) = desk(share), mirrored(1)
    assert len(frames) > 3
    take(found, uid, frames, 0)
    assert not found.idle
    assert found.next_answer(0.0) is None
    (claim,) = share.due(10.0)
    assert (claim.round, claim.node, claim.uid) == (3, "device-1", uid)
    assert share.due(10.0 + CLAIM_AGAIN_S - 0.1) == []
    take(found, uid, frames, *range(1, len(frames) - 1))
    assert share.due(10.0 + CLAIM_AGAIN_S) == [claim], "a chunk is still missing"
    take(found, uid, frames, len(frames) - 1)
    assert share.left() == [claim]
    assert share.due(1e6) == []
    answer = found.next_answer(11.0)
    assert answer is not None
    assert answer.message.update_uid == uid
    take(found, uid, frames, 0)
    again = found.next_answer(12.0)
    assert again is answer, "mirrored again: the answer that it has"


def test_what_is_another_workers_is_left_alone():
    share = Share(2, 0)
    found = desk(share)
    for seed in range(8):
        uid, frames = mirrored(seed)
        take(found, uid, frames, *range(1, len(frames)))
        assert not share.expects(uid), "no chunk but the first is taken unasked"
        take(found, uid, frames, 0)
        assert share.expects(uid) == share.takes(uid)
    single, (frame,) = mirrored(99, frame_bytes=1 << 18)
    share.by_broker = True
    take(found, single, [frame], 0, 0)
    assert not share.expects(single), "one chunk is the whole update"
    assert len(found.queue) == 1


def test_a_claim_that_nobody_answers_ends():
    share = Share(2, 0)
    share.by_broker = True
    found, (uid, frames) = desk(share), mirrored(1)
    take(found, uid, frames, 0)
    asked = [share.due(at * CLAIM_AGAIN_S) for at in range(1, 10)]
    assert [len(claims) for claims in asked] == [1] * CLAIMS + [0] * (9 - CLAIMS)
    assert [claim.uid for claim in share.left()] == [uid]
    assert found.idle
    take(found, uid, frames, 0)
    assert share.expects(uid), "mirrored again it is taken again"
