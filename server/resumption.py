"""Where a run stands, read from its ledger: the beginning of each life of the server."""

from __future__ import annotations

import msgspec

from server.ledger import Ledger
from server.rounds import Course, State
from server.settings import ServerSettings


def course_of(settings: ServerSettings) -> Course:
    """The part of the settings that the round machine needs, with repeats written out."""
    return Course(
        schedule=tuple(entry for entry in settings.schedule for _ in range(entry.rounds)),
        seed=settings.task.seed,
        clients=settings.clients,
        start_with=settings.start_with,
        grace_s=settings.grace_s,
        max_attempts=settings.max_attempts,
    )


def resume(ledger: Ledger, course: Course, *, epoch: int, model_version: int, at_s: float) -> State:
    """The state to go on from. A round that was open is opened again with the updates it has.

    Args:
        ledger: The run's ledger.
        course: What does not change.
        epoch: This life's number; rounds left open by an earlier one are noted as interrupted.
        model_version: Version of the current model.
        at_s: Now, on the monotonic clock.
    """
    with ledger.transaction():
        ledger.execute("UPDATE rounds SET closed = 'interrupted' WHERE closed IS NULL AND epoch < ?", epoch)
    done = ledger.value("SELECT COALESCE(MAX(round), 0) FROM rounds WHERE closed IN ('complete', 'deadline')")
    state = State(round=done + 1, since_s=at_s)
    if done >= len(course.schedule):
        return state
    plan = msgspec.json.encode(course.entry(state.round).plan).decode()
    openings = ledger.rows("SELECT * FROM rounds WHERE round = ? ORDER BY attempt", state.round)
    attempt = max((row["attempt"] for row in openings), default=0)
    if course.secure(state.round) is not None:  # masks of another opening never fit: all begin anew
        return msgspec.structs.replace(state, attempt=attempt)
    buffered = course.fedbuff(state.round) is not None
    same = [row for row in openings if row["plan"] == plan and (buffered or row["model_version"] == model_version)]
    invited = frozenset(node for row in same for node in msgspec.json.decode(row["invited"]))
    delivered = ledger.rows(_BUFFERED, state.round) if buffered else ledger.rows(_DELIVERED, state.round, model_version)
    return msgspec.structs.replace(
        state,
        attempt=attempt,
        invited=invited,
        delivered=tuple((row["node"], row["uid"]) for row in delivered if row["node"] in invited),
        versions=ledger.value("SELECT COUNT(*) FROM models WHERE round = ?", state.round) if buffered else 0,
    )


_DELIVERED = "SELECT node, uid FROM updates WHERE round = ? AND status = 'admitted' AND model_version = ? ORDER BY uid"
_BUFFERED = (
    "SELECT node, uid FROM updates WHERE round = ? AND status = 'admitted' "
    "AND uid NOT IN (SELECT uid FROM aggregated) ORDER BY sequence"
)
