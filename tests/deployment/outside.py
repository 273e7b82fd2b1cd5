"""What boards meet: the server outside them, and how such a test is started and told."""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from contract.errors import SpikeleakError
from deploy.supervisor import module_environment
from server.ledger import FILE_NAME, Ledger
from tests.conftest import ROOT
from tests.enrolled_broker import EnrolledBroker

PATIENCE_S = 120.0
_SERVER = 'run = "{run}"\ndirectory = "{folder}"\n'


def say(what: str, seen: object) -> None:
    print(f"{what:34} {seen}", flush=True)


class Server:
    """A server with the bundle that was enrolled, its ledger and its log, in a folder."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder, self.process = folder / "server", process
        self._log = folder / "server.log"

    def log(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]

    def admitted(self, node: str) -> list[int]:
        """Rounds of which the ledger holds an update of a device."""
        try:
            with Ledger.open_read(self.folder / FILE_NAME) as ledger:
                text = "SELECT round FROM updates WHERE status = 'admitted' AND node = ? ORDER BY round"
                return [row["round"] for row in ledger.rows(text, node)]
        except SpikeleakError:
            return []

    def until(self, condition: Callable[[], bool], what: str) -> None:
        end_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end_s, f"{what}; server: {self.log()}"
            time.sleep(0.5)

    def takes_part(self, node: str) -> None:
        """The device is heard of once more than now."""
        before = len(self.admitted(node))
        self.until(lambda: len(self.admitted(node)) > before, f"{node} takes no part")


@contextlib.contextmanager
def server(folder: Path, broker: EnrolledBroker, run: str, settings: str) -> Iterator[Server]:
    """A server for the time of a `with` block.

    Args:
        folder: Gets its settings, log, and folder.
        broker: Has its bundle.
        run: The run.
        settings: Further keys and tables of its settings.
    """
    config = folder / "server.toml"
    head = _SERVER.format(run=run, folder=folder / "server") + settings
    config.write_text(head + (broker.folder / "server/server.toml").read_text())
    with (folder / "server.log").open("ab") as log_file:
        line = [sys.executable, "-m", "deploy.cli", "server", str(config)]
        process = subprocess.Popen(line, stdout=log_file, stderr=log_file, env=module_environment())
    try:
        yield Server(folder, process)
    finally:
        process.kill()
        process.wait()


def main(name: str, what: str | None, root: Callable[[Path], Path], whole: Callable[[Path, Path], None]) -> int:
    """Makes the Debian root, runs `whole` with it and a folder of the test's own, and tells how long that took.

    Args:
        name: Of the target of make.
        what: The test, in words.
        root: Finds or makes the root in a folder of roots.
        whole: The test.
    """
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "debian")
    asked = parser.parse_args()
    began_s = time.monotonic()
    try:
        made = root(asked.folder.resolve())
        say("Debian root ready after", f"{time.monotonic() - began_s:.0f} s")
        with tempfile.TemporaryDirectory(prefix=f"spikeleak-{name}-", dir="/var/tmp") as folder:
            whole(made, Path(folder))
    except SpikeleakError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    say("all done in", f"{time.monotonic() - began_s:.0f} s")
    return 0
