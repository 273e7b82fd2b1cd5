"""Attack jobs of a run as tasks of a cluster: sent with the attackers' credentials, and brought back with their files.

What an attacker is sent is its settings, its certificate and key for the run's door (`deploy.door`), and the samples
that it suspects: nothing of the devices. A job whose node is lost is told to the run, which asks for it again.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec

from attack.settings import AttackSettings
from contract.configuration import decode_toml
from contract.link import TlsSettings
from deploy.door import write_key
from deploy.posted import Asked, Ended, Post
from deploy.study import to_toml
from deploy.sweep.room import Part
from deploy.sweep.task_process import last_line, process, task_folder

_POLL_S = 0.1
_JOURNAL = "attack.jsonl"


class Parcel(msgspec.Struct, frozen=True, kw_only=True):
    """What an attack job is sent.

    Attributes:
        settings: `AttackSettings` in TOML; paths in it are the sender's.
        files: Content by key: `ca`, `certificate`, `key`, `candidates`.
    """

    settings: str
    files: dict[str, bytes]


class Returned(msgspec.Struct, frozen=True, kw_only=True):
    """What comes back.

    Attributes:
        status: Exit status of the attacker.
        fault: Its last line, where that is not 0.
        node: Of the cluster.
        journal: Its journal.
        log: What it said.
    """

    status: int
    fault: str
    node: str
    journal: bytes
    log: bytes


class Job(msgspec.Struct, kw_only=True):
    """One life of an attack job, for the run's ``jobs.json``.

    Attributes:
        name: Which of the run's.
        life: How often it was asked for before.
        node: Of the cluster, by its id; while it is not known, where it was sent.
        task: Its task, by its id.
        ended: `at work`, `finished`, `lost`, or `status N`.
    """

    name: str
    life: int
    node: str
    task: str
    ended: str = "at work"


def packed(settings: AttackSettings) -> Parcel:
    """Settings with the content of the files that they name."""
    named: dict[str, Path | None] = {"candidates": settings.candidates}
    if settings.link.tls is not None:
        named |= {name: getattr(settings.link.tls, name) for name in ("ca", "certificate", "key")}
    files = {name: path.read_bytes() for name, path in named.items() if path is not None}
    return Parcel(settings=to_toml(settings), files=files)


def unpacked(parcel: Parcel, folder: Path) -> Path:
    """Writes a parcel's files, the key for this user alone, and the settings with their places; the settings' file."""
    path = folder / "attack.toml"
    path.write_text(parcel.settings, encoding="utf-8")
    settings, link = decode_toml(path, AttackSettings), None
    for name, content in parcel.files.items():
        write_key(folder / name, content)
    if settings.link.tls is not None:
        ca, certificate, key = (folder / name for name in ("ca", "certificate", "key"))
        link = msgspec.structs.replace(settings.link, tls=TlsSettings(ca=ca, certificate=certificate, key=key))
    placed = msgspec.structs.replace(
        settings,
        link=link or settings.link,
        directory=folder / "attack",
        candidates=folder / "candidates" if settings.candidates else None,
    )
    path.write_text(to_toml(placed), encoding="utf-8")
    return path


def attack_here(parcel: Parcel) -> Returned:
    """Runs an attacker on this node until its run is over."""
    import ray  # noqa: PLC0415

    with task_folder("attack") as folder:
        with process(folder, "attack", str(unpacked(parcel, folder))) as begun:
            while begun.poll() is None:
                time.sleep(_POLL_S)
        journal = folder / "attack" / _JOURNAL
        return Returned(
            status=begun.returncode,
            fault=last_line(folder) if begun.returncode else "",
            node=ray.get_runtime_context().get_node_id(),
            journal=journal.read_bytes() if journal.exists() else b"",
            log=(folder / "task.log").read_bytes(),
        )


class AttackTasks:
    """The attack jobs that one run asks for, from within the run's own task.

    Args:
        post: Where it asks.
        parts: What the run was given; the first is its own.
    """

    def __init__(self, post: Post, parts: tuple[Part, ...]) -> None:
        import ray  # noqa: PLC0415

        self._ray, self._post, self._parts = ray, post, parts
        self._group: Any = ray.util.get_current_placement_group()
        self._places: dict[str, int] = {}
        self._at_work: dict[Any, tuple[Asked, Job]] = {}
        self.jobs: list[Job] = []

    @property
    def lost(self) -> int:
        """Lives that ended with their node or worker."""
        return sum(job.ended == "lost" for job in self.jobs)

    def tend(self) -> None:
        """Starts what is asked for, and answers for what has ended."""
        begun = {(asked.name, asked.life) for asked, _ in self._at_work.values()}
        for asked in self._post.asked():
            if (asked.name, asked.life) not in begun:
                self._start(asked)
        if self._at_work:
            done, _ = self._ray.wait(list(self._at_work), num_returns=len(self._at_work), timeout=0)
            for task in done:
                asked, job = self._at_work.pop(task)
                self._post.answer(asked, self._settled(task, asked, job))

    def _start(self, asked: Asked) -> None:
        place = self._places.setdefault(asked.name, len(self._places) + 1)
        part = self._parts[place]
        remote = self._ray.remote(num_cpus=part.cpus, memory=part.memory_bytes, max_retries=0)(attack_here)
        strategy = self._ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(
            placement_group=self._group, placement_group_bundle_index=place
        )
        task = remote.options(scheduling_strategy=strategy).remote(packed(asked.settings))
        nodes = self._ray.util.placement_group_table(self._group)["bundles_to_node_id"]
        job = Job(name=asked.name, life=asked.life, node=nodes.get(place, ""), task=task.task_id().hex())
        self.jobs.append(job)
        self._at_work[task] = asked, job

    def _settled(self, task: Any, asked: Asked, job: Job) -> Ended:
        try:
            found: Returned = self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            job.ended = "status 1"
            return Ended(status=1, fault=str(error.cause))
        except self._ray.exceptions.RayError as error:
            job.ended = "lost"
            return Ended(status=None, fault=f"{type(error).__name__}: {str(error).splitlines()[0]}")
        job.node, job.ended = found.node, "finished" if found.status == 0 else f"status {found.status}"
        base, name = asked.settings.directory.parent, asked.settings.directory.name
        for path, content in ((base / name / _JOURNAL, found.journal), (base / "logs" / f"{name}.log", found.log)):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(content)
        return Ended(status=found.status, fault=found.fault)

    def end(self) -> None:
        """Ends what is still at work."""
        for task, (_, job) in self._at_work.items():
            job.ended = "ended with its run"
            self._ray.cancel(task)
