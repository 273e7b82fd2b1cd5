"""`python -m tests.faults.chaos.party client|server CONFIG.toml [--kill-at POINT:N]`: a real party, and when it dies.

The product's own entry functions run; see `points` for what is wrapped around them.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from contract.configuration import decode_toml
from contract.errors import SpikeleakError
from edge_client import session as client_session
from edge_client.app import main as client_main
from server.app import run_server
from server.settings import ServerSettings
from tests.faults.chaos.points import POINTS, Barrier, install


def main(arguments: list[str] | None = None) -> int:
    """Runs one party until it ends, or kills it."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos.party", description=__doc__)
    parser.add_argument("kind", choices=list(POINTS))
    parser.add_argument("config", type=Path)
    parser.add_argument("--kill-at", metavar="POINT:N", help="SIGKILL at the N-th passage of a point")
    parser.add_argument("--passed", type=Path, help="file that collects the points that were passed")
    parser.add_argument("--name-by-round", action="store_true", help="uids follow from device and round alone")
    asked = parser.parse_args(arguments)
    if asked.kill_at or asked.passed:
        install(POINTS[asked.kind], Barrier(_moment(parser, asked.kind, asked.kill_at), asked.passed))
    if asked.name_by_round:
        _name_by_round()
    return _RUN[asked.kind](asked.config)


def _moment(parser: argparse.ArgumentParser, kind: str, text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    name, _, number = text.partition(":")
    if name not in POINTS[kind] or not number.isdigit() or int(number) < 1:
        parser.error(f"--kill-at {text}: POINT:N with N from 1 and POINT one of {', '.join(POINTS[kind])}")
    return name, int(number)


def _name_by_round() -> None:
    """Leaves life and opening out of what a device names its update after.

    A round that is opened again then gets the update that the first opening would have got: same uid, same draws. Only
    for runs in which no update is refused, since a refused uid is refused for ever.
    """
    source = client_session.uid_source

    def by_round(settings: client_session.ClientSettings) -> object:
        named = source(settings)
        return lambda text: named(" ".join(text.split()[::2]))  # task hash, epoch, round, attempt

    client_session.uid_source = by_round  # type: ignore[assignment]


def _client(config: Path) -> int:
    return client_main([str(config)])


def _server(config: Path) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        return run_server(decode_toml(config, ServerSettings))
    except SpikeleakError as error:
        print(error, file=sys.stderr)
        return error.exit_status


_RUN = {"client": _client, "server": _server}


if __name__ == "__main__":
    sys.exit(main())
