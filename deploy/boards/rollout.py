"""`spikeleak deploy`: what each command does to boards. Every one goes on with the boards that are well."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from contract.configuration import read_toml
from contract.errors import ConfigurationError
from deploy.boards import inventory, playbook, wheelhouse
from deploy.boards.installation import WHEELHOUSE
from deploy.boards.inventory import Board
from deploy.boards.payload import CERTIFICATES, Payload, archives, device_tables
from deploy.boards.playbook import Event, Fault, Outcome

CLOCK_LIMIT_S = 60
"""How far a board's clock may be off: certificates and round deadlines are in real time."""

Show = Callable[[Event], None]


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """Boards that a command is about.

    Attributes:
        path: The inventory.
        everyone: All boards in it: a board's shard of the samples is its place here.
        boards: Those that are meant.
    """

    path: Path
    everyone: tuple[Board, ...]
    boards: tuple[Board, ...]

    def play(self, name: str, values: dict[str, Any], show: Show, boards: Sequence[Board] | None = None) -> Outcome:
        """Runs a playbook on these boards."""
        meant = self.boards if boards is None else boards
        addresses = {board.name: board.address for board in meant}
        return playbook.run(name, self.path, list(addresses), values, show=show, addresses=addresses)


def fleet(path: Path, names: Sequence[str] = ()) -> Fleet:
    """The boards of an inventory with these names; all when there are none.

    Raises:
        ConfigurationError: As `inventory.read` and `inventory.chosen`.
    """
    everyone = inventory.read(path)
    return Fleet(path=path, everyone=everyone, boards=tuple(inventory.chosen(everyone, names, path)))


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """What is pushed.

    Attributes:
        enrolment: Holds a bundle for each board's device.
        run: The run that the devices take part in.
        own_wheel: This project's wheel; `None` builds it.
        pip_args: Options of pip.
        clock_limit_s: How far a board's clock may be off.
        careful: Whether one board goes first, and a failure anywhere stops the rest.
    """

    enrolment: Path
    run: str
    own_wheel: Path | None = None
    pip_args: str = ""
    clock_limit_s: int = CLOCK_LIMIT_S
    careful: bool = False


def push(meant: Fleet, release: Release, show: Show) -> tuple[dict[str, str], dict[str, Fault]]:
    """Installs a release on boards and starts it; a board on which it does not start goes back to the one before.

    Returns:
        The release that now runs, by board; and the boards that have a fault.

    Raises:
        ConfigurationError: A board has no bundle, or a setting cannot be used; nothing was changed then.
        EnvironmentFaultError: Wheels are not to be had, or Ansible fails.
    """
    bundles = {board.name: _bundle(release.enrolment, board) for board in meant.boards}
    tables = {board.name: _tables(meant, board, bundles[board.name], release.run) for board in meant.boards}
    houses = {
        kind: wheelhouse.build(release.enrolment / WHEELHOUSE, *kind, own=release.own_wheel, pip_args=release.pip_args)
        for kind in {(board.machine, board.python) for board in meant.boards}
    }
    with tempfile.TemporaryDirectory(prefix=".pushing-", dir=release.enrolment) as folder:
        told = {}
        for board in meant.boards:
            house = houses[board.machine, board.python]
            payload = Payload(node=board.name, settings=tables[board.name], wheelhouse=house, datasets=board.datasets)
            files = payload.files({name: (bundles[board.name] / name).read_bytes() for name in CERTIFICATES})
            packed = archives(board.name, files, Path(folder))
            told[board.name] = {**_told(files["release"]), "archives": msgspec.to_builtins(packed)}
        values: dict[str, Any] = {
            "spikeleak_payloads": str(Path(folder).absolute()),
            "spikeleak_boards": told,
            "spikeleak_clock_limit_s": release.clock_limit_s,
        }
        if release.careful:
            values["spikeleak_serial"] = [1, "100%"]
        outcome = meant.play("push", values, show)
    done = {name: about["release"] for name, about in told.items() if outcome.last(name, "start")}
    faults = dict(outcome.faults)
    for board in meant.boards:
        if board.name not in done and board.name not in faults:
            text = "left alone, since another board failed before its turn; mend that one and run the command again"
            faults[board.name] = Fault(board=board.name, text=text)
    return done, faults


def collect(meant: Fleet, out: Path, *, receipts: bool, show: Show) -> tuple[list[Path], dict[str, Fault]]:
    """Brings what devices wrote into `out/<board>/`.

    Raises:
        EnvironmentFaultError: Ansible fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    with tempfile.TemporaryDirectory(prefix=".collecting-", dir=out) as folder:
        values = {"spikeleak_out": str(Path(folder).absolute()), "spikeleak_receipts": receipts}
        outcome = meant.play("collect", values, show)
        for board in meant.boards:
            packed = Path(folder) / f"{board.name}.tar.gz"
            if board.name not in outcome.faults and packed.exists():
                with tarfile.open(packed) as archive:
                    archive.extractall(out / board.name, filter="data")
                made.append(out / board.name)
    return made, outcome.faults


def _bundle(enrolment: Path, board: Board) -> Path:
    folder = enrolment / "devices" / board.name
    missing = [name for name in (*CERTIFICATES, "device.toml") if not (folder / name).is_file()]
    if missing:
        raise ConfigurationError(
            f"board {board.name}: {folder} holds no {missing[0]}: "
            f"spikeleak enroll device {board.name} --out {enrolment}"
        )
    return folder


def _tables(meant: Fleet, board: Board, bundle: Path, run: str) -> dict[str, Any]:
    link = read_toml(bundle / "device.toml")["link"]
    at = [other.name for other in meant.everyone].index(board.name)
    return device_tables(
        board.name,
        host=link["host"],
        port=link["port"],
        run=run,
        shard=at,
        shards=len(meant.everyone),
        own=board.settings,
    )


def _told(release: Any) -> dict[str, str]:
    return dict(line.split("=", 1) for line in release.decode().splitlines())
