"""A stage for histories: one server on a ledger, devices with names, and a network that keeps every frame it saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from contract import frames, messages, topics
from contract.frames import HEADER
from contract.messages import Ack, NodeState
from server.settings import ScheduleEntry
from tests.faults.chaos.judge import FAULTS, Made, Standing, Verdict, judge, make
from tests.unit.server_world import RUN, World, name_of, settings

NODES = ("a", "b", "c", "late")
"""The last one is born in the course of a history, if at all."""
CHUNK = HEADER.size + 400


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """One frame of an update on its way."""

    made: Made
    index: int
    topic: str
    payload: bytes


class Stage:
    """One history.

    Args:
        folder: For the ledger.
        schedule: Of the run.
    """

    def __init__(self, folder: Path, schedule: tuple[ScheduleEntry, ...]) -> None:
        self.world = World(settings(folder, *schedule, clients=3, max_attempts=50))
        self.births: dict[str, int] = {}
        self.verdicts: dict[str, Verdict] = {}
        self.admitted: list[Made] = []
        self.seen: Counter[str] = Counter()
        self._flight: list[Frame] = []
        self._past: list[Frame] = []
        self._arrived: dict[tuple[str, str], tuple[Made, set[int]]] = {}
        self._made = 0
        for node in NODES[:3]:
            self._be_born(node)

    def do(self, draw: int) -> None:
        """One step: which one, and with what, follows from a number."""
        action = _STEPS[draw % len(_STEPS)]
        action(self, draw // len(_STEPS))

    # --- devices ----------------------------------------------------------------------------------------------------

    def make(self, draw: int) -> None:
        """A device makes an update; nothing of it is sent yet."""
        node, fault = _pick(NODES, draw), _pick(FAULTS, draw // len(NODES))
        self._made += 1
        uid = name_of("history", self._made)
        others = sorted({frame.made.uid for frame in self._past if frame.made.node != node})
        if fault == "stolen" and others:
            uid = _pick(others, draw)
        made = make(uid, node, self.births.get(node, 1), self._standing(), fault=fault, seed=self._made)
        cut = frames.split(made.blob, uid, frame_bytes=CHUNK)
        for index, payload in enumerate(cut):
            topic = topics.update_chunk(RUN, node, made.topic_round, uid, index)
            self._flight.append(Frame(made=made, index=index, topic=topic, payload=payload))

    def honest(self, draw: int) -> None:
        """A device that is asked answers at once and well."""
        node = _pick(NODES[:3], draw)
        self._made += 1
        made = make(
            name_of("history", self._made), node, self.births[node], self._standing(), fault="", seed=self._made
        )
        for index, payload in enumerate(frames.split(made.blob, made.uid, frame_bytes=CHUNK)):
            topic = topics.update_chunk(RUN, node, made.round, made.uid, index)
            self._carry(Frame(made=made, index=index, topic=topic, payload=payload))

    def birth(self, draw: int) -> None:
        self._be_born(_pick(NODES, draw))

    def _be_born(self, node: str) -> None:
        self.births[node] = self.births.get(node, 1) + 1
        self.world.node(node, epoch=self.births[node])

    def will(self, draw: int) -> None:
        """The last will of an earlier life, or of this one."""
        node = _pick(NODES, draw)
        if node not in self.births:
            return
        stale = draw // 4 % 3
        before = node in self.world.state.online
        epoch = self.births[node] - (1 if stale else 0)
        state = NodeState(node=node, epoch=epoch, status="offline")
        self.world.server.message(topics.node_state(RUN, node), messages.encode(state), self.world.at_s)
        now = node in self.world.state.online
        if stale:
            assert now == before, f"a will of life {epoch} of {node} was heeded, it lives its {self.births[node]}."
            self.seen["stale will"] += 1
        else:
            assert not now, f"{node} said that it leaves and counts as online"

    # --- the network ------------------------------------------------------------------------------------------------

    def carry(self, draw: int) -> None:
        """Any frame in flight arrives: chunks interleave, later ones overtake."""
        if self._flight:
            self._carry(self._flight.pop(draw % len(self._flight)))

    def carry_all(self, draw: int) -> None:
        """All that is in flight arrives, first or last first."""
        flight, self._flight = self._flight, []
        for frame in reversed(flight) if draw % 2 else flight:
            self._carry(frame)

    def repeat(self, draw: int) -> None:
        """A frame of the past comes again, in whatever round this is now."""
        if self._past:
            self.seen["repeated"] += 1
            self._carry(self._past[draw % len(self._past)])

    def replay(self, draw: int) -> None:
        """All frames of an update of the past come again."""
        if self._past:
            made = self._past[draw % len(self._past)].made
            for frame in [f for f in self._past if f.made is made]:
                self.seen["repeated"] += 1
                self._carry(frame)

    def damage(self, draw: int) -> None:
        """A frame in flight arrives with a flipped bit; the sound one is still to come."""
        if not self._flight:
            return
        frame = self._flight[draw % len(self._flight)]
        spoiled = bytearray(frame.payload)
        spoiled[HEADER.size + draw % (len(spoiled) - HEADER.size)] ^= 1 << draw % 8
        bad, sent = self.world.server.intake.frames_bad, len(self.world.wire.sent)
        self.world.server.message(frame.topic, bytes(spoiled), self.world.at_s)
        if frame.made.node in self.births:
            assert self.world.server.intake.frames_bad == bad + 1, "a damaged frame was not counted"
        assert len(self.world.wire.sent) == sent, "a damaged frame was answered"

    # --- time and the server ----------------------------------------------------------------------------------------

    def wait(self, draw: int) -> None:
        """Time passes; now and then beyond a deadline."""
        self.world.wait((0.1, 0.6, 3.0, 11.0)[draw % 4])

    def restart(self, _draw: int) -> None:
        """The server dies with what it had in memory, and lives again on its ledger."""
        self.seen["restart"] += 1
        self._arrived.clear()
        self.world.restart()
        for node in NODES[: 3 if "late" not in self.births else 4]:  # retained births come again
            self.world.node(node, epoch=self.births[node])

    # --- one frame --------------------------------------------------------------------------------------------------

    def _carry(self, frame: Frame) -> None:
        self._past.append(frame)
        made, now = frame.made, self._standing()
        mark = len(self.world.wire.sent)
        self.world.server.message(frame.topic, frame.payload, self.world.at_s)
        acks = [ack for ack in self._acks(mark, made.node) if ack.uid == made.uid]
        known = self.verdicts.get(made.uid)
        if made.node not in self.births:
            assert not acks, f"a device without a birth was answered: {acks}"
        elif known is not None:
            self._check_repeat(made, known, acks)
        elif self._gets_whole(frame):
            self._check_verdict(made, judge(made, now), acks)
        else:
            assert not acks, f"{acks} to an object of which chunks are missing"

    def _gets_whole(self, frame: Frame) -> bool:
        key = (frame.made.node, frame.made.uid)
        made, have = self._arrived.get(key, (frame.made, set()))
        if made is not frame.made:  # another object under the same name: the receiver begins again with the newest
            have = set()
        self._arrived[key] = (frame.made, have | {frame.index})
        count = -(-len(frame.made.blob) // (CHUNK - HEADER.size))
        if len(have | {frame.index}) < count:
            return False
        del self._arrived[key]
        return True

    def _check_verdict(self, made: Made, code: str, acks: list[Ack]) -> None:
        told = [(ack.status, ack.reason.partition(":")[0]) for ack in acks]
        wanted = ("refused", code) if code else ("admitted", "")
        assert told == [wanted], f"answered {told}, must be {wanted}: {msgspec.structs.replace(made, blob=b'')}"
        self.verdicts[made.uid] = Verdict(made.node, code)
        self.seen[code or "admitted"] += 1
        if not code:
            self.admitted.append(made)

    def _check_repeat(self, made: Made, known: Verdict, acks: list[Ack]) -> None:
        self._arrived.pop((made.node, made.uid), None)
        if made.node != known.node:
            wanted = ("refused", "node")
            self.seen["uid of another"] += 1
        else:
            wanted = ("refused", known.code) if known.code else ("admitted", "")
        told = {(ack.status, ack.reason.partition(":")[0]) for ack in acks}
        assert told <= {wanted}, f"a repetition was answered {told}, the verdict was {wanted}"

    def _acks(self, mark: int, node: str) -> list[Ack]:
        topic = topics.ack(RUN, node)
        return [messages.decode(payload, Ack) for said, payload, _ in self.world.wire.sent[mark:] if said == topic]

    def _standing(self) -> Standing:
        state = self.world.state
        return Standing(
            round=state.round if state.takes_updates else state.round - 1,
            open=state.takes_updates,
            plan=self.world.settings.entry(min(state.round, self.world.settings.rounds)).plan,
            model_version=self.world.model.version,
            invited=state.invited,
            births=dict(self.births),
            delivered=frozenset(
                made.node for made in self.admitted if made.round == state.round and state.takes_updates
            ),
        )


def _pick(choices, draw: int):
    return choices[draw % len(choices)]


_STEPS: tuple[Callable[[Stage, int], None], ...] = (
    *(Stage.make,) * 6, *(Stage.honest,) * 3, *(Stage.carry,) * 8, *(Stage.carry_all,) * 4, *(Stage.repeat,) * 3,
    *(Stage.replay,) * 2, Stage.damage, Stage.birth, Stage.will, *(Stage.wait,) * 2, Stage.restart,
)  # fmt: skip
