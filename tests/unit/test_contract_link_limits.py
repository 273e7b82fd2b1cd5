"""What a link makes of the ends of its connections: cases by hand, and properties over any history."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import contract
from contract.errors import EnvironmentFaultError
from contract.frames import CHUNK_BYTES
from contract.link_limits import (
    CAUTIOUS_FLOOR_BYTES,
    FLOOR_BYTES,
    LARGEST_WINDOW,
    LAST_STRIKES,
    STRIKES,
    TOPIC_SLACK_BYTES,
    Ending,
    FrameLimit,
    window,
)
from edge_client.delivery import CUTS, TRIES

LOST, TAKEN_OVER, TOO_LARGE, SHUTTING_DOWN = 0x80, 0x8E, 0x95, 0x8B


def limit(nbytes: int = CHUNK_BYTES) -> FrameLimit:
    return FrameLimit(nbytes, "broker:1883")


def unanswered(nbytes: int, reason: int | None = LOST, survived: int = 0) -> Ending:
    return Ending(reason=reason, open_bytes=nbytes, recent_bytes=nbytes, survived_bytes=survived)


def answered(nbytes: int, reason: int | None = LOST, survived: int = 0) -> Ending:
    return Ending(reason=reason, recent_bytes=nbytes, survived_bytes=survived)


def test_two_connections_in_a_row_halve_the_frames() -> None:
    frames = limit()
    for number in range(1, STRIKES):
        assert frames.ended(unanswered(CHUNK_BYTES)) == "", number
    assert str(CHUNK_BYTES // 2) in frames.ended(unanswered(CHUNK_BYTES))
    assert frames.frame_bytes == CHUNK_BYTES // 2


def test_twice_as_many_where_the_broker_had_answered() -> None:
    frames = limit()
    for _ in range(2 * STRIKES - 1):
        assert frames.ended(answered(CHUNK_BYTES)) == ""
    assert frames.ended(answered(CHUNK_BYTES))
    assert frames.frame_bytes == CHUNK_BYTES // 2


def test_a_reason_that_says_it_all_needs_one() -> None:
    frames = limit()
    assert frames.ended(unanswered(CHUNK_BYTES, TOO_LARGE))
    assert frames.frame_bytes == CHUNK_BYTES // 2


def test_the_new_size_is_half_of_what_did_not_pass() -> None:
    frames = limit()
    for _ in range(STRIKES):
        frames.ended(unanswered(60_000))
    assert frames.frame_bytes == 30_000


@pytest.mark.parametrize(
    "end",
    [
        unanswered(CHUNK_BYTES, TAKEN_OVER),
        unanswered(CHUNK_BYTES, SHUTTING_DOWN),
        unanswered(CHUNK_BYTES, None),
        unanswered(300),
        answered(CAUTIOUS_FLOOR_BYTES),
        answered(0),
        Ending(reason=LOST),
    ],
)
def test_ends_that_size_has_nothing_to_do_with(end: Ending) -> None:
    frames = limit()
    for _ in range(100):
        assert frames.ended(end) == ""
    assert frames.frame_bytes == CHUNK_BYTES


def test_what_survived_in_between_clears_the_suspicion_and_what_is_smaller_does_not() -> None:
    frames = limit()
    for _ in range(50):
        frames.ended(unanswered(CHUNK_BYTES))
        frames.ended(Ending(reason=None, survived_bytes=CHUNK_BYTES))
    assert frames.frame_bytes == CHUNK_BYTES
    frames.ended(unanswered(CHUNK_BYTES))
    frames.ended(Ending(reason=None, survived_bytes=CHUNK_BYTES - 1))
    frames.ended(unanswered(CHUNK_BYTES))
    assert frames.frame_bytes == CHUNK_BYTES // 2


def test_a_broker_that_was_away_is_no_witness() -> None:
    frames = limit(FLOOR_BYTES)
    for _ in range(100):
        frames.ended(unanswered(FLOOR_BYTES))
        frames.absent()
    assert frames.frame_bytes == FLOOR_BYTES


def test_the_smallest_frames_end_in_an_error_that_says_what_to_raise() -> None:
    frames = limit(2 * FLOOR_BYTES)
    for _ in range(STRIKES):
        frames.ended(unanswered(2 * FLOOR_BYTES))
    assert frames.frame_bytes == FLOOR_BYTES
    for _ in range(LAST_STRIKES - 1):
        assert frames.ended(unanswered(FLOOR_BYTES, survived=300)) == ""
    with pytest.raises(EnvironmentFaultError) as caught:
        frames.ended(unanswered(FLOOR_BYTES, survived=300))
    for words in ("broker:1883", f"{LAST_STRIKES} times", "took: 300 bytes", str(FLOOR_BYTES + TOPIC_SLACK_BYTES)):
        assert words in str(caught.value), str(caught.value)


def test_connections_that_answered_never_end_in_an_error() -> None:
    frames = limit()
    for _ in range(200):
        frames.ended(answered(frames.frame_bytes))
    assert frames.frame_bytes == CAUTIOUS_FLOOR_BYTES


def test_silence_quarters_down_to_its_own_floor() -> None:
    frames, seen = limit(), list[int]()
    while frames.cut_smaller():
        seen.append(frames.frame_bytes)
    assert seen == [65_536, 16_384, 4_096]


def test_the_announcement_counts_and_is_not_kept_for_the_next_broker() -> None:
    frames = limit()
    frames.announced(50_000)
    assert frames.frame_bytes == 50_000 - TOPIC_SLACK_BYTES
    frames.announced(None)
    assert frames.frame_bytes == CHUNK_BYTES
    frames.announced(FLOOR_BYTES + TOPIC_SLACK_BYTES)
    assert frames.frame_bytes == FLOOR_BYTES
    with pytest.raises(EnvironmentFaultError, match="max_packet_size"):
        frames.announced(FLOOR_BYTES + TOPIC_SLACK_BYTES - 1)


@pytest.mark.parametrize(
    ("announced", "used"), [(None, LARGEST_WINDOW), (65_535, LARGEST_WINDOW), (20, 20), (1, 1), (64, 64)]
)
def test_window(announced: int | None, used: int) -> None:
    assert window(announced) == used


sizes = st.integers(0, CHUNK_BYTES)
reasons = st.sampled_from([None, 0, LOST, TAKEN_OVER, TOO_LARGE, 0x82, 0x99])
ends = st.builds(Ending, reason=reasons, open_bytes=sizes, recent_bytes=sizes, survived_bytes=sizes)


@given(st.lists(ends | st.none() | st.just("silent"), max_size=60))
def test_frames_only_shrink_stay_useful_and_always_end(history: list[object]) -> None:
    frames = limit()
    for event in history:
        before = frames.frame_bytes
        try:
            if isinstance(event, Ending):
                frames.ended(event)
            elif event is None:
                frames.absent()
            else:
                frames.cut_smaller()
        except EnvironmentFaultError:
            assert frames.frame_bytes == FLOOR_BYTES
            return
        assert FLOOR_BYTES <= frames.frame_bytes <= before


@given(st.integers(1, 2 * CHUNK_BYTES))
def test_every_limit_is_found_or_given_up_within_a_bounded_number_of_connections(taken: int) -> None:
    frames = limit()
    for _ in range(8 * STRIKES + LAST_STRIKES):
        if frames.frame_bytes <= taken:
            return
        try:
            frames.ended(unanswered(frames.frame_bytes))
        except EnvironmentFaultError:
            assert taken < FLOOR_BYTES
            return
    raise AssertionError(f"a broker that takes {taken} bytes still gets {frames.frame_bytes}")


def test_the_spec_says_these_numbers() -> None:
    spec = " ".join((Path(contract.__file__).parent / "SPEC.md").read_text(encoding="utf-8").split())
    assert f"({TOPIC_SLACK_BYTES} bytes of a packet are left for all but the frame)" in spec
    assert STRIKES == 2
    assert (
        f"twice in a row at a frame that was not acknowledged halves its frames, down to {FLOOR_BYTES:,} bytes" in spec
    )
    assert (TRIES, CUTS) == (2, 3)
    assert f"at most three times a connection, down to {CAUTIOUS_FLOOR_BYTES:,} bytes" in spec
