"""The process of a cluster's task: a run or an attacker, which ends when its task dies and leaves nothing behind.

python -m deploy.sweep.task_process run PARENT STUDY.toml OUT POST HOST
python -m deploy.sweep.task_process attack PARENT ATTACK.toml
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from contract.configuration import decode_toml
from contract.errors import SpikeleakError
from deploy.interrupts import Interrupts
from deploy.supervisor import module_environment

_LOOK_EVERY_S = 0.5
_GRACE_S = 8.0
_PREFIX = "spikeleak-"
_LOCK = ".task"


@contextlib.contextmanager
def task_folder(kind: str) -> Iterator[Path]:
    """A folder for a task on its node, held as long as the task lives; removes what killed tasks have left there."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        with contextlib.suppress(OSError), left.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left.parent, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{kind}-") as name:
        folder = Path(name)
        with (folder / f"{_LOCK}.new").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            Path(lock.name).rename(folder / _LOCK)  # nobody sees it before it is held
            yield folder


@contextlib.contextmanager
def process(folder: Path, kind: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of a task, ended with the block; what it writes goes to ``task.log`` in its folder."""
    with (folder / "task.log").open("wb") as output:
        begun = subprocess.Popen(
            [sys.executable, "-m", "deploy.sweep.task_process", kind, str(os.getpid()), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**module_environment(), "OMP_NUM_THREADS": "1"},
            cwd=folder,
            start_new_session=True,
        )
    try:
        yield begun
    finally:
        begun.terminate()
        try:
            begun.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            begun.kill()
            begun.wait()


def last_line(folder: Path) -> str:
    """The last line that a task's process wrote."""
    lines = (folder / "task.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"


def _bind(folder: Path, parent: int, *, at_once: bool) -> None:
    """Ends this process when its parent is gone, and removes their folder, which nobody else would then.

    Args:
        folder: Of the task.
        parent: Number of the parent's process.
        at_once: Whether nothing is to be ended before.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY_S)
        if not at_once:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(2 * _GRACE_S)
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _run(parent: str, study: str, out: str, post: str, host: str) -> int:
    _bind(Path(study).parent, int(parent), at_once=False)
    from deploy.emulate import run_study  # noqa: PLC0415 - an attacker needs none of it
    from deploy.posted import Post  # noqa: PLC0415
    from deploy.study import load_study  # noqa: PLC0415

    with Interrupts() as interrupts:
        asked = Post(Path(post), host) if host else None
        found = load_study(Path(study))
        run_study(found, Path(out), show=lambda _label, _progress: None, interrupts=interrupts, post=asked)
    return 0


def _attack(parent: str, settings: str) -> int:
    _bind(Path(settings).parent, int(parent), at_once=True)
    from attack.app import run_attack  # noqa: PLC0415 - brings torch
    from attack.settings import AttackSettings  # noqa: PLC0415

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    return run_attack(decode_toml(Path(settings), AttackSettings), stop)


def main() -> None:
    """Runs one of the two; an error that is ours is the last line, with its exit status."""
    kind, *arguments = sys.argv[1:]
    level = logging.WARNING if kind == "run" else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        sys.exit(_run(*arguments) if kind == "run" else _attack(*arguments))
    except SpikeleakError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
