"""A run as a task of a cluster, in a folder of its own on its node; its attack jobs are tasks of their own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec

from deploy import broker
from deploy.posted import Post
from deploy.study import Study, load_study
from deploy.sweep.attack_task import AttackTasks
from deploy.sweep.room import Part, attack_jobs
from deploy.sweep.task_process import last_line, process, task_folder
from server.ledger import FILE_NAME, Ledger

FILES = (FILE_NAME, "summary.json", "report.html", "model.safetensors", "config.toml")
OF_ATTACKERS = ("attack*/attack.jsonl", "logs/attack*.log")
JOBS = "jobs.json"
"""Where a run and its attack jobs were carried out, and how each life of them ended."""
_POLL_S = 0.1
_CONFIGURATION = 2


class BeginAnewError(RuntimeError):
    """A run has lost an attack job, and something of it with that: it is to be done again from its beginning."""


def run_here(toml: str, parts: tuple[Part, ...]) -> dict[str, bytes]:
    """Runs a study in a folder of its own.

    Args:
        toml: The study.
        parts: What was set aside for it: first for the run, then for each attack job.

    Returns:
        Contents of the run's files by path.

    Raises:
        BeginAnewError: It is to be run again.
        RuntimeError: The run failed; its last line is the message.
    """
    with task_folder("run") as folder:
        path, out = folder / "study.toml", folder / "out"
        path.write_text(toml, encoding="utf-8")
        kept = why_kept(load_study(path))
        post = Post(folder / "post", "" if kept else node_address())
        tasks = AttackTasks(post, parts)
        try:
            with process(folder, "run", str(path), str(out), str(post.folder), post.host) as begun:
                while begun.poll() is None:
                    tasks.tend()
                    time.sleep(_POLL_S)
        finally:
            tasks.end()
        _require_whole(begun.returncode, folder, tasks.lost)
        _record(out / JOBS, tasks, kept)
        return _files(out)


def node_address() -> str:
    """Address of this node as the cluster knows it."""
    import ray  # noqa: PLC0415

    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def why_kept(study: Study) -> str:
    """Why the attackers of a run stay processes beside it; empty where they are tasks of their own."""
    if study.attack.attacks == ():
        return "nobody attacks"
    if attack_jobs(study) == 0:
        return f"broker.kind = {study.broker.kind!r}: such a broker has no door for attackers elsewhere"
    if broker.mosquitto_path() is None:
        return "mosquitto is not on PATH of the run's node, and no other broker has a door for attackers elsewhere"
    return ""


def _require_whole(status: int, folder: Path, lost: int) -> None:
    fault = "" if status == 0 else f"status {status}: {last_line(folder)}"
    if lost and (fault or _left(folder / "out" / "summary.json")) and status != _CONFIGURATION:
        raise BeginAnewError(f"{lost} attack jobs were lost; {fault or 'updates were left unscored'}")
    if fault:
        raise RuntimeError(fault)


def _left(path: Path) -> int:
    """Updates that no attack was tried on, or no score came of, in both arms."""
    summary = msgspec.json.decode(path.read_bytes())
    found = [arm["leakage"] for arm in (summary, summary.get("twin")) if arm]
    return sum(int(leakage["unscored"]) + int(leakage["never_attacked"]) for leakage in found)


def _record(path: Path, tasks: AttackTasks, kept: str) -> None:
    import ray  # noqa: PLC0415

    context = ray.get_runtime_context()
    said: dict[str, Any] = {
        "run": {"node": context.get_node_id(), "task": context.get_task_id()},
        "attack_jobs": tasks.jobs,
        "attackers_kept": kept,
    }
    path.write_bytes(msgspec.json.format(msgspec.json.encode(said)))


def _files(out: Path) -> dict[str, bytes]:
    names = [JOBS]
    for arm in (out, out / "twin"):
        if (arm / FILE_NAME).exists():  # all of it in one file: whoever read it last may have left its log beside it
            with Ledger(arm / FILE_NAME) as ledger:
                ledger.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        found = [path for pattern in OF_ATTACKERS for path in sorted(arm.glob(pattern))]
        names += [str(path.relative_to(out)) for path in [*(arm / name for name in FILES), *found] if path.exists()]
    return {name: (out / name).read_bytes() for name in names}
