"""Disks that fill up: a device's spool, the server's ledger folder, and the folder of a run's results.

Each lies on a small tmpfs that a filler file uses up at a random moment, to within a few pages; afterwards the filler
goes, and whoever ended is started again. One federation takes the faults of spool and ledger one after another, and
must finish with nothing lost and nothing counted twice; its results are then written onto a disk that is full. Every
fourth fault of the results folder, from the second on, strikes a whole `spikeleak run`: broker, server, devices and
attacker keep everything in the folder that fills up.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from contract.errors import EnvironmentFaultError
from deploy.shaping.proxy import Direction
from deploy.supervisor import module_environment
from server.ledger import FILE_NAME
from server.progress import read_progress
from server.settings import ScheduleEntry
from tests.conftest import STUDY
from tests.faults.chaos import Outcome
from tests.faults.chaos.federation import Federation, federation
from tests.faults.chaos.member import PATIENCE_S, Member, wait_until

PAGE_BYTES = 4096
LEFT_PAGES = 6
"""A fault leaves fewer free pages than this."""
_ROUNDS = {"spool": 20, "ledger": 10}
"""Rounds that the schedule has for each fault: it must not end before the last one."""


class SmallDisk:
    """A tmpfs on a folder.

    Args:
        folder: Made if it is not there; what lies in it is kept.
        nbytes: Size.

    Raises:
        AssertionError: It cannot be mounted.
    """

    def __init__(self, folder: Path, nbytes: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={nbytes}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"no tmpfs can be mounted here, so no disk can be filled: {done.stderr.strip()}"

    def fill(self, left_bytes: int) -> None:
        """Uses the disk up to within so many bytes."""
        with (self.folder / "filler").open("wb", buffering=0) as file:
            for _ in range(100):
                size = shutil.disk_usage(self.folder).free - left_bytes
                if size <= 0:
                    return
                with contextlib.suppress(OSError):  # whoever lives here took the last bytes meanwhile: look again
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)
        raise AssertionError(f"{self.folder} has {shutil.disk_usage(self.folder).free} bytes free and cannot be filled")

    def free(self) -> None:
        """Gives the space back."""
        (self.folder / "filler").unlink()

    def end(self) -> None:
        """Unmounts."""
        subprocess.run(["umount", "-l", str(self.folder)], check=True)


@contextlib.contextmanager
def small_disk(folder: Path, nbytes: int) -> Iterator[SmallDisk]:
    """A small disk for the time of a `with` block."""
    disk = SmallDisk(folder, nbytes)
    try:
        yield disk
    finally:
        disk.end()


def run(count: int, folder: Path) -> Outcome:
    """Fills spool, ledger folder and results folder in turn."""
    count, draws = max(count, 3), random.Random(count)
    kinds = [("spool", "ledger", "results")[number % 3] for number in range(count)]
    places = [kind for kind in kinds if kind != "results"]
    rounds = sum(_ROUNDS[kind] for kind in places) + 5
    plan = ScheduleEntry(rounds=rounds, algorithm="fedsgd", batch_size=1, learning_rate=0.05, deadline_s=2.0)
    base = folder / "federation"
    with (
        small_disk(base / "devices" / "device-00", 16 << 20) as spool,
        small_disk(base / "server", 64 << 20) as ledger,
        federation(base, (plan,), devices=3, weather=Direction(latency_s=0.05)) as fed,
    ):
        parties = {"spool": (fed.devices["device-00"], spool), "ledger": (fed.server, ledger)}
        back_s = [_strike(fed, *parties[kind], draws) for kind in places]
        ended = fed.server.wait(PATIENCE_S + 2.0 * rounds)
        assert ended == 0, f"the run did not finish, status {ended}: {fed.server.tail()}"
        fed.settle()
        counts = fed.account()
        assert counts["pending"] == 0, f"{counts['pending']} updates are still in a spool: {counts}"
        results = range(kinds.count("results"))
        for number in results:
            place = folder / f"results-{number}"
            _whole_run(place, draws) if number % 4 == 1 else _report(fed, place, draws)
    return Outcome(
        injected=count,
        figures=(
            f"spool {places.count('spool')}, ledger {places.count('ledger')}, results {len(results)}: each ended with "
            f"status 1 and named the folder; median {statistics.median(back_s):.1f} s from space back to the party's "
            f"next round; {counts['published']} updates, {counts['acknowledged']} acknowledged and in the ledger, "
            f"{counts['lost']} lost, {counts['duplicated']} duplicated"
        ),
    )


def _strike(fed: Federation, party: Member, disk: SmallDisk, draws: random.Random) -> float:
    """One full disk; seconds from the space's return until the party is in a later round."""
    time.sleep(draws.uniform(0.0, 0.6))
    assert party.ended() is None, f"{party.name} ended before the disk was full: {party.tail()}"
    said_before = len(party.log())
    disk.fill(PAGE_BYTES * draws.randrange(LEFT_PAGES))
    _ended_clearly(party, disk.folder, said_before)
    if draws.random() < 0.5:  # as a service manager would: started again while there is no space
        said_before = len(party.log())
        party.start()
        time.sleep(draws.uniform(0.0, 3.0))
        if party.ended() is not None:
            _ended_clearly(party, disk.folder, said_before)
        else:
            party.kill()
    before = fed.witness.round
    disk.free()
    began_s = time.monotonic()
    party.start()
    node = party.name if party is not fed.server else fed.names[-1]
    wait_until(
        lambda: fed.in_aggregate(node, before),
        f"{node} in an aggregate after round {before}, {party.name} having space again: {party.tail()}",
        30.0,
    )
    return time.monotonic() - began_s


def _ended_clearly(party: Member, folder: Path, said_before: int) -> None:
    status, said = party.wait(), party.log()[said_before:]
    last = said.strip().splitlines()[-1] if said.strip() else "nothing"
    assert status == EnvironmentFaultError.exit_status, f"{party.name} ended with status {status}: {last}"
    assert "Traceback" not in said, f"{party.name} ended with a traceback: {last}"
    assert str(folder) in last, f"{party.name} does not name {folder}: {last}"
    assert "room" in last, f"{party.name} does not say what to do: {last}"


def _report(fed: Federation, folder: Path, draws: random.Random) -> None:
    """Writes a finished run's results onto a disk that is full, and again when it is not."""
    with small_disk(folder, 16 << 20) as disk:
        shutil.copy(fed.directory / FILE_NAME, folder / FILE_NAME)
        needed = 40 * PAGE_BYTES
        disk.fill(draws.randrange(needed))
        done = _spikeleak("report", str(folder))
        said = done.stderr.strip()
        if done.returncode == 0:  # it fitted: that was no fault
            disk.fill(0)
            done = _spikeleak("report", str(folder))
            said = done.stderr.strip()
        assert done.returncode == EnvironmentFaultError.exit_status, f"status {done.returncode}: {said}{done.stdout}"
        assert "Traceback" not in said, said
        assert str(folder) in said, f"the message does not name {folder}: {said}"
        disk.free()
        done = _spikeleak("report", str(folder))
        assert done.returncode == 0, f"with space again: {done.stderr}"
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        assert (summary["updates"]["lost"], summary["updates"]["duplicated"]) == (0, 0), summary["updates"]
        assert "</html>" in (folder / "report.html").read_text(encoding="utf-8")[-200:], "the report is cut short"


def _whole_run(folder: Path, draws: random.Random) -> None:
    """A run whose folder fills up: it must end by itself with one message, and go on when there is space."""
    study = folder.with_suffix(".toml")
    text = STUDY.format(rounds=40, deadline_s=3.0, broker="mosquitto", attack='attacks = ["ratio"]')
    study.write_text(text, encoding="utf-8")
    with small_disk(folder, 32 << 20) as disk:
        arguments, out = ("run", str(study), "--out", str(folder / "out")), folder / "out"
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(_spikeleak, *arguments)
            wait_until(lambda: (found := read_progress(out)) is not None and found.round >= 1, "the first round")
            time.sleep(draws.uniform(0.0, 3.0))
            assert not running.done(), f"the run ended before its disk was full: {running.result().stderr}"
            disk.fill(PAGE_BYTES * draws.randrange(LEFT_PAGES))
            done = running.result()
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode == EnvironmentFaultError.exit_status, f"status {done.returncode}: {last}"
        assert "Traceback" not in done.stderr, done.stderr
        assert str(folder) in last, f"the message does not name {folder}: {last}"
        disk.free()
        done = _spikeleak(*arguments)
        assert done.returncode == 0, f"with space again: {done.stderr}"
        updates = json.loads((out / "summary.json").read_text(encoding="utf-8"))["updates"]
        assert (updates["lost"], updates["duplicated"]) == (0, 0), updates


def _spikeleak(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=module_environment(), timeout=240, check=False)
