"""Histories of messages: duplicated, reordered, interleaved, replayed, stale, with deadlines and restarts in between.

The result must depend on nothing but which updates were admitted: each history ends with the model computed anew from
these, in canonical order. What is admitted or refused, and why, is held against a judge of its own (`judge`).
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.admission import CODES
from server.aggregation import ALGORITHMS, Contribution, descend, weighted_mean
from server.model import object_of
from server.settings import ScheduleEntry
from tests.faults.chaos import Outcome
from tests.faults.chaos.actors import Stage
from tests.faults.chaos.judge import Made
from tests.unit.server_world import HASH, INITIAL

STEPS = 48
SCHEDULES: tuple[tuple[ScheduleEntry, ...], ...] = (
    (ScheduleEntry(rounds=3, batch_size=16, server_momentum=0.5, deadline_s=10.0),),
    (
        ScheduleEntry(rounds=2, batch_size=16, server_momentum=0.9, min_updates=2, deadline_s=10.0, codec="int8"),
        ScheduleEntry(kind="audit", algorithm="fedsgd", batch_size=1, deadline_s=10.0),
        ScheduleEntry(rounds=2, batch_size=16, clients=2, deadline_s=10.0),
    ),
    (
        ScheduleEntry(algorithm="fedsgd", batch_size=16, deadline_s=10.0, clients=1),
        ScheduleEntry(rounds=3, batch_size=16, min_updates=1, deadline_s=10.0, compression="zlib"),
    ),
)
NEVER_HERE = {"size", "schema", "stale", "masks"}
"""Codes that no sound object of a synchronous round meets: the payloads' row and the asynchronous tests have them."""


def run(count: int, folder: Path) -> Outcome:
    """Lives through `count` histories, each on a ledger of its own in memory.

    Raises:
        AssertionError: With the shortest history that Hypothesis found.
    """
    seen, lived = Counter[str](), 0
    memory = Path("/dev/shm")

    @settings(
        max_examples=count, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(
        schedule=st.integers(0, len(SCHEDULES) - 1),
        steps=st.lists(st.integers(0, 2**20 - 1), min_size=STEPS // 2, max_size=STEPS),
    )
    def live(schedule: int, steps: list[int]) -> None:
        nonlocal lived
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else folder, prefix="histories-") as place:
            stage = Stage(Path(place), SCHEDULES[schedule])
            try:
                for step in steps:
                    stage.do(step)
                check_end(stage)
            finally:
                stage.world.ledger.close()
        seen.update(stage.seen)
        lived += 1

    logging.disable(logging.CRITICAL)
    try:
        live()
    finally:
        logging.disable(logging.NOTSET)
    if count >= 400:
        missed = set(CODES) - NEVER_HERE - set(seen)
        assert not missed, f"no history met the refusals {missed}: {seen}"
    refused = sum(seen[code] for code in CODES)
    words = f"{seen['admitted']} admitted, {refused} refused for {len(set(CODES) & set(seen))} reasons"
    more = f"{seen['repeated']} frames repeated, {seen['restart']} restarts, {seen['closed rounds']} rounds closed"
    return Outcome(injected=lived, figures=f"{words}, {more}; each model equal to its admitted updates'")


def check_end(stage: Stage) -> None:
    """The ledger holds what the judge said, each uid once, and the model is that of the admitted updates.

    Raises:
        AssertionError: What differs.
    """
    ledger = stage.world.ledger
    rows = ledger.rows("SELECT uid, node, status, code FROM updates")
    found = {row["uid"]: (row["node"], row["status"], row["code"]) for row in rows}
    assert len(rows) == len(found), f"{len(rows)} rows for {len(found)} uids"
    judged = {uid: (v.node, "admitted" if not v.code else "refused", v.code) for uid, v in stage.verdicts.items()}
    assert found == judged, f"ledger and judge differ: {set(found.items()) ^ set(judged.items())}"
    sha256, entered, version = canonical(stage)
    assert stage.world.model.version == version, f"version {stage.world.model.version}, canonical {version}"
    assert stage.world.model.sha256 == sha256, "the model differs from that of the same updates in canonical order"
    rows = ledger.rows("SELECT round, uid FROM aggregated")
    counted = Counter((row["round"], row["uid"]) for row in rows)
    assert counted == Counter(entered), f"aggregated {counted}, admitted in time {entered}"


def canonical(stage: Stage) -> tuple[str, list[tuple[int, str]], int]:
    """The model from the admitted updates alone: SHA-256, which entered, and its version."""
    parameters, velocity, entered, version = INITIAL, None, [], 0
    query = "SELECT round FROM rounds WHERE closed IN ('complete', 'deadline') ORDER BY round"
    for round_ in stage.world.column(query):
        stage.seen["closed rounds"] += 1
        plan = stage.world.settings.entry(round_).plan
        made = sorted((m for m in stage.admitted if m.round == round_), key=lambda m: m.uid)
        assert made, f"round {round_} was closed without an admitted update"
        if plan.applied:
            step = ALGORITHMS[plan.algorithm].step(weighted_mean(map(_contribution, made)), plan)
            parameters, velocity = descend(parameters, velocity, step, plan)
            version += 1
            entered += [(round_, m.uid) for m in made]
    return hashlib.sha256(object_of(parameters, version, HASH)).hexdigest(), entered, version


def _contribution(made: Made) -> Contribution:
    return Contribution(uid=made.uid, weight=float(made.samples), tensors=made.decoded)
