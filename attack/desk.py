"""The attacker's books: what arrived, what waits, what was answered. Messages in, answers out; no I/O."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from attack.aggregate import as_update
from attack.models import ModelStore
from attack.share import Share
from attack.worker import Answer, Job, UpdateQueue, Worker
from contract import topics
from contract.errors import WireError
from contract.frames import Assembler, Frame, parse
from contract.messages import Aggregate, Message, ServerState, TaskManifest, Update, decode, unpack_one_of
from contract.task import TaskSpec, task_hash

log = logging.getLogger(__name__)

ANSWERS_BYTES = 64 * 1024 * 1024
"""Answers kept in memory for updates that the server mirrors again because no score came."""


MODEL_PATIENCE_S = 5.0
"""How long an update waits for the model that it starts from."""


class Desk:
    """Takes the messages of a run and gives the next answer.

    Args:
        worker: Attacks one update.
        queue: Updates that wait.
        share: This worker's part of the mirror; `None` where it is alone.
    """

    def __init__(self, worker: Worker, queue: UpdateQueue, share: Share | None = None) -> None:
        self.worker, self.queue, self.share = worker, queue, share
        self.at_work: Callable[[Update], AbstractContextManager[object]] = lambda _update: nullcontext()
        self.models = ModelStore()
        self.task: TaskSpec | None = None
        self.finished = False
        self._assembler = Assembler()
        self._ready: list[Answer] = []
        self._answered: OrderedDict[str, Answer] = OrderedDict()
        self._lacking_since_s: dict[str, float] = {}
        self._forms: dict[str, Callable[[bytes], None]] = {
            "server": self._server_state,
            "task": self._task_manifest,
            "model": self._model_chunk,
        }

    def take(self, topic: str, payload: bytes) -> None:
        """One message; a faulty one is logged and left."""
        try:
            parsed = topics.parse(topic)
            if parsed.kind == "mirror":
                self._mirror_chunk(parsed, payload)
            else:
                self._forms[parsed.kind](payload)
        except (WireError, KeyError) as error:
            log.warning("message on %s ignored: %s", topic, error)

    @property
    def idle(self) -> bool:
        """Whether nothing can be done at present: nothing waits, or the task is not known yet."""
        waiting = self.share is not None and not self.share.idle
        return not (self._ready or waiting) and (self.task is None or not len(self.queue))

    def next_answer(self, at_s: float) -> Answer | None:
        """Attacks the oldest update whose model is at hand, unless an answer is ready already.

        A broker may deliver a retained model after an update that starts from it, so that an update waits a while for
        its model before it is answered without.

        Args:
            at_s: Now, on the monotonic clock.

        Returns:
            An answer to publish; `None` when there is nothing to do at present.
        """
        if self._ready:
            return self._ready.pop(0)
        if self.task is None:
            return None
        job = self.queue.pop(lambda job: self._workable(job, at_s))
        if job is None:
            return None
        self._lacking_since_s.pop(job.update.uid, None)
        with self.at_work(job.update):
            found = self.worker.attack(job, self.task, self.models.get(job.update.model_version))
        self._keep(found)
        return found

    def _workable(self, job: Job, at_s: float) -> bool:
        threat = self.worker.threat
        if (
            not threat.weights
            or (threat.vantage == "client" and job.aggregate is None)
            or self.models.get(job.update.model_version) is not None
        ):
            return True
        return at_s - self._lacking_since_s.setdefault(job.update.uid, at_s) >= MODEL_PATIENCE_S

    def _is_ours(self, share: Share, frame: Frame) -> bool:
        """Whether a chunk is one of an update that this worker is to attack, and that it has not got whole already."""
        if share.expects(frame.uid):
            return True
        if frame.index or not share.takes(frame.uid) or frame.uid in self.queue:
            return False
        if frame.uid in self._answered:
            self._ready.append(self._answered[frame.uid])
            return False
        return True

    def _keep(self, found: Answer) -> None:
        self._answered[found.job] = found
        held = sum(kept.nbytes for kept in self._answered.values())
        while held > ANSWERS_BYTES and len(self._answered) > 1:
            held -= self._answered.popitem(last=False)[1].nbytes

    def _server_state(self, payload: bytes) -> None:
        if payload:
            self.finished = decode(payload, ServerState).status == "finished"

    def _task_manifest(self, payload: bytes) -> None:
        if not payload:
            return
        manifest = decode(payload, TaskManifest)
        found = task_hash(manifest.task)
        if found != manifest.task_hash:
            raise WireError(f"task has the hash {found}, its manifest says {manifest.task_hash}")
        self.task = manifest.task

    def _model_chunk(self, payload: bytes) -> None:
        version = self.models.take(payload, needed=self.queue.versions())
        if version is not None:
            log.info("model version %d received", version)

    def _mirror_chunk(self, topic: topics.Topic, payload: bytes) -> None:
        frame = parse(payload)
        if self.share is not None and not self._is_ours(self.share, frame):
            return
        whole = self._assembler.add(frame)
        if self.share is not None:
            if whole is None:
                self.share.begun(topic.round, topic.node, frame.uid)
            else:
                self.share.settled(frame.uid)
        if whole is None:
            return
        job = _job(bytes(whole.blob))
        if job.update.uid in self._answered:
            self._ready.append(self._answered[job.update.uid])
            return
        victim = self.queue.put(job)
        if victim is not None:
            reason = f"given up: more than {self.queue.limit} updates waited for the attacker"
            log.warning("update %s %s (%d so far)", victim.update.uid, reason, self.queue.dropped)
            self._ready.append(self.worker.without(victim, "failed", reason))


def _job(blob: bytes) -> Job:
    """What a mirrored object asks for.

    Raises:
        WireError: Neither an update nor an aggregate.
    """
    kinds: tuple[type[Message], ...] = (Update, Aggregate)
    head, views = unpack_one_of(blob, *kinds)
    if isinstance(head, Aggregate):
        return Job(update=as_update(head), views=views, aggregate=head)
    assert isinstance(head, Update)
    return Job(update=head, views=views)
